"""What an audit found, as values and as the public `audit.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cadp.privacy.accountant import curve
from cadp.privacy.events import PureEvent
from cadp.privacy.mechanisms import Mechanism

SCHEMA = 1


@dataclass(frozen=True)
class Claim:
    """What a mechanism is charged as: (ε, δ), replace-one.

    Attributes:
        epsilon: charged.
        delta: 0 for a pure mechanism.
    """

    epsilon: float
    delta: float

    @classmethod
    def of(cls, mechanism: Mechanism, delta: float) -> "Claim":
        """Return what `mechanism` is charged as; at `delta` if it has no pure loss."""
        event = mechanism.event()
        if isinstance(event, PureEvent):
            return cls(event.epsilon * event.count, 0.0)
        charged = curve(event)
        pure = charged.epsilon(0.0)
        return cls(pure, 0.0) if math.isfinite(pure) else cls(charged.epsilon(delta), delta)


@dataclass(frozen=True)
class Check:
    """One statement of the exact layer.

    Attributes:
        name: what was checked, a slug.
        held: whether it holds.
        detail: what was found, in words; of synthetic records only.
        loss: the largest loss found, in the event's own size (ε, or μ of a Gaussian); None where there is none.
        charged: the size that is charged.
    """

    name: str
    held: bool
    detail: str
    loss: float | None = None
    charged: float | None = None

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "check": self.name,
            "held": self.held,
            "detail": self.detail,
            "loss": self.loss,
            "charged": self.charged,
        }


@dataclass(frozen=True)
class Measure:
    """One lower bound from trials.

    Attributes:
        layer: `black box` or `one run`.
        trials: trials on each of the two records; or records of the one run.
        lower_bound: ε_LB.
        ceiling: the largest ε_LB that so many trials could have given.
        counts: what was counted, by name.
    """

    layer: str
    trials: int
    lower_bound: float
    ceiling: float
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """JSON-ready; the bound is rounded down, the ceiling up, to micro-nats."""
        return {
            "layer": self.layer,
            "trials": self.trials,
            "epsilon_lower_bound": math.floor(self.lower_bound * 1e6) / 1e6,
            "ceiling": math.ceil(self.ceiling * 1e6) / 1e6,
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class Setting:
    """The findings on one mechanism as planned for one ε.

    Attributes:
        kind: the mechanism's name.
        parameters: its public parameters.
        claim: what it is charged as.
        planned: True for the release's own plan; False for the same code at a smaller ε.
        checks: of the exact layer.
        measures: of the two statistical layers.
    """

    kind: str
    parameters: Mapping[str, object]
    claim: Claim
    planned: bool
    checks: tuple[Check, ...]
    measures: tuple[Measure, ...]

    def problems(self) -> list[str]:
        """Return what refutes the claim, one line each; empty if nothing does."""
        where = f"{self.kind} at epsilon {self.claim.epsilon:.4g}"
        broken = [f"{where}: {check.name}: {check.detail}" for check in self.checks if not check.held]
        return broken + [
            f"{where}: {m.layer}: epsilon is at least {m.lower_bound:.4g}, more than is charged"
            for m in self.measures
            if m.lower_bound > self.claim.epsilon
        ]

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "mechanism": self.kind,
            "parameters": dict(self.parameters),
            "planned": self.planned,
            "epsilon": self.claim.epsilon,
            "delta": self.claim.delta,
            "exact": [check.to_json() for check in self.checks],
            "measured": [measure.to_json() for measure in self.measures],
        }


@dataclass(frozen=True)
class Audit:
    """A whole audit.

    Attributes:
        confidence: with which a claim that holds is not refuted, over all bounds of the audit together.
        trials: asked for.
        settings: the planned mechanism first, then the same code at smaller ε.
    """

    confidence: float
    trials: int
    settings: tuple[Setting, ...]

    def problems(self) -> list[str]:
        """Return what refutes the audit's claims, one line each."""
        return [problem for setting in self.settings for problem in setting.problems()]

    @property
    def refuted(self) -> bool:
        """Whether a claim is refuted."""
        return bool(self.problems())

    @property
    def verdict(self) -> str:
        """The verdict in words. There is no word for a proof: trials can refute, not verify."""
        return "refuted" if self.refuted else f"not refuted at {self.trials:,} trials"

    def to_json(self) -> dict[str, object]:
        """Return the public `audit.json`: figures on synthetic records alone."""
        planned = next(setting for setting in self.settings if setting.planned)
        best = max(planned.measures, key=lambda measure: measure.lower_bound)
        figures = best.to_json()
        return {
            "schema": SCHEMA,
            "kind": "audit",
            "verdict": self.verdict,
            "refuted": self.refuted,
            "problems": self.problems(),
            "records": "synthetic pairs only",
            "network": "synthetic, of the planned architecture",
            "trials": self.trials,
            "confidence": self.confidence,
            "epsilon_lower_bound": figures["epsilon_lower_bound"],
            "ceiling": max(measure.to_json()["ceiling"] for measure in planned.measures),  # type: ignore[type-var]
            "settings": [setting.to_json() for setting in self.settings],
        }
