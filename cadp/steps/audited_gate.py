"""The gate under audit: its real answer, and its real count of synthetic holdouts that differ in one unit."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cadp.privacy.audit.gated import GateAudit
from cadp.records import Record, Values, top
from cadp.reporter import Silent
from cadp.sources import PublicFacts
from cadp.steps.classify import Kind, train
from cadp.steps.hits import count_hits
from cadp.utility import gate
from cadp.utility.gate import GatePlan

if TYPE_CHECKING:
    from cadp.plan import Plan

SMALL_EPSILON = 1.0  # beside a gate of less: of a count's small loss so many trials show little
_UNITS, _RECORDS, _SHOWN = 12, 3, 64


def gate_audits(plan: "Plan") -> tuple[GateAudit, ...]:
    """Return the audits of a plan's gate: as planned, and at ε = 1 if that is another one."""
    plans = [plan.gate]
    if plan.gate.epsilon != SMALL_EPSILON:
        plans.append(replace(plan.gate, epsilon=SMALL_EPSILON))
    return tuple(_audit(plan, own, planned=own is plan.gate) for own in plans)


def _audit(plan: "Plan", own: GatePlan, *, planned: bool) -> GateAudit:
    return GateAudit(
        answer=own.answer,
        event=own.event(),
        parameters=own.parameters(),
        units=own.holdout_units,
        place=(gate, "discrete_laplace"),
        counts=lambda: neighbouring_counts(plan.facts, plan.spec.validate_.classifier, labels=plan.labels.private),
        planned=planned,
    )


def neighbouring_counts(facts: PublicFacts, kind: Kind, *, labels: bool) -> list[tuple[int, int]]:
    """Return the counts of synthetic holdouts and of their neighbours; with `labels` these may differ in them too.

    The classifier has seen noise alone. It is what it is for the release: a function of nothing in the holdout.
    """
    shape, classes, white = facts.shape, len(facts.classes), top(facts.kind)
    generator = np.random.default_rng(47)  # public: these are records, not noise
    shown = generator.integers(0, white + 1, (max(_SHOWN, classes), *shape), dtype=facts.kind)
    truth = np.arange(len(shown), dtype=np.int64) % classes
    classifier = train(kind, facts, shown, truth, Silent(), least_steps=1)
    images = generator.integers(0, white + 1, (_UNITS * _RECORDS, *shape), dtype=facts.kind)
    told = classifier.predict(images)
    holdout = [
        Record(key=f"record {i}", unit=f"unit {i // _RECORDS}", label=int(told[i]), image=image)
        for i, image in enumerate(images)
    ]
    black, bright = np.zeros(shape, facts.kind), np.full(shape, white, facts.kind)
    contents: list[tuple[Values | None, int]] = [(black, 0), (bright, 0), (None, 0)]
    contents += [(image, 1) for image, _ in contents] if labels else []
    pairs = []
    for key in (b"one", b"another"):
        count = count_hits(classifier, holdout, facts, key)
        for unit in ("unit 0", f"unit {_UNITS - 1}"):
            for image, turn in contents:
                other = [
                    replace(record, image=image, label=(record.label + turn) % classes)
                    if record.unit == unit
                    else record
                    for record in holdout
                ]
                pairs.append((count, count_hits(classifier, other, facts, key)))
    return pairs
