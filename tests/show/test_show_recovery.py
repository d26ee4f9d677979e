"""`cadp budget recover` for people, who agree to what they were shown, and for scripts."""

import json
import shutil
from pathlib import Path

import pytest
import typer

from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.command import Command
from tests.ledger.places import FilePlace, add_population
from tests.small_release import Place, build


def spend(place: Place, key: str, url: str = "") -> None:
    settings = place.settings
    with Ledger.open(url or settings.ledger_url, Store.open(settings.anchors_url)) as ledger:
        ledger.charge("people", release=f"{key}/1", key=key, event=PureEvent(0.1), parameters={})


@pytest.fixture
def rewound(tmp_path: Path) -> tuple[Place, str]:
    """A ledger that forgot one charge, and the address of the one that did not."""
    place = build(tmp_path / "it")
    place.settings.make_private_folders()
    ledger = FilePlace(place.settings.home)
    with Ledger.init(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as made:
        add_population(made)
    copy = ledger.twin()
    spend(place, "forgotten")
    whole = ledger.twin()
    ledger.restore(copy)
    shutil.rmtree(Path(copy.removeprefix("sqlite:///")).parent)
    return place, whole


def test_json_says_what_would_be_done_and_then_what_was_done(rewound: tuple[Place, str], cadp: Command) -> None:
    place, _ = rewound
    for _ in range(2):
        said = json.loads(cadp(place, "budget", "recover", "--json").out)
        assert (said["schema"], said["entry"], said["reentered"], said["releases"]) == (
            1,
            None,
            [3, 3],
            ["forgotten/1"],
        )
    done = json.loads(cadp(place, "budget", "recover", "--json", "--yes").out)
    assert {**done, "entry": None} == said
    assert done["entry"] == 4
    assert json.loads(cadp(place, "budget", "recover", "--json").out)["reentered"] is None


def test_nothing_else_is_burned_than_what_was_shown(
    rewound: tuple[Place, str], cadp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, whole = rewound

    def agree(*_: object, **__: object) -> bool:
        spend(place, "meanwhile", whole)
        return True

    monkeypatch.setattr(typer, "confirm", agree)
    done = cadp(place, "budget", "recover")
    assert "Burned: forgotten/1" in done.out
    done.refused(1, "others went on meanwhile", "look again")
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    again = cadp(place, "budget", "recover")
    assert again.code == 0
    assert "Burned: meanwhile/1" in again.out
