"""Randomized response on each of several yes-or-no attributes of a label.

A label is a vector of a bits. Each bit is released by binary randomized response with draws of its own, so

    P(answer | y) = Π_i P(answer_i | y_i),   and for two labels and any answer   ln( P(· | y) / P(· | y') ) ≤ Σ_i ε_i,

with equality where the labels differ in every bit: the losses of the attributes add up, and their sum is charged. A
rejected record's bits are all uniform; bit by bit that law is no further from another than two labels' are.

*Classes*: where each of the 2^a combinations is a class, the label of a record is one number, and so is its answer. A
class and its vector determine each other, so this is the same mechanism under other names.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.events import RELATION, ZERO_OUT, ComposedEvent, Event
from cadp.privacy.label_response import RandomizedResponse, plan_response
from cadp.privacy.precision import decimal, float_down, float_up

Labels = NDArray[np.int64]

MOST_ATTRIBUTES = 10
"""Of classes: 2^10 combinations are as many classes as anybody has records for."""


@dataclass(frozen=True)
class AttributeResponse:
    """Randomized response on each binary attribute of a label vector.

    Attributes:
        keeps: for each attribute, the probability that it is released as it is; taken as the exact binary fraction.
    """

    kind: ClassVar[str] = "randomized-response"
    private: ClassVar[bool] = True

    keeps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.keeps:
            raise PrivacyError("a vector of labels needs at least 1 attribute")
        for keep in self.keeps:
            RandomizedResponse(2, keep)

    @classmethod
    def plan(cls, epsilon: float, attributes: int, shares: Sequence[float] | None = None) -> "AttributeResponse":
        """Split ε over the attributes, evenly or in proportion to `shares`.

        Raises:
            PrivacyError: there are no attributes, or a share is not positive, or too small for an answer.
        """
        weights = [Fraction(1)] * attributes if shares is None else [decimal(share, "a share") for share in shares]
        if attributes < 1 or len(weights) != attributes or min(weights) <= 0:
            raise PrivacyError(f"{attributes} attributes need as many positive shares of epsilon, not {shares}")
        total, whole = sum(weights, Fraction(0)), decimal(epsilon, "epsilon")
        return cls(tuple(plan_response(float_down(whole * weight / total), 2).keep for weight in weights))

    def parts(self) -> tuple[RandomizedResponse, ...]:
        """Return the response of each attribute."""
        return tuple(RandomizedResponse(2, keep) for keep in self.keeps)

    def event(self) -> Event:
        """Return the attributes' events, composed."""
        return ComposedEvent(tuple(part.event() for part in self.parts()))

    def zero_out_event(self) -> Event:
        """Return the event against uniform attributes."""
        return ComposedEvent(tuple(part.zero_out_event() for part in self.parts()), relation=ZERO_OUT)

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return `(n, a)` answers, 0 or 1, to `(n, a)` labels; see `LabelPlan.release`."""
        if labels.ndim != 2 or labels.shape[1] != len(self.keeps):
            raise PrivacyError(f"label vectors {labels.shape} do not fit {len(self.keeps)} attributes")
        columns = [part.release(labels[:, i], valid) for i, part in enumerate(self.parts())]
        return np.stack(columns, axis=1)

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        losses = [part.epsilon for part in self.parts()]
        return {
            "kind": self.kind,
            "epsilon": float_up(sum((decimal(loss) for loss in losses), Fraction(0))),
            "attributes": [
                {"epsilon": loss, "keep_probability": keep} for loss, keep in zip(losses, self.keeps, strict=True)
            ],
            "composition": "the losses of the attributes are added",
            "rejected": "uniform, each attribute",
            "sampler": "exact",
            "relation": RELATION,
        }

    def words(self) -> str:
        """Say what is done."""
        return f"labels by randomized response on each of {len(self.keeps)} attributes"


@dataclass(frozen=True)
class ClassAttributes:
    """Randomized response on each attribute of a class, where every combination of attributes is one class.

    Attributes:
        response: the responses, one an attribute.
        names: of the attributes.
        vectors: for each class, 0 or 1 an attribute; all 2^a combinations, each once.
    """

    kind: ClassVar[str] = "randomized-response"
    private: ClassVar[bool] = True

    response: AttributeResponse
    names: tuple[str, ...]
    vectors: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        a = len(self.response.keeps)
        if a > MOST_ATTRIBUTES or len(self.names) != a or len({*self.names}) != a:
            raise PrivacyError(f"1 to {MOST_ATTRIBUTES} attributes have names of their own: {a} are {list(self.names)}")
        # Were a combination missing, an answer could fall on it; were one twice, it would not say which class it is.
        if sorted(self.vectors) != list(itertools.product((0, 1), repeat=a)):
            raise PrivacyError(
                f"{a} attributes have {2**a} combinations, and each must be exactly 1 of the classes; there are "
                f"{len(self.vectors)} classes with {len({*self.vectors})} different combinations"
            )

    def event(self) -> Event:
        """Return the attributes' events, composed."""
        return self.response.event()

    def zero_out_event(self) -> Event:
        """Return the event against a uniform class."""
        return self.response.zero_out_event()

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return `(n,)` answers; see `LabelPlan.release`. A label that is none of the classes counts as rejected."""
        if labels.ndim != 1 or valid.shape != labels.shape:
            raise PrivacyError(f"labels {labels.shape} and valid {valid.shape} do not fit")
        usable = valid & (labels >= 0) & (labels < len(self.vectors))
        bits = np.array(self.vectors, dtype=np.int64)
        answers = self.response.release(bits[np.where(usable, labels, 0)], usable)
        weights = 1 << np.arange(bits.shape[1], dtype=np.int64)
        class_of = np.empty(len(bits), dtype=np.int64)
        class_of[bits @ weights] = np.arange(len(bits))
        released: Labels = class_of[answers @ weights]
        return released

    def least_and_most(self) -> tuple[float, float]:
        """Return the least and the greatest probability of any answer, whatever the true label is."""
        return math.prod(1 - keep for keep in self.response.keeps), math.prod(self.response.keeps)

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run; an attribute lists the classes that have it, by index."""
        told = self.response.parameters()
        rows = [
            {"name": name, "classes": [i for i, v in enumerate(self.vectors) if v[at]], "epsilon": part.epsilon}
            | {"keep_probability": part.keep}
            for at, (name, part) in enumerate(zip(self.names, self.response.parts(), strict=True))
        ]
        return told | {"classes": len(self.vectors), "attributes": rows}

    def words(self) -> str:
        """Say what is done."""
        return f"labels by randomized response on each of {', '.join(self.names)}"
