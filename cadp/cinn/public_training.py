"""Plain maximum likelihood on public data, for every architecture. Nothing here protects anybody.

Only for records that are public: there is no clip and no noise, epochs are chosen by a validation split, and its result
has an origin instead of a privacy record (`checkpoint.save_public`), so it loads only where a spec declares it public.
8-bit images are moved within their cells by fresh noise at every step (Theis et al. 2016), so the likelihood is that of
a density; columns of a table are taken as they are.
"""

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cadp.cinn.architecture import Coupled, Whitening
from cadp.cinn.layers.layer import Condition
from cadp.cinn.likelihood import log_likelihood
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip
from cadp.cinn.public_processes import SharedLoss, agreed
from cadp.cinn.public_recipe import PublicCourse, PublicFit, PublicRecipe, PublicRecords
from cadp.cinn.public_whitening import fit_public_whitening
from cadp.errors import CheckpointRefused
from cadp.records import PIXELS
from cadp.reporter import Reporter

__all__ = ["PublicCourse", "PublicFit", "PublicRecipe", "PublicRecords", "train_public"]

_CHUNK = 256


AfterEpoch = Callable[[PublicCourse], None]


def train_public(
    flow: ConditionalFlow,
    data: PublicRecords,
    recipe: PublicRecipe,
    reporter: Reporter,
    *,
    device: torch.device | None = None,
    resumed: PublicCourse | None = None,
    after_epoch: AfterEpoch | None = None,
) -> PublicFit:
    """Train a float64 flow in place: closed-form whitening where it has one, then Adam on all parameters in float32.

    In a process group (`cadp.cinn.public_processes`) every step's records are shared out among its processes.

    Args:
        flow: on the processor, before and after.
        data: public records.
        recipe: how.
        reporter: told of progress, and of the validation: the data are public.
        device: where gradients are computed; the processor if None.
        resumed: the course to go on from.
        after_epoch: called with the course after every epoch, to keep it.

    Returns:
        The course of the training; the flow has the weights of its best epoch, float64.

    Raises:
        CheckpointRefused: it does not invert on synthetic records; the flow must not be used.
    """
    training, _ = _split(len(data), recipe)
    if isinstance(flow.architecture, Whitening | Coupled) and resumed is None:
        fit_public_whitening(
            flow, lambda: (data.rows(part, None, torch.float64) for part in torch.split(training, _CHUNK))
        )
    course: list[float] = []
    best = -1
    if any(True for _ in flow.parameters()):
        flow.to(device or torch.device("cpu"))
        course, best = _descend(flow, data, recipe, reporter, resumed=resumed, after_epoch=after_epoch)
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(f"the network does not invert: round-trip error {error:.1e} on synthetic records")
    return PublicFit(tuple(course), best, error)


