"""The histograms behind a tone curve move by no more than is charged, and the curve is what they say."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp.cinn.architecture import Whitening
from cadp.cinn.fit.moments import fit_moments
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.fit.tones import FLATTEST, curve, histograms
from cadp.cinn.fit.tones_plan import KNOTS, NOISE, SHARE, UNIT, choose_knots, tones_query
from cadp.cinn.network import ConditionalFlow
from cadp.privacy.accountant import calibrate_gaussian
from cadp.records import Batch
from cadp.reporter import Silent
from tests.cinn.conftest import counts_of

SHAPES = [(4, 4, 1), (3, 5, 3), (1, 1, 7)]


def of(image: np.ndarray, valid: bool = True) -> np.ndarray:
    rows = image.reshape(1, -1) / 255
    return histograms(rows, np.array([valid]), image.shape[2], KNOTS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_record_is_within_the_radius_and_two_are_within_the_sensitivity(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    query = tones_query(1.0, shape, 1)
    levels = st.lists(st.sampled_from([0, 1, 127, 254, 255]), min_size=math.prod(shape), max_size=math.prod(shape))
    one, other = (np.array(data.draw(levels)).reshape(shape) for _ in range(2))
    assert np.linalg.norm(of(one)) <= query.radius
    assert np.all(of(one) >= 0)
    assert np.linalg.norm(of(one) - of(other)) <= query.sensitivity
    assert np.linalg.norm(of(one) - of(other, valid=False)) <= query.zero_out_sensitivity


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_black_and_white_attain_it(shape: tuple[int, int, int]) -> None:
    query = tones_query(1.0, shape, 1)
    apart = np.linalg.norm(of(np.zeros(shape)) - of(np.full(shape, 255)))
    assert 0.99 * query.sensitivity < apart <= query.sensitivity
    assert 0.99 * query.zero_out_sensitivity < np.linalg.norm(of(np.zeros(shape))) <= query.zero_out_sensitivity


def test_a_record_with_a_value_that_is_none_contributes_nothing() -> None:
    rows = np.full((5, 6), 0.5)
    rows[1, 2], rows[2, 0], rows[3, 5] = math.nan, -1e-9, 1.5
    found = histograms(rows, np.array([True, True, True, True, False]), 2, KNOTS)
    assert np.array_equal(found, histograms(rows[:1], np.array([True]), 2, KNOTS))
    assert found.sum() == 6 * UNIT


def test_the_curve_takes_one_distribution_to_the_other() -> None:
    draw = np.random.default_rng(0)
    own = draw.beta(2, 2, (4000, 2))
    due = np.stack([np.where(draw.random(4000) < 0.5, 0.0, draw.beta(5, 1, 4000)), draw.beta(1, 3, 4000)], axis=1)
    valid = np.ones(4000, dtype=np.bool_)
    heights = curve(histograms(due, valid, 2, KNOTS), histograms(own, valid, 2, KNOTS))
    assert heights.shape == (2, KNOTS + 1)
    assert np.all(np.diff(heights, axis=1) * KNOTS >= FLATTEST - 1e-12)
    assert np.array_equal(heights[:, [0, -1]], [[0, 1], [0, 1]])
    for channel in range(2):
        at = np.linspace(0, 1, KNOTS + 1)
        matched = (heights[channel] - FLATTEST * at) / (1 - FLATTEST)
        moved = np.interp(own[:, channel], at, matched)
        levels = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])  # at half of the first, there is an edge
        gap = np.quantile(moved, levels) - np.quantile(due[:, channel], levels)
        assert np.abs(gap).max() < 0.03


def test_of_nothing_the_curve_is_the_identity() -> None:
    nothing, some = np.full((1, KNOTS), -3, dtype=np.int64), np.ones((1, KNOTS), dtype=np.int64)
    due = np.linspace(0, 1, KNOTS + 1)[None]
    assert np.array_equal(curve(nothing, some), due)
    assert np.array_equal(curve(some, np.zeros_like(some)), due)
    assert np.allclose(curve(some, some), due)


def test_there_is_a_curve_where_noise_leaves_something_of_the_histogram() -> None:
    found = [choose_knots(calibrate_gaussian(2.0, 1e-5), (28, 28, 1), units, 1) for units in (100, 1000, 10_000, 10**6)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, KNOTS)
    for units in range(100, 4000, 100):
        query = tones_query(calibrate_gaussian(2.0, 1e-5), (28, 28, 1), 1)
        mean = units * 784 / KNOTS
        assert bool(choose_knots(calibrate_gaussian(2.0, 1e-5), (28, 28, 1), units, 1)) == (
            query.sigma / UNIT <= NOISE * mean
        )


def test_it_is_in_the_charge() -> None:
    with_tones = MomentsPlan.split(2.0, Whitening((8, 8, 1), 2, 8, 6, 4, tones=KNOTS), 5000, 1)
    squares = [query.event().mu ** 2 for query in with_tones.queries]
    assert with_tones.queries[-1].name == "tones"
    assert sum(squares) == pytest.approx(4.0, rel=1e-6)
    assert squares[-1] == pytest.approx(SHARE * 4.0, rel=1e-6)


def test_a_fitted_model_has_the_tones_of_its_records() -> None:
    """Black pictures with a bright square somewhere: a Gaussian is grey, its curve is not."""
    draw, n = np.random.default_rng(5), 3000
    images = np.zeros((n, 8, 8, 1), dtype=np.uint8)
    for image, (y, x) in zip(images, draw.integers(0, 5, (n, 2)), strict=True):
        image[y : y + 3, x : x + 3] = 230
    batch = Batch(images, (np.arange(n) % 2).astype(np.int64), np.ones(n, dtype=np.bool_))
    network = Whitening((8, 8, 1), 2, 8, 6, 4, tones=KNOTS)
    dark = []
    for architecture in (network, replace(network, tones=0)):
        plan = MomentsPlan.split(50.0, architecture, n, 1)
        flow: ConditionalFlow = fit_moments(lambda: [batch], plan, counts_of(batch, 2), Silent())
        made = flow.decode_images(np.random.default_rng(6).standard_normal((500, 64)), batch.labels[:500])
        dark.append(np.mean(made < 16))
        back = flow.encode_images(images[:50], batch.labels[:50])
        assert np.array_equal(flow.decode_images(back, batch.labels[:50]), images[:50])
    share = float(np.mean(images < 16))
    assert dark[1] < dark[0] < share
    assert share - dark[0] < 0.6 * (share - dark[1])
