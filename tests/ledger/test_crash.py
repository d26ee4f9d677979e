"""Death at the worst moment: nothing is charged twice, nothing unanchored is handed out, and it heals by itself."""

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from cadp.errors import LedgerRewound, StoreError
from cadp.ledger import Charge, Ledger, State
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.ledger.places import Place, add_population

Pay = Callable[..., Charge]


class Faulty:
    """A store whose puts fail, before or after they take effect, while `fault` is set."""

    def __init__(self, store: Store, switch: dict[str, str] | None = None) -> None:
        self._store = store
        self.switch = {} if switch is None else switch

    def child(self, prefix: str) -> "Faulty":
        return Faulty(self._store.child(prefix), self.switch)

    def put(self, key: str, data: bytes) -> object:
        fault = self.switch.get("fault")
        if fault == "after":
            self._store.put(key, data)
        if fault:
            raise StoreError(f"no answer for {key}")
        return self._store.put(key, data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def charge(ledger: Ledger, key: str = "k", epsilon: float = 1.0) -> Charge:
    return ledger.charge("people", release="r/1", key=key, event=PureEvent(epsilon), parameters={})


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_charge_whose_anchor_fails_is_not_handed_out_but_counts(place: Place, fault: str) -> None:
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as ledger:  # type: ignore[arg-type]
        add_population(ledger)
        anchors.switch["fault"] = fault
        with pytest.raises(StoreError):
            charge(ledger)
        assert ledger.budget("people").spent == 1.0
        # Asked again while the anchors are away: still not handed out, although the row is there.
        with pytest.raises(StoreError):
            charge(ledger)
        (found,) = ledger.charges()
        with pytest.raises(StoreError):
            ledger.begin(found.id)
        anchors.switch.clear()
        assert charge(ledger).id == found.id
        assert ledger.budget("people").spent == 1.0
        ledger.check()


def test_an_answer_whose_anchor_fails_is_not_seen_and_stays_the_first(place: Place) -> None:
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as ledger:  # type: ignore[arg-type]
        add_population(ledger)
        gate = ledger.begin(charge(ledger).id)
        anchors.switch["fault"] = "before"
        for _ in range(2):
            with pytest.raises(StoreError):
                ledger.answer(gate.id, {"correct": 1})
        with pytest.raises(StoreError):
            ledger.recorded_answer(gate.id)
        anchors.switch.clear()
        assert ledger.answer(gate.id, {"correct": 2}) == {"correct": 1}


def test_another_process_anchors_what_a_dead_one_left(place: Place) -> None:
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as dying, place.open() as living:  # type: ignore[arg-type]
        add_population(living)
        charge(dying, "first")
        anchors.switch["fault"] = "before"
        with pytest.raises(StoreError):
            charge(dying, "left behind")
        assert len(place.anchor_files()) == 3
        charge(living, "next")
        # Oldest first: there is never a gap that would hide a fork.
        assert [file.name for file in place.anchor_files()] == [f"{seq:08d}.json" for seq in range(1, 6)]
        living.check()


KILLED = """
import os, signal, sys
from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store

put, at, moment = Store.put, int(sys.argv[3]), sys.argv[4]

def deadly(self, key, data):
    if key == f"{at:08d}.json" and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    stored = put(self, key, data)
    if key == f"{at:08d}.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return stored

Store.put = deadly
ledger = Ledger.init(sys.argv[1], Store.open(sys.argv[2]))
ledger.create_population("people", unit="person", epsilon=8.0, delta=1e-6, source_hmac="hmac of people",
                         secret_fingerprint="f1")
charge = ledger.charge("people", release="r/1", key="k", event=PureEvent(1.0), parameters={})
ledger.begin(charge.id)
ledger.answer(charge.id, {"correct": 3})
ledger.publish("r/1")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", [1, 3, 5])
def test_sigkill_between_commit_and_anchor_heals(
    tmp_path_factory: pytest.TempPathFactory, at: int, moment: str
) -> None:
    place = Place(tmp_path_factory.mktemp("killed"))
    command = [sys.executable, "-c", KILLED, place.url, str(place.anchors_folder), str(at), moment]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert len(place.anchor_files()) == at - (moment == "before")
    with Ledger.init(place.url, place.anchors) as ledger:
        assert len(ledger.history()) == at == len(place.anchor_files())
        ledger.check()
        add_population(ledger)
        found = charge(ledger)
        if found.state is State.RESERVED:
            ledger.begin(found.id)
        assert ledger.answer(found.id, {"correct": 4}) == {"correct": 3 if at == 5 else 4}
        ledger.publish("r/1")
        assert len(ledger.charges()) == 1
        assert ledger.budget("people").spent == 1.0
        ledger.check()


def test_a_half_made_ledger_is_never_seen(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Place(tmp_path_factory.mktemp("half"))
    script = (
        "import os, signal, sys\nfrom cadp.ledger import Ledger\nfrom cadp.store import Store\n"
        "os.link = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Ledger.init(sys.argv[1], Store.open(sys.argv[2]))\n"
    )
    subprocess.run([sys.executable, "-c", script, place.url, str(place.anchors_folder)], check=False, timeout=60)
    assert not place.file.exists()
    with Ledger.init(place.url, place.anchors) as ledger:
        add_population(ledger)
        ledger.check()


def test_a_fork_is_noticed_even_if_the_dead_process_had_not_anchored(place: Place) -> None:
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as ledger:  # type: ignore[arg-type]
        add_population(ledger)
    copied = place.backup(place.folder / "copy" / "ledger.db")
    with Ledger.open(place.url, anchors) as dying:  # type: ignore[arg-type]
        anchors.switch["fault"] = "before"
        with pytest.raises(StoreError):
            charge(dying, "left behind")
    with Ledger.open(str(copied), place.anchors) as copy:
        charge(copy, "went on")
    with pytest.raises(LedgerRewound, match="another entry 3"):
        place.open()
