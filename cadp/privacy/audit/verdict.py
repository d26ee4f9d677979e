"""What an audit found, as values and as the public `audit.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cadp.privacy.accountant import curve
from cadp.privacy.events import Event, PureEvent

SCHEMA = 1


@dataclass(frozen=True)
class Claim:
    """What is claimed: (ε, δ), replace-one.

    Attributes:
        epsilon: charged, or only named where nothing is charged.
        delta: 0 for a pure loss.
        charged: False for a mechanism that has no guarantee: its ε is nominal.
    """

    epsilon: float
    delta: float
    charged: bool = True

    @classmethod
    def of(cls, event: Event, delta: float) -> "Claim":
        """Return what `event` is charged as; at `delta` if it has no pure loss."""
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
        alpha: the bound exceeds the true ε with probability at most this.
    """

    layer: str
    trials: int
    lower_bound: float
    ceiling: float
    counts: Mapping[str, int]
    alpha: float

    def to_json(self) -> dict[str, object]:
        """JSON-ready; the bound is rounded down, the ceiling up, to micro-nats."""
        return {
            "layer": self.layer,
            "trials": self.trials,
            "epsilon_lower_bound": math.floor(self.lower_bound * 1e6) / 1e6,
            "ceiling": math.ceil(self.ceiling * 1e6) / 1e6,
            "confidence": math.floor((1 - self.alpha) * 1e6) / 1e6,
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class Setting:
    """The findings on one part of a release as planned for one ε.

    Attributes:
        kind: the mechanism's name.
        parameters: its public parameters.
        claim: what it is charged as.
        planned: True for the release's own plan; False for the same code at another ε, or on smaller records.
        checks: of the exact layer.
        measures: of the two statistical layers.
        part: which charge it belongs to: `records`, `labels` (a part of the records' charge), `train` or `gate`.
    """

    kind: str
    parameters: Mapping[str, object]
    claim: Claim
    planned: bool
    checks: tuple[Check, ...]
    measures: tuple[Measure, ...]
    part: str = "records"

    def problems(self) -> list[str]:
        """Return what refutes the claim, one line each; empty if nothing does."""
        name = self.kind if self.part == "records" else f"{self.part}, {self.kind}"
        where, said = f"{name} at epsilon {self.claim.epsilon:.4g}", "charged" if self.claim.charged else "claimed"
        broken = [f"{where}: {check.name}: {check.detail}" for check in self.checks if not check.held]
        return broken + [
            f"{where}: {m.layer}: epsilon is at least {m.lower_bound:.4g}, more than is {said}"
            for m in self.measures
            if m.lower_bound > self.claim.epsilon
        ]

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "part": self.part,
            "mechanism": self.kind,
            "parameters": dict(self.parameters),
            "planned": self.planned,
            "epsilon": self.claim.epsilon,
            "delta": self.claim.delta,
            "charged": self.claim.charged,
            "exact": [check.to_json() for check in self.checks],
            "measured": [measure.to_json() for measure in self.measures],
        }


@dataclass(frozen=True)
class Audit:
    """A whole audit.

    Attributes:
        confidence: with which a claim that holds is not refuted, over all bounds of the audit together.
        trials: asked for.
        settings: the planned mechanism of the records first, then the same code at smaller ε, then the other parts.
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
        planned = next(setting for setting in self.settings if setting.planned)  # the records'
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
