"""What a console shows of a release: one bar a label, lines that scripts can read, nothing that markup can break."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from rich.console import Console

from cadp.reporter import ConsoleReporter, Silent, counted


def reporter(*, terminal: bool = False, width: int = 100) -> tuple[ConsoleReporter, io.StringIO]:
    text = io.StringIO()
    return ConsoleReporter(Console(file=text, force_terminal=terminal, width=width)), text


def test_ranges_of_one_label_share_a_bar() -> None:
    watched, text = reporter()
    with ExitStack() as stack:
        bars = [stack.enter_context(watched.progress("privatize", 1000, "records", done=200)) for _ in range(4)]
        for advance in bars:
            advance(200)
    assert text.getvalue().count("privatize") == 1
    assert "1000/1000" in text.getvalue()


def test_labels_have_bars_of_their_own() -> None:
    watched, text = reporter()
    with watched.progress("read", 10, "records") as read, watched.progress("write", 20, "bytes") as write:
        read(10)
        write(5)
    lines = [line for line in text.getvalue().splitlines() if line.strip()]
    assert len(lines) == 2
    assert "10/10" in lines[0]
    assert "5/20" in lines[1]


def test_threads_lose_no_count() -> None:
    watched, text = reporter()

    def work(_: int) -> None:
        with watched.progress("sort", 8000, "records") as advance:
            for _ in range(1000):
                advance()

    with watched.progress("sort", 8000, "records"), ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert "8000/8000" in text.getvalue()


def test_a_bar_begins_anew_once_all_are_closed() -> None:
    watched, text = reporter()
    for _ in range(2):
        with watched.progress("fit", 5, "steps") as advance:
            advance(5)
    assert text.getvalue().count("5/5") == 2
    assert "10/5" not in text.getvalue()


def test_an_error_closes_the_display() -> None:
    watched, text = reporter()
    with pytest.raises(ZeroDivisionError), watched.progress("fit", 5, "steps") as advance:
        advance(1 // 0)
    watched.event("stopped", "after the bar")
    assert text.getvalue().rstrip().endswith("after the bar")


def test_long_lines_are_not_cut() -> None:
    watched, text = reporter(width=40)
    address = "file:///" + "x" * 200
    watched.event("published", address)
    watched.figure("accuracy", "p/o accuracy", "0.8 " * 40)
    assert address in text.getvalue()
    assert len(text.getvalue().splitlines()) == 2


def test_text_is_not_markup() -> None:
    # Paths and names come from users: a bracket in one is a bracket.
    watched, text = reporter()
    watched.event("sealed", "data [red]set[/] of [/x]")
    watched.figure("a", "figure [b]", "1 [/b]")
    watched.table("t", "Table [i]", [{"left [u]": "a [bold]b", "right": "[/]"}])
    for part in ("data [red]set[/] of [/x]", "figure [b]", "1 [/b]", "Table [i]", "left [u]", "a [bold]b", "[/]"):
        assert part in text.getvalue(), part


def test_an_empty_table_is_nothing() -> None:
    watched, text = reporter()
    watched.table("t", "Table", [])
    assert text.getvalue() == ""


def test_counted_passes_all_on_and_counts_them() -> None:
    told: list[int] = []
    assert list(counted(range(250), told.append, every=100)) == list(range(250))
    assert told == [100, 100, 50]
    assert list(counted([], told.append)) == []


def test_silent_says_nothing() -> None:
    watched = Silent()
    with watched.progress("x", None, "records") as advance:
        advance()
        advance(5)
    watched.event("a", "b")
