r"""DP-SGD of the coupling stack (Abadi et al. 2016), with integer sums and units that are clipped whole.

A step, on the weights that the steps before it left:

    draw each unit with probability q                      `sample`, coins of the CSPRNG
    u_i = the unit's clipped gradient, in whole lattice steps, |u_i| ≤ radius         `contributions`
    S = Σ u_i + N_Z(0, σ²)^P                               in 64-bit integers; an empty sample gets its noise, too
    g = S·step / (q·n)                                     the expected batch, public: never the size of the sample

S is all that is released of a step; `SgdPlan.event` is its loss, and steps compose adaptively. The optimizer, the
learning rate, the average of the weights are functions of the S's: post-processing. The first weights are public (a
fixed seed). Every step of the plan is charged before the first, so nothing that ends training early changes the loss.

*In several processes* (`processes`) the first does all of this, and the others compute the u_i of their own units.

*Interrupted.* Every so many steps the caller saves the whole state, and a later run goes on from the last one. The
steps behind it are taken again, with fresh coins and fresh noise, under the same charge: what they gave the first time
lived in the memory of a process that is gone, told nobody anything (what is reported is a function of public facts, and
losses are noted with a saved state alone), and no later step depends on it. The model that comes out has the same law
as one that was never interrupted: one draw of each step. That rests on when processes die being no function of private
values: nothing here raises, or stops, because of one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cadp.cinn.dp_sgd.contributions import Contributions, clipped, joined, rows_at_once
from cadp.cinn.dp_sgd.gradients import linear_layers, record_gradients
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.processes import Processes, Sums
from cadp.cinn.dp_sgd.sample import EMPTY, in_slots, poisson_sample, slots_of
from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.dp_sgd.unit_records import UnitRecords, record_rows
from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.network import ConditionalFlow
from cadp.errors import PrivacyError
from cadp.privacy.noise import discrete_gaussian
from cadp.reporter import Reporter

LEARNING_RATE = 2e-3
BETAS = (0.9, 0.99)
AVERAGING = 0.98
_ROWS_SUMMED = 1024

Integers = NDArray[np.int64]


@dataclass
class Training:
    """The state of one training: everything that a later step depends on, all of it post-processing.

    Attributes:
        step: how many steps were taken.
        weights: `(P,)` float32, the stack's parameters in their order.
        first: Adam's average of gradients.
        second: Adam's average of their squares.
        average: the exponential average of the weights, which becomes the model.
        losses: mean loss of every step since this object was made, nats per record: private, the operator's alone.
    """

    step: int
    weights: Tensor
    first: Tensor
    second: Tensor
    average: Tensor
    losses: list[float]

    @classmethod
    def start(cls, stack: Layer) -> "Training":
        """The state before the first step."""
        weights = parameters_to_vector(stack.parameters()).detach().clone()
        return cls(0, weights, torch.zeros_like(weights), torch.zeros_like(weights), weights.clone(), [])


AfterStep = Callable[[Training], None]


def train_couplings(
    flow: ConditionalFlow,
    records: UnitRecords,
    plan: SgdPlan,
    reporter: Reporter,
    *,
    resumed: Training | None = None,
    after_step: AfterStep | None = None,
    processes: Processes | None = None,
) -> ConditionalFlow:
    """Train the couplings of `flow` in place, at the cost of `plan.event()`.

    Args:
        flow: of the plan's architecture, its whitening fitted, its couplings as `public_start` leaves them.
        records: what is read; at most `plan.units` units of at most `plan.records` records.
        plan: what is drawn, clipped, summed and noised.
        reporter: told of progress, in public numbers.
        resumed: the state to go on from.
        after_step: called with the state before the first step and after every one; what it raises ends the training.
        processes: who shares the work, this being the first of them; None if it works alone.

    Returns:
        The flow, float64, its couplings the average of the weights.

    Raises:
        PrivacyError: records or flow are not the plan's.
    """
    check_training(flow, records, plan)
    stack = stack_of(flow).float()
    state = resumed or Training.start(stack)
    if resumed is None and after_step is not None:
        after_step(state)
    done = round(state.step * plan.expected_batch)
    with reporter.progress("couplings", round(plan.steps * plan.expected_batch), "units", done) as advance:
        while state.step < plan.steps:
            vector_to_parameters(state.weights, stack.parameters())
            sums, loss = private_sums(stack, records, plan, processes)
            _update(state, noisy_mean(sums, plan), plan)
            state.losses.append(loss)
            # The expected number: the size of a sample is as secret as its coins.
            advance(round(state.step * plan.expected_batch) - done)
            done = round(state.step * plan.expected_batch)
            if after_step is not None:
                after_step(state)
    if processes is not None:
        processes.dismiss()
    return trained(flow, state)


def trained(flow: ConditionalFlow, state: Training) -> ConditionalFlow:
    """Give a flow the couplings that a training ends with, and float64."""
    vector_to_parameters(state.average.clone(), stack_of(flow).float().parameters())
    flow.to(torch.float64)
    return flow


def private_sums(
    stack: Layer, records: UnitRecords, plan: SgdPlan, processes: Processes | None = None
) -> tuple[list[Integers], float]:
    """The sum of one Poisson sample's contributions, without noise, by layer; and the sample's mean loss. Private.

    Args:
        stack: what is trained.
        records: whose sample is drawn.
        plan: at which rate, how clipped.
        processes: who shares the work, this being the first of them; None if it works alone.
    """
    drawn = poisson_sample(plan.sampling_rate, records.units)
    if processes is None:
        total = _sums_of(stack, records, plan, drawn)
    else:
        processes.deal(stack, drawn)
        total = _shared_sums(stack, records, plan, drawn, processes)
    return total.layers, total.mean_loss


def assist(flow: ConditionalFlow, records: UnitRecords, plan: SgdPlan, processes: Processes) -> None:
    """Take a share of every step's sums until the first process has trained; draw nothing and keep nothing.

    Raises:
        PrivacyError: records or flow are not the plan's.
    """
    check_training(flow, records, plan)
    stack = stack_of(flow).float()
    while (drawn := processes.dealt(stack)) is not None:
        _shared_sums(stack, records, plan, drawn, processes)


def _shared_sums(stack: Layer, records: UnitRecords, plan: SgdPlan, drawn: Integers, processes: Processes) -> Sums:
    """What all units of a sample contribute, of which this process computes its own; whole in the first alone."""
    own = processes.own(drawn)
    return processes.add_up(stack, own, _sums_of(stack, records, plan, drawn[own]))


def _sums_of(stack: Layer, records: UnitRecords, plan: SgdPlan, drawn: Integers) -> Sums:
    """What the units `(n,)` contribute."""
    layers = linear_layers(stack)
    sums = [np.zeros((layer.out_features, layer.in_features + 1), dtype=np.int64) for layer in layers]
    held, losses, computed = list[Contributions](), list[float](), 0
    slots = slots_of(plan.records)
    together = max(1, min(_ROWS_SUMMED, rows_at_once(plan)) // (slots * plan.records))

    def add() -> None:
        for layer, part in enumerate(joined(held).total()):
            sums[layer] += part
        held.clear()

    for units in in_slots(drawn, slots):
        content, labels, mask = records.gather(record_rows(units, records.starts, plan.records))
        condition = Condition.of(plan.architecture.conditions, torch.from_numpy(labels), dtype=torch.float32)
        factors, loss = record_gradients(stack, torch.from_numpy(content), condition)
        held.append(clipped(factors, mask, plan))
        losses += loss.double().numpy()[mask].tolist()
        computed += int((units != EMPTY).sum())
        if len(held) == together:
            add()
    if held:
        add()
    return Sums(sums, float(np.sum(losses)), len(losses), computed)


def noisy_mean(sums: list[Integers], plan: SgdPlan) -> Tensor:
    """The step's release: integer sums with integer noise, `(P,)` float32 in the order of the stack's parameters.

    Divided by the expected batch, whatever the sample was.
    """
    parts = []
    for total in sums:
        noisy = total + discrete_gaussian(plan.sigma, total.shape)
        parts += [noisy[:, :-1].ravel(), noisy[:, -1]]
    # Rounded to floats only here, behind the noise.
    mean = np.concatenate(parts).astype(np.float64) * (plan.step / plan.expected_batch)
    return torch.from_numpy(mean.astype(np.float32))


def _update(state: Training, gradient: Tensor, plan: SgdPlan) -> None:
    """Adam (Kingma and Ba 2015) with a rate that falls to zero, and the average of the weights; post-processing."""
    state.step += 1
    b1, b2 = BETAS
    state.first.mul_(b1).add_(gradient, alpha=1 - b1)
    state.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    scale = (state.second / (1 - b2**state.step)).sqrt_().add_(1e-12)
    rate = LEARNING_RATE * (1 - (state.step - 1) / plan.steps)
    state.weights.addcdiv_(state.first, scale, value=-rate / (1 - b1**state.step))
    keep = min(AVERAGING, state.step / (state.step + 9))
    state.average.mul_(keep).add_(state.weights, alpha=1 - keep)


def check_training(flow: ConditionalFlow, records: UnitRecords, plan: SgdPlan) -> None:
    """Check that a plan is for these records and this flow.

    Raises:
        PrivacyError: it is not.
    """
    most = int(np.diff(records.starts).max(initial=0))
    if records.units > plan.units or most > plan.records:
        raise PrivacyError(
            f"training reads {records.units:,} units of up to {most} records, its plan is for {plan.units:,} of up to "
            f"{plan.records}"
        )
    if flow.architecture != plan.architecture:
        raise PrivacyError(f"a network of kind {flow.architecture.kind} is not the one that the plan trains")
