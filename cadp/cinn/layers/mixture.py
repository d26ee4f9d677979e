r"""A mixture of Gaussians per class, taken to one standard normal: the rearrangement of Knothe and Rosenblatt.

Component j of a class has weight w_j, centre c_j and covariance L_j·L_jᵀ, L_j lower triangular. Given the coordinates
before it, coordinate i of component j is normal, with mean and standard deviation

    m_ji = c_ji + Σ_{l<i} L_j[i,l]·u_jl,   s_ji = L_j[i,i],   where u_jl = (x_l − m_jl) / s_jl: u_j = L_j⁻¹·(x − c_j).

Then

    z_i = Φ⁻¹(F_i(x_i)),   F_i(x) = P(x_i ≤ x | x_<i) = Σ_j r_j·Φ((x − m_ji) / s_ji),
    r_j ∝ w_j·Π_{l<i} φ(u_jl) / s_jl,

is a triangular, increasing bijection of R^k that takes the mixture to N(0, I) (Rosenblatt 1952; one step of the
Gaussianization flows of Meng et al. 2020, with the mixture's own conditionals). Latent i depends on coordinates 0 … i,
so the order of the principal dimensions survives. Since Π_i f(x_i | x_<i) is the mixture's density p,

    log|det ∂z/∂x| = log p(x) − log φ(z),

whatever happens on the way. Everything is computed in float64 and carried as logarithms of the smaller tail, so the
map stays finite and increasing where Φ itself is 0 or 1. Row i of a result is a function of row i alone: rows are
iterated together, but one that has converged stays as it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.layers.normal import log_cdf, quantile_of_log

CHUNK = 512  # rows at a time: what one coordinate needs of them stays in the second-level cache
_TINY = 1e-250  # of a tail: below it sums of products are not trusted, those of logarithms are
_NEWTON = 12  # steps before bisection alone; 53 more of these exhaust the digits of any bracket
_STEPS = _NEWTON + 53
_CLOSE = 4e-15
_FARTHEST = 1e150  # deviations whose square float64 still holds


class MixtureTransport(Layer):
    """Take the first `dims` coordinates, a mixture of `components` Gaussians in each class, to N(0, I).

    `weight` holds logarithms of weights, up to a constant, `centre` centres, `lower` and `log_diagonal` the Cholesky
    factors; `lower` is read below the diagonal only. Fresh, it is the identity.
    """

    weight: Tensor
    centre: Tensor
    lower: Tensor
    log_diagonal: Tensor

    def __init__(self, classes: int, dims: int, components: int) -> None:
        super().__init__()
        self.dims = dims
        size = (classes, components)
        self.register_buffer("weight", torch.zeros(*size, dtype=torch.float64))
        # One coordinate after another, as they are asked for.
        self.register_buffer("centre", torch.zeros(dims, *size, dtype=torch.float64))
        self.register_buffer("lower", torch.zeros(dims, *size, dims, dtype=torch.float64))
        self.register_buffer("log_diagonal", torch.zeros(dims, *size, dtype=torch.float64))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Mixture to normal."""
        parts = [self._encode(rows, labels) for rows, labels in self._chunks(x, c)]
        z, log_det = (torch.cat([part[side] for part in parts]).to(x.dtype) for side in (0, 1))
        return torch.cat([z, x[:, self.dims :]], dim=1), log_det

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Normal to mixture."""
        parts = [self._decode(rows, labels) for rows, labels in self._chunks(z, c)]
        return torch.cat([torch.cat(parts).to(z.dtype), z[:, self.dims :]], dim=1)

    def _chunks(self, x: Tensor, c: Condition) -> Iterator[tuple[Tensor, Tensor]]:
        """The first coordinates, in float64, and the labels of a few rows at a time; of no row at all, once."""
        return zip(torch.split(x[:, : self.dims].to(torch.float64), CHUNK), torch.split(c.labels, CHUNK), strict=True)

    def _encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        seen, latents = _Seen(self, labels), []
        for i in range(self.dims):
            law = seen.conditional(i)
            latents.append(_forward(x[:, i], law))
            seen.see(x[:, i], law)
        z = torch.stack(latents, dim=1)
        # `log_weight` leaves out a factor √2π a coordinate, which φ has as well.
        return z, seen.log_weight.logsumexp(dim=1) + 0.5 * z.square().sum(dim=1)

    def _decode(self, z: Tensor, labels: Tensor) -> Tensor:
        seen, coordinates = _Seen(self, labels), []
        for i in range(self.dims):
            law = seen.conditional(i)
            coordinates.append(_backward(z[:, i], law))
            seen.see(coordinates[-1], law)
        return torch.stack(coordinates, dim=1)


@dataclass(frozen=True, slots=True)
class _Conditional:
    """The law of one coordinate given those before it, a mixture: each tensor is `(n, M)`."""

    mean: Tensor
    inverse_std: Tensor
    log_share: Tensor
    share: Tensor

    def deviation(self, x: Tensor) -> Tensor:
        """`(x − m_j) / s_j` of `x (n,)`."""
        return (x[:, None] - self.mean) * self.inverse_std


class _Seen:
    """What the coordinates of every row seen so far say of its components: `log w_j·Π φ(u_jl)/s_jl`, and all u."""

    def __init__(self, layer: MixtureTransport, labels: Tensor) -> None:
        self._layer, self._labels = layer, labels
        self._deviations: list[Tensor] = []
        self.log_weight = layer.weight.to(torch.float64).log_softmax(dim=1)[labels]

    def conditional(self, i: int) -> _Conditional:
        """The law of coordinate i, all before it having been seen."""
        layer = self._layer
        mean = layer.centre[i].to(torch.float64)[self._labels]
        if self._deviations:
            row = layer.lower[i, :, :, :i].to(torch.float64)[self._labels]
            mean = mean + (row * torch.stack(self._deviations, dim=2)).sum(dim=2)
        inverse_std = (-layer.log_diagonal[i].to(torch.float64)).exp()[self._labels]
        log_share = self.log_weight.log_softmax(dim=1)
        return _Conditional(mean, inverse_std, log_share, log_share.exp())

    def see(self, x: Tensor, law: _Conditional) -> None:
        """Go on to the next coordinate, this one being `x (n,)`."""
        deviation = law.deviation(x).clamp(-_FARTHEST, _FARTHEST)
        self._deviations.append(deviation)
        self.log_weight = self.log_weight - 0.5 * deviation.square() + law.inverse_std.log()


def _forward(x: Tensor, law: _Conditional) -> Tensor:
    """`Φ⁻¹(F(x))` of every row, `(n,)`."""
    offset = law.deviation(x)
    lower, upper = _tail(offset, law.share), _tail(-offset, law.share)
    side = torch.where(lower <= upper, 1.0, -1.0).to(x.dtype)
    return side * _quantile(torch.minimum(lower, upper), offset * side[:, None], law.log_share)


def _backward(z: Tensor, law: _Conditional) -> Tensor:
    """The x with `F(x) = Φ(z)`, by Newton's method on `Φ⁻¹(F(x)) = z` within a bracket.

    F is a mean of `Φ((x − m_j)/s_j)`, so x lies between the least and the largest `m_j + s_j·z`; where one component
    has all the weight the function is a straight line, and far out it nearly is.
    """
    side = torch.where(z <= 0, 1.0, -1.0).to(z.dtype)  # the tail that is at most a half
    with torch.no_grad():
        ends = law.mean + z[:, None] / law.inverse_std
        low, high = ends.amin(dim=1), ends.amax(dim=1)
        mean = (law.share * law.mean).sum(dim=1)
        variance = (law.share * ((law.mean - mean[:, None]).square() + law.inverse_std.pow(-2))).sum(dim=1)
        x = (mean + z * variance.sqrt()).clamp(low, high)
        for step in range(_STEPS):
            found, slope = _latent(x, law, side)
            gap = found - z
            # A NaN is not greater: a row that holds one is done, and holds up no other.
            open_ = (gap.abs() > _CLOSE * (1 + z.abs())) & (high - low > _CLOSE * (1 + x.abs()))
            if not bool(open_.any()):
                break
            low, high = torch.where(open_ & (gap < 0), x, low), torch.where(open_ & (gap > 0), x, high)
            newton = x - gap / slope
            inside = (newton > low) & (newton < high) & (step < _NEWTON)
            x = torch.where(open_, torch.where(inside, newton, 0.5 * (low + high)), x)
    # One step more, which is differentiable: by the implicit function theorem its gradients are the inverse's own.
    found, slope = _latent(x, law, side)
    # Far out, where another component takes over, the function may be flat to the last digit: any x there will do.
    steep = torch.where(slope > 0, slope, math.inf).detach()
    return (x - (found - z) / steep).clamp(low, high)


def _latent(x: Tensor, law: _Conditional, side: Tensor) -> tuple[Tensor, Tensor]:
    """`Φ⁻¹(F(x))`, by the tail on `side`, and its slope in x, `f(x) / φ(Φ⁻¹(F(x)))`."""
    offset = law.deviation(x) * side[:, None]
    tail = _tail(offset, law.share)
    found = side * _quantile(tail, offset, law.log_share)
    exponent = -0.5 * offset.square()
    slope = (law.share * law.inverse_std * exponent.exp()).sum(dim=1) * (0.5 * found.square()).exp()
    small = tail < _TINY
    if bool(small.any()):
        far = ((law.log_share + law.inverse_std.log() + exponent).logsumexp(dim=1) + 0.5 * found.square()).exp()
        slope = torch.where(small, far, slope)
    return found, slope


def _tail(offset: Tensor, share: Tensor) -> Tensor:
    """`Σ_j r_j·Φ(offset_j)`, without the digits of a difference from 1."""
    return 0.5 * (share * torch.erfc(offset * -math.sqrt(0.5))).sum(dim=1)


def _quantile(tail: Tensor, offset: Tensor, log_share: Tensor) -> Tensor:
    """`Φ⁻¹` of a tail; in logarithms where it is too small for products.

    Both are computed for all rows if one needs the second, and each row takes its own: nothing moves to another place
    in memory, where vector code might round otherwise.
    """
    plain: Tensor = torch.special.ndtri(tail.clamp(min=_TINY))
    small = tail < _TINY
    if not bool(small.any()):
        return plain
    return torch.where(small, quantile_of_log((log_share + log_cdf(offset)).logsumexp(dim=1)), plain)
