"""Normal draws that everybody knows: a function of their name, the same on every machine."""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray


def public_normals(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard normal values of a shape, from SHAKE-256 of a name. They hide nothing."""
    words = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * math.prod(shape)), dtype="<u8")
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-64
    normal = torch.special.ndtri(torch.from_numpy(np.clip(uniform, 1e-18, 1 - 1e-16))).numpy()
    return np.asarray(normal.reshape(shape), dtype=np.float64)
