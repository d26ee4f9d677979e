"""What is shown of a budget: the same figures as the ledger's, in numbers for scripts and in 80 columns for people."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from cadp.errors import LedgerError, LedgerMissing
from cadp.ledger import Entry, Ledger
from cadp.ledger.mounts import memory_file_system
from cadp.privacy.accountant import PureEvent
from cadp.settings import Settings
from cadp.show import BudgetView, budget_view, history_view, print_budget
from cadp.show.bar import bar, cells
from cadp.show.opening import lost_at_restart
from cadp.store import Store
from tests.show.conftest import Pay, shown

Screen = Callable[..., Console]


def test_json_holds_the_ledgers_figures_as_numbers(settings: Settings, busy: Ledger) -> None:
    told = json.loads(json.dumps(budget_view(settings).to_json()))
    assert (told["schema"], told["relation"]) == (1, "replace-one")
    for said in told["populations"]:
        budget = busy.budget(said["population"])
        names = ("unit", "epsilon", "delta", "charged", "spent", "reserved", "left", "spent_additive_delta")
        names += ("additive_delta_cap", "additive_delta_left")
        assert {name: said[name] for name in names} == {name: getattr(budget, name) for name in names}
        assert all(type(said[name]) is float for name in names[1:])
        assert said["spent"] + said["reserved"] + said["left"] == pytest.approx(said["epsilon"], abs=2e-6)
    people = next(said for said in told["populations"] if said["population"] == "people")
    assert 0.6 < people["reserved"] < 0.75
    assert people["spent_additive_delta"] == 4e-8
    assert [(held["release"], held["charges"], held["states"]) for held in people["releases"]] == [
        ("xrays/1.0.0", 2, ["PUBLISHED"]),
        ("xrays/1.1.0", 2, ["BURNED"]),
        ("xrays/1.3.0", 1, ["RUNNING"]),
        ("xrays/1.4.0", 1, ["RESERVED"]),
    ]
    assert people["releases"][2]["epsilon"] == 0.5


def test_a_holdout_stands_behind_its_population(settings: Settings, busy: Ledger) -> None:
    told = budget_view(settings).to_json()["populations"]
    assert [(said["population"], said["holdout_of"]) for said in told] == [
        ("others", None),
        ("people", None),
        ("people.holdout", "people"),
    ]


def test_newest_is_the_last_change_of_what_is_held(
    settings: Settings, ledger: Ledger, pay: Pay, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"2101-01-01T00:00:00Z": lambda: pay("xrays/1.0.0", "train", PureEvent(1.0))}
    times["2101-02-02T00:00:00Z"] = lambda: ledger.begin(ledger.charges()[0].id)
    times["2101-03-03T00:00:00Z"] = lambda: _refused(pay, "xrays/1.0.0")
    for at, do in times.items():
        for module in ("chain", "charges", "notices"):
            monkeypatch.setattr(f"cadp.ledger.{module}.utc_now", lambda at=at: at)
        do()
    (held,) = budget_view(settings, "people").to_json()["populations"][0]["releases"]
    assert held["newest"] == "2101-02-02T00:00:00Z"


def test_newest_is_the_last_line_of_the_history(settings: Settings, busy: Ledger) -> None:
    lines = [line for line in history_view(settings) if line.entry is not None and line.release is not None]
    assert len(lines) > 10
    assert busy.newest() == {(line.population, line.release): line.at for line in lines}


def test_newest_of_what_a_recovery_burned(settings: Settings, busy: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    old = settings.home / "old.db"
    busy.back_up(old)
    busy.charge("people", release="xrays/1.4.0", key="more", event=PureEvent(0.1), parameters={})
    busy.close()
    file = Path(settings.ledger_url.removeprefix("sqlite:///"))
    file.unlink()
    old.rename(file)
    monkeypatch.setattr("cadp.ledger.chain.utc_now", lambda: "2101-01-01T00:00:00Z")
    assert "xrays/1.4.0" in Ledger.recover(settings.ledger_url, Store.open(settings.anchors_url)).releases
    with Ledger.open(settings.ledger_url, Store.open(settings.anchors_url)) as recovered:
        newest = recovered.newest()
    assert newest["people", "xrays/1.4.0"] == "2101-01-01T00:00:00Z"
    assert newest["people", "xrays/1.0.0"] < "2101"


def test_the_history_is_not_replayed(settings: Settings, busy: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "history", lambda _: pytest.fail("the whole history was read"))
    read = Mock(wraps=Entry.value.fget)
    monkeypatch.setattr(Entry, "value", property(read))
    budget_view(settings)
    kinds = {call.args[0].kind for call in read.call_args_list}
    assert "publish" in kinds
    assert "charge" not in kinds


def test_a_limit_below_what_the_ledger_counts_in(ledger: Ledger, screen: Screen) -> None:
    # No ledger makes such a limit any more; an older one may have.
    tiny, console = replace(ledger.budget("people"), epsilon=1e-7, left=0.0), screen()
    print_budget(BudgetView((tiny,), {}), console)
    assert "0.0 % used" in shown(console)


@pytest.mark.parametrize(("kind", "warnings"), [("tmpfs", 2), ("ext4", 0)])
def test_what_lies_in_memory_is_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, warnings: int
) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"none / {kind} rw 0 0\n")
    monkeypatch.setattr("cadp.show.opening.memory_file_system", lambda path: memory_file_system(path, table))
    said = lost_at_restart(settings)
    assert len(said) == warnings
    assert all("lies in memory (tmpfs): a restart" in line or "lie in memory (tmpfs)" in line for line in said)


def _refused(pay: Pay, release: str) -> object:
    with pytest.raises(LedgerError, match="too much"):
        pay(release, "more", PureEvent(50.0))
    return None


@pytest.mark.parametrize(
    ("asked", "expected"), [("people", ["people", "people.holdout"]), ("people.holdout", ["people.holdout"])]
)
def test_one_population(settings: Settings, busy: Ledger, asked: str, expected: list[str]) -> None:
    assert [budget.population for budget in budget_view(settings, asked).budgets] == expected


def test_a_population_that_is_not_there(settings: Settings, busy: Ledger) -> None:
    with pytest.raises(LedgerError, match="there is no population 'pupils': known are others, people, people.holdout"):
        budget_view(settings, "pupils")


def test_without_a_ledger(settings: Settings) -> None:
    with pytest.raises(LedgerMissing):
        budget_view(settings)


@pytest.mark.parametrize("width", [80, 120])
def test_page_for_people(settings: Settings, busy: Ledger, screen: Screen, width: int) -> None:
    console = screen(width)
    print_budget(budget_view(settings), console)
    text = shown(console)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    words = " ".join(text.split())
    for part in (
        "Budget of people",
        "limit ε 8.00 1.00",
        "at δ 2.5e-06 2.5e-06",
        "spent ε (published or burned) 2.968232 0.10",
        "reserved ε (not finished) 0.69474 0.00",
        "additive δ limit (for samplers) 2.5e-07 2.5e-07",
        "additive δ spent (by samplers) 4e-08 0",
        "additive δ left 2.1e-07 2.5e-07",
        "no command gives it back",
        "xrays/1.3.0 0.50 1 RUNNING 20",
        "others: no release yet",
        "do not add up to the whole",
        "▓ spent ▒ reserved ░ left",
    ):
        assert part in words, part
    assert len(re.findall("▓+▒+░+ 45.8 % used", text)) == 1
    assert len(re.findall("^ *others +░+ 0.0 % used", text, flags=re.MULTILINE)) == 1


def test_colour_is_an_addition(settings: Settings, busy: Ledger, screen: Screen) -> None:
    plain, coloured = screen(), screen(terminal=True)
    for console in (plain, coloured):
        print_budget(budget_view(settings), console)
    assert "\x1b[31m▓" in shown(coloured)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown(coloured)) == shown(plain)


def test_nothing_yet(screen: Screen) -> None:
    console = screen()
    print_budget(BudgetView((), {}), console)
    assert shown(console) == "Budget: nothing yet\n"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0.0, 0.0, 8.0), (0, 0)),
        ((8.0, 0.0, 0.0), (40, 40)),
        ((4.0, 2.0, 2.0), (20, 30)),
        ((1e-6, 1e-6, 8.0), (1, 2)),
        ((7.999999, 0.0, 1e-6), (39, 39)),
        ((7.999998, 1e-6, 1e-6), (38, 39)),
        ((0.0, 8.0, 0.0), (0, 40)),
        ((0.0, 0.0, 0.0), (0, 0)),
    ],
    ids=["nothing", "all spent", "half", "traces", "a trace left", "a trace of both", "all reserved", "no limit"],
)
def test_every_part_above_zero_is_seen(parts: tuple[float, float, float], expected: tuple[int, int]) -> None:
    assert cells(*parts, 40) == expected


def test_a_bar_is_as_wide_as_asked(busy: Ledger) -> None:
    drawn = bar(busy.budget("people"), 40).plain
    assert len(drawn) == 40
    assert list(dict.fromkeys(drawn)) == ["▓", "▒", "░"]
