"""Additive mechanisms on a record's content: clip to a ball, round to a lattice, add discrete noise, rescale.

For every record alone: z ∈ Rᵏ is clipped to a ball of public radius C and rounded to multiples of a public step g,
which moves each coordinate by at most g/2. Two records' contents are then at most

    Δ₂ = 2C + √k·g  (L2)      and      Δ₁ = 2C + k·g  (L1)

apart: 2C because two points of a ball are a diameter apart, not a radius. Noise is drawn on the same lattice, so the
output reveals nothing through its low bits. The zero latent, which stands for a record that was refused or removed, is
the centre of the ball: against it the distance is C + √k·g/2, or C + k·g/2 (the *zero-out* figure; null law: noise
around 0).

Scaling by public numbers afterwards brings the result back to the model's N(0, I), without which it would be decoded
far from where the model was fitted. That is post-processing and free.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.accountant import calibrate_gaussian
from cadp.privacy.content import content_rows, spread, with_prior
from cadp.privacy.cosine import l1_share, laplace_lengths, mean_cosine, normal_lengths
from cadp.privacy.events import RELATION, ZERO_OUT, Event, GaussianEvent, PureEvent
from cadp.privacy.lattice import clip_l1, clip_l2, step_below, to_lattice
from cadp.privacy.precision import binary_up, decimal, float_up

Floats = NDArray[np.float64]

# σ or b is at least this many lattice steps, and rounding, √k·g or k·g, adds at most one part in this many to 2C:
# the lattice then costs nothing in privacy or utility that anyone could measure.
_STEPS = 1024
_MOST_STEPS = 2**38  # of σ or b: the samplers go to 2⁴⁰; where it binds, rounding may add more, and is charged


@dataclass(frozen=True)
class Gaussian:
    """Per-record L2 clip and discrete Gaussian noise.

    Charged by its Rényi curve, which the discrete Gaussian meets exactly. The δ(ε) of the continuous one it may exceed
    (by 4 % at σ = 4g, .04 % at 64g), so the figure by PLD has a bound for the lattice (`pld.NARROWEST`).

    Attributes:
        content_dims: k, how many leading latents carry the record.
        radius: C, the clip radius.
        step: g, a power of two.
        sigma: standard deviation of the noise, in steps.
    """

    kind: ClassVar[str] = "gaussian"

    content_dims: int
    radius: float
    step: float
    sigma: float

    @classmethod
    def plan(cls, epsilon: float, delta: float, content_dims: int) -> "Gaussian":
        """Choose C = √k, where most of N(0, I_k) lives, and the least noise whose curve costs at most ε at δ."""
        mu = calibrate_gaussian(epsilon, delta)
        if mu <= 0:
            raise PrivacyError(
                f"no Gaussian noise gives epsilon {epsilon} at delta {delta:.0e}: raise epsilon, or use privunit"
            )
        radius = math.sqrt(content_dims)
        step = _step(2 * radius / mu, 2 * radius / math.sqrt(content_dims))
        steps = _distance_l2(content_dims, radius, step) / Fraction(step)
        return cls(content_dims, radius, step, binary_up(steps / decimal(mu)))

    def event(self) -> Event:
        """Return the replace-one event, μ = Δ₂/σ."""
        return GaussianEvent(float_up(self._sensitivity() / self._noise()))

    def zero_out_event(self) -> Event:
        """Return the event against the zero latent, half the distance."""
        return GaussianEvent(float_up(self._sensitivity() / 2 / self._noise()), relation=ZERO_OUT)

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Return `(n, d)` privatized latents; see `Mechanism.privatize`."""
        content = clip_l2(content_rows(z, valid, self.content_dims), self.radius)
        lattice = to_lattice(content, self.step) + noise.discrete_gaussian(Fraction(self.sigma), content.shape)
        return with_prior(lattice.astype(np.float64) * (self.step * self._scale()), z.shape)

    def expected_cosine(self) -> float:
        """Return E[cos(z, z̃)] for z ~ N(0, I_k): `z` shortened to C, and noise of normal lengths times σ."""
        lengths = normal_lengths(self.content_dims)
        return mean_cosine(self.content_dims, np.minimum(lengths, self.radius), lengths * float(self._noise()))

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        return {
            "content_dims": self.content_dims,
            "clip": "per-record L2 ball",
            "clip_norm": self.radius,
            "lattice_step": self.step,
            "noise": "discrete Gaussian",
            "sigma": float(self._noise()),
            "sensitivity": float(self._sensitivity()),
            "relation": RELATION,
        }

    def _sensitivity(self) -> Fraction:
        return _distance_l2(self.content_dims, self.radius, self.step)

    def _noise(self) -> Fraction:
        return Fraction(self.sigma) * Fraction(self.step)

    def _scale(self) -> float:
        return 1.0 / math.sqrt(spread(self.content_dims, self.radius) + float(self._noise()) ** 2)


