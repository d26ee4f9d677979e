"""Mechanisms under injected noise: each row's random words depend on the row's number alone, whatever the others do.

A mechanism is right if, for given noise, a row of its output is a function of that row of its input. With the noise
fixed that can be checked to the last bit, which no statistical test can.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from cadp.privacy import noise, privunit

Floats = NDArray[np.float64]
Privatize = Callable[[Floats, NDArray[np.bool_]], Floats]

NEIGHBOURS = (0.0, 1.0, -3.0, np.nan, np.inf, -np.inf, 1e38, 1e308, 5e-324)


@contextmanager
def fixed_noise(seed: int) -> Iterator[None]:
    """Replace every draw: by shape for arrays, and for PrivUnit's proposals by a stream of the row's own."""
    streams: dict[int, np.random.Generator] = {}
    rng = np.random.default_rng(seed)

    def proposals(rows: NDArray[np.int64], count: int, k: int) -> Floats:
        out = np.empty((k, len(rows), count))
        for i, row in enumerate(rows):
            stream = streams.setdefault(int(row), np.random.default_rng((seed, int(row))))
            out[:, i] = stream.normal(size=(count, k)).T
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            noise, "discrete_gaussian", lambda sigma, size: np.rint(rng.normal(0, float(sigma), size)).astype(int)
        )
        patch.setattr(noise, "discrete_laplace", lambda b, size: np.rint(rng.laplace(0, float(b), size)).astype(int))
        patch.setattr(noise, "bernoulli_exact", lambda p, size: rng.random(size) < p)
        patch.setattr(noise, "standard_normal", lambda size: rng.normal(size=size))
        patch.setattr(noise, "normal_columns", lambda k, n: rng.normal(size=(k, n)))
        patch.setattr(privunit, "_proposals", proposals)
        yield


def rows_that_depend_on_others(privatize: Privatize, dims: int, rows: int = 12) -> int:
    """Return how many trials moved a row when only its neighbours, or what is not content, changed."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(rows, dims))
    valid = np.ones(rows, dtype=bool)
    moved = 0
    for seed in range(2):
        with fixed_noise(seed):
            alone = privatize(z, valid)
        for watched in (0, 5, rows - 1):
            others = np.arange(rows) != watched
            for value in NEIGHBOURS:
                changed = z.copy()
                changed[others] = value
                with fixed_noise(seed):
                    moved += privatize(changed, valid)[watched].tobytes() != alone[watched].tobytes()
            refused = valid & ~others
            with fixed_noise(seed):
                moved += privatize(z, refused)[watched].tobytes() != alone[watched].tobytes()
    return moved
