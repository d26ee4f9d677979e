"""An audit takes seconds, and a release makes one: each part of a plan is audited once a process.

A test of the audit itself, or of what a release draws and says while it runs, is marked `audits`: there every audit is
made. So is the first one of every part, and all those that other processes make.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from cadp.plan import Plan
from cadp.privacy.audit.gated import GateAudit
from cadp.privacy.audit.recorded import RecordAudit
from cadp.privacy.audit.run import Advance, Subject, outputs_of, run_audit
from cadp.privacy.audit.trained import TrainingAudit
from cadp.privacy.audit.verdict import Audit, Setting
from cadp.reporter import Reporter
from cadp.steps import audit

_MADE: dict[object, Setting] = {}


@dataclass(frozen=True)
class _Once:
    """A subject, and everything that its findings depend on besides chance and the code."""

    subject: Subject
    told: object

    @property
    def bounds(self) -> int:
        return self.subject.bounds

    def outputs(self, trials: int) -> int:
        return self.subject.outputs(trials)

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        if self.told is None:
            return self.subject.setting(trials, alpha, advance)
        key = repr((self.told, trials, alpha))
        if key not in _MADE:
            _MADE[key] = self.subject.setting(trials, alpha, advance)
        return _MADE[key]


def _told(plan: Plan, subject: Any) -> object:
    match subject:
        case RecordAudit():
            facts = (plan.architecture.to_json(), plan.facts.kind, subject.mechanism, subject.labels, subject.part)
            return "records", facts, subject.delta, subject.planned
        case TrainingAudit():
            parts = [path.parameters for path in (subject.exact, subject.small, subject.crowded)]
            return "train", parts, subject.parameters, subject.delta, subject.planned
        case GateAudit():
            return "gate", subject.parameters, subject.units, subject.planned, plan.labels, plan.facts.to_json()
    return None  # of a kind that this file does not know: made every time


def _audit_plan(plan: Plan, reporter: Reporter, trials: int) -> Audit:
    subjects = tuple(_Once(subject, _told(plan, subject)) for subject in audit.plan_subjects(plan))
    with reporter.progress("audit", outputs_of(subjects, trials), "outputs") as advance, audit._one_thread():
        return run_audit(subjects, trials=trials, advance=advance)


@pytest.fixture(autouse=True)
def _audited_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("audits") is None:
        monkeypatch.setattr(audit, "audit_plan", _audit_plan)
