"""Checkpoints of the published code of Content-Aware Differential Privacy (Tölle et al. 2022, arXiv 2207.14625).

Its network is a FrEIA graph: at every scale 2×2 squares to channels, then couplings of 3×3 convolutions with a fixed
random permutation of channels after each, perhaps a split; then couplings over the flattened rest. Its configuration
asks for GIN couplings by a misspelt argument, so what it trains are GLOW couplings. A state dict holds weights and
permutations, but neither the clamp nor the kind of coupling: whoever imports it says them.
"""

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cadp.cinn.architecture import Conditions, Convolutional, Couplings, Scale, Shape
from cadp.cinn.checkpoint import LIMIT_TENSORS, flow_of
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused

Kind = Literal["glow", "gin"]

_NAME = re.compile(r"module_list\.(\d{1,5})\.(downsample_kernel|perm|perm_inv|subnet[12]\.\d{1,2}\.(?:weight|bias))")
# What torch's reader raises for bytes that are no checkpoint, or not of tensors alone.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
# A Gaussian for every class beside the graph.
_LATENTS = {"mu": "latents.mean", "log_sig": "latents.log_scale"}


def published_mnist(clamp: float = 1.5) -> Convolutional:
    """The published MNIST configuration: two scales of four couplings of width 128, two dense ones of width 392."""
    scale = Scale(Couplings(4, 128, clamp=clamp, mixing="stored"))
    head = Couplings(2, 392, clamp=clamp, mixing="stored")
    return Convolutional((28, 28, 1), Conditions(10), (scale, scale), head, content=784, downsampling="squares")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file by torch's weights-only reader, which runs no code of the file.

    Raises:
        CheckpointRefused: there is no file, it holds anything but tensors and plain values, or no state dict.
    """
    try:
        if path.stat().st_size > LIMIT_TENSORS:
            raise CheckpointRefused(f"{path} is larger than {LIMIT_TENSORS} bytes")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointRefused(f"cannot read {path}: {error.strerror}") from error
    except _UNREADABLE as error:
        raise CheckpointRefused(f"{path} is no checkpoint of tensors alone: torch's safe reader refuses it") from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state:
        raise CheckpointRefused(f"{path} holds no state dict, nor one named `model`")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointRefused(f"{path}: {str(name)[:80]!r} is no dense tensor")
    if sum(tensor.nbytes for tensor in state.values()) > LIMIT_TENSORS:  # a small file can hold large views
        raise CheckpointRefused(f"{path} holds tensors of more than {LIMIT_TENSORS} bytes")
    return _without("module.", state)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Couplings that follow each other, and the order of coordinates after each."""

    into: int
    couplings: list[dict[str, Tensor]] = field(default_factory=list)
    orders: list[Tensor] = field(default_factory=list)

    @property
    def channels(self) -> int:
        return len(self.orders[0])

    @property
    def condition(self) -> int:
        """Columns of the condition: what the first subnet sees beside its half."""
        return int(self.couplings[0]["subnet1.0.weight"].shape[1]) - round(self.channels / 2)

    def plan(self, clamp: float, coupling: Kind) -> Couplings:
        first = self.couplings[0]
        width, hidden = int(first["subnet1.0.weight"].shape[0]), sum("subnet1" in name for name in first) // 2 - 1
        return Couplings(len(self.couplings), width, hidden, coupling, clamp, mixing="stored")

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Our names: one layer stands before the stack in its chain, and mixings between the couplings."""
        names = {f"{prefix}.layers.{2 * i + 2}.order": order for i, order in enumerate(self.orders)}
        for i, weights in enumerate(self.couplings):
            for name, tensor in weights.items():
                subnet, rest = name.split(".", 1)
                names[f"{prefix}.layers.{2 * i + 1}.{subnet}.layers.{rest}"] = tensor
        return names


def import_published(
    state: Mapping[str, Tensor],
    *,
    shape: Shape = (28, 28, 1),
    clamp: float = 1.5,
    coupling: Kind = "glow",
    attributes: bool = False,
) -> ConditionalFlow:
    """Make our network of a published state dict; every tensor is used.

    Args:
        state: what `read_state` returned.
        shape: `(h, w, c)` of a record.
        clamp: of the configuration with which it was trained.
        coupling: the blocks that were trained.
        attributes: whether conditions were yes-or-no attributes (CelebA) rather than one label.

    Raises:
        CheckpointRefused: a tensor is missing, unknown, or of a shape that the published code does not make.
    """
    latents = {ours: state[theirs] for theirs, ours in _LATENTS.items() if theirs in state}
    graph = {name: tensor for name, tensor in state.items() if name not in _LATENTS}
    scales, head = _stacks(_without("inn.", graph) if latents else graph)
    width = head.condition
    architecture = Convolutional(
        shape,
        Conditions(1, attributes=width) if attributes else Conditions(max(width, 1)),
        tuple(
            Scale(stack.plan(clamp, coupling), keep)
            for stack, keep in zip(scales, _kept(shape, scales, head), strict=True)
        ),
        head.plan(clamp, coupling),
        content=math.prod(shape),
        downsampling="squares",
        class_latents=bool(latents),
    )
    named, prefix = dict(latents), "scales"
    for stack, scale in zip(scales, architecture.scales, strict=True):
        named |= stack.named(prefix)
        prefix += f".layers.{2 * len(stack.couplings) + 1}" + (".inner" if scale.keep else "")
    return flow_of(architecture, named | head.named(prefix))


def _without(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefix that a wrapper gave to every name; untouched if it did not."""
    if not all(name.startswith(prefix) for name in state):
        return dict(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _stacks(state: Mapping[str, Tensor]) -> tuple[list[_Stack], _Stack]:
    """The scales and the head, in the order of the graph's modules."""
    modules: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if (match := _NAME.fullmatch(name)) is None:
            raise CheckpointRefused(f"tensor {name[:80]!r}: the published network has none of this name")
        modules.setdefault(int(match[1]), {})[match[2]] = tensor
    stacks: list[_Stack] = []
    for _, module in sorted(modules.items()):
        weight, order, kernel = (module.get(name) for name in ("subnet1.0.weight", "perm", "downsample_kernel"))
        awaits_order = bool(stacks) and len(stacks[-1].couplings) > len(stacks[-1].orders)
        if kernel is not None and len(module) == 1 and not awaits_order:
            stacks.append(_Stack(into=_squares(kernel)))
        elif order is not None and set(module) == {"perm", "perm_inv"} and awaits_order:
            if order.ndim != 1 or not torch.equal(order.argsort(), module["perm_inv"]):
                raise CheckpointRefused("a permutation and its inverse do not match")
            stacks[-1].orders.append(order)
        elif weight is not None and weight.ndim in (2, 4) and stacks and not awaits_order:
            if weight.ndim == 2 and stacks[-1].into:
                stacks.append(_Stack(into=0))
            stacks[-1].couplings.append(module)
        else:
            raise CheckpointRefused(f"tensors {', '.join(sorted(module))}: not where the published network has them")
    if len(stacks) < 2 or stacks[-1].into or any(not 0 < len(s.couplings) == len(s.orders) for s in stacks):
        raise CheckpointRefused("the published network has scales of couplings, each with a permutation, then a head")
    return stacks[:-1], stacks[-1]


def _squares(kernel: Tensor) -> int:
    """Input channels of a kernel that takes 2×2 squares to channels."""
    channels = kernel.shape[0] // 4 if kernel.ndim == 4 else 0
    wanted = torch.eye(4, dtype=kernel.dtype).reshape(4, 1, 2, 2).repeat(channels, 1, 1, 1)
    if channels < 1 or not torch.equal(kernel, wanted):
        raise CheckpointRefused("a downsampling that does not take 2×2 squares to channels")
    return channels


def _kept(shape: Shape, scales: list[_Stack], head: _Stack) -> list[int]:
    """Channels that each scale keeps, 0 for all."""
    h, w, c = shape
    pixels = h * w // 4 ** len(scales)
    into = [stack.into for stack in scales]
    if into[0] != c or pixels == 0 or head.channels % pixels:
        raise CheckpointRefused(
            f"records of {h}×{w}×{c} do not fit: the network takes {into[0]} channels and has {head.channels} "
            f"dimensions left after {len(scales)} scales; say another shape"
        )
    kept = [*into[1:], head.channels // pixels]
    return [0 if keep == stack.channels else keep for keep, stack in zip(kept, scales, strict=True)]
