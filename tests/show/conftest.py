"""A ledger in which everything has happened once: finished, running, reserved, burned, voided, refused."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cadp.errors import BudgetExceeded
from cadp.ledger import Charge, Ledger
from cadp.privacy.accountant import DeltaEvent, Event, GaussianEvent, PureEvent
from cadp.settings import Settings
from cadp.store import Store

SHA = "0123456789abcdef" * 4


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings.load({"CADP_HOME": str(tmp_path / "home")})
    made.make_private_folders()
    return made


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    """`people` (ε 8) and its holdout (ε 1), `others` (ε 16), and nothing charged."""
    with Ledger.init(settings.ledger_url, Store.open(settings.anchors_url), settings.home / "backups") as made:
        for name, epsilon in (("people.holdout", 1.0), ("others", 16.0), ("people", 8.0)):
            made.create_population(
                name, unit="person", epsilon=epsilon, delta=2.5e-6, source_hmac=f"of {name}", secret_fingerprint="f1"
            )
        yield made


Pay = Callable[..., Charge]


@pytest.fixture
def pay(ledger: Ledger) -> Pay:
    def charge(release: str, part: str, event: Event, population: str = "people") -> Charge:
        return ledger.charge(
            population, release=release, key=f"{release}/{part}", event=event, parameters={"part": part}
        )

    return charge


@pytest.fixture
def busy(ledger: Ledger, pay: Pay) -> Ledger:
    """The ledger after one release of every fate."""
    publish(ledger, pay, "xrays/1.0.0")
    burned = pay("xrays/1.1.0", "train", DeltaEvent(4e-8))
    ledger.begin(burned.id)
    pay("xrays/1.1.0", "records", PureEvent(0.5))
    ledger.burn("xrays/1.1.0", "the camera of ward 3 [the old one] was set wrongly")
    ledger.void(pay("xrays/1.2.0", "train", PureEvent(0.5)).id)
    ledger.begin(pay("xrays/1.3.0", "train", PureEvent(0.5)).id)
    pay("xrays/1.4.0", "train", PureEvent(0.25))
    with pytest.raises(BudgetExceeded):
        pay("xrays/1.5.0", "train", PureEvent(7.0))
    return ledger


def publish(ledger: Ledger, pay: Pay, release: str) -> None:
    """Take a release of three charges to its end: ε 1 and a Gaussian from `people`, 0.1 from the holdout."""
    train, records = pay(release, "train", GaussianEvent(0.3)), pay(release, "records", PureEvent(1.0))
    gate = pay(release, "gate", PureEvent(0.1), "people.holdout")
    for charge in (train, records):
        ledger.begin(charge.id)
        ledger.seal(ledger.lease(charge.id, 0, "me", 60), key=f"{charge.key}/0", sha256=SHA, facts={})
        ledger.finish(charge.id, 1)
    ledger.begin(gate.id)
    ledger.answer(gate.id, {"passed": True})
    ledger.publish(release)


@pytest.fixture
def screen() -> Callable[..., Console]:
    """A console that remembers what it showed, as a pipe or a terminal with colours of any width."""

    def make(width: int = 80, *, terminal: bool = False) -> Console:
        return Console(
            file=StringIO(), width=width, force_terminal=terminal, color_system="standard" if terminal else None
        )

    return make


def shown(console: Console) -> str:
    """What a console showed."""
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()
