"""From noisy sums to the tensors of the network. Everything here is post-processing: it costs no privacy."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# No direction of 8-bit records varies less than this: the standard deviation that an affine layer may divide by.
SMALLEST_STD = 1 / 255
SHRINKAGE = 0.15
SMALLEST_EIGENVALUE = 0.05


def class_sizes(noisy: NDArray[np.int64], noise: float, total: int) -> NDArray[np.int64]:
    """Noisy class counts, of standard deviation `noise`, to sizes of classes that together hold about `total` records.

    A class of less than three standard deviations is taken for empty: a mean over so uncertain a number would say
    nothing. If all are, they are taken for equal.
    """
    known = np.where(noisy > 3 * noise, noisy, 0).astype(np.float64)
    if not known.any():
        known = np.ones(len(noisy))
    return np.asarray(np.rint(known * (total / known.sum())), dtype=np.int64)


def class_means(sums: Array, noise: float, counts: NDArray[np.int64], radius: float) -> Array:
    """Noisy class sums `(classes, D)` to class means, drawn towards the common mean as far as noise explains them.

    A class's own mean has weight s / (s + v): v is the variance of the noise in it (`noise` is the standard deviation
    of one entry of a sum), s what the observed mean square distance from the common mean leaves after v. That is the
    positive-part James–Stein factor, but for one thing: every summand is non-negative and within `radius`, so two
    means are at most √2·radius apart and s at most 2·radius²/D. Without that bound a class of one record would take a
    share of its noise. A class without records takes the common mean, which lies within `radius` as well.
    """
    common = sums.sum(axis=0) / max(int(counts.sum()), 1)
    common *= radius / max(float(np.linalg.norm(common)), radius)
    size = np.maximum(counts, 1)[:, None]
    distance = sums / size - common
    explained = (noise / size) ** 2
    observed = np.square(distance).mean(axis=1, keepdims=True)
    signal = np.clip(observed - explained, 0.0, 2 * radius**2 / sums.shape[1])
    weight = signal / np.maximum(signal + explained, np.finfo(np.float64).tiny)
    return np.asarray(common + np.where(counts[:, None] > 0, weight, 0.0) * distance, dtype=np.float64)


def principal_axes(covariance: Array, content: int, noise: float, radius: float) -> tuple[Array, Array]:
    """Eigenvectors of a noisy `(D, D)` covariance as the rows of a rotation, and `content` standard deviations.

    Rows are ordered by noisy variance, largest first. Variances are floored at half the edge of the noise's spectrum,
    `noise·√D` for symmetric noise of standard deviation `noise` an entry (Wigner: the edge is 2·noise·√D), and scaled
    down together to a sum of at most `radius²`, which no covariance of vectors within `radius` exceeds.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    variances = np.maximum(values[:content], noise * np.sqrt(len(values)))
    variances *= radius**2 / max(float(variances.sum()), radius**2)
    return vectors.T.copy(), np.sqrt(np.maximum(variances, SMALLEST_STD**2))


def class_factors(covariances: Array, noise: Array) -> Array:
    """Noisy class covariances `(classes, k, k)` in whitened coordinates to Cholesky factors of sound covariances.

    Each is shrunk towards the identity, the covariance of all classes together, by `SHRINKAGE` or as far as noise of
    standard deviation `noise (classes,)` an entry outweighs it, and its eigenvalues are floored.
    """
    k = covariances.shape[1]
    edge = np.square(noise) * k
    amount = np.maximum(SHRINKAGE, edge / (1 + edge))[:, None, None]
    symmetric = (covariances + covariances.transpose(0, 2, 1)) / 2
    values, vectors = np.linalg.eigh((1 - amount) * symmetric + amount * np.eye(k))
    values = np.maximum(values, SMALLEST_EIGENVALUE)
    return np.linalg.cholesky((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1))


def residual_stds(energies: Array, rotation: Array, content: int, band_of: NDArray[np.int64]) -> Array:
    """Mean band energies `(classes, bands)` of the residual to standard deviations of the last d − k coordinates.

    The residual is what the first k rows of the rotation V leave of the D low coefficients, and the other
    coefficients. The variance of a band is its energy over the dimensions it keeps, Σ_i (1 − Σ_{j<k} V[j,i]²); rotated
    coordinate j ≥ k then has variance Σ_i V[j,i]²·(variance of coefficient i's band).
    """
    low = rotation.shape[0]
    kept = np.ones(len(band_of))
    kept[:low] -= np.square(rotation[:content]).sum(axis=0)
    dims = np.bincount(band_of, weights=np.maximum(kept, 0.0), minlength=energies.shape[1])
    variance = np.maximum(energies, 0.0) / np.maximum(dims, 1e-9)
    by_coefficient = np.maximum(variance, SMALLEST_STD**2)[:, band_of]
    rotated = by_coefficient[:, :low] @ np.square(rotation[content:]).T
    return np.asarray(np.sqrt(np.concatenate([rotated, by_coefficient[:, low:]], axis=1)), dtype=np.float64)
