"""A limit is for ever, and a source has one population."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

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
    with pytest.raises(LedgerError, match=r"can never change: go on under ε 8\.00, δ 1e-06") as refusal:
        ledger.create_population("people", **SAME | change)
    assert words in str(refusal.value)
    assert ledger.populations() == [population]


def test_renaming_does_not_give_a_source_a_second_budget(ledger: Ledger, population: Population) -> None:
    assert ledger.bound_to("hmac of people") == population
    assert ledger.bound_to("hmac of others") is None
    with pytest.raises(LedgerError, match="bound to population people already"):
        ledger.create_population("renamed", **SAME)


def test_refusals_print_a_limit_as_the_ledger_counts(ledger: Ledger) -> None:
    add_population(ledger, epsilon=8.123457)
    for name, change in (("renamed", {}), ("people", {"unit": "record"})):
        with pytest.raises(LedgerError, match=r"ε 8\.123457, δ 1e-06"):
            ledger.create_population(name, **{**SAME, "epsilon": 8.123457, **change})


def test_one_more_is_refused_under_the_write_lock(place: Place) -> None:
    """Who asks whether there are others sees all of them: of four that want to be the only one, one is."""
    together = Barrier(4)

    def create(name: str) -> bool:
        def refuse(others: list[Population]) -> None:
            time.sleep(0.05)
            if others:
                raise LedgerError(f"{others[0].name} was first")

        with place.open() as ledger:
            together.wait(timeout=30)
            try:
                ledger.create_population(name, **SAME | {"source_hmac": f"hmac of {name}"}, refuse=refuse)
            except LedgerError as error:
                assert "was first" in str(error)
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, "abcd")) == 1
    with place.open() as ledger:
        (made,) = ledger.populations()
        # The same again is no other.
        assert ledger.create_population(made.name, **SAME | {"source_hmac": made.source_hmac}, refuse=_never) == made


def _never(_: list[Population]) -> None:
    raise AssertionError("nothing is created")


@pytest.mark.parametrize("limit", [{"epsilon": v} for v in (0, -1.0, 9e-7, float("nan"), float("inf"))])
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
