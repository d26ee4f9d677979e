"""One record's integers stay within the bound whatever it holds, and sums of them are exact."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.fit import contributions as add
from cadp.errors import PrivacyError

STEP = 2.0**-10
EXTREMES = [np.nan, np.inf, -np.inf, 1e308, -1.7e308, 1e38, 5e-324, 2e-310, -1e-160, 0.0, -0.0, 1.0, 255.0, STEP / 2]
Rows = NDArray[np.float64]

entries = st.one_of(st.sampled_from(EXTREMES), st.floats(-3, 3), st.floats(allow_nan=True, allow_infinity=True))
matrices = st.integers(1, 12).flatmap(
    lambda d: st.lists(st.lists(entries, min_size=d, max_size=d), min_size=1, max_size=6).map(np.array)
)
bounds = st.one_of(st.integers(1, 50), st.integers(51, 1 << 20))


def squared(row: Rows) -> int:
    return sum(int(value) ** 2 for value in row)


def check_rows(rows: Rows, bound: int, steps: Rows) -> None:
    """Integers, inside the bound, never further from zero than the record's own values, of the same signs."""
    assert np.array_equal(steps, np.trunc(steps))
    for row, lattice in zip(rows, steps, strict=True):
        assert squared(lattice) <= bound**2
        if not np.isfinite(row).all():
            assert not lattice.any()
            continue
        assert (np.abs(lattice) * STEP <= np.abs(row)).all()
        assert (lattice * row >= 0).all()


@settings(max_examples=300, deadline=None)
@given(matrices, bounds)
@example(np.array([[5e-324] * 8, [1.7e308] * 8]), 1)
@example(np.array([[np.nan, 1.0], [1.0, 1.0]]), 724)
def test_every_row_is_inside_the_bound_in_integers(rows: Rows, bound: int) -> None:
    with np.errstate(over="ignore"):
        check_rows(rows, bound, add.lattice_rows(rows, bound, STEP))


@settings(max_examples=100, deadline=None)
@given(matrices, bounds, st.sampled_from(EXTREMES))
def test_no_row_depends_on_another(rows: Rows, bound: int, other: float) -> None:
    with np.errstate(over="ignore"):
        steps = add.lattice_rows(rows, bound, STEP)
        for i in range(len(rows)):
            changed = np.full_like(rows, other)
            changed[i] = rows[i]
            assert np.array_equal(add.lattice_rows(changed, bound, STEP)[i], steps[i])


def test_a_vector_inside_the_radius_is_only_rounded_and_one_outside_keeps_its_direction() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 20))
    rows[:25] *= 0.9 / np.linalg.norm(rows[:25], axis=1, keepdims=True)
    rows[25:] *= 7.0 / np.linalg.norm(rows[25:], axis=1, keepdims=True)
    steps = add.lattice_rows(rows, 1024, STEP) * STEP
    assert np.abs(steps[:25] - rows[:25]).max() < STEP
    assert np.abs(steps[25:] - rows[25:] / 7).max() < 1.01 * STEP
    assert np.linalg.norm(steps[25:], axis=1).min() > 0.99


def test_rounding_to_the_nearest_would_leave_the_ball_and_the_check_sees_it() -> None:
    """The planted mistake: 400 entries of ¾ of a step, of norm 15 steps, would become 400 entries of 1: norm 20."""
    rows = np.full((1, 400), 0.75 * STEP)
    check_rows(rows, 15, add.lattice_rows(rows, 15, STEP))
    with pytest.raises(AssertionError):
        check_rows(rows, 15, np.rint(rows / STEP))


def test_a_bound_beyond_exact_floats_is_refused() -> None:
    add.lattice_rows(np.ones((1, 2)), (1 << 25) - 1, STEP)
    with pytest.raises(PrivacyError, match="2\\^51"):
        add.lattice_rows(np.ones((1, 2)), 1 << 26, STEP)


def integer_rows(n: int, d: int, bound: int) -> Rows:
    rng = np.random.default_rng(n + d)
    return add.lattice_rows(rng.normal(size=(n, d)) * bound, bound, 1.0)


@pytest.mark.parametrize("bound", [3, 9_000, 77_824])
def test_sums_are_those_of_unlimited_integers(bound: int) -> None:
    rows = integer_rows(60, 7, bound)
    labels = np.arange(60) % 4  # class 4 has no record
    whole = [[int(value) for value in row] for row in rows]
    sums = add.class_sums(rows, labels, 5, bound)
    outer, classes = add.outer_sum(rows, bound), add.class_outer_sums(rows, labels, 5, bound)
    bands = np.array([0, 0, 1, 2, 2, 2, 3])
    energies = add.class_energies(rows, labels, 5, band_of=bands, bands=4, bound=bound)
    assert {a.dtype for a in (sums, outer, classes, energies)} == {np.dtype(np.int64)}
    for label in range(5):
        mine = [row for row, own in zip(whole, labels, strict=True) if own == label]
        assert sums[label].tolist() == [sum(row[j] for row in mine) for j in range(7)]
        assert classes[label].tolist() == [[sum(r[i] * r[j] for r in mine) for j in range(7)] for i in range(7)]
        for band in range(4):
            assert energies[label, band] == sum(r[j] ** 2 for r in mine for j in range(7) if bands[j] == band)
    assert np.array_equal(outer, classes.sum(axis=0))


def test_batches_whose_sums_would_leave_exact_floats_are_refused() -> None:
    rows, labels, bound = np.zeros((1 << 12, 2)), np.zeros(1 << 12, dtype=np.int64), 1 << 21
    for ask in (
        lambda: add.outer_sum(rows, bound),
        lambda: add.class_energies(rows, labels, 1, band_of=labels[:2], bands=1, bound=bound),
        lambda: add.class_sums(rows, labels, 1, 1 << 42),
    ):
        with pytest.raises(PrivacyError, match="2\\^53"):
            ask()
    add.outer_sum(rows[:2047], bound)


def test_data_sets_whose_totals_could_overflow_are_refused() -> None:
    add.check_total((1 << 22) - 1, 1 << 40)
    with pytest.raises(PrivacyError, match="overflow"):
        add.check_total(1 << 22, 1 << 40)
