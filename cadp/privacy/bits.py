"""Random bits, from the operating system's CSPRNG alone: no state, nothing to seed, nothing shared after a fork."""

import os

import numpy as np
from numpy.typing import NDArray


def random_bits64(n: int) -> NDArray[np.uint64]:
    """Return `(n,)` uint64, uniform and independent, from the operating system's CSPRNG."""
    return np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
