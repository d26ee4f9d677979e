"""The real step of DP-SGD under audit: coins, noise and answers are watched, or dictated; nothing else is touched."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.architecture import Coupled, Couplings, Whitening
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.audit.descended import StepAudit
from cadp.privacy.audit.stepped import Coins, Contents, StepPath, Taken
from cadp.privacy.audit.watch import Draw, replaced, watched
from cadp.reporter import Silent

if TYPE_CHECKING:
    from cadp.plan import Plan

SMALL_EPSILON = 1.0
_SMALL = Coupled(Whitening((2, 2, 1), 2, 2, 4, 1), Couplings(1, 4))
_SMALL_RATE = 0.5
_OTHERS = 5
_PERTURBED = 0.1  # of weights, so that no layer is the zero that a fresh one is
_IN_A_ROW = 4
_GRID = 64
_LENGTHS = (0.1, 3.0, 1e4)


def couplings_audits(plan: "Plan") -> tuple[StepAudit, ...]:
    """Return the audit of a plan's DP-SGD; none where it trains no couplings."""
    if plan.couplings is None:
        return ()
    delta = plan.spec.spend.delta
    private = plan.labels.private
    return (StepAudit(step_path(plan.couplings, private), step_path(single_step(delta), private), delta),)


def single_step(delta: float, epsilon: float = SMALL_EPSILON, records: int = 1) -> SgdPlan:
    """Return a plan of one step that costs at most ε, of which half the units are in every sample."""

    def plan(multiplier: int) -> SgdPlan:
        noisy = SgdPlan.with_noise(multiplier / _GRID, _SMALL, _OTHERS + 1, records)
        return replace(noisy, steps=1, sampling_rate=_SMALL_RATE)

    low, high = 0, _GRID
    while curve(plan(high).event()).epsilon(delta) > epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if curve(plan(middle).event()).epsilon(delta) <= epsilon else (middle, high)
    return plan(high)


def step_path(plan: SgdPlan, private_labels: bool = False) -> StepPath:
    """Return the step that a release takes, under `plan`."""
    short = replace(plan, steps=1)
    k, m, classes = plan.architecture.content, plan.records, plan.architecture.classes
    draw = np.random.default_rng(11)
    others = [_unit(draw.standard_normal((m, k)), draw.integers(0, classes, m)) for _ in range(_OTHERS)]
    direction = draw.standard_normal((m, k))
    return StepPath(
        event=plan.event(),
        parameters=plan.parameters(),
        rate=plan.sampling_rate,
        radius=plan.radius,
        sigma=plan.sigma,
        scale=plan.step / plan.expected_batch,
        steps=plan.steps,
        others=_OTHERS,
        pairs=_pairs(direction, classes if private_labels else 1),
        take=lambda contents, coins, answer: _steps(short, [*others, contents], coins, answer)[0],
        row=lambda contents, answer: _steps(replace(plan, steps=_IN_A_ROW), [*others, contents], None, answer),
    )


def _unit(content: NDArray[np.float64], labels: NDArray[np.int64]) -> Contents:
    return Contents(content, labels, np.ones(len(labels), dtype=np.bool_))


def _pairs(direction: NDArray[np.float64], classes: int) -> dict[str, tuple[Contents, Contents]]:
    """Contents that are far apart: opposite ones, near and far, and some that no record should hold."""
    label = np.zeros(len(direction), dtype=np.int64)
    one = _unit(direction, label)
    broken = direction.copy()
    broken[0, 0] = np.nan
    pairs = {
        f"opposite, {size:g}": (_unit(size * direction, label), _unit(-size * direction, label)) for size in _LENGTHS
    }
    # With one half the same and the other turned, one deviation from the middle, gradients are all but opposite.
    for half in (slice(None, direction.shape[1] // 2), slice(direction.shape[1] // 2, None)):
        turned = np.sign(direction)
        turned[:, half] *= -1
        pairs[f"turned from {half.start or 0}"] = (_unit(np.sign(direction), label), _unit(turned, label))
    pairs["unreadable"] = (one, replace(one, valid=np.zeros(len(label), dtype=np.bool_)))
    pairs["not finite"] = (one, _unit(broken, label))
    pairs["far beyond floats"] = (one, _unit(1e30 * direction, label))
    if classes > 1:
        pairs["two labels"] = (one, _unit(-direction, label + classes - 1))
    return pairs


def _steps(
    plan: SgdPlan, units: list[Contents], coins: Coins | None, answer: NDArray[np.float32] | None
) -> list[Taken]:
    """Take the steps of a plan; every one with the same coins and answer, where these are dictated."""
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.dp_sgd import sample, training  # noqa: PLC0415

    asked: list[tuple[tuple[Any, ...], Any, tuple[Draw, ...], list[Draw]]] = []
    thrown: list[Draw] = []

    def noisy_mean(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(sums: Any, of: SgdPlan) -> Any:  # noqa: ANN401 (the step's own)
            copies, drawn = tuple(layer.copy() for layer in sums), tuple[Draw, ...]()
            if answer is None:
                with watched((training, "discrete_gaussian")) as draws:
                    out = real(sums, of)
                drawn = tuple(draws)
            else:
                size = sum(layer.size for layer in sums)
                out = torch.from_numpy(answer.copy() if len(answer) else np.zeros(size, dtype=np.float32))
            asked.append((copies, out.clone(), drawn, thrown[:]))
            thrown.clear()
            return out

        return call

    def bernoulli(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(rate: Any, size: Any) -> Any:  # noqa: ANN401
            values = real(rate, size) if coins is None else coins[:size].copy()
            thrown.append(Draw(name, rate, np.array(values)))
            return values

        return call

    with ExitStack() as stack:
        stack.enter_context(replaced(((training, "noisy_mean"),), noisy_mean))
        stack.enter_context(replaced(((sample, "bernoulli_exact"),), bernoulli))
        flow = training.train_couplings(_flow(plan), _records(units), plan, Silent())
    if len(asked) != plan.steps:
        raise PrivacyError(f"{len(asked)} answers of {plan.steps} steps")
    asked[-1][3].extend(thrown)  # coins behind the last sum are still coins
    model = b"".join(tensor.numpy().tobytes() for tensor in flow.state_dict().values())
    return [Taken(tuple(tossed), sums, noise, out.numpy(), model) for sums, out, noise, tossed in asked]


def _flow(plan: SgdPlan) -> Any:  # noqa: ANN401  (a ConditionalFlow, which torch-free code cannot name)
    """Return a network as training finds it in the middle: the public start and a little of everything."""
    import torch  # noqa: PLC0415

    from cadp.cinn.dp_sgd.start import public_start, stack_of  # noqa: PLC0415
    from cadp.cinn.network import ConditionalFlow  # noqa: PLC0415

    flow = ConditionalFlow(plan.architecture)
    public_start(flow)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in stack_of(flow).parameters():
            parameter.add_(_PERTURBED * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return flow


def _records(units: list[Contents]) -> Any:  # noqa: ANN401
    from cadp.cinn.dp_sgd.unit_records import UnitRecords  # noqa: PLC0415

    sizes = [len(unit.labels) for unit in units]
    return UnitRecords(
        np.concatenate([unit.content for unit in units]).astype(np.float32),
        np.concatenate([unit.labels for unit in units]).astype(np.int64),
        np.concatenate([unit.valid for unit in units]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )
