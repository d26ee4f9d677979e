"""What a mechanism did, as plain values: events are charged and stored; curves and ε are computed from them.

Each event names its neighbouring relation. Everything charged is `replace-one`; the companion figures that resemble
add/remove are `zero-out`; an event that mixed them would have no meaning and is refused.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from cadp.errors import PrivacyError

RELATION = "replace-one"
ZERO_OUT = "zero-out"
SCHEMA = 1

_DEEPEST = 16  # compositions within compositions that are read; ours have two


@dataclass(frozen=True)
class Event:
    """Base of all events; `Event.from_json` reads one back."""

    kind: ClassVar[str] = ""

    relation: str = field(default=RELATION, kw_only=True)

    def __post_init__(self) -> None:
        if self.relation not in (RELATION, ZERO_OUT):
            raise PrivacyError(f"unknown neighbouring relation {self.relation!r}: it is {RELATION} or {ZERO_OUT}")

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {"schema": SCHEMA, "kind": self.kind, "relation": self.relation, **self._values()}

    def _values(self) -> dict[str, object]:
        raise NotImplementedError

    @staticmethod
    def from_json(data: Mapping[str, object], depth: int = 0) -> "Event":
        """Read what `to_json` wrote. Only the kinds of this file exist; nothing is imported by name.

        Raises:
            PrivacyError: another schema, an unknown kind, a missing or an extra field, values out of range, or
                a nesting that is too deep to be ours.
        """
        known = (GaussianEvent, SampledGaussianEvent, PureEvent, DeltaEvent, ComposedEvent)
        kinds: dict[str, type[Event]] = {c.kind: c for c in known}
        if not isinstance(data, Mapping):
            raise PrivacyError(f"an event is an object, not {data!r:.40}")
        if depth > _DEEPEST:
            raise PrivacyError(f"an event is nested more than {_DEEPEST} deep")
        kind = data.get("kind")
        if data.get("schema") != SCHEMA or not isinstance(kind, str) or kind not in kinds:
            raise PrivacyError(f"not an event of schema {SCHEMA}: {dict(data)}")
        # Nothing has a default here: an event that lost its relation must not come back as the one that is charged.
        names = {"schema", "kind", *(one.name for one in fields(kinds[kind]))}
        if set(data) != names:
            missing, extra = sorted(names - set(data)), sorted(map(repr, set(data) - names))
            raise PrivacyError(f"not a {kind} event: it lacks {missing or 'nothing'}, {extra or 'nothing'} is too much")
        values = {name: value for name, value in data.items() if name not in ("schema", "kind")}
        if kind == ComposedEvent.kind:
            parts = values.get("events")
            if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
                raise PrivacyError(f"a composed event holds a list of events, not {parts!r}")
            values["events"] = tuple(Event.from_json(part, depth + 1) for part in parts)
        return kinds[kind](**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class GaussianEvent(Event):
    """`count` Gaussian mechanisms, continuous or discrete, each of sensitivity Δ and noise σ with μ = Δ/σ.

    Two of sizes μ₁, μ₂ compose to one of √(μ₁² + μ₂²); `m` records of one unit are `count=m`.
    """

    kind: ClassVar[str] = "gaussian"

    mu: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mu", _number(self.mu, "mu"))
        _check_count(self.count)

    def _values(self) -> dict[str, object]:
        return {"mu": self.mu, "count": self.count}


@dataclass(frozen=True)
class SampledGaussianEvent(Event):
    """`steps` sums over a Poisson sample of the units, each with Gaussian noise: DP-SGD.

    `cadp.privacy.sampled` has the pairs of laws that are charged, and how discrete noise is entered.

    Attributes:
        sampling_rate: q, the probability with which a unit enters a step, independently of all others.
        noise_multiplier: σ of the noise on the sum, over the largest norm that a unit's whole contribution to it can
            have (the clip norm C and what rounding to a lattice adds). Not over the replace-one sensitivity, 2C.
        steps: how many were taken, empty samples and those before an early stop included.
    """

    kind: ClassVar[str] = "sampled-gaussian"

    sampling_rate: float
    noise_multiplier: float
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sampling_rate", _number(self.sampling_rate, "sampling_rate"))
        if self.sampling_rate > 1:
            raise PrivacyError(f"an event's sampling_rate is {self.sampling_rate}: it is a probability")
        multiplier = _number(self.noise_multiplier, "noise_multiplier")
        if multiplier > self.noise_multiplier:  # here the safe side is down
            multiplier = math.nextafter(multiplier, 0.0)
            multiplier = multiplier if multiplier <= self.noise_multiplier else math.nextafter(multiplier, 0.0)
        if multiplier == 0:
            raise PrivacyError("an event's noise_multiplier is 0: without noise there is no finite loss")
        object.__setattr__(self, "noise_multiplier", multiplier)
        _check_count(self.steps)

    def _values(self) -> dict[str, object]:
        return {
            "sampling_rate": self.sampling_rate,
            "noise_multiplier": self.noise_multiplier,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class PureEvent(Event):
    """`count` mechanisms of pure loss ε each."""

    kind: ClassVar[str] = "pure"

    epsilon: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "epsilon", _number(self.epsilon, "epsilon"))
        _check_count(self.count)

    def _values(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "count": self.count}


@dataclass(frozen=True)
class DeltaEvent(Event):
    """`count` times an additive δ: what a sampler, or an approximate mechanism, falls short of its curve by.

    For a sampler within total variation η of its target it is (1 + e^ε)·η, with ε the limit of the whole population and
    not the mechanism's own: whatever else was released is exchanged along with it (`cadp.privacy.accountant`).
    """

    kind: ClassVar[str] = "delta"

    delta: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "delta", _number(self.delta, "delta"))
        _check_count(self.count)

    def _values(self) -> dict[str, object]:
        return {"delta": self.delta, "count": self.count}


@dataclass(frozen=True)
class ComposedEvent(Event):
    """Several events on the same units, adaptively composed. All are of one relation, which is the composition's."""

    kind: ClassVar[str] = "composed"

    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        others = {event.relation for event in self.events} - {self.relation}
        if others:
            raise PrivacyError(f"a {self.relation} composition cannot hold a {' or '.join(sorted(others))} event")

    def _values(self) -> dict[str, object]:
        return {"events": [event.to_json() for event in self.events]}


def _number(value: object, what: str) -> float:
    # An integer beyond the floats is compared here, not converted: that would be another error than ours.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise PrivacyError(f"an event's {what} is not a finite number >= 0 but {value!r:.40}")
    number = float(value)
    if number < value:  # an integer beyond 2^53: its float must not be charged as less
        number = math.nextafter(number, math.inf)
    return number


def _check_count(count: object) -> None:
    if type(count) is not int or count < 1:
        raise PrivacyError(f"an event's count is {count!r}: it must be an integer >= 1")
