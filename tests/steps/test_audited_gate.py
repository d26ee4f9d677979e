"""The audit of the gate: silent about the code as it is, loud about planted flaws."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cadp.privacy.audit.gated import GateAudit
from cadp.privacy.audit.run import run_audit
from cadp.privacy.audit.verdict import Setting
from cadp.privacy.events import PureEvent
from cadp.privacy.noise import discrete_laplace
from cadp.sources import PublicFacts
from cadp.steps import audited_gate, hits
from cadp.steps.audited_gate import neighbouring_counts
from cadp.utility import gate
from cadp.utility.gate import GatePlan

FACTS = PublicFacts(records=1, holdout_records=1, shape=(6, 6, 1), classes=("a", "b", "c"))


def audited(plan: GatePlan, *, labels: bool = False) -> GateAudit:
    return GateAudit(
        answer=plan.answer,
        event=plan.event(),
        parameters=plan.parameters(),
        units=plan.holdout_units,
        place=(gate, "discrete_laplace"),
        counts=lambda: neighbouring_counts(FACTS, "cnn", labels=labels),
        planned=True,
    )


def found(subject: GateAudit, trials: int = 100) -> Setting:
    (setting,) = run_audit((subject,), trials=trials).settings
    return setting


def broken(subject: GateAudit) -> set[str]:
    return {check.name for check in found(subject).checks if not check.held}


@pytest.mark.parametrize("labels", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 5.0])
def test_the_gate_as_it_is_passes(epsilon: float, labels: bool) -> None:
    setting = found(audited(GatePlan(epsilon, 300, 0.5), labels=labels))
    assert setting.problems() == []
    checks = {check.name: check for check in setting.checks}
    assert set(checks) == {"gate-event", "gate-draws", "gate-answer", "gate-fresh", "gate-count"}
    assert checks["gate-event"].loss == pytest.approx(epsilon)
    assert checks["gate-count"].loss == 1  # some neighbours do move the count


def test_trials_come_near_the_charge_and_refute_twice_of_it() -> None:
    honest = audited(GatePlan(1.0, 300, 0.5))
    assert 0.7 < found(honest, 4000).measures[0].lower_bound <= 1.0
    louder = dataclasses.replace(honest, answer=GatePlan(2.0, 300, 0.5).answer)
    assert 1.2 < found(louder, 4000).measures[0].lower_bound <= 2.0
    assert any("black box" in problem for problem in found(louder, 4000).problems())


def test_half_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "discrete_laplace", lambda scale, size: discrete_laplace(scale / 2, size))
    # What is drawn is seen at the gate's own call, which says the planned scale; the law is seen in the trials.
    assert any("black box" in problem for problem in found(audited(GatePlan(1.0, 300, 0.5)), 4000).problems())


def test_half_the_scale_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatePlan, "scale", property(lambda self: 1 / (2 * self.event().epsilon)))
    assert "gate-event" in broken(audited(GatePlan(0.1, 300, 0.5)))


def test_a_charge_of_half(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = audited(GatePlan(0.1, 300, 0.5))
    assert "gate-event" in broken(dataclasses.replace(honest, event=PureEvent(0.05)))


def test_float_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr(gate, "discrete_laplace", lambda scale, size: np.rint(rng.laplace(0, float(scale), size)))
    honest = GatePlan.answer

    def answer(self: GatePlan, correct: int) -> dict[str, Any]:
        return self.read(correct + int(gate.discrete_laplace(self.scale, 1)[0]))

    monkeypatch.setattr(GatePlan, "answer", answer)
    assert "gate-draws" in broken(audited(GatePlan(1.0, 300, 0.5)))
    assert honest is not answer


def test_noise_that_tells_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: GatePlan, correct: int) -> dict[str, Any]:
        return self.read(correct + int(gate.discrete_laplace(self.scale * (1 + (correct == 0)), 1)[0]))

    monkeypatch.setattr(GatePlan, "answer", answer)
    assert "gate-draws" in broken(audited(GatePlan(1.0, 300, 0.5)))


def test_an_answer_that_tells_more_than_its_noisy_count() -> None:
    plan = GatePlan(1.0, 300, 0.5)

    def answer(correct: int) -> Mapping[str, Any]:
        said = plan.answer(correct)
        return {**said, "passed": correct >= plan.needed}  # by the true count

    assert "gate-answer" in broken(dataclasses.replace(audited(plan), answer=answer))


def test_an_answer_that_is_given_twice() -> None:
    plan, memory = GatePlan(0.1, 300, 0.5), dict[int, dict[str, Any]]()

    def answer(correct: int) -> Mapping[str, Any]:
        drawn = discrete_laplace(plan.scale, 1)
        gate.discrete_laplace(plan.scale, 1)  # drawn, and not used
        return memory.setdefault(correct, plan.read(correct + int(drawn[0])))

    assert "gate-draws" in broken(dataclasses.replace(audited(plan), answer=answer))


def test_several_records_of_a_unit_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "one_per_unit", lambda units, records, key: np.arange(len(units)))
    assert "gate-count" in broken(audited(GatePlan(1.0, 300, 0.5)))


def test_a_record_that_depends_on_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    from cadp.utility.classifier import Classifier

    honest = Classifier.predict

    def predict(self: Classifier, images: np.ndarray) -> np.ndarray:
        return honest(self, images) + int(images[:, 0, 0, 0].sum() % 2)  # one pixel of one record moves all

    monkeypatch.setattr(Classifier, "predict", predict)
    assert "gate-count" in broken(audited(GatePlan(1.0, 300, 0.5)))


def test_the_release_counts_with_the_code_that_is_audited() -> None:
    from cadp.steps import validate

    assert validate.count_hits is hits.count_hits is audited_gate.count_hits
