"""Gradients of every record by one backward pass: for a linear layer they are outer products (Goodfellow 2015).

With `out = W·a + b` and the error `e = ∂loss/∂out`, one record's gradient of `(W, b)` is `e ⊗ (a, 1)`. So the inputs
and errors of all layers say every gradient, and none has to be written down.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cadp.cinn.layers.layer import Condition, Layer
from cadp.errors import PrivacyError

Factors = list[tuple[Tensor, Tensor]]


def linear_layers(stack: nn.Module) -> list[nn.Linear]:
    """The linear layers of a stack, in the order of its parameters: weight and bias of one after the other.

    Raises:
        PrivacyError: a parameter belongs to no linear layer with a bias, so its gradients would not be clipped.
    """
    layers = [module for module in stack.modules() if isinstance(module, nn.Linear)]
    known = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    found = list(stack.parameters())
    if len(known) != len(found) or any(a is not b for a, b in zip(known, found, strict=True)):
        raise PrivacyError("DP-SGD trains stacks of linear layers alone: another parameter would not be clipped")
    return layers


def record_gradients(stack: Layer, x: Tensor, c: Condition) -> tuple[Factors, Tensor]:
    """Inputs and errors of every linear layer, and the loss, of each of n records.

    Args:
        stack: called once; each of its linear layers must be, too.
        x: `(n, k)` whitened content.
        c: its condition.

    Returns:
        By layer, `a (n, d_in)` and `e (n, d_out)`; and the negative log-likelihood `(n,)`, in nats without its constant
        `k/2·log 2π`. Row i is a function of row i alone.

    Raises:
        PrivacyError: a layer was called more than once or not at all.
    """
    layers = linear_layers(stack)
    with _watched(layers) as seen:
        z, log_det = stack(x, c)
        losses = 0.5 * z.square().sum(dim=1) - log_det
        if sorted(map(id, layers)) != sorted(id(layer) for layer, _, _ in seen):
            raise PrivacyError("a layer of the stack was called more than once or not at all: its gradient is not this")
        errors = torch.autograd.grad(losses.sum(), [out for _, _, out in seen])
    by_layer = {id(layer): (a.detach(), e) for (layer, a, _), e in zip(seen, errors, strict=True)}
    return [by_layer[id(layer)] for layer in layers], losses.detach()


@contextmanager
def _watched(layers: list[nn.Linear]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Note every call of the layers; gradients flow to their outputs, none to weights."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        seen.append((layer, inputs[0], out))
        return out

    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    wanted = [parameter.requires_grad for parameter in parameters]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, want in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(want)
