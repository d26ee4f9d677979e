"""One small network of every kind and option, each with tensors that no training left as they were made."""

import torch
from torch import Tensor

from cadp.cinn.architecture import Architecture, Conditions, Convolutional, Coupled, Couplings, Dense, Scale, Whitening
from cadp.cinn.layers.layer import Condition
from cadp.cinn.network import ConditionalFlow

LABELS = Conditions(3)
ALL_CONDITIONS = Conditions(3, attributes=2, bounds=((0.0, 100.0), (-1.0, 1.0)))
SMALL = Whitening((4, 4, 2), 3, 3, 5, 4)
MIXED = Whitening((4, 4, 2), 3, 3, 5, 4, components=7)
TONED = Whitening((4, 4, 2), 3, 3, 5, 4, components=3, tones=8)

ARCHITECTURES: dict[str, Architecture] = {
    "whitening": SMALL,
    "whitening, mixture": MIXED,
    "whitening, mixture, tones": TONED,
    "whitening then glow": Coupled(SMALL, Couplings(3, 8)),
    "whitening, mixture, then glow": Coupled(MIXED, Couplings(3, 8)),
    "whitening, mixture, tones, then glow": Coupled(TONED, Couplings(3, 8)),
    "whitening then gin, rotated": Coupled(SMALL, Couplings(2, 8, coupling="gin", mixing="orthogonal")),
    "table, glow": Dense(7, LABELS, Couplings(3, 8), content=3),
    "table, gin, no condition": Dense(6, Conditions(1), Couplings(3, 8, hidden=1, coupling="gin"), content=6),
    "table, every condition, logit": Dense(
        5, ALL_CONDITIONS, Couplings(2, 8, mixing="orthogonal"), content=2, logit=0.05, class_latents=True
    ),
    "images, haar, glow, split, logit": Convolutional(
        (8, 8, 1),
        LABELS,
        (Scale(Couplings(2, 4, mixing="orthogonal"), keep=2), Scale(Couplings(2, 4), keep=3)),
        Couplings(2, 6),
        content=4,
        logit=0.05,
        class_latents=True,
    ),
    "images, haar, gin, every condition": Convolutional(
        (4, 8, 3),
        ALL_CONDITIONS,
        (Scale(Couplings(2, 4, hidden=1, coupling="gin")),),
        Couplings(0, 1),
        content=96,
    ),
    "images, squares, glow, stored": Convolutional(
        (8, 4, 1),
        LABELS,
        (Scale(Couplings(2, 4, mixing="stored")), Scale(Couplings(1, 4, mixing="stored"))),
        Couplings(2, 6, mixing="stored"),
        content=32,
        downsampling="squares",
    ),
}


def perturbed_flow(architecture: Architecture, size: float = 0.3) -> ConditionalFlow:
    """A flow with noise in every learned tensor, the last layers of subnets included."""
    torch.manual_seed(11)
    flow = ConditionalFlow(architecture)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in flow.state_dict().values():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
                inputs = tensor[0].numel() if tensor.ndim > 1 else len(tensor)
                tensor.add_(noise, alpha=size / max(inputs, 1) ** 0.5)
    return flow


def records(architecture: Architecture, count: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (count, architecture.dims), generator=draw)
    return levels.to(torch.float64) / 255


def condition_of(flow: ConditionalFlow, count: int) -> Condition:
    conditions = flow.architecture.conditions
    labels = torch.arange(count) % conditions.classes
    draw = torch.Generator().manual_seed(4)
    attributes = torch.randint(0, 2, (count, conditions.attributes), generator=draw)
    spread = torch.rand(count, len(conditions.bounds), generator=draw, dtype=torch.float64)
    low, high = torch.tensor(conditions.bounds, dtype=torch.float64).reshape(-1, 2).T
    return flow.condition(labels, attributes, low + (high - low) * spread)
