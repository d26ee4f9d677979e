"""The exact layer of labels: silent about the plans as they are, and not about any planted flaw."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.audit.exact_labels import label_checks
from cadp.privacy.audit.verdict import Check
from cadp.privacy.events import PureEvent
from cadp.privacy.labels import (
    AttributeResponse,
    ClassAttributes,
    LabelPlan,
    PublicLabels,
    RandomizedResponse,
    ResampledLabels,
    plan_response,
)

Labels = NDArray[np.int64]
Valid = NDArray[np.bool_]


def attributes(epsilon: float, count: int) -> ClassAttributes:
    vectors = tuple(itertools.product((0, 1), repeat=count))[::-1]
    return ClassAttributes(AttributeResponse.plan(epsilon, count), tuple(map(str, range(count))), vectors)


PLANS = {
    "response-2": (plan_response(1.0, 2), 2),
    "response-3": (plan_response(0.5, 3), 3),
    "response-40": (plan_response(8.0, 40), 40),
    "attributes-1": (attributes(1.0, 1), 2),
    "attributes-3": (attributes(3.0, 3), 8),
    "resample": (ResampledLabels((1, 0.5, 2)), 3),
}


def checks(plan: LabelPlan, classes: int) -> dict[str, Check]:
    return {check.name: check for check in label_checks(plan, classes)}


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_as_they_are_pass_and_cost_what_they_charge(name: str) -> None:
    plan, classes = PLANS[name]
    found = checks(plan, classes)
    assert set(found) == {"label-law", "label-independence", "label-fresh"}
    assert [check for check in found.values() if not check.held] == []
    loss, charged = found["label-law"].loss, found["label-law"].charged
    assert loss == pytest.approx(charged, rel=1e-9)  # the worst pair attains it: nothing weaker was looked at
    assert loss == pytest.approx({"response-2": 1, "response-3": 0.5, "response-40": 8}.get(name, charged), rel=1e-6)


def mutant(plan: LabelPlan, **methods: Callable[..., object]) -> LabelPlan:
    """Return the same plan in a class with other methods."""
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}  # type: ignore[arg-type]
    return type(type(plan).__name__, (type(plan),), methods)(**values)  # type: ignore[no-any-return]


def broken(plan: LabelPlan, classes: int) -> set[str]:
    return {name for name, check in checks(plan, classes).items() if not check.held}


def true_for_one_class(base: type) -> Callable[..., Labels]:
    def release(self: LabelPlan, labels: Labels, valid: Valid) -> Labels:
        return np.where((labels == 1) & valid, labels, base.release(self, labels, valid))  # type: ignore[attr-defined, no-any-return]

    return release


def truer(base: type) -> Callable[..., Labels]:
    """The coin is thrown with a larger probability than is charged."""

    def release(self: LabelPlan, labels: Labels, valid: Valid) -> Labels:
        if base is RandomizedResponse:
            return RandomizedResponse(self.classes, (1 + self.keep) / 2).release(labels, valid)  # type: ignore[attr-defined, no-any-return]
        keeps = tuple((1 + keep) / 2 for keep in self.response.keeps)  # type: ignore[attr-defined]
        louder = dataclasses.replace(self, response=AttributeResponse(keeps))  # type: ignore[type-var]
        return base.release(louder, labels, valid)  # type: ignore[attr-defined, no-any-return]

    return release


def neighbour(base: type) -> Callable[..., Labels]:
    def release(self: LabelPlan, labels: Labels, valid: Valid) -> Labels:
        out = base.release(self, labels, valid)  # type: ignore[attr-defined]
        return np.where(np.roll(labels, 1) == 0, 0, out)  # type: ignore[no-any-return]

    return release


def rejected_keeps_its_label(base: type) -> Callable[..., Labels]:
    def release(self: LabelPlan, labels: Labels, valid: Valid) -> Labels:
        return base.release(self, labels, np.ones_like(valid))  # type: ignore[attr-defined, no-any-return]

    return release


def once(base: type) -> Callable[..., Labels]:
    """A retry gets the answers of the first try."""
    memory: dict[bytes, Labels] = {}

    def release(self: LabelPlan, labels: Labels, valid: Valid) -> Labels:
        key = labels.tobytes() + valid.tobytes()
        return memory.setdefault(key, base.release(self, labels, valid) if key not in memory else labels)  # type: ignore[attr-defined]

    return release


FLAWS = [true_for_one_class, truer, neighbour, rejected_keeps_its_label, once]


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
@pytest.mark.parametrize("name", ["response-3", "response-40", "attributes-3"])
def test_planted_flaws(name: str, flaw: Callable[[type], Callable[..., Labels]]) -> None:
    plan, classes = PLANS[name]
    assert broken(mutant(plan, release=flaw(type(plan))), classes)


@pytest.mark.parametrize("flaw", [true_for_one_class, neighbour, once], ids=lambda flaw: flaw.__name__)
def test_planted_flaws_in_labels_drawn_anew(flaw: Callable[[type], Callable[..., Labels]]) -> None:
    plan, classes = PLANS["resample"]
    assert broken(mutant(plan, release=flaw(type(plan))), classes)


def test_a_response_that_charges_half(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_response(2.0, 5)
    cheap = mutant(plan, event=lambda self: PureEvent(1.0))
    found = checks(cheap, 5)["label-law"]
    assert not found.held
    assert found.loss == pytest.approx(2.0, rel=1e-6)


def test_coins_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)

    def release(self: RandomizedResponse, labels: Labels, valid: Valid) -> Labels:
        with monkeypatch.context() as patch:
            patch.setattr(noise, "bernoulli_exact", lambda p, size: rng.random(size) < p)
            return RandomizedResponse.release(self, labels, valid)

    assert "label-law" in broken(mutant(plan_response(1.0, 4), release=release), 4)


def test_an_answer_that_never_happens_costs_everything() -> None:
    def release(self: RandomizedResponse, labels: Labels, valid: Valid) -> Labels:
        out = RandomizedResponse.release(self, labels, valid)
        return np.where((out == 2) & np.isin(labels, (0, 1, 3)) & valid, 0, out)

    found = checks(mutant(plan_response(1.0, 4), release=release), 4)["label-law"]
    assert found.loss == math.inf
    assert not found.held


def test_a_plan_that_the_audit_does_not_know_is_not_passed() -> None:
    with pytest.raises(PrivacyError, match="no exact check for labels by public"):
        label_checks(PublicLabels(), 3)
