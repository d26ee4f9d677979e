"""The published network as a FrEIA graph, built from its description: what ours must agree with."""

from typing import Any

import FrEIA.framework as ff
import FrEIA.modules as fm
import numpy as np
import torch
from torch import Tensor, nn

BLOCKS = {"glow": fm.GLOWCouplingBlock, "gin": fm.GINCouplingBlock}


def subnet(dense: bool, width: int) -> Any:
    def make(dims_in: int, dims_out: int) -> nn.Sequential:
        def layer(a: int, b: int) -> nn.Module:
            return nn.Linear(a, b) if dense else nn.Conv2d(a, b, 3, padding=1)

        return nn.Sequential(layer(dims_in, width), nn.ReLU(), layer(width, width), nn.ReLU(), layer(width, dims_out))

    return make


def graph(
    shape: tuple[int, int, int],
    *,
    coupling: str = "glow",
    condition: int = 10,
    depths: tuple[int, ...] = (4, 4),
    splits: tuple[float, ...] = (),
    head: int = 2,
    width: int = 128,
    head_width: int = 392,
    clamp: float = 1.5,
) -> ff.GraphINN:
    """`shape` is (h, w, c); a split keeps this share of a scale's channels, 0 keeps all."""
    h, w, channels = shape
    rng = np.random.RandomState(5)
    nodes: list[Any] = [ff.InputNode(channels, h, w)]
    conditions, ends = [], []
    at = nodes[0].out0
    for depth, split in zip(depths, splits or (0.0,) * len(depths), strict=True):
        nodes.append(ff.Node(at, fm.IRevNetDownsampling, {}))
        h, w, channels = h // 2, w // 2, 4 * channels
        given = ff.ConditionNode(condition, h, w) if condition else None
        conditions += [given] if given else []
        for _ in range(depth):
            options = {"subnet_constructor": subnet(False, width), "clamp": clamp}
            nodes.append(ff.Node(nodes[-1], BLOCKS[coupling], options, conditions=given))
            nodes.append(ff.Node(nodes[-1], fm.PermuteRandom, {"seed": int(rng.randint(2**31))}))
        at = nodes[-1].out0
        if split:
            kept = int(channels * split)
            cut = ff.Node(at, fm.Split, {"section_sizes": (kept, channels - kept), "dim": 0})
            flat = ff.Node(cut.out1, fm.Flatten, {})
            nodes += [cut, flat]
            ends.append(ff.OutputNode(flat))
            at, channels = cut.out0, kept
    nodes.append(ff.Node(at, fm.Flatten, {}))
    given = ff.ConditionNode(condition) if condition else None
    conditions += [given] if given else []
    for _ in range(head):
        options = {"subnet_constructor": subnet(True, head_width), "clamp": clamp}
        nodes.append(ff.Node(nodes[-1], BLOCKS[coupling], options, conditions=given))
        nodes.append(ff.Node(nodes[-1], fm.PermuteRandom, {"seed": int(rng.randint(2**31))}))
    network = ff.GraphINN([*nodes, *ends, ff.OutputNode(nodes[-1]), *conditions], verbose=False)
    draw = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=draw) / max(parameter[0].numel(), 4) ** 0.5
    return network


def conditions_of(network: ff.GraphINN, vector: Tensor) -> list[Tensor]:
    """The same vector at every scale."""
    sizes = [node.output_dims[0] for node in network.condition_nodes]
    return [vector.reshape(*vector.shape, *[1] * (len(size) - 1)).expand(len(vector), *size) for size in sizes]