def _split(n: int, recipe: PublicRecipe) -> tuple[Tensor, Tensor]:
    """Indices to train on, and of the validation."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    held = max(1, round(recipe.validation * n))
    if held >= n:
        raise ValueError(f"{n} records: none is left to train on after {held} for validation")
    return order[held:], order[:held]


def _descend(
    flow: ConditionalFlow,
    data: PublicRecords,
    recipe: PublicRecipe,
    reporter: Reporter,
    *,
    resumed: PublicCourse | None,
    after_epoch: AfterEpoch | None,
) -> tuple[list[float], int]:
    """Adam until validation says so; returns its course and the epoch whose weights the flow has."""
    training, validation = _split(len(data), recipe)
    draw = torch.Generator().manual_seed(recipe.seed + 1)
    flow.float().use_compute_dtype(torch.bfloat16 if recipe.low_precision else None)
    optimizer = torch.optim.Adam(flow.parameters(), lr=recipe.learning_rate)
    step = [0]
    if resumed is None:
        losses, best, kept, epoch = [_loss(flow, data, validation, recipe)], -1, copy.deepcopy(flow.state_dict()), 0
    else:
        losses, best, kept, epoch = list(resumed.losses), resumed.best, dict(resumed.kept), resumed.epoch
        flow.load_state_dict(resumed.weights)
        step[0] = _restore(optimizer, flow, resumed.moments)
        draw.set_state(resumed.draw)
    shared = SharedLoss(flow)
    things = "images" if data.records.dtype == PIXELS else "records"
    total, done = recipe.epochs * len(training), epoch * len(training)
    with reporter.progress("likelihood", total, things, done) as advance:
        while epoch < recipe.epochs and epoch - 1 - best < recipe.patience:
            for x, c in _batches(data, training, recipe, draw):
                _rate(optimizer, recipe, step[0])
                optimizer.zero_grad(set_to_none=True)
                shared.backward(x, c)
                norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), recipe.gradient_norm)
                if bool(torch.isfinite(norm)):
                    optimizer.step()
                step[0] += 1
                advance(len(x))
            epoch += 1
            losses.append(agreed(_loss(flow, data, validation, recipe)))
            reporter.figure("likelihood", f"validation after epoch {epoch}", f"{losses[-1]:.4g} nats a record")
            if losses[-1] < min(losses[: best + 2]):
                best, kept = epoch - 1, copy.deepcopy(flow.state_dict())
            if after_epoch is not None:
                weights = {name: tensor.cpu() for name, tensor in flow.state_dict().items()}
                moments = _moments(optimizer, flow, step[0])
                after_epoch(PublicCourse(epoch, best, list(losses), weights, kept, moments, draw.get_state()))
    flow.load_state_dict(kept)
    flow.use_compute_dtype(None).cpu().to(torch.float64)
    return losses[1:], best


def _rate(optimizer: torch.optim.Optimizer, recipe: PublicRecipe, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up)


def _moments(optimizer: torch.optim.Adam, flow: ConditionalFlow, step: int) -> dict[str, Tensor]:
    """Adam's state by parameter name, and the number of steps that were tried and taken."""
    taken = 0.0
    found: dict[str, Tensor] = {}
    for name, parameter in flow.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            found |= {f"first/{name}": state["exp_avg"].cpu(), f"second/{name}": state["exp_avg_sq"].cpu()}
            taken = float(state["step"])
    return {**found, "step": torch.tensor([float(step), taken])}


def _restore(optimizer: torch.optim.Adam, flow: ConditionalFlow, moments: dict[str, Tensor]) -> int:
    """Give Adam its state back; return how many steps were tried."""
    for name, parameter in flow.named_parameters():
        if f"first/{name}" in moments:
            optimizer.state[parameter] = {
                "step": moments["step"][1].clone(),
                "exp_avg": moments[f"first/{name}"].to(parameter),
                "exp_avg_sq": moments[f"second/{name}"].to(parameter),
            }
    return int(moments["step"][0])


def _batches(
    data: PublicRecords, training: Tensor, recipe: PublicRecipe, draw: torch.Generator
) -> Iterator[tuple[Tensor, Condition]]:
    for part in torch.split(training[torch.randperm(len(training), generator=draw)], recipe.batch):
        yield data.rows(part, draw, torch.float32)


@torch.no_grad()
def _loss(flow: ConditionalFlow, data: PublicRecords, index: Tensor, recipe: PublicRecipe) -> float:
    """Mean negative log-likelihood, nats per record, at the same points of the cells every time."""
    noise = torch.Generator().manual_seed(recipe.seed)
    rows = (data.rows(part, noise, torch.float32) for part in torch.split(index, _CHUNK))
    parts = [log_likelihood(flow, x.to(flow.device), _to(c, flow)).double() for x, c in rows]
    mean = -float(torch.cat(parts).mean())
    return mean if math.isfinite(mean) else math.inf


def _to(c: Condition, flow: ConditionalFlow) -> Condition:
    return Condition(c.labels.to(flow.device), c.vector.to(flow.device))
