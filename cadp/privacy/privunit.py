"""PrivUnit (Bhowmick et al. 2018; Asi, Feldman, Talwar 2022): a private direction, and a radius that says nothing.

The record's content z ∈ Rᵏ is projected to the unit sphere. A coin of bias p decides between the cap {u : ⟨u, z⟩ ≥ γ}
and its complement, and a direction is drawn there by rejection from proposals that do not depend on the record. The
radius is the norm of an independent normal vector, so that the result is ≈ N(0, I_k), which is the model's prior.

*Loss.* Let P̂ be the law of one proposal as implemented, A_z the set of proposals that the implemented test puts into
the cap of z, q̂_z = P̂(A_z). The accepted proposal has density p/q̂_z on A_z and (1 − p)/(1 − q̂_z) off it, with respect
to P̂, for every record: the support is always the same. This needs one P̂ for every attempt: a proposal's bits must not
tell its place in the sequence (`noise.normal_columns`). If |q̂_z − q| ≤ η for all z, two records differ by at most

    ε = ln max( p/(1−p) · (1−q+η)/(q−η),  (q+η)/(q−η),  (1−q+η)/(1−q−η),  (1−p)/p · (q+η)/(1−q−η) ),

the first whenever p ≥ 1/2 ≥ q and η is small. q is the cap's share of the sphere, ½·I_{1−γ²}((k−1)/2, ½). η is proved
in `_mass_error`. The coin is exact, so this is pure ε. The zero latent, a NaN and a refused record take the fixed first
axis as their direction: that is the *null law*, and zero-out costs what replace-one costs.

How many proposals a record took would reveal its coin. Records go in groups, nothing is counted, nothing is logged. A
batch of few records is filled up with directions that are nobody's, all of them sought in the cap, which takes longest
and varies most: the time of a batch is never that of one record.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.content import content_rows, with_prior
from cadp.privacy.events import RELATION, ZERO_OUT, Event, PureEvent
from cadp.privacy.lattice import to_sphere
from cadp.privacy.precision import decimal, float_up, fraction_of, reals

Floats = NDArray[np.float64]

_SMALLEST_CAP = 0.002  # a cap's share: 500 proposals a record on average
_LEAST_EPSILON = 1e-4  # below it η is no longer small beside ε
_GROUP = 512  # records whose proposals are drawn together
_FEWEST = 64  # directions that are sought together, be there fewer records
_ROUND = 8192  # proposals a round over the group: they stay in the second-level cache
_BITS = 128


@dataclass(frozen=True)
class PrivUnit:
    """A direction in or outside a cap around the record's own.

    Attributes:
        content_dims: k >= 2, how many leading latents carry the record.
        gamma: the cap's threshold on ⟨u, z⟩, 0 <= gamma < 1.
        p: probability of the cap, taken as the exact binary fraction.
    """

    kind: ClassVar[str] = "privunit"

    content_dims: int
    gamma: float
    p: float

    def __post_init__(self) -> None:
        if self.content_dims < 2:
            raise PrivacyError(f"privunit needs at least 2 content dimensions, not {self.content_dims}: use laplace")
        if not (0.0 <= self.gamma < 1.0 and 0.5 <= self.p < 1.0):
            raise PrivacyError(f"privunit needs 0 <= gamma < 1 and 1/2 <= p < 1, not {self.gamma} and {self.p}")

    @classmethod
    def plan(cls, epsilon: float, content_dims: int) -> "PrivUnit":
        """Choose the cap and the coin with the largest expected cosine whose loss is at most ε.

        Caps of a share below `_SMALLEST_CAP` are not considered: proposals, and time, grow as its inverse.
        """
        if epsilon < _LEAST_EPSILON or content_dims < 2:
            raise PrivacyError(
                f"privunit needs epsilon >= {_LEAST_EPSILON:g} and content_dims >= 2, not {epsilon} and "
                f"{content_dims}: use laplace or resample"
            )
        most = min(epsilon, math.log((1 - _SMALLEST_CAP) / _SMALLEST_CAP))

        def negative_cosine(share: float) -> float:
            q = 1.0 / (1.0 + math.exp(share))
            return -_mean_cosine(content_dims, _threshold(content_dims, q), q, special.expit(epsilon - share))

        grid = np.linspace(0.0, most, 65)
        start = int(np.argmin([negative_cosine(share) for share in grid]))
        around = (grid[max(start - 1, 0)], grid[min(start + 1, 64)])
        share = float(optimize.minimize_scalar(negative_cosine, bounds=around, method="bounded").x)
        gamma = _threshold(content_dims, 1.0 / (1.0 + math.exp(share)))
        return cls(content_dims, gamma, _coin(content_dims, gamma, decimal(epsilon)))

    def event(self) -> Event:
        """Return the replace-one event: the pure loss of these parameters, as proved above."""
        return PureEvent(_loss(self.content_dims, self.gamma, self.p))

    def zero_out_event(self) -> Event:
        """Return the event against the null law, which is that of one fixed direction: the same loss."""
        return PureEvent(_loss(self.content_dims, self.gamma, self.p), relation=ZERO_OUT)

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Return `(n, d)` privatized latents; see `Mechanism.privatize`."""
        directions = to_sphere(content_rows(z, valid, self.content_dims))
        inside = noise.bernoulli_exact(self.p, len(z))
        nobody = max(0, _FEWEST - len(z)) if len(z) else 0
        directions = np.concatenate([directions, np.repeat(np.eye(1, self.content_dims), nobody, axis=0)])
        inside = np.concatenate([inside, np.ones(nobody, dtype=np.bool_)])
        found = np.empty_like(directions)
        for start in range(0, len(found), _GROUP):
            rows = np.arange(start, min(start + _GROUP, len(found)))
            found[rows] = self._directions(directions[rows], inside[rows], rows)
        found = found[: len(z)]
        radius = np.sqrt((noise.normal_columns(self.content_dims, len(z)) ** 2).sum(axis=0))
        return with_prior(to_sphere(found) * radius[:, None], z.shape)

    def expected_cosine(self) -> float:
        """Return E[⟨u, z⟩] in closed form; the cosine does not depend on the record."""
        with reals(_BITS) as real:
            q = float(_share(real, self.content_dims, self.gamma))
        return _mean_cosine(self.content_dims, self.gamma, q, self.p)

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        q, eta = _figures(self.content_dims, self.gamma)
        return {
            "content_dims": self.content_dims,
            "clip": "per-record projection to the unit sphere",
            "gamma": self.gamma,
            "p": self.p,
            "q": q,
            "eta": eta,
            "sampler": "exact coin; rejection from record-independent proposals",
            "relation": RELATION,
        }

    def _directions(self, z: Floats, inside: NDArray[np.bool_], names: NDArray[np.int64]) -> Floats:
        """Return `(n, k)`: for each row the first of its proposals on the side of the cap that its coin chose."""
        found = np.empty_like(z)
        active = np.arange(len(z))
        while len(active):
            count = max(1, _ROUND // len(active))
            proposals = _proposals(names[active], count, self.content_dims)
            hit = self._in_cap(proposals, z[active]) == inside[active, None]
            done = hit.any(axis=1)
            found[active[done]] = proposals[:, np.flatnonzero(done), hit.argmax(axis=1)[done]].T
            active = active[~done]
        return found

    def _in_cap(self, proposals: Floats, z: Floats) -> NDArray[np.bool_]:
        """Return `(n, count)`: whether ⟨x, z⟩ ≥ γ·‖x‖ for proposals x `(k, n, count)`.

        Summed coordinate by coordinate, so that the answer for one proposal depends on it and its record alone.
        """
        dot = np.zeros(proposals.shape[1:])
        square = np.zeros(proposals.shape[1:])
        for j in range(self.content_dims):
            dot += proposals[j] * z[:, j, None]
            square += proposals[j] * proposals[j]
        return dot >= self.gamma * np.sqrt(square)


def _proposals(rows: NDArray[np.int64], count: int, k: int) -> Floats:
    """Return `(k, len(rows), count)` normal vectors, the next `count` proposals of each row; all independent."""
    return noise.normal_columns(k, len(rows) * count).reshape(k, len(rows), count)


def _threshold(k: int, q: float) -> float:
    """Return γ of the cap with share q <= 1/2, in float64 (the loss is computed from γ, so this need not be exact)."""
    return math.sqrt(max(0.0, 1.0 - float(special.betaincinv((k - 1) / 2, 0.5, min(1.0, 2.0 * q)))))


def _mean_cosine(k: int, gamma: float, q: float, p: float) -> float:
    """Return E⟨u, z⟩ = (p/q − (1−p)/(1−q))·∫_γ^1 c·f(c) dc, where f ∝ (1−c²)^((k−3)/2) is the density of ⟨u, z⟩."""
    tail = (1.0 - gamma * gamma) ** ((k - 1) / 2) / ((k - 1) * special.beta(0.5, (k - 1) / 2))
    return float((p / q - (1.0 - p) / (1.0 - q)) * tail)


def _share(real: Any, k: int, gamma: Any) -> Any:  # noqa: ANN401 (mpmath has no types)
    """Return P(⟨u, z⟩ >= gamma) for u uniform on the sphere, for gamma in [-1, 1]."""
    if gamma < 0:
        return 1 - _share(real, k, -gamma)
    g = min(real.mpf(gamma), real.mpf(1))
    return real.betainc(real.mpf(k - 1) / 2, real.mpf(1) / 2, 0, 1 - g * g, regularized=True) / 2


def _mass_error(real: Any, k: int, gamma: float) -> Any:  # noqa: ANN401 (mpmath has no types)
    """Return η ≥ |q̂_z − q| for every record z that float64 can hold.

    Couple the proposal X̂ with an exact normal X (`noise.normal_columns`): except with probability pairs·NORMAL_FAILURE,
    ‖X̂ − X‖ ≤ √k·t. With z* the exact unit vector behind the stored ẑ, ‖ẑ − z*‖ ≤ (k + 6)·2⁻⁵³; sums of k products, the
    root and the product with γ err by (4k + 16)·2⁻⁵³·‖X̂‖ together. So the implemented test differs from ⟨X, z*⟩ ≥ γ‖X‖
    only if |⟨X, z*⟩/‖X‖ − γ| ≤ T = (2√k·t)/‖X‖ + (8k + 32)·2⁻⁵³. Split at ‖X‖ = s, whose lower side has probability at
    most s^k / (2^{k/2}·Γ(k/2 + 1)), and use that the direction of X is uniform and independent of ‖X‖:

        η ≤ pairs·NORMAL_FAILURE + P(‖X‖ < s) + P(γ − T(s) ≤ ⟨u, z*⟩ ≤ γ + T(s)),   for whichever s is best.
    """
    bounds = []
    for halvings in range(24):
        s = real.ldexp(real.sqrt(k), -halvings)
        small = s**k / (real.mpf(2) ** (real.mpf(k) / 2) * real.gamma(real.mpf(k) / 2 + 1))
        t = 2 * real.sqrt(k) * noise.NORMAL_ERROR / s + (8 * k + 32) * real.ldexp(1, -53)
        strip = _share(real, k, gamma - t) - _share(real, k, gamma + t)
        bounds.append(small + strip)
    return ((k + 1) // 2) * real.mpf(noise.NORMAL_FAILURE) + min(bounds)


@lru_cache(maxsize=256)
def _figures(k: int, gamma: float) -> tuple[float, float]:
    """Return the cap's share q and η: dozens of incomplete beta functions, asked for whenever a plan is shown."""
    with reals(_BITS) as real:
        return float(_share(real, k, gamma)), float(_mass_error(real, k, gamma))


@lru_cache(maxsize=256)
def _loss(k: int, gamma: float, p: float) -> float:
    """Return the pure ε of PrivUnit with these parameters, rounded up."""
    with reals(_BITS) as real:
        q, eta, coin = _share(real, k, gamma), _mass_error(real, k, gamma), real.mpf(p)
        if eta >= q:
            raise PrivacyError(f"privunit's cap at gamma {gamma} has a share of {float(q):.1e}: too small to bound")
        ratios = (
            coin / (1 - coin) * (1 - q + eta) / (q - eta),
            (q + eta) / (q - eta),
            (1 - q + eta) / (1 - q - eta),
            (1 - coin) / coin * (q + eta) / (1 - q - eta),
        )
        loss = real.log(max(ratios))
        return float_up(fraction_of(loss + real.ldexp(1, -90)))


def _coin(k: int, gamma: float, epsilon: Fraction) -> float:
    """Return the largest p, a multiple of 2⁻⁵³ below 1, with a loss of at most ε.

    Raises:
        PrivacyError: there is none.
    """
    with reals(_BITS) as real:
        q, eta = _share(real, k, gamma), _mass_error(real, k, gamma)
        odds = (
            real.exp(real.mpf(epsilon.numerator) / epsilon.denominator - real.ldexp(1, -60)) * (q - eta) / (1 - q + eta)
        )
        p = min(int(real.floor(real.ldexp(odds / (1 + odds), 53))), 2**53 - 1)
    coin = math.ldexp(p, -53)
    if not (0.5 <= coin < 1.0 and decimal(_loss(k, gamma, coin)) <= epsilon):
        raise PrivacyError(f"privunit with {k} content dimensions cannot be run at epsilon {float(epsilon)}")
    return coin
