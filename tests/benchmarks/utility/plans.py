"""The plan of a training that costs a given ε under either relation, with parts of it switched off.

A plan is calibrated to replace-one, which is what a ledger charges. The one whose *zero-out* figure is the ε asked for
is found by searching over that replace-one ε: both figures come from the plan's own events and the ledger's accountant.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from cadp.cinn.architecture import Shape
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.model_plan import ModelPlan
from cadp.privacy.accountant import calibrate_gaussian, curve, gaussian_epsilon_exact
from cadp.privacy.events import RELATION, Event
from tests.benchmarks.utility.cells import DELTA, Training

_STEPS = 20


@lru_cache(maxsize=64)
def model_plan(training: Training, shape: Shape, classes: int, units: int) -> ModelPlan:
    """Return the plan that costs at most `training.epsilon` at `DELTA` under `training.relation`, and little less."""

    def make(epsilon: float) -> ModelPlan:
        return _plan(training, epsilon, shape, classes, units)

    def cost(plan: ModelPlan) -> float:
        if training.exact:
            return exact_epsilon(plan, training.relation)
        return curve(event(plan, training.relation)).epsilon(DELTA)

    return _dearest(make, cost, training.epsilon)


def event(plan: ModelPlan, relation: str) -> Event:
    """Return the loss of a plan under a relation."""
    return plan.event() if relation == RELATION else plan.zero_out_event()


def exact_epsilon(plan: ModelPlan, relation: str) -> float:
    """Return the exact ε of a plan of Gaussian queries alone.

    Gaussians compose, adaptively, to one with the root of the sum of their squares (Dong, Roth, Su 2022, Cor. 3.3).
    """
    if plan.couplings is not None:
        raise ValueError("couplings by DP-SGD are no Gaussian query: their plan has no exact figure here")
    moments = plan.moments
    own = [query.event() if relation == RELATION else query.zero_out_event() for query in moments.queries]
    return gaussian_epsilon_exact(math.sqrt(sum(one.count * one.mu**2 for one in own)), DELTA)


def _plan(training: Training, epsilon: float, shape: Shape, classes: int, units: int) -> ModelPlan:
    plan = ModelPlan.calibrate(
        epsilon, DELTA, shape=shape, classes=classes, units=units, fraction=1.0 if training.couplings else None
    )
    if training.mixture and training.content is None:
        return plan
    # The moments alone, with other public facts at the same total μ.
    whitening = plan.moments.architecture
    whitening = replace(whitening, content=training.content or whitening.content)
    if not training.mixture:
        whitening = replace(whitening, components=0)
    return ModelPlan(MomentsPlan.split(calibrate_gaussian(epsilon, DELTA), whitening, units, 1))


def _dearest(make: Callable[[float], ModelPlan], cost: Callable[[ModelPlan], float], epsilon: float) -> ModelPlan:
    """Bisect over what the plan is calibrated to; at replace-one the first try fits."""
    low, high = epsilon, 2.5 * epsilon
    best = make(low)
    if cost(best) > epsilon:  # by the last digits, where parts are switched off
        low, best = epsilon * (1 - 2.0**-10), make(epsilon * (1 - 2.0**-10))
        return best
    if epsilon - cost(best) < 1e-3 * epsilon:
        return best
    for _ in range(_STEPS):
        middle = (low + high) / 2
        plan = make(middle)
        if cost(plan) <= epsilon:
            low, best = middle, plan
        else:
            high = middle
    return best
