"""From an architecture to its layers, by name: the names are those of the tensors in a checkpoint."""

from collections.abc import Callable
from functools import partial

import numpy as np

from cadp.cinn.architecture import Architecture, Convolutional, Coupled, Couplings, Dense, Shape, Whitening
from cadp.cinn.layers.affine import ClassScale, ClassShift, ClassWhitening, InvertibleLinear
from cadp.cinn.layers.coupling import Coupling
from cadp.cinn.layers.images import Haar, Split, Squares, ToImage, ToRow
from cadp.cinn.layers.latents import ClassGaussian
from cadp.cinn.layers.layer import Chain, Layer, OnFirst
from cadp.cinn.layers.mixing import Permutation, Rotation, public_permutation
from cadp.cinn.layers.mixture import MixtureTransport
from cadp.cinn.layers.pixels import Dequantise, Logit
from cadp.cinn.layers.subnets import ConvSubnet, DenseSubnet, Subnet
from cadp.cinn.layers.tone import ToneCurve
from cadp.cinn.layers.transforms import CosineTransform


def layers_of(architecture: Architecture) -> dict[str, Layer]:
    """Return fresh layers, from record to latent: the identity up to fixed public transforms."""
    match architecture:
        case Whitening():
            return _whitening(architecture)
        case Coupled(whitening=whitening, couplings=couplings):
            k = whitening.content
            blocks = _stack(couplings, k, architecture.conditions.width, DenseSubnet)
            return {**_whitening(whitening), "couplings": OnFirst(k, Chain([*blocks, *_back_in_order(blocks, k)]))}
        case Dense():
            stack = Chain(_stack(architecture.couplings, architecture.dims, architecture.conditions.width, DenseSubnet))
            return {**_to_line(architecture), "couplings": stack, **_latents(architecture)}
        case Convolutional():
            scales = _scales(architecture, 0, architecture.shape)
            image = ToImage(architecture.shape)
            return {**_to_line(architecture), "image": image, "scales": scales, **_latents(architecture)}


def _whitening(architecture: Whitening) -> dict[str, Layer]:
    shape, classes, low, k = architecture.shape, architecture.classes, architecture.low_dims, architecture.content
    components = architecture.components
    mixture: dict[str, Layer] = {"mixture": MixtureTransport(classes, k, components)} if components else {}
    tones: dict[str, Layer] = {"tones": ToneCurve(shape[2], architecture.tones)} if architecture.tones else {}
    return {
        **tones,
        "cosine": CosineTransform(shape, architecture.block),
        "shift": ClassShift(classes, low),
        "rotation": InvertibleLinear(low),
        "whitening": ClassWhitening(classes, k),
        **mixture,
        "scale": ClassScale(classes, k, architecture.dims),
    }


def _to_line(architecture: Dense | Convolutional) -> dict[str, Layer]:
    """What takes [0, 1] to the line: tables have no cells, so their ends are kept off by α alone."""
    if not architecture.logit:
        return {}
    cells: dict[str, Layer] = {"cells": Dequantise()} if isinstance(architecture, Convolutional) else {}
    return {**cells, "logit": Logit(architecture.logit)}


def _latents(architecture: Dense | Convolutional) -> dict[str, Layer]:
    if not architecture.class_latents:
        return {}
    return {"latents": ClassGaussian(architecture.classes, architecture.dims)}


def _scales(architecture: Convolutional, index: int, shape: Shape) -> Chain:
    """Scale `index`, which holds those below it, and in the end the head."""
    h, w, channels = shape
    scale, width = architecture.scales[index], architecture.conditions.width
    h, w, channels = h // 2, w // 2, 4 * channels
    halved: Layer = Haar() if architecture.downsampling == "haar" else Squares()
    layers = [halved, *_stack(scale.couplings, channels, width, ConvSubnet, first=64 * (index + 1))]
    kept = (h, w, scale.keep or channels)
    last = index + 1 == len(architecture.scales)
    inner = _head(architecture, kept) if last else _scales(architecture, index + 1, kept)
    return Chain([*layers, Split((h, w, channels), scale.keep, inner) if scale.keep else inner])


def _head(architecture: Convolutional, shape: Shape) -> Chain:
    dims = int(np.prod(shape))
    return Chain([ToRow(shape), *_stack(architecture.head, dims, architecture.conditions.width, DenseSubnet)])


def _back_in_order(stack: list[Layer], dims: int) -> list[Layer]:
    """Undo the public permutations of a stack: the first latents are those of the first principal dimensions again."""
    order = np.arange(dims)
    for layer in stack:
        if isinstance(layer, Permutation):
            order = order[layer.order.numpy()]
    known = not any(isinstance(layer, Rotation) or "order" in layer.state_dict() for layer in stack)
    return [Permutation(np.argsort(order))] if known and stack else []


def _stack(
    couplings: Couplings, dims: int, condition: int, subnet: Callable[..., Subnet], first: int = 0
) -> list[Layer]:
    """Couplings, each with its mixing behind it; `first` numbers the permutations, so that scales differ in theirs."""
    make = partial(subnet, condition=condition, width=couplings.width, hidden=couplings.hidden)
    layers: list[Layer] = []
    for index in range(couplings.blocks):
        layers.append(Coupling(dims, make, couplings.coupling, couplings.clamp))
        if couplings.mixing == "orthogonal":
            layers.append(Rotation(dims))
        else:
            order = public_permutation(dims, first + index)
            layers.append(Permutation(order, stored=couplings.mixing == "stored"))
    return layers
