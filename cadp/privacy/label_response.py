"""Randomized response: a label that is the record's own with a known probability, else another.

Of k classes, with probability p the true label y, else one of the k − 1 others, each as likely:

    P(y | y) = p,   P(j | y) = (1 − p)/(k − 1) for j ≠ y,   so for any two true labels and any answer
    P(· | y) / P(· | y') ≤ e^ε,   ε = |ln( p·(k − 1) / (1 − p) )|.

The best p for a given ε is e^ε/(e^ε + k − 1) (Kairouz, Oh, Viswanath 2014); a float below it is taken, the coin has
that probability exactly, and so do the others: this is pure ε. A rejected record's label is uniform, whatever stood
there: 1/k lies between (1 − p)/(k − 1) and p, so no two laws are further apart than two labels' are. The uniform
label is also the *null law* of zero-out: there ε = ln max( k·p, (k − 1)/(k·(1 − p)) ).

Labels that are several yes-or-no attributes: `cadp.privacy.label_attributes`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.events import RELATION, ZERO_OUT, Event, PureEvent
from cadp.privacy.precision import decimal, float_up, fraction_of, reals

Labels = NDArray[np.int64]

_BITS = 128
_LEAST_EPSILON = 1e-6
_MOST_CLASSES = 1 << 20


@dataclass(frozen=True)
class RandomizedResponse:
    """k-ary randomized response.

    Attributes:
        classes: k >= 2.
        keep: p, the probability of the true label, taken as the exact binary fraction; 1/k <= p < 1.
    """

    kind: ClassVar[str] = "randomized-response"
    private: ClassVar[bool] = True

    classes: int
    keep: float

    def __post_init__(self) -> None:
        if type(self.classes) is not int or not 2 <= self.classes <= _MOST_CLASSES:
            raise PrivacyError(f"randomized response needs 2 to {_MOST_CLASSES} classes, not {self.classes!r}")
        if not (0.0 < self.keep < 1.0 and Fraction(self.keep) * self.classes >= 1):
            raise PrivacyError(f"the true label of {self.classes} is kept with 1/{self.classes} <= p < 1: {self.keep}")

    @property
    def epsilon(self) -> float:
        """The loss between two labels, ε = ln(p·(k − 1)/(1 − p)), rounded up."""
        keep = Fraction(self.keep)
        return _log_up(keep * (self.classes - 1) / (1 - keep))

    def event(self) -> Event:
        """Return the replace-one event."""
        return PureEvent(self.epsilon)

    def zero_out_event(self) -> Event:
        """Return the event against a uniform label."""
        keep = Fraction(self.keep)
        ratio = max(self.classes * keep, (self.classes - 1) / (self.classes * (1 - keep)))
        return PureEvent(_log_up(ratio), relation=ZERO_OUT)

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return the answers; see `LabelPlan.release`. A label that is none of the classes counts as rejected."""
        if labels.ndim != 1 or valid.shape != labels.shape:
            raise PrivacyError(f"labels {labels.shape} and valid {valid.shape} do not fit")
        usable = valid & (labels >= 0) & (labels < self.classes)
        own = np.where(usable, labels, 0)
        keep = noise.bernoulli_exact(self.keep, len(labels))
        # 1 … k − 1 steps on from the true label: every other label once.
        other = (own + 1 + noise.uniform_below(self.classes - 1, len(labels))) % self.classes
        anything = noise.uniform_below(self.classes, len(labels))
        answer: Labels = np.where(usable, np.where(keep, own, other), anything)
        return answer

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        return {
            "kind": self.kind,
            "epsilon": self.epsilon,
            "classes": self.classes,
            "keep_probability": self.keep,
            "other_probability": (1 - self.keep) / (self.classes - 1),
            "rejected": "uniform over the classes",
            "sampler": "exact",
            "relation": RELATION,
        }

    def words(self) -> str:
        """Say what is done."""
        return f"labels by randomized response over {self.classes} classes"


def plan_response(epsilon: float, classes: int) -> RandomizedResponse:
    """Choose the most truthful coin whose loss is at most ε.

    Raises:
        PrivacyError: ε is not finite or below 1e-06, or there are fewer than two classes.

    Example:
        >>> plan = plan_response(1.0, 10)
        >>> round(plan.keep, 4), plan.event().epsilon <= 1.0
        (0.232, True)
    """
    if not (math.isfinite(epsilon) and epsilon >= _LEAST_EPSILON):
        raise PrivacyError(f"epsilon of the labels is {epsilon}: it must be finite and at least {_LEAST_EPSILON:.0e}")
    if type(classes) is not int or not 2 <= classes <= _MOST_CLASSES:
        raise PrivacyError(f"randomized response needs 2 to {_MOST_CLASSES} classes, not {classes!r}")
    # Charges are whole micro-nats, rounded up: what is planned must fit a limit of exactly what was asked.
    asked = Fraction(math.floor(decimal(epsilon) * 10**6), 10**6)
    with reals(_BITS) as real:
        odds = real.exp(real.mpf(asked.numerator) / asked.denominator - real.ldexp(1, -60)) / (classes - 1)
        steps = min(int(real.floor(real.ldexp(odds / (1 + odds), 53))), 2**53 - 1)
    plan = RandomizedResponse(classes, math.ldexp(steps, -53))
    if decimal(plan.epsilon) > asked:
        raise PrivacyError(f"randomized response over {classes} classes cannot be run at epsilon {epsilon}")
    return plan


def _log_up(ratio: Fraction) -> float:
    """Return ln(ratio) >= 0, rounded up."""
    with reals(_BITS) as real:
        loss: Any = real.log(real.mpf(ratio.numerator) / ratio.denominator) + real.ldexp(1, -90)
        return float_up(max(fraction_of(loss), Fraction(0)))
