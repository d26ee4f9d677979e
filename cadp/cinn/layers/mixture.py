r"""A mixture of Gaussians per class, taken to one standard normal: the rearrangement of Knothe and Rosenblatt.

Component j of a class has weight w_j, centre c_j and, after one linear layer, the identity for its covariance. Then

    z_i = Φ⁻¹(F_i(x_i)),   F_i(x) = P(x_i ≤ x | x_<i) = Σ_j r_j·Φ(x − c_ji),
    r_j ∝ w_j·Π_{l<i} φ(x_l − c_jl),

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

import torch
from torch import Tensor

from cadp.cinn.layers.affine import ClassWhitening
from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.layers.normal import log_cdf, quantile_of_log

CHUNK = 512  # rows at a time: what one coordinate needs of them stays in the second-level cache
_TINY = 1e-250  # of a tail: below it sums of products are not trusted, those of logarithms are
_NEWTON = 12  # steps before bisection alone; 53 more of these exhaust the digits of any bracket
_STEPS = _NEWTON + 53
_CLOSE = 4e-15


class MixtureTransport(Layer):
    """Take the first `dims` coordinates, a mixture of `components` Gaussians in each class, to N(0, I).

    `within` divides by the Cholesky factor of the covariance that a class's components share; `weight` holds logarithms
    of their weights, up to a constant, and `centre` their centres after that division. Fresh, it is the identity.
    """

    weight: Tensor
    centre: Tensor

    def __init__(self, classes: int, dims: int, components: int) -> None:
        super().__init__()
        self.dims = dims
        self.within = ClassWhitening(classes, dims)
        self.register_buffer("weight", torch.zeros(classes, components, dtype=torch.float64))
        # One coordinate after another, as they are asked for.
        self.register_buffer("centre", torch.zeros(dims, classes, components, dtype=torch.float64))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Mixture to normal."""
        whitened, log_det = self.within(x, c)
        parts = [self._encode(rows, labels) for rows, labels in self._chunks(whitened, c)]
        z, change = (torch.cat([part[side] for part in parts]).to(x.dtype) for side in (0, 1))
        return torch.cat([z, whitened[:, self.dims :]], dim=1), log_det + change

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Normal to mixture."""
        parts = [self._decode(rows, labels) for rows, labels in self._chunks(z, c)]
        return self.within.inverse(torch.cat([torch.cat(parts).to(z.dtype), z[:, self.dims :]], dim=1), c)

    def _chunks(self, x: Tensor, c: Condition) -> Iterator[tuple[Tensor, Tensor]]:
        """The first coordinates, in float64, and the labels of a few rows at a time; of no row at all, once."""
        return zip(torch.split(x[:, : self.dims].to(torch.float64), CHUNK), torch.split(c.labels, CHUNK), strict=True)

    def _encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        log_weight = self.weight.to(torch.float64).log_softmax(dim=1)[labels]
        centres, latents = self.centre.to(torch.float64), []
        for i in range(self.dims):
            centre = centres[i][labels]
            latents.append(_forward(x[:, i], centre, log_weight))
            log_weight = _seen(log_weight, x[:, i], centre)
        z = torch.stack(latents, dim=1)
        # What `_seen` leaves out of a component's likelihood, -|x|²/2, is the same for all.
        return z, log_weight.logsumexp(dim=1) + 0.5 * (z.square() - x.square()).sum(dim=1)

    def _decode(self, z: Tensor, labels: Tensor) -> Tensor:
        log_weight = self.weight.to(torch.float64).log_softmax(dim=1)[labels]
        centres, coordinates = self.centre.to(torch.float64), []
        for i in range(self.dims):
            centre = centres[i][labels]
            coordinates.append(_backward(z[:, i], centre, log_weight))
            log_weight = _seen(log_weight, coordinates[-1], centre)
        return torch.stack(coordinates, dim=1)


def _seen(log_weight: Tensor, x: Tensor, centre: Tensor) -> Tensor:
    """`log w_j·φ(x − c_j)` up to terms that no component differs in: large x stay linear."""
    return log_weight + (x[:, None] - 0.5 * centre) * centre


def _forward(x: Tensor, centre: Tensor, log_weight: Tensor) -> Tensor:
    """`Φ⁻¹(F(x))` of every row: `x (n,)`, `centre` and `log_weight (n, M)`."""
    log_share = log_weight.log_softmax(dim=1)
    offset, share = x[:, None] - centre, log_share.exp()
    lower, upper = _tail(offset, share), _tail(-offset, share)
    side = torch.where(lower <= upper, 1.0, -1.0).to(x.dtype)
    return side * _quantile(torch.minimum(lower, upper), offset * side[:, None], log_share)


def _backward(z: Tensor, centre: Tensor, log_weight: Tensor) -> Tensor:
    """The x with `F(x) = Φ(z)`, by Newton's method on `Φ⁻¹(F(x)) = z` within a bracket.

    F is a mean of `Φ(x − c_j)`, so x lies between z + min c_j and z + max c_j; where one component has all the weight
    the function is a straight line, and far out it nearly is.
    """
    log_share = log_weight.log_softmax(dim=1)
    share = log_share.exp()
    side = torch.where(z <= 0, 1.0, -1.0).to(z.dtype)  # the tail that is at most a half
    with torch.no_grad():
        mean = (share * centre).sum(dim=1)
        spread = (share * (centre - mean[:, None]).square()).sum(dim=1)
        low, high = z + centre.amin(dim=1), z + centre.amax(dim=1)
        x = (mean + z * (1 + spread).sqrt()).clamp(low, high)
        for step in range(_STEPS):
            found, slope = _latent(x, centre, log_share, share, side)
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
    found, slope = _latent(x, centre, log_share, share, side)
    return (x - (found - z) / slope.detach()).clamp(low, high)


def _latent(x: Tensor, centre: Tensor, log_share: Tensor, share: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """`Φ⁻¹(F(x))`, by the tail on `side`, and its slope in x, `f(x) / φ(Φ⁻¹(F(x)))`."""
    offset = (x[:, None] - centre) * side[:, None]
    tail = _tail(offset, share)
    found = side * _quantile(tail, offset, log_share)
    exponent = -0.5 * offset.square()
    slope = (share * exponent.exp()).sum(dim=1) * (0.5 * found.square()).exp()
    small = tail < _TINY
    if bool(small.any()):
        far = ((log_share + exponent).logsumexp(dim=1) + 0.5 * found.square()).exp()
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
