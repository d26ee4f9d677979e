"""Reading additive mechanisms: from an output and the noise in it back to the lattice point of the record."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.additive import Gaussian, Laplace
from cadp.privacy.audit.watch import Draw
from cadp.privacy.events import GaussianEvent, PureEvent
from cadp.privacy.precision import decimal

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Additive = Gaussian | Laplace

_EXACT = 2**53


def planned_scale(mechanism: Additive) -> float:
    """Return σ or b of the plan, in lattice steps."""
    return mechanism.sigma if isinstance(mechanism, Gaussian) else mechanism.scale


def read_additive(
    mechanism: Additive, content: Floats, draws: Sequence[Draw], refused: type[PrivacyError]
) -> tuple[Integers, Integers]:
    """Return the lattice points `(n, k)` under the noise, and the noise, both in steps.

    Args:
        mechanism: the plan.
        content: `(n, k)` outputs before decoding.
        draws: every draw behind them.
        refused: what to raise.

    Raises:
        PrivacyError: of the type `refused`: the outputs are off the lattice, or the noise in them was not drawn exactly
            as planned.
    """
    expected = f"discrete_{mechanism.kind}"
    noise = [draw for draw in draws if draw.sampler == expected]
    others = {draw.sampler for draw in draws} - {expected, "standard_normal"}
    if len(noise) != 1 or noise[0].values.shape != content.shape or others:
        raise refused(
            f"{content.size} draws of {expected} were due, one a coordinate; there were "
            f"{[(d.sampler, d.values.shape) for d in draws]}"
        )
    if noise[0].values.dtype != np.int64:
        raise refused(f"the noise is {noise[0].values.dtype}, not integers: its low bits tell the record")
    if Fraction(noise[0].parameter) != Fraction(planned_scale(mechanism)):
        raise refused(
            f"noise was drawn at scale {float(noise[0].parameter)!r}, {planned_scale(mechanism)!r} is planned"
        )
    unit = mechanism.step * mechanism._scale()
    steps = np.rint(content / unit)
    if not np.isfinite(steps).all() or np.abs(steps).max(initial=0.0) >= _EXACT or (steps * unit != content).any():
        raise refused("an output is not a whole number of lattice steps: its low bits tell the record")
    return steps.astype(np.int64) - noise[0].values, noise[0].values


def worst_additive_pair(mechanism: Additive, centres: Integers) -> tuple[float, float, bool]:
    """Return the largest loss over all pairs, the charged one, and whether it is within; exact in rationals.

    The loss is ‖x − y‖₁/b, an ε, for Laplace, and ‖x − y‖₂/σ, a μ, for a Gaussian.
    """
    rough = centres.astype(np.float64)
    worst, pair = -1.0, (0, 0)
    for i in range(len(rough)):
        gaps = np.abs(rough - rough[i])
        sizes = gaps.sum(axis=1) if isinstance(mechanism, Laplace) else (gaps**2).sum(axis=1)
        j = int(sizes.argmax())
        if sizes[j] > worst:
            worst, pair = float(sizes[j]), (i, j)
    gap = [int(a) - int(b) for a, b in zip(centres[pair[0]], centres[pair[1]], strict=True)]
    event, scale = mechanism.event(), Fraction(planned_scale(mechanism))
    if isinstance(event, PureEvent):
        loss = sum(map(abs, gap)) / scale
        charged = decimal(event.epsilon) * event.count
        return float(loss), float(charged), loss <= charged
    if not isinstance(event, GaussianEvent):
        raise PrivacyError(f"{mechanism.kind} is charged by a {event.kind} event, which the audit cannot compare")
    square = sum(g * g for g in gap) / scale**2
    mu_square = decimal(event.mu) ** 2 * event.count
    return math.sqrt(square), math.sqrt(mu_square), square <= mu_square
