"""Assignment is exact and a record's own; what comes of noisy sums is a sound mixture, whatever they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp.cinn.fit import lloyd
from cadp.cinn.fit.query import Query

STEP = 2.0**-10


def query(dims: int, multiplier: float = 1.0) -> Query:
    radius = int(np.ceil(np.sqrt(dims) / STEP))
    return Query("mixture 1", 1, radius, multiplier, 1, radius // 4)


def test_starting_centres_are_public_and_never_change() -> None:
    centres = lloyd.starting_centres(3, 40, 20)
    assert centres.std() == pytest.approx(lloyd.SPREAD, rel=0.05)
    assert abs(centres.mean()) < 0.05
    assert np.isfinite(centres).all()
    assert len(np.unique(centres)) == centres.size
    assert lloyd.starting_centres(1, 2, 2).round(4).tolist() == PINNED


PINNED = [[[-1.1838, -0.2107], [-0.1931, 0.784]]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_nearest_centre_is_found_in_integers(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    asked = query(6)
    centres = lloyd.on_lattice(size * rng.normal(size=(3, 5, 6)), asked, STEP)
    assert (np.square(centres).sum(axis=2) <= asked.radius**2).all()
    rows = lloyd.on_lattice(size * rng.normal(size=(20, 6)), asked, STEP)
    labels = rng.integers(0, 3, 20)
    found = lloyd.nearest(rows, centres, labels)
    for row, label, block in zip(rows, labels, found, strict=True):
        distances = [sum((int(a) - int(b)) ** 2 for a, b in zip(row, centre, strict=True)) for centre in centres[label]]
        assert block == label * 5 + distances.index(min(distances))  # the first of several, without rounding


def test_the_nearest_centre_does_not_depend_on_other_rows_or_on_their_number() -> None:
    rng = np.random.default_rng(0)
    asked = query(64)
    centres = lloyd.on_lattice(rng.normal(size=(10, 60, 64)), asked, STEP)
    rows = lloyd.on_lattice(rng.normal(size=(300, 64)), asked, STEP)
    labels = rng.integers(0, 10, 300)
    found = lloyd.nearest(rows, centres, labels)
    for part in (slice(0, 1), slice(3, 10), slice(100, 233)):
        assert np.array_equal(lloyd.nearest(rows[part], centres, labels[part]), found[part])


def answer_of(asked: Query, records: np.ndarray, centres: np.ndarray) -> np.ndarray:
    sums = np.concatenate([centres / STEP * records[..., None], (records * asked.count)[..., None]], axis=-1)
    return np.rint(sums).astype(np.int64)


def test_centres_lose_what_noise_explains_and_components_of_noise_are_empty() -> None:
    asked = query(16, multiplier=2.0)
    rng = np.random.default_rng(1)
    records = np.array([[4000.0, 2000.0, 20.0, 0.0, 900.0]])
    centres = 0.5 * rng.normal(size=(1, 5, 16))
    centres[0, 4] *= 1e-3  # a centre that cannot be told from the mean
    noise = np.rint(rng.normal(size=(1, 5, 17)) * asked.sigma).astype(np.int64)
    found, moved = lloyd.noisy_centres(answer_of(asked, records, centres) + noise, asked, STEP)
    assert (found[0, [2, 3]] == 0).all()
    assert not moved[0, [2, 3]].any()
    assert found[0, [0, 1, 4]] == pytest.approx(records[0, [0, 1, 4]], rel=0.2)
    assert np.abs(moved[0, :2] - centres[0, :2]).max() < 0.1
    assert np.linalg.norm(moved[0, 4]) < 0.1
    exact = lloyd.noisy_centres(answer_of(asked, records, centres), query(16, multiplier=1e-9), STEP)
    assert exact[0][0, :3] == pytest.approx(records[0, :3])
    assert exact[1][0, :3] == pytest.approx(centres[0, :3], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 1.0, 1e3, 1e9]), st.sampled_from([1e-3, 1.0, 100.0]))
def test_whatever_the_answers_the_centres_are_sound(seed: int, size: float, multiplier: float) -> None:
    rng, asked = np.random.default_rng(seed), query(8, multiplier)
    answer = np.rint(rng.normal(size=(3, 5, 9)) * size * 1e4).astype(np.int64)
    records, centres = lloyd.noisy_centres(answer, asked, STEP)
    assert (records >= 0).all()
    start = lloyd.starting_centres(3, 5, 8)
    for iteration in range(7):
        centres_of_next = lloyd.reseeded(records, centres, start, iteration)
        assert np.isfinite(centres_of_next).all()
        assert np.array_equal(centres_of_next[records > 0], centres[records > 0])
    # Far or not, no centre is farther than a record may be.
    assert np.linalg.norm(centres, axis=2).max() <= asked.radius * STEP * (1 + 1e-12)
