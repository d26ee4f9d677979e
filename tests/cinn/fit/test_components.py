"""From noisy sums to a mixture: exact where there is no noise, the class's own where all is noise, sound always."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.fit import components
from cadp.cinn.fit.query import Query

STEP = 2.0**-10
CLASSES, COMPONENTS, DIMS = 2, 4, 6
Array = NDArray[np.float64]


def query(multiplier: float = 1e-9, dims: int = DIMS) -> Query:
    radius = int(np.ceil(4 * np.sqrt(dims) / STEP))
    return Query("mixture covariances", 2, radius, multiplier, 1, radius // 8)


def true_mixture(seed: int) -> tuple[Array, Array, Array]:
    """Weights, means and covariances by class, whose mixture has mean zero and the identity for its covariance."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(COMPONENTS, 8.0), CLASSES)
    means = 0.7 * rng.normal(size=(CLASSES, COMPONENTS, DIMS))
    roots = np.eye(DIMS) + 0.15 * rng.normal(size=(CLASSES, COMPONENTS, DIMS, DIMS))
    covariances = roots @ roots.transpose(0, 1, 3, 2)
    for label in range(CLASSES):
        means[label] -= weights[label] @ means[label]
        whole = sum(
            w * (s + np.outer(m, m)) for w, m, s in zip(weights[label], means[label], covariances[label], strict=True)
        )
        whiten = np.linalg.inv(np.linalg.cholesky(whole))
        means[label] = means[label] @ whiten.T
        covariances[label] = whiten @ covariances[label] @ whiten.T
    return weights, means, covariances


def answer_of(asked: Query, records: Array, shift: Array, covariances: Array, scales: Array) -> NDArray[np.int64]:
    """The sums that `records` with this mean from the centre and this covariance would add up to."""
    answer = np.empty((*records.shape, len(scales) + 1, len(scales) + 1))
    count = asked.count * STEP
    mean = shift * scales
    second = covariances * np.multiply.outer(scales, scales) + mean[..., :, None] * mean[..., None, :]
    answer[..., :-1, :-1] = second
    answer[..., :-1, -1] = answer[..., -1, :-1] = count * mean
    answer[..., -1, -1] = count**2
    return np.rint(answer * records[..., None, None] / STEP**2).astype(np.int64)


def noise_of(asked: Query, shape: tuple[int, ...], seed: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng(seed).normal(size=shape) * asked.sigma / np.sqrt(2)
    return np.rint(np.triu(drawn) + np.triu(drawn, 1).swapaxes(-1, -2)).astype(np.int64)


def covariances_of(factors: Array) -> Array:
    return factors @ factors.swapaxes(-1, -2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_noise_the_mixture_is_found_as_it_is(seed: int) -> None:
    weights, means, covariances = true_mixture(seed)
    assert np.linalg.eigvalsh(covariances).min() > components.SMALLEST_VARIANCE, "the floor would bend this example"
    centres = means + 0.2 * np.random.default_rng(seed + 9).normal(size=means.shape)  # records know their centre only
    scales = components.weights_of(np.linspace(3.0, 0.5, DIMS))
    answer = answer_of(query(), 5000 * weights, means - centres, covariances, scales)
    log_weights, places, factors = components.mixture(answer, query(), STEP, centres=centres, scales=scales)
    assert np.exp(log_weights) == pytest.approx(weights, abs=1e-6)
    assert places == pytest.approx(means, abs=1e-4)
    assert covariances_of(factors) == pytest.approx(covariances, abs=1e-4)
    assert np.array_equal(factors, np.tril(factors))


def test_weights_are_public_arithmetic_on_noisy_answers() -> None:
    scales = components.weights_of(np.array([4.0, 1.0, 0.25]))
    assert scales / scales[0] == pytest.approx([1, 0.5, 0.25])
    assert np.square(scales).mean() == pytest.approx(1)


def test_where_noise_drowns_a_component_it_has_the_covariance_of_its_class() -> None:
    weights, means, covariances = true_mixture(4)
    scales, asked = np.ones(DIMS), query(multiplier=0.3)
    errors = []
    for size in (300.0, 3e6):
        answer = answer_of(asked, size * weights, 0 * means, covariances, scales)
        answer += noise_of(asked, answer.shape, 5)
        _, _, factors = components.mixture(answer, asked, STEP, centres=means, scales=scales)
        found = covariances_of(factors)
        errors.append(float(np.abs(found - covariances).max()))
        apart = np.abs(found - found.mean(axis=1, keepdims=True)).max()
        assert apart < 0.7 if size == 300.0 else apart > 0.3
    assert errors[1] < 0.05


def test_the_place_of_an_empty_component_is_half_of_the_heaviest() -> None:
    weights, means, covariances = true_mixture(2)
    records = 5000 * weights
    records[1, 2] = 0.0
    answer = answer_of(query(), records, 0 * means, covariances, np.ones(DIMS))
    log_weights, places, factors = components.mixture(answer, query(), STEP, centres=means, scales=np.ones(DIMS))
    heaviest = int(weights[1, [0, 1, 3]].argmax())
    heaviest = [0, 1, 3][heaviest]
    assert places[1, 2] == pytest.approx(places[1, heaviest])
    assert factors[1, 2] == pytest.approx(factors[1, heaviest])
    kept = np.delete(records[1], 2)
    assert np.exp(log_weights[1]).sum() == pytest.approx(1)
    assert np.exp(log_weights[1, 2]) == pytest.approx(kept.max() / kept.sum() / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 1.0, 1e3, 1e9]), st.sampled_from([1e-3, 1.0, 100.0]))
def test_whatever_the_answers_the_tensors_are_sound(seed: int, size: float, multiplier: float) -> None:
    rng, asked = np.random.default_rng(seed), query(multiplier)
    drawn = rng.normal(size=(CLASSES, COMPONENTS, DIMS + 1, DIMS + 1)) * size * 1e7
    answer = np.rint(drawn + drawn.swapaxes(-1, -2)).astype(np.int64)
    centres = rng.normal(size=(CLASSES, COMPONENTS, DIMS))
    scales = components.weights_of(rng.uniform(0.1, 3, DIMS))
    log_weights, places, factors = components.mixture(answer, asked, STEP, centres=centres, scales=scales)
    assert all(np.isfinite(tensor).all() for tensor in (log_weights, places, factors))
    assert np.exp(log_weights).sum(axis=1) == pytest.approx(np.ones(CLASSES))
    values = np.linalg.eigvalsh(covariances_of(factors))
    assert values.min() >= components.SMALLEST_VARIANCE * (1 - 1e-9)
    assert values.max() <= components.LARGEST_VARIANCE * (1 + 1e-9)
    assert np.abs(places).max() <= components.FARTHEST
