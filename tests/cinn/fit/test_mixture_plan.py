"""The number of components follows from public sizes, and what they cost is in the plan."""

import math
from dataclasses import replace

import pytest

from cadp.cinn.architecture import LIMIT_MIXTURE, Whitening, architecture_from_json
from cadp.cinn.fit.mixture_plan import CENTRES, EDGE, FEWEST, ITERATIONS, MOST, RECORDS, SHARE, choose_components
from cadp.cinn.fit.plan import MomentsPlan, choose_architecture
from cadp.cinn.fit.query import Query
from cadp.errors import CheckpointRefused
from cadp.privacy.accountant import curve

FASHION = (28, 28, 1)
NETWORK = choose_architecture(8.0, FASHION, 10, 60_000)


@pytest.mark.parametrize("units", [200, 6_000, 60_000, 10**9])
@pytest.mark.parametrize("mu", [1e-6, 0.1, 1.0, 10.0, 1e6])
@pytest.mark.parametrize("records", [1, 4])
def test_the_noise_on_a_covariance_is_small_or_there_is_no_mixture(mu: float, units: int, records: int) -> None:
    found = choose_components(mu, NETWORK, units, records)
    assert found == 0 or FEWEST <= found <= MOST
    plan = MomentsPlan.split(mu, replace(NETWORK, components=found or FEWEST), units, records) if mu > 0.01 else None
    if plan is not None and plan.spread is not None:
        noise = plan.spread.sigma / math.sqrt(2) * plan.step**2 * 10 / units
        edge = 2 * noise * math.sqrt(NETWORK.content)
        if found:
            assert edge * found <= EDGE * (1 + 1e-2)
            assert units >= found * 10 * RECORDS * NETWORK.content
        more = max(found + 1, FEWEST)
        if found < MOST and units >= more * 10 * RECORDS * NETWORK.content:
            assert edge * more > EDGE * (1 - 1e-2)


def test_more_budget_or_more_units_never_make_fewer_components() -> None:
    by_mu = [choose_components(0.1 * i, NETWORK, 60_000, 1) for i in range(1, 60)]
    by_units = [choose_components(3.0, NETWORK, 2_000 * i, 1) for i in range(1, 60)]
    by_classes = [choose_components(3.0, replace(NETWORK, classes=i), 60_000, 1) for i in range(60, 0, -1)]
    for found in (by_mu, by_units, by_classes):
        assert found == sorted(found)
        assert (found[0], found[-1]) == (0, MOST)


@pytest.mark.parametrize(("epsilon", "private"), [(1.0, False), (4.0, False), (16.0, False), (16.0, True)])
def test_the_mixture_is_in_the_charge_and_the_whole_costs_what_was_asked(epsilon: float, private: bool) -> None:
    plan = MomentsPlan.calibrate(epsilon, 1e-5, FASHION, 10, units=60_000, private_labels=private)
    components = plan.architecture.components
    assert bool(components) == (epsilon >= 4)
    assert 0.99 * epsilon < curve(plan.event()).epsilon(1e-5) <= epsilon
    names = [query.name for query in plan.queries]
    mixture = [*(f"mixture {i + 1}" for i in range(ITERATIONS)), "mixture covariances"]
    assert names[4 + private :] == [*(mixture if components else []), "tones"]
    assert [row["name"] for row in plan.parameters()["queries"]] == names  # type: ignore[attr-defined]
    told = plan.parameters()["architecture"]
    assert isinstance(told, dict)
    assert told.get("components", 0) == components
    if components:
        squares = [query.event().mu ** 2 for query in plan.queries]
        assert sum(squares[4 + private : -1]) == pytest.approx(SHARE * sum(squares))
        assert squares[-2] == pytest.approx((1 - CENTRES) * SHARE * sum(squares))


def test_a_network_without_components_is_written_as_before_there_were_any() -> None:
    told = {"kind": "whitening", "shape": [28, 28, 1], "classes": 10, "block": 14, "content": 64, "bands": 16}
    plain = Whitening(FASHION, 10, 14, 64, 16)
    assert plain.to_json() == told
    assert architecture_from_json(told) == plain
    assert architecture_from_json({**told, "components": 20}) == replace(plain, components=20)
    with pytest.raises(CheckpointRefused, match="left out"):  # one network, one way to write it
        architecture_from_json({**told, "components": 0})
    with pytest.raises(CheckpointRefused, match="between 0 and 256"):
        architecture_from_json({**told, "components": 257})


@pytest.mark.parametrize("radius", [1, 2, 7, 8192, 8193, 99_999])
def test_the_bound_of_counted_vectors_holds_two_of_them_and_one_alone(radius: int) -> None:
    """In integers: 2·R and √2·√(R² + w²) are at most √2·bound, √(R² + w²) at most bound; and bound is the least."""
    for count in {1, max(1, radius // 4), radius}:
        query = Query("mixture 1", 1, radius, 1.0, 3, count)
        for square in ((2 * radius) ** 2, 2 * (radius**2 + count**2)):
            assert square <= 2 * query.bound**2
        assert (2 * radius) ** 2 > 2 * (query.bound - 1) ** 2
        assert query.sensitivity >= 3 * 2 * radius
        assert query.zero_out_sensitivity >= 3 * math.sqrt(radius**2 + count**2)
        assert query.zero_out_sensitivity <= query.sensitivity


@pytest.mark.parametrize("radius", [1, 2, 7, 8192, 8193, 99_999])
def test_the_bound_of_outer_products_of_counted_vectors_is_their_largest_norm(radius: int) -> None:
    for count in {0, max(1, radius // 4), radius}:
        query = Query("mixture covariances", 2, radius, 1.0, 3, count)
        assert query.bound == radius**2 + count**2
        assert query.sensitivity >= 3 * math.sqrt(2) * query.bound
        assert query.zero_out_sensitivity >= 3 * query.bound


def test_the_rule_never_asks_for_covariances_that_no_network_may_hold() -> None:
    wide = Whitening((32, 32, 1), 1000, 16, 90, 16)
    most = LIMIT_MIXTURE // (1000 * 90**2)
    assert FEWEST < most < MOST
    assert choose_components(1e6, wide, 10**9, 1) == most
    assert replace(wide, components=most).components == most
    with pytest.raises(CheckpointRefused, match="more than 67,108,864 numbers"):
        replace(wide, components=most + 1)
