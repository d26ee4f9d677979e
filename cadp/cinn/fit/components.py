"""From noisy sums over every component's records to the tensors of a mixture. All of it is post-processing."""

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.fit.query import Query

Array = NDArray[np.float64]

# Of a component's covariance, where the class's own is the identity. The floor keeps the transport from being flat
# between components: two whose centres are 2h deviations apart have a slope of exp(−h²/2) between them.
SMALLEST_VARIANCE, LARGEST_VARIANCE = 0.1, 4.0
FARTHEST = 4.0
BAND = 8  # dimensions whose covariances are taken to be as far from the class's as each other's


def weights_of(stds: Array) -> Array:
    """`(k,)` weights for outer products, whose squares have the mean 1, from the noisy standard deviations.

    In proportion to the root of a standard deviation: half way between whitened dimensions, which noise drowns alike,
    and pixels, where the last dimensions vanish beside it.
    """
    root = np.sqrt(stds)
    return np.asarray(root / np.sqrt(np.square(root).mean()), dtype=np.float64)


def mixture(
    answer: NDArray[np.int64], query: Query, step: float, *, centres: Array, scales: Array
) -> tuple[Array, Array, Array]:
    """Turn noisy sums of outer products into a mixture: log weights, centres, and Cholesky factors.

    A record of component j added the outer product of (g·(x − c_j), s), x being whitened by its class and s the query's
    count: so a sum holds Σ g²·(x − c)(x − c)ᵀ, s·Σ g·(x − c) and s²·n. A component of less than three standard
    deviations of noise is taken for empty; its place is taken by half of the heaviest one, which changes nothing.
    Means and covariances are drawn towards what is known without them, the centre and the mean covariance of the
    class's components, as far as noise explains the distance. In the end the class has mean zero and the identity for
    its covariance, as its whitening says.

    Args:
        answer: `(classes, M, k + 1, k + 1)` noisy symmetric sums, in squared lattice steps.
        query: that was asked.
        step: the lattice step.
        centres: `(classes, M, k)` that records were nearest to, in whitened units.
        scales: `(k,)`, g.

    Returns:
        `(classes, M)`, `(classes, M, k)` and `(classes, M, k, k)` lower triangular.
    """
    classes, components, k = centres.shape
    log_weights = np.empty((classes, components))
    places, factors = np.empty((classes, components, k)), np.empty((classes, components, k, k))
    for label in range(classes):
        weights, means, covariances = _class(answer[label] * step**2, query, step, scales)
        means = centres[label] + means / scales
        covariances = _bounded(covariances / np.multiply.outer(scales, scales))
        weights, means, covariances = _without_empty(weights, means, covariances)
        offset = means - weights @ means
        whole = np.einsum("m,mij->ij", weights, covariances) + offset.T @ (weights[:, None] * offset)
        values, vectors = np.linalg.eigh(whole)
        whiten = (vectors / np.sqrt(values)) @ vectors.T
        log_weights[label] = np.log(weights)
        places[label] = np.clip(offset @ whiten, -FARTHEST, FARTHEST)
        factors[label] = np.linalg.cholesky(_bounded(whiten @ covariances @ whiten))
    return log_weights, places, factors


def _class(sums: Array, query: Query, step: float, scales: Array) -> tuple[Array, Array, Array]:
    """Weights `(M,)`, zero for empty components, means from the centres and covariances, both in weighted units."""
    k, count = len(scales), query.count * step
    # Most entries are off the diagonal, where the noise is smaller by √2.
    noise = query.sigma * step**2 / np.sqrt(2)
    records = sums[:, k, k] / count**2
    known = records > 3 * query.sigma * step**2 / count**2
    size = np.where(known, records, 1.0)
    means = sums[:, :k, k] / (count * size[:, None])
    means *= _signal(means, (noise / (count * size))[:, None])
    spread = sums[:, :k, :k] / size[:, None, None] - means[:, :, None] * means[:, None, :]
    if not known.any():
        return np.zeros(len(size)), np.zeros((len(size), k)), np.broadcast_to(np.diag(scales**2), spread.shape)
    weights = np.where(known, records, 0.0) / records[known].sum()
    common = np.einsum("m,mij->ij", weights, spread)
    apart = spread - common
    band = np.maximum.outer(np.arange(k), np.arange(k)) // BAND
    for number in range(int(band.max()) + 1):
        there = band == number
        apart[:, there] *= _signal(apart[:, there], (noise / size)[:, None])
    return weights, np.where(known[:, None], means, 0.0), common + np.where(known[:, None, None], apart, 0.0)


def _signal(found: Array, noise: Array) -> Array:
    """The share of each row's mean square that noise does not explain, positive-part, `(M, 1)`."""
    explained = np.square(noise)
    signal = np.clip(np.square(found).mean(axis=1, keepdims=True) - explained, 0.0, None)
    return np.asarray(signal / np.maximum(signal + explained, np.finfo(np.float64).tiny), dtype=np.float64)


def _bounded(covariances: Array) -> Array:
    values, vectors = np.linalg.eigh((covariances + covariances.transpose(0, 2, 1)) / 2)
    values = np.clip(values, SMALLEST_VARIANCE, LARGEST_VARIANCE)
    return np.asarray((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1), dtype=np.float64)


def _without_empty(weights: Array, means: Array, covariances: Array) -> tuple[Array, Array, Array]:
    weights, means, covariances = weights.copy(), means.copy(), covariances.copy()
    if not weights.any():
        weights[0], means[0], covariances[0] = 1.0, 0.0, np.eye(means.shape[1])
    for empty in np.flatnonzero(weights == 0):
        heaviest = int(weights.argmax())
        weights[heaviest] /= 2
        weights[empty], means[empty], covariances[empty] = weights[heaviest], means[heaviest], covariances[heaviest]
    return weights / weights.sum(), means, covariances
