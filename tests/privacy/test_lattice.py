"""Clips keep every row within its ball, in exact arithmetic, whatever it and its neighbours hold."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cadp.errors import PrivacyError
from cadp.privacy.lattice import clip_l1, clip_l2, step_below, to_lattice, to_sphere

ROWS = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(width=64))
RADII = st.floats(1e-3, 1e6)


@given(ROWS, RADII)
@settings(max_examples=150, deadline=None)
def test_l2_clip(rows: np.ndarray, radius: float) -> None:
    clipped = clip_l2(rows, radius)
    for row in clipped:
        assert sum(Fraction(x) ** 2 for x in row) <= Fraction(radius) ** 2


@given(ROWS, RADII)
@settings(max_examples=150, deadline=None)
def test_l1_clip(rows: np.ndarray, radius: float) -> None:
    for row in clip_l1(rows, radius):
        assert sum(abs(Fraction(x)) for x in row) <= Fraction(radius)


@given(ROWS)
@settings(max_examples=150, deadline=None)
def test_sphere(rows: np.ndarray) -> None:
    for row, given_row in zip(to_sphere(rows), rows, strict=True):
        assert abs(float(sum(Fraction(x) ** 2 for x in row)) - 1) < 1e-14
        if not np.isfinite(given_row).all() or not given_row.any():
            assert row.tolist() == [1.0] + [0.0] * (len(row) - 1)


@pytest.mark.parametrize("clip", [lambda x: clip_l2(x, 2.0), lambda x: clip_l1(x, 2.0), to_sphere])
def test_a_row_does_not_depend_on_its_neighbours(clip: object) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 5))
    alone = clip(rows)[0]
    for neighbour in (np.nan, np.inf, 1e38, 1e308, 5e-324, -7.0):
        rows[1:] = neighbour
        assert clip(rows)[0].tobytes() == alone.tobytes()


def test_rows_inside_are_unchanged_and_others_keep_their_direction() -> None:
    assert clip_l2(np.array([[0.3, 0.4]]), 1.0).tolist() == [[0.3, 0.4]]
    assert np.allclose(clip_l2(np.array([[30.0, 40.0], [1e308, 1e308]]), 1.0), [[0.6, 0.8], [0.5**0.5] * 2])


def test_rounding() -> None:
    assert to_lattice(np.array([0.24, 0.26, np.nan, np.inf, -np.inf, -1.0]), 0.5).tolist() == [0, 1, 0, 0, 0, -2]
    for wrong in (0.3, 0.0, -1.0, np.nan):
        with pytest.raises(PrivacyError):
            to_lattice(np.zeros(1), wrong)
    with pytest.raises(PrivacyError):
        to_lattice(np.array([1e30]), 1.0)


def test_steps_are_powers_of_two() -> None:
    assert [step_below(x) for x in (1.0, 0.99, 3.0, 1e-3)] == [1.0, 0.5, 2.0, 2.0**-10]
    with pytest.raises(PrivacyError):
        step_below(0.0)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_radii_are_refused(radius: float) -> None:
    with pytest.raises(PrivacyError):
        clip_l2(np.zeros((1, 2)), radius)
    with pytest.raises(PrivacyError):
        clip_l1(np.zeros((1, 2)), radius)
