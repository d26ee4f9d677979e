"""Maximum likelihood in several processes, one a device, by torch DDP: each step's records are shared out among them.

Every process walks through the same records in the same order with the same noise and takes its part of each step, so
the gradient is the mean over all of them, as in one process, up to the order of sums. Without a process group this is
one process.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cadp.cinn.layers.layer import Condition
from cadp.cinn.likelihood import log_likelihood
from cadp.cinn.network import ConditionalFlow


class _Loss(nn.Module):
    """The sum of negative log-likelihoods over some records; a module, so that DDP sees its one call."""

    def __init__(self, flow: ConditionalFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
        return -log_likelihood(self.flow, x, Condition(labels, vector)).sum()


class SharedLoss:
    """The mean loss over the records of a step, and its gradient in every process."""

    def __init__(self, flow: ConditionalFlow) -> None:
        self._rank, self._size = (distributed.get_rank(), distributed.get_world_size()) if _grouped() else (0, 1)
        self._flow = flow
        module: nn.Module = _Loss(flow)
        self._module = DistributedDataParallel(module, **_own_buffers()) if self._size > 1 else module

    def backward(self, x: Tensor, c: Condition) -> None:
        """Put the gradient of the mean loss over all n records into the parameters, whatever n is."""
        own, device = slice(self._rank, None, self._size), self._flow.device
        # A process without a record of its own takes the first with weight 0: all must call.
        weight = 1.0 if len(x) > self._rank else 0.0
        own = own if weight else slice(0, 1)
        loss = self._module(x[own].to(device), c.labels[own].to(device), c.vector[own].to(device))
        (loss * (weight * self._size / len(x))).backward()


def agreed(loss: float) -> float:
    """What the first process found, so that all of them stop together."""
    if not _grouped():
        return loss
    told = torch.tensor([loss], dtype=torch.float64)
    if distributed.get_backend() == "nccl":
        told = told.cuda()
    distributed.broadcast(told, 0)
    return float(told)


def _own_buffers() -> dict[str, Any]:
    """What keeps DDP from sending buffers at every step: they are the same everywhere. Newer torch has another name."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
