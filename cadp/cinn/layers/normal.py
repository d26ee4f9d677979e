"""The normal distribution function and its inverse in logarithms, where probabilities themselves are 0."""

import math

import torch
from torch import Tensor

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_LEAST = -600.0  # logarithm of a probability that float64 holds with all its digits
_FAR = 1e3  # from here on Mills' ratio is 1/|z| to six digits, and the difference of two logarithms has fewer


def log_cdf(x: Tensor) -> Tensor:
    """`log Φ(x)`, finite for every x whose square is."""
    logarithm: Tensor = torch.special.log_ndtr(x)
    return logarithm


def quantile_of_log(log_p: Tensor) -> Tensor:
    """The z with `log Φ(z) = log_p`, for probabilities up to about a half.

    From a first guess (Cephes' quantile, or the tail's expansion `z² ≈ −2·log p − 2·log(|z|·√2π)`), by Newton's method;
    the last step is differentiable and carries the derivative `Φ/φ`.
    """
    with torch.no_grad():
        inner = torch.special.ndtri(log_p.clamp(min=_LEAST).exp())
        square = -2 * log_p.clamp(max=_LEAST)
        tail = -(square - torch.log(square) - 2 * _LOG_ROOT_TWO_PI).sqrt()
        z = torch.where(log_p < _LEAST, tail, inner)
        for _ in range(2):
            z = z - (log_cdf(z) - log_p) / _slope(z)
        slope = _slope(z)
    return z - (log_cdf(z) - log_p) / slope


def _slope(z: Tensor) -> Tensor:
    """`φ(z)/Φ(z)`, the derivative of `log Φ`; of z up to about 0."""
    return torch.where(z < -_FAR, -z, (-0.5 * z.square() - _LOG_ROOT_TWO_PI - log_cdf(z)).exp())
