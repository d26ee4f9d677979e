"""Lloyd's algorithm on noisy sums: which component a record is nearest to, and where the next centres are.

Everything but `nearest` is post-processing of noisy answers. `nearest` is a function of one record and of earlier
answers: it works on integers, so that no rounding of a product can depend on the records beside it.
"""

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.fit.public_draws import public_normals
from cadp.cinn.fit.query import Query

Array = NDArray[np.float64]

SPREAD = 0.8


def starting_centres(classes: int, components: int, dims: int) -> Array:
    """`(classes, components, dims)` public draws from SHAKE-256, normal, of standard deviation `SPREAD`."""
    return SPREAD * public_normals(f"cadp centres of {components}", (classes, components, dims))


def on_lattice(centres: Array, query: Query, step: float) -> Array:
    """Centres as integers in lattice steps, each no longer than the clip radius and so in reach of a record."""
    return np.asarray(np.trunc(_inside(centres, query.radius * step) / step), dtype=np.float64)


def nearest(steps: Array, centres: Array, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The block `label·M + j` of every record: j is the centre of its class that is nearest, the first of several.

    Args:
        steps: `(n, k)` integers in lattice steps, each row within the radius.
        centres: `(classes, M, k)` integers within the radius. Products are then exact in float64.
        labels: `(n,)`.
    """
    classes, components, dims = centres.shape
    products = steps @ centres.reshape(-1, dims).T
    distance = np.square(centres).sum(axis=2)[None] - 2 * products.reshape(-1, classes, components)
    own = np.take_along_axis(distance, labels[:, None, None], axis=1)[:, 0]
    return np.asarray(labels * components + own.argmin(axis=1), dtype=np.int64)


def noisy_centres(answer: NDArray[np.int64], query: Query, step: float) -> tuple[Array, Array]:
    """The records and the centre of every component, from sums of vectors and counts `(classes, M, k + 1)`.

    A component of less than three standard deviations of noise is taken for empty: it has no records, and its centre
    is zero. The others are drawn towards zero, the mean of their class, as far as noise explains them.

    Returns:
        `(classes, M)` records, 0 for empty ones, and `(classes, M, k)` centres in the units of the vectors.
    """
    records = answer[..., -1] / query.count
    known = records > 3 * query.sigma / query.count
    size = np.where(known, records, 1.0)[..., None]
    centre = _inside(answer[..., :-1] * step / size, query.radius * step)  # where a mean of clipped vectors lies
    explained = np.square(query.sigma * step / size)
    signal = np.clip(np.square(centre).mean(axis=-1, keepdims=True) - explained, 0.0, None)
    centre = np.where(known[..., None], signal / (signal + explained) * centre, 0.0)
    return np.where(known, records, 0.0), centre


def reseeded(records: Array, centres: Array, start: Array, iteration: int) -> Array:
    """Centres for the next iteration: an empty component starts anew from another public draw, nearer the mean."""
    fresh = np.roll(start, iteration + 1, axis=1) * (0.5 / SPREAD)
    return np.where(records[..., None] > 0, centres, fresh)


def _inside(centres: Array, radius: float) -> Array:
    length = np.linalg.norm(centres, axis=-1, keepdims=True)
    return np.asarray(centres * (radius / np.maximum(length, radius)), dtype=np.float64)
