"""How much of a record's direction noise leaves: the mean of cos(z, z̃) for z ~ N(0, I_k), a public figure of a plan.

z is isotropic and independent of the noise, so the angle between the two is that between a fixed direction and a
uniform one; what is left to know are two lengths. Averages are over fixed quantiles: nothing is drawn.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

_QUANTILES = (np.arange(64) + 0.5) / 64
_CELLS = 1 << 15


def mean_cosine(content_dims: int, signal: Floats, noise: Floats) -> float:
    """Return E[cos(s, s + n)] over all pairs of the given lengths |s| and |n| at a uniform relative angle.

    Args:
        content_dims: k; the angle's cosine t has density ∝ (1 − t²)^((k−3)/2), ±1 in one dimension.
        signal: `(a,)` equally likely lengths.
        noise: `(b,)` equally likely lengths, positive.
    """
    k = content_dims
    angle = np.array([-1.0, 1.0]) if k == 1 else 2 * special.betaincinv((k - 1) / 2, (k - 1) / 2, _QUANTILES) - 1
    s, n = signal[:, None, None], noise[None, :, None]
    return float(np.mean((s + n * angle) / np.sqrt(s * s + n * n + 2 * s * n * angle)))


def normal_lengths(content_dims: int) -> Floats:
    """Return quantiles `(64,)` of ‖x‖, x ~ N(0, I_k)."""
    return np.asarray(np.sqrt(2 * special.gammaincinv(content_dims / 2, _QUANTILES)))


def laplace_lengths(content_dims: int) -> Floats:
    """Return quantiles `(64,)` of ‖x‖, x of k independent Laplace coordinates of scale 1: ‖x‖² by convolution."""
    k = content_dims
    if k == 1:
        return -np.log1p(-_QUANTILES)
    reach = 2 * k + 12 * math.sqrt(20 * k) + 900  # mean, deviations, and one coordinate of 30
    edges = np.linspace(0, reach, _CELLS + 1)
    one = np.diff(-np.exp(-np.sqrt(edges)))
    sums = np.cumsum(np.fft.irfft(np.fft.rfft(one, 2 * _CELLS) ** k, 2 * _CELLS)[:_CELLS])
    # A cell stands for the mean of the squares that fall into it: its middle, but for the first cells.
    shift = (2 - float(one @ edges[:-1])) * k
    return np.sqrt(np.interp(_QUANTILES, sums, edges[:-1] + shift))


def l1_share(content_dims: int) -> float:
    """Return E‖u‖₁ for u uniform on the unit sphere of k dimensions, k·Γ(k/2) / (√π·Γ((k+1)/2))."""
    k = content_dims
    return k * math.exp(math.lgamma(k / 2) - math.lgamma((k + 1) / 2)) / math.sqrt(math.pi)
