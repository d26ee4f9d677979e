"""A limit is for ever, and a source has one population."""

import pytest

from cadp.errors import LedgerError
from cadp.ledger import Ledger, Population
from tests.ledger.places import Place, add_population

SAME = {"unit": "person", "epsilon": 8.0, "delta": 1e-6, "source_hmac": "hmac of people", "secret_fingerprint": "f1"}


def test_the_same_population_again_is_the_same(place: Place, ledger: Ledger, population: Population) -> None:
    assert ledger.create_population("people", **SAME) == population
    assert ledger.populations() == [population] == [ledger.population("people")]
    assert len(place.anchor_files()) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 9.0}, "epsilon is 8.0, not 9.0"),
        ({"delta": 1e-5}, "delta is 1e-06, not 1e-05"),
        ({"unit": "record"}, 'unit is "person", not "record"'),
        ({"source_hmac": "other"}, 'source_hmac is "hmac of people", not "other"'),
        ({"secret_fingerprint": "f2"}, "secret_fingerprint"),
    ],
)
def test_other_parameters_are_refused(
    ledger: Ledger, population: Population, change: dict[str, object], words: str
) -> None:
    with pytest.raises(LedgerError, match=r"can never change: go on under ε 8, δ 1e-06") as refusal:
        ledger.create_population("people", **SAME | change)
    assert words in str(refusal.value)
    assert ledger.populations() == [population]


def test_renaming_does_not_give_a_source_a_second_budget(ledger: Ledger, population: Population) -> None:
    assert ledger.bound_to("hmac of people") == population
    assert ledger.bound_to("hmac of others") is None
    with pytest.raises(LedgerError, match="bound to population people already"):
        ledger.create_population("renamed", **SAME)


@pytest.mark.parametrize("limit", [{"epsilon": v} for v in (0, -1.0, float("nan"), float("inf"))])
def test_senseless_limits_are_refused(ledger: Ledger, limit: dict[str, float]) -> None:
    with pytest.raises(LedgerError, match="ε"):
        add_population(ledger, **limit)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, float("nan")])
def test_senseless_deltas_are_refused(ledger: Ledger, delta: float) -> None:
    with pytest.raises(LedgerError, match="δ"):
        add_population(ledger, delta=delta)


def test_a_population_of_another_grid_is_refused(
    ledger: Ledger, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadp.ledger.populations.ORDERS", (2.0, float("inf")))
    with pytest.raises(LedgerError, match="another grid of Rényi orders"):
        ledger.population("people")
