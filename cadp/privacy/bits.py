"""Random bits, from the operating system's CSPRNG alone: no state, nothing to seed, nothing shared after a fork.

The one way around it is `seeded`, for tests; whatever such a process makes is stamped, and cannot be published.
"""

import os

import numpy as np
from numpy.typing import NDArray

from cadp.privacy import seeded


def random_bytes(size: int) -> bytes:
    """Return `size` bytes from the operating system's CSPRNG; repeatable ones inside a test's `seeded` block."""
    stream = seeded.stream()
    return os.urandom(size) if stream is None else stream(size)


def random_bits64(n: int) -> NDArray[np.uint64]:
    """Return `(n,)` uint64, uniform and independent, from the operating system's CSPRNG."""
    return np.frombuffer(random_bytes(8 * n), dtype=np.uint64)
