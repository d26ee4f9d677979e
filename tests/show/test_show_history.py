"""The history as an auditor reads it: every change, in order, with the ε that the ledger had after it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cadp.errors import LedgerError
from cadp.ledger import Ledger
from cadp.ledger.notices import Notice
from cadp.privacy.accountant import Curve, PureEvent
from cadp.settings import Settings
from cadp.show import history_json, history_view, print_history
from cadp.show.changes import Change, changes
from cadp.store import Store
from tests.show.conftest import Pay, publish, shown

Screen = Callable[..., Console]


def of(lines: list[Change], release: str) -> list[tuple[str, str | None]]:
    """What happened to a release, and to which of its charges."""
    return [
        (line.change, line.key and line.key.removeprefix(f"{release}/")) for line in lines if line.release == release
    ]


def test_every_fate_of_a_release(busy: Ledger) -> None:
    lines = changes(busy)
    assert of(lines, "xrays/1.0.0") == [
        ("reserved", "train"),
        ("reserved", "records"),
        ("reserved", "gate"),
        ("begun", "train"),
        ("sealed", "train"),
        ("begun", "records"),
        ("sealed", "records"),
        ("begun", "gate"),
        ("sealed", "gate"),
        ("published", "train"),
        ("published", "records"),
        ("published", "gate"),
    ]
    assert of(lines, "xrays/1.1.0") == [
        ("reserved", "train"),
        ("begun", "train"),
        ("reserved", "records"),
        ("burned", "train"),
        ("burned", "records"),
    ]
    assert of(lines, "xrays/1.2.0") == [("reserved", "train"), ("voided", "train")]
    assert of(lines, "xrays/1.3.0") == [("reserved", "train"), ("begun", "train")]
    assert of(lines, "xrays/1.4.0") == [("reserved", "train")]
    assert of(lines, "xrays/1.5.0") == [("refused", None)]
    assert [line.change for line in lines[:4]] == ["made", "limit set", "limit set", "limit set"]


def test_the_last_line_is_the_ledgers_figure(busy: Ledger) -> None:
    after = {line.population: line.after for line in changes(busy)}
    for name in ("people", "people.holdout", "others"):
        assert after[name] == busy.budget(name).charged


def test_epsilon_after_every_line(ledger: Ledger, pay: Pay) -> None:
    """Played again, step by step: after every step the newest line has the ε that the ledger has then."""
    steps: list[Callable[[], object]] = [
        lambda: pay("xrays/1.0.0", "train", PureEvent(1.0)),
        lambda: pay("xrays/1.1.0", "train", PureEvent(0.25)),
        lambda: ledger.void(ledger.charges(release="xrays/1.1.0")[0].id),
        lambda: publish(ledger, pay, "xrays/1.2.0"),
        lambda: ledger.burn("xrays/1.0.0", "a mistake"),
    ]
    for step in steps:
        step()
        newest = [line for line in changes(ledger) if line.population == "people"][-1]
        assert newest.after == ledger.budget("people").charged
    alone = {line.key: line.epsilon for line in changes(ledger) if line.change == "reserved"}
    assert alone["xrays/1.0.0/train"] == 1.0
    assert {line.after for line in changes(ledger) if line.change == "voided"} == {1.0}


def test_lines_name_their_entry_and_notices_none(busy: Ledger) -> None:
    lines = changes(busy)
    numbers = [line.entry for line in lines if line.entry is not None]
    assert numbers == sorted(numbers)
    assert set(numbers) == {entry.seq for entry in busy.history()}
    assert {line.change for line in lines if line.entry is None} == {"refused"}
    refused = next(line for line in lines if line.change == "refused")
    assert (refused.population, refused.release) == ("people", "xrays/1.5.0")
    assert refused.after == busy.budget("people").charged


def test_a_threshold_is_told_after_the_charge_that_passed_it(ledger: Ledger, pay: Pay) -> None:
    pay("xrays/1.0.0", "train", PureEvent(4.5))
    assert [line.change for line in changes(ledger)][-2:] == ["reserved", "threshold"]
    assert "50" in changes(ledger)[-1].text


def test_a_takeover_is_told(ledger: Ledger, pay: Pay) -> None:
    charge = pay("xrays/1.0.0", "train", PureEvent(1.0))
    ledger.begin(charge.id)
    ledger.lease(charge.id, 0, "one", 0.001)
    while not [line for line in changes(ledger) if line.change == "takeover"]:
        try:
            ledger.lease(charge.id, 0, "other", 60)
        except LedgerError:
            continue
    line = changes(ledger)[-1]
    assert (line.release, line.population) == ("xrays/1.0.0", "people")
    assert "one" in line.text and "other" in line.text


def test_a_clock_that_goes_back_changes_no_order(busy: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def notices(after: int = 0) -> list[Notice]:
        return [
            Notice(1, "2200-01-01T00:00:00Z", "refused", "people", "xrays/9.0.0", "first"),
            Notice(2, "1980-01-01T00:00:00Z", "refused", "people", "xrays/9.0.0", "second"),
        ]

    monkeypatch.setattr(busy, "notices", notices)
    lines = changes(busy)
    assert [line.text for line in lines if line.change == "refused"] == ["first", "second"]
    numbers = [line.entry for line in lines if line.entry is not None]
    assert numbers == sorted(numbers)


def test_one_population_with_its_holdout_or_one_release(settings: Settings, busy: Ledger) -> None:
    everything = history_view(settings)
    assert {line.population for line in everything} == {None, "people", "people.holdout", "others"}
    assert {line.population for line in history_view(settings, "people")} == {"people", "people.holdout"}
    assert {line.population for line in history_view(settings, "people.holdout")} == {"people.holdout"}
    assert {line.release for line in history_view(settings, release="xrays/1.0.0")} == {"xrays/1.0.0"}
    one = history_view(settings, "people.holdout", "xrays/1.0.0")
    assert [line.change for line in one] == ["reserved", "begun", "sealed", "published"]
    # What was before it is left out of the lines, not out of the sums.
    late = history_view(settings, "people", "xrays/1.4.0")
    assert late[0].after == busy.budget("people").charged


def test_what_is_not_there(settings: Settings, busy: Ledger) -> None:
    with pytest.raises(LedgerError, match="there is no population 'pupils': known are"):
        history_view(settings, "pupils")
    with pytest.raises(LedgerError, match=r"there is no release 'xrays' in this history: known are xrays/1\.0\.0, "):
        history_view(settings, release="xrays")


def test_json(settings: Settings, busy: Ledger) -> None:
    told = json.loads(json.dumps(history_json(history_view(settings)), allow_nan=False))
    assert (told["schema"], told["relation"]) == (1, "replace-one")
    charged = next(line for line in told["changes"] if line["key"] == "xrays/1.3.0/train")
    found = busy.charges(release="xrays/1.3.0")[0]
    assert charged == {
        "at": found.at,
        "change": "reserved",
        "population": "people",
        "release": "xrays/1.3.0",
        "key": "xrays/1.3.0/train",
        "charge": found.id,
        "epsilon": 0.5,
        "after": charged["after"],
        "entry": charged["entry"],
        "text": "",
    }
    assert type(charged["after"]) is float


def test_json_has_no_infinity() -> None:
    hopeless = Curve((None,) * len(Curve.zero().micro))
    assert hopeless.epsilon(1e-6) == float("inf")
    line = Change("2026-01-01T00:00:00Z", "reserved", epsilon=hopeless.epsilon(1e-6), after=1.0)
    assert (line.to_json()["epsilon"], line.to_json()["after"]) == (None, 1.0)


@pytest.mark.parametrize("width", [80, 120])
def test_page_for_people(settings: Settings, busy: Ledger, screen: Screen, width: int) -> None:
    console = screen(width)
    print_history(history_view(settings), console)
    text = shown(console)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    words = " ".join(text.split())
    order = ["The ledger", "History of others", "History of people (", "History of people.holdout"]
    assert [words.index(part) for part in order] == sorted(words.index(part) for part in order)
    assert words.count("the camera of ward 3 [the old one] was set wrongly") == 1
    assert "limit ε 8 at δ 2.5e-06" in words
    (line,) = (line.split() for line in text.splitlines() if "voided" in line)
    # no., date, time, change, charge, ε alone, ε after
    assert line[3:6] == ["voided", "xrays/1.2.0/train", "0.50"]
    assert float(line[6]) == next(change.after for change in changes(busy) if change.change == "voided")


def test_a_long_charge_is_folded_into_its_own_column(ledger: Ledger, pay: Pay, screen: Screen) -> None:
    release = "the-" + "long-" * 12 + "name/1.0.0"
    pay(release, "train", PureEvent(1.0))
    console = screen(80)
    print_history(changes(ledger), console)
    text = shown(console)
    assert max(map(len, text.splitlines())) <= 80
    assert f"{release}/train" in "".join(line[34:62].strip() for line in text.splitlines())


def test_nothing_yet(screen: Screen) -> None:
    console = screen()
    print_history([], console)
    assert shown(console) == "History: nothing yet\n"


def test_an_old_copy_that_was_recovered(settings: Settings, ledger: Ledger, pay: Pay) -> None:
    begun = pay("xrays/1.0.0", "train", PureEvent(1.0))
    ledger.begin(begun.id)
    copy = ledger.back_up(settings.home / "copy.db")
    pay("xrays/1.1.0", "train", PureEvent(0.5))
    spent = ledger.budget("people").charged
    ledger.close()
    path = Path(settings.ledger_url.removeprefix("sqlite:///"))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    copy.rename(path)
    Ledger.recover(settings.ledger_url, Store.open(settings.anchors_url))
    lines = history_view(settings)
    assert [(line.change, line.key) for line in lines[-3:]] == [
        ("recovered", None),
        ("burned", "xrays/1.0.0/train"),
        ("burned", "xrays/1.1.0/train"),
    ]
    assert lines[-3].text == "entries 7 to 7 came back from the anchors"
    assert len({line.entry for line in lines[-3:]}) == 1
    assert lines[-1].after == spent
