"""The real fit under audit: its sums are watched, and its answers may be dictated; nothing else of it is touched."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from cadp.cinn.fit.plan import MomentsPlan
from cadp.privacy.audit.asked import Asked, Dataset, Dictate, Fit, FitPath, Integers
from cadp.privacy.audit.trained import TrainingAudit
from cadp.privacy.audit.watch import replaced, watched
from cadp.records import Batch
from cadp.reporter import Silent

if TYPE_CHECKING:
    from cadp.plan import Plan

_MOST_DIMS = 1024
_MOST_CLASSES = 16
_SMALL_SIDE = 4  # of the pictures that the trials of a whole fit are made on: a fit takes milliseconds there
_CANARY_SIDE = 32
_SMALL_CLASSES = 2
SMALL_EPSILON = 1.0


def training_audits(plan: "Plan") -> tuple[TrainingAudit, ...]:
    """Return the audits of a plan's training: as planned, then the same fit at a small ε."""
    asked = plan.spec.model.train
    if asked is None:  # loaded: nothing is trained here
        return ()
    epsilon = asked.epsilon
    audits = [_audit(plan, epsilon, planned=True)]
    if epsilon > SMALL_EPSILON:
        audits.append(_audit(plan, SMALL_EPSILON, planned=False))
    return tuple(audits)


def fit_path(plan: MomentsPlan) -> FitPath:
    """Return the fit that a release runs, under `plan`."""
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.network import ConditionalFlow  # noqa: PLC0415

    architecture = plan.architecture
    flow = ConditionalFlow(architecture)
    with torch.no_grad():
        eye = torch.eye(architecture.dims, dtype=torch.float64)
        labels = torch.zeros(len(eye), dtype=torch.int64)
        waves = flow.cosine.inverse(eye, flow.condition(labels)).numpy()
    return FitPath(
        queries=plan.queries,
        event=plan.event(),
        parameters=plan.parameters(),
        shape=architecture.shape,
        classes=architecture.classes,
        private_labels=plan.counts is not None,
        waves=waves.reshape(-1, *architecture.shape),
        low=architecture.low_dims,
        run=lambda data, dictate: _run(plan, data, dictate),
    )


def _run(plan: MomentsPlan, data: Dataset, dictate: Dictate | None) -> Fit:
    from cadp.cinn.fit import moments  # noqa: PLC0415

    asked: list[Asked] = []

    def tapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def answer(sums: Integers, query: Any) -> Integers:  # noqa: ANN401 (the fit's own query)
            draws: Any = []
            with watched((moments, "discrete_gaussian")) if dictate is None else nullcontext(draws) as draws:
                noisy: Integers = real(sums, query) if dictate is None else dictate(len(asked), sums)
            symmetric = name == "with_symmetric_noise"
            asked.append(Asked(query.name, symmetric, sums.copy(), noisy.copy(), tuple(draws)))
            return noisy

        return answer

    private = plan.counts is not None
    counts = None if private else np.bincount(data.labels, minlength=plan.architecture.classes).astype(np.int64)
    batch = Batch(images=data.images, labels=data.labels, valid=data.valid)
    total = len(data.labels) if private else None
    with replaced(((moments, "with_noise"), (moments, "with_symmetric_noise")), tapped):
        flow = moments.fit_moments(lambda: [batch], plan, counts, Silent(), records=total)
    return Fit(tuple(asked), {name: tensor.numpy().copy() for name, tensor in flow.state_dict().items()})


def _audit(plan: "Plan", epsilon: float, *, planned: bool) -> TrainingAudit:
    moments = plan.training.moments
    shape, classes = moments.architecture.shape, moments.architecture.classes

    def calibrated(side: int, most_classes: int) -> MomentsPlan:
        return MomentsPlan.calibrate(
            epsilon,
            plan.spec.spend.delta,
            shape=(min(shape[0], side), min(shape[1], side), shape[2]),
            classes=min(classes, most_classes),
            units=plan.facts.unit_count,
            max_records_per_unit=plan.records_per_unit,
            private_labels=plan.labels.private,
        )

    side = max(1, math.isqrt(_MOST_DIMS // shape[2]))
    whole = math.prod(shape) <= _MOST_DIMS and classes <= _MOST_CLASSES
    small = fit_path(calibrated(_SMALL_SIDE, _SMALL_CLASSES))
    exact = fit_path(moments if whole else calibrated(side, _MOST_CLASSES)) if planned else small
    return TrainingAudit(
        exact=exact,
        small=small,
        crowded=fit_path(calibrated(min(_CANARY_SIDE, side), _SMALL_CLASSES)),
        delta=plan.spec.spend.delta,
        planned=planned,
        parameters=moments.parameters() if planned else None,
    )