@dataclass(frozen=True)
class Laplace:
    """Per-record L1 clip and discrete Laplace noise: pure ε.

    Attributes:
        content_dims: k, how many leading latents carry the record.
        radius: C, the clip radius in L1.
        step: g, a power of two.
        scale: b of the noise, in steps.
    """

    kind: ClassVar[str] = "laplace"

    content_dims: int
    radius: float
    step: float
    scale: float

    @classmethod
    def plan(cls, epsilon: float, content_dims: int) -> "Laplace":
        """Choose C = k·√(2/π), the mean L1 norm of N(0, I_k), and b = Δ₁/ε."""
        radius = content_dims * math.sqrt(2 / math.pi)
        step = _step(2 * radius / epsilon, 2 * radius / content_dims)
        steps = _distance_l1(content_dims, radius, step) / Fraction(step)
        return cls(content_dims, radius, step, binary_up(steps / decimal(epsilon)))

    def event(self) -> Event:
        """Return the replace-one event, ε = Δ₁/b."""
        return PureEvent(float_up(self._sensitivity() / self._noise()))

    def zero_out_event(self) -> Event:
        """Return the event against the zero latent, half the distance."""
        return PureEvent(float_up(self._sensitivity() / 2 / self._noise()), relation=ZERO_OUT)

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Return `(n, d)` privatized latents; see `Mechanism.privatize`."""
        content = clip_l1(content_rows(z, valid, self.content_dims), self.radius)
        lattice = to_lattice(content, self.step) + noise.discrete_laplace(Fraction(self.scale), content.shape)
        return with_prior(lattice.astype(np.float64) * (self.step * self._scale()), z.shape)

    def expected_cosine(self) -> float:
        """Return E[cos(z, z̃)] for z ~ N(0, I_k); the L1 clip is taken to cut at the length of a mean direction."""
        k = self.content_dims
        signal = np.minimum(normal_lengths(k), self.radius / l1_share(k))
        return mean_cosine(k, signal, laplace_lengths(k) * float(self._noise()))

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        return {
            "content_dims": self.content_dims,
            "clip": "per-record L1 ball",
            "clip_norm": self.radius,
            "lattice_step": self.step,
            "noise": "discrete Laplace",
            "scale": float(self._noise()),
            "sensitivity": float(self._sensitivity()),
            "relation": RELATION,
        }

    def _sensitivity(self) -> Fraction:
        return _distance_l1(self.content_dims, self.radius, self.step)

    def _noise(self) -> Fraction:
        return Fraction(self.scale) * Fraction(self.step)

    def _signal(self) -> float:
        # The L1 clip shortens about half of the rows a little; its effect on E[z_j²] is below 15 %.
        return spread(self.content_dims, math.sqrt(self.content_dims))

    def _scale(self) -> float:
        return 1.0 / math.sqrt(self._signal() + 2 * float(self._noise()) ** 2)


def _step(width: float, rounding: float) -> float:
    """Return g: at most a `_STEPS`th of the noise's width and of `rounding`, but never too many steps of noise."""
    return max(step_below(min(width, rounding) / _STEPS), step_below(width / _MOST_STEPS))


def _distance_l2(content_dims: int, radius: float, step: float) -> Fraction:
    """Return Δ₂ = 2C + √k·g, exactly up to a root rounded up."""
    root = Fraction(math.isqrt(content_dims * 10**24) + 1, 10**12)
    return 2 * Fraction(radius) + root * Fraction(step)


def _distance_l1(content_dims: int, radius: float, step: float) -> Fraction:
    """Return Δ₁ = 2C + k·g, exactly."""
    return 2 * Fraction(radius) + content_dims * Fraction(step)
