"""The public weights from which DP-SGD starts: a function of the architecture, or of data declared public."""

from typing import cast

import torch

from cadp.cinn.dp_sgd.gradients import linear_layers
from cadp.cinn.layers.layer import Layer, OnFirst
from cadp.cinn.layers.subnets import Subnet
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused

PUBLIC_SEED = 0


def stack_of(flow: ConditionalFlow) -> Layer:
    """The couplings over the content latents, `(n, k)` to `(n, k)`."""
    return cast(OnFirst, flow.couplings).layer


def public_start(flow: ConditionalFlow) -> None:
    """Give the stack its first weights, always the same: the identity, its hidden layers uniform from a fixed seed."""
    draw = torch.Generator().manual_seed(PUBLIC_SEED)
    with torch.no_grad():
        for subnet in stack_of(flow).modules():
            if isinstance(subnet, Subnet):
                *hidden, last = linear_layers(subnet)
                for layer in hidden:
                    bound = layer.in_features**-0.5
                    layer.weight.uniform_(-bound, bound, generator=draw)
                    layer.bias.uniform_(-bound, bound, generator=draw)
                last.weight.zero_()
                last.bias.zero_()


def start_from(flow: ConditionalFlow, public: ConditionalFlow) -> None:
    """Give the stack the weights of a public model; its whitening is not taken: this flow has its own, fitted with DP.

    Raises:
        CheckpointRefused: their stacks are not of one form.
    """
    own, theirs = stack_of(flow).state_dict(), stack_of(public).state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in theirs.items()}:
        raise CheckpointRefused("the public model's couplings have other shapes than the planned ones")
    with torch.no_grad():
        for name, parameter in stack_of(flow).named_parameters():
            parameter.copy_(theirs[name])
