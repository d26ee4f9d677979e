"""Death at the worst moment: nothing is charged twice, nothing unanchored is handed out, and it heals by itself."""

from collections.abc import Callable

import pytest

from cadp.errors import LedgerRewound, StoreError
from cadp.ledger import Charge, Ledger
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

    def put_after(self, ready: Callable[[], None], key: str, data: bytes) -> object:
        ready()
        return self.put(key, data)

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
        assert ledger.budget("people").charged == 1.0
        # Asked again while the anchors are away: still not handed out, although the row is there.
        with pytest.raises(StoreError):
            charge(ledger)
        (found,) = ledger.charges()
        with pytest.raises(StoreError):
            ledger.begin(found.id)
        anchors.switch.clear()
        assert charge(ledger).id == found.id
        assert ledger.budget("people").charged == 1.0
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


def test_a_fork_is_noticed_even_if_the_dead_process_had_not_anchored(place: Place) -> None:
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as ledger:  # type: ignore[arg-type]
        add_population(ledger)
    copied = place.twin()
    with Ledger.open(place.url, anchors) as dying:  # type: ignore[arg-type]
        anchors.switch["fault"] = "before"
        with pytest.raises(StoreError):
            charge(dying, "left behind")
    with Ledger.open(copied, place.anchors) as copy:
        charge(copy, "went on")
    with pytest.raises(LedgerRewound, match="another entry 3"):
        place.open()
