"""What the operator is told: each thing once, with its figures, and never by a transaction that did not happen."""

import pytest

from cadp.errors import BudgetExceeded, StoreError
from cadp.ledger import Ledger, Notice, Population
from cadp.ledger.notices import crossed
from cadp.privacy.accountant import DeltaEvent, PureEvent
from tests.ledger.places import Place, add_population, seal_all
from tests.ledger.test_crash import Faulty


def spend(ledger: Ledger, key: str, epsilon: float, release: str = "r/1") -> str:
    charge = ledger.charge("people", release=release, key=key, event=PureEvent(epsilon), parameters={})
    return charge.id


def kinds(notices: list[Notice]) -> list[str]:
    return [notice.kind for notice in notices]


def test_a_life_is_told(ledger: Ledger, population: Population) -> None:
    told: list[Notice] = []
    with ledger.watched(told.append):
        spend(ledger, "a", 3.0)
        spend(ledger, "a", 3.0)
        spend(ledger, "b", 1.5)
        with pytest.raises(BudgetExceeded):
            spend(ledger, "c", 4.0)
        ledger.burn("r/1", "a test")
        ledger.burn("r/1", "a test")
        for charge in (spend(ledger, "d", 2.5, "r/2"),):
            seal_all(ledger, next(c for c in ledger.charges() if c.id == charge))
        ledger.publish("r/2")
        ledger.publish("r/2")
    assert kinds(told) == [
        "reserved",
        "reserved",
        "threshold",
        "refused",
        "burned",
        "reserved",
        "threshold",
        "published",
    ]
    assert told == ledger.notices()
    assert told[0].text == "a of r/1 takes ε 3.00 of people: now 3.00 of 8.00 at δ 1e-06"
    assert told[2].text == "people has passed 50% of its limit: ε 4.50 of 8.00 at δ 1e-06, left 3.50"
    assert "asked 4.00 more" in told[3].text
    assert "0.50 too much" in told[3].text
    assert told[4].text == "r/1 is burned (a test): its 2 charges stay spent and it can never be published"
    assert told[6].text.startswith("people has passed 80% of its limit: ε 7.00")
    assert ledger.notices(after=told[5].id) == told[6:]


def test_additive_delta_has_thresholds_of_its_own(ledger: Ledger, population: Population) -> None:
    for key, delta in (("a", 4e-8), ("b", 4.5e-8), ("c", 1e-9), ("d", 1.4e-8)):
        ledger.charge("people", release="r/1", key=key, event=DeltaEvent(delta), parameters={})
    assert [notice.text for notice in ledger.notices() if notice.kind == "threshold"] == [
        "people has passed 80% of the additive δ that samplers may take: 8.5e-08 of 1e-07, left 1.5e-08",
        "people has passed 95% of the additive δ that samplers may take: 1e-07 of 1e-07, left 0",
    ]


def test_nobody_is_told_of_what_is_not_anchored_yet_but_it_is_on_record(place: Place) -> None:
    anchors, told = Faulty(place.anchors), list[Notice]()
    with Ledger.open(place.url, anchors) as ledger, ledger.watched(told.append):  # type: ignore[arg-type]
        add_population(ledger)
        anchors.switch["fault"] = "before"
        with pytest.raises(StoreError):
            spend(ledger, "a", 1.0)
        assert told == []
        assert kinds(ledger.notices()) == ["reserved"]


def test_a_watcher_hears_only_while_it_watches(ledger: Ledger, population: Population) -> None:
    told: list[Notice] = []
    with ledger.watched(told.append):
        spend(ledger, "a", 1.0)
    spend(ledger, "b", 1.0)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(0.0, 3.9, None), (0.0, 4.0, 0.5), (4.0, 4.1, None), (0.0, 8.0, 0.95), (6.0, 6.4, 0.8), (7.6, 8.0, None)],
)
def test_a_threshold_is_told_when_it_is_passed_and_only_the_highest(
    before: float, after: float, share: float | None
) -> None:
    assert crossed(before, after, 8.0) == share
