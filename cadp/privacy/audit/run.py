"""A whole audit: every part of a release, as planned and as the same code at small ε, through all three layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cadp.privacy.audit.path import CodePath
from cadp.privacy.audit.recorded import LegacyAudit, RecordAudit
from cadp.privacy.audit.verdict import Audit, Setting
from cadp.privacy.labels import LabelPlan, PublicLabels
from cadp.privacy.mechanisms import Legacy, Mechanism

CONFIDENCE = 0.99
TRIALS = 5000
SMALL_EPSILONS = (0.5, 1.0, 2.0)

Advance = Callable[[int], object]


class Subject(Protocol):
    """One part of a release under audit."""

    @property
    def bounds(self) -> int:
        """How many bounds are looked at: they share the audit's confidence (Bonferroni)."""

    def outputs(self, trials: int) -> int:
        """Return how many outputs `setting` makes and tells `advance` of."""

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings, each bound above the true ε with probability at most `alpha`."""


@dataclass(frozen=True)
class Variant:
    """A mechanism and a label plan that go together through the code path."""

    mechanism: Mechanism
    labels: LabelPlan


def subjects_of(
    path: CodePath, planned: Variant, smaller: Sequence[Variant] = (), *, delta: float
) -> tuple[Subject, ...]:
    """Return what is to be audited of the records: the plan first, then the same code at small ε.

    Args:
        path: the real code.
        planned: what the release runs.
        smaller: the same mechanism and labels planned at small ε, where trials have power.
        delta: δ at which a loss that is not pure is charged.
    """
    if isinstance(planned.mechanism, Legacy):
        return (LegacyAudit(path, planned.mechanism),)
    both = [
        RecordAudit(path, variant.mechanism, variant.labels, delta, planned=variant is planned)
        for variant in (planned, *smaller)
    ]
    alone: dict[LabelPlan, RecordAudit] = {}
    for one in both:
        if one.labels.private:
            alone.setdefault(one.labels, one.labels_alone())
    return (*both, *alone.values())


def audit(
    path: CodePath,
    planned: Mechanism,
    smaller: Sequence[Variant] = (),
    *,
    delta: float,
    labels: LabelPlan | None = None,
    others: Sequence[Subject] = (),
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    advance: Advance = lambda done: None,
) -> Audit:
    """Audit a plan.

    Args:
        path: the real code.
        planned: what the release runs on latents.
        smaller: see `subjects_of`.
        delta: δ at which a loss that is not pure is charged.
        labels: what the release does to labels; they are public if None.
        others: the other parts of the release.
        trials: see `trials.measure`.
        confidence: with which no claim that holds is refuted, over all bounds together (Bonferroni).
        advance: told of outputs as they are made; `outputs_of` says how many there will be.

    Raises:
        PrivacyError: a mechanism that the audit does not know, or too few trials.
    """
    own = subjects_of(path, Variant(planned, labels or PublicLabels()), smaller, delta=delta)
    return run_audit((*own, *others), trials=trials, confidence=confidence, advance=advance)


def run_audit(
    subjects: Sequence[Subject],
    *,
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    advance: Advance = lambda done: None,
) -> Audit:
    """Audit each subject; all their bounds together are wrong with probability at most 1 − `confidence`."""
    alpha = (1 - confidence) / sum(subject.bounds for subject in subjects)
    return Audit(confidence, trials, tuple(subject.setting(trials, alpha, advance) for subject in subjects))


def outputs_of(subjects: Sequence[Subject], trials: int) -> int:
    """Return how many outputs the trials make, for whoever shows progress."""
    return sum(subject.outputs(trials) for subject in subjects)
