"""Post-processing of noisy sums stays sound where the noise is larger than what it hides."""

import numpy as np
import pytest

from cadp.cinn.fit.estimate import SMALLEST_STD, class_factors, class_means, principal_axes, residual_stds

RADIUS = 4.0


def records(n: int, seed: int = 0) -> np.ndarray:
    rows = np.abs(np.random.default_rng(seed).normal(size=(n, 30)))
    return rows * RADIUS * 0.9 / np.linalg.norm(rows, axis=1, keepdims=True)


def test_without_noise_the_means_are_the_means() -> None:
    rows = [records(n, seed) for seed, n in enumerate((100, 1, 7))]
    sums = np.stack([row.sum(axis=0) for row in rows])
    means = class_means(sums, 0.0, np.array([100, 1, 7]), RADIUS)
    assert np.allclose(means, np.stack([row.mean(axis=0) for row in rows]))


def test_a_class_that_noise_drowns_takes_the_common_mean_and_nothing_of_its_noise() -> None:
    rng = np.random.default_rng(1)
    counts = np.array([5_000, 5_000, 1, 0])
    sums = np.stack([records(1, seed)[0] * n for seed, n in enumerate(counts)])
    truth = sums / np.maximum(counts, 1)[:, None]
    plain = []
    for _ in range(20):
        noisy = sums + rng.normal(size=sums.shape) * 50
        means = class_means(noisy, 50.0, counts, RADIUS)
        common = noisy.sum(axis=0) / counts.sum()
        assert np.allclose(means[3], common)
        assert np.linalg.norm(means[2] - common) < 0.3  # its own noisy mean is some 270 away
        assert np.linalg.norm(means[:2] - truth[:2], axis=1).max() < 0.15
        distance = np.linalg.norm(noisy[2] - common)
        plain.append(max(1 - 50**2 * 30 / distance**2, 0.0) * distance)
    assert max(plain) > 20  # the factor without its bound would have let that much of the noise in


def test_the_common_mean_never_leaves_the_ball() -> None:
    sums = np.random.default_rng(2).normal(size=(2, 30)) * 1e6
    means = class_means(sums, 1e6, np.array([3, 2]), RADIUS)
    assert np.linalg.norm(means, axis=1).max() < RADIUS * 1.01


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0, 1e4])
def test_axes_are_a_rotation_with_bounded_positive_deviations(noise: float) -> None:
    rng = np.random.default_rng(3)
    rows = records(200) - records(200).mean(axis=0)
    wild = rng.normal(size=(30, 30)) * noise
    axes, stds = principal_axes(rows.T @ rows / 200 + wild + wild.T, 8, noise, RADIUS)
    assert np.allclose(axes @ axes.T, np.eye(30), atol=1e-12)
    assert stds.shape == (8,)
    assert stds.min() >= SMALLEST_STD
    assert np.square(stds).sum() <= RADIUS**2 + 8 * SMALLEST_STD**2
    assert (np.diff(stds) <= 1e-12).all()


@pytest.mark.parametrize("noise", [0.0, 0.1, 10.0, 1e8])
def test_class_factors_are_those_of_sound_covariances(noise: float) -> None:
    rng = np.random.default_rng(4)
    wild = rng.normal(size=(3, 12, 12)) * noise
    factors = class_factors(np.eye(12) * 1.5 + wild + wild.transpose(0, 2, 1), np.full(3, noise))
    assert np.isfinite(factors).all()
    assert np.array_equal(factors, np.tril(factors))
    assert np.diagonal(factors, axis1=1, axis2=2).min() > 0
    covariance = factors @ factors.transpose(0, 2, 1)
    assert np.linalg.eigvalsh(covariance).max() < 10


def test_residual_deviations_reproduce_the_energies_they_come_from() -> None:
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0].T
    band_of = np.array([0] * 4 + [1] * 6 + [2] * 8)
    stds = residual_stds(np.array([[0.5, 0.3, 0.2], [-5.0, 0.0, 0.0]]), rotation, 3, band_of)
    assert stds.shape == (2, 15)
    assert np.square(stds[0]).sum() == pytest.approx(1.0, rel=1e-9)
    assert np.allclose(stds[1], SMALLEST_STD)  # a negative energy is noise
