r"""A step of DP-SGD in several processes: units are shared out, integer sums are added up, noise comes once.

    the first process       throws the coin of every unit, and tells who was drawn and its weights
    process p               S_p = the integer sum over those drawn who are its own
    the first               S = Σ_p S_p + N_Z(0, σ²)^P, the optimizer, the next weights

*The same law.* Coins and contributions are those of one process, and whole numbers add up to the same however they are
split. So what a step releases is the same function of the data, the coins and the noise as in one process: on equal
machines and threads equal bits, not merely an equal law. It costs the same, and the audit of one process is an audit of
this.

*Whose unit is whose* is a function of its number alone: blocks of as many units as a microbatch has slots go round. Two
machines may round differently, so a unit that another's coin moved to another machine would contribute something else,
which is what `sample` rules out for rows. So it is always computed by the same process in the same slot.

*Why the first process draws all of the noise.* A sum of s discrete Gaussians of σ/√s is no discrete Gaussian; σ from
each would be more noise than was planned; and processes with noise of their own would hold different weights. Why it
throws all coins: nobody can be drawn by two. The average of gradients that torch's DistributedDataParallel makes is of
floats, and of units that were not clipped: only its process group is used.

*What is checked in every step.* Along with their sums, processes add up whom they took and how many units they
computed, and each notes a digest of the weights, the plan and the units that it computed with. A unit that was left out
or taken twice, a share that is missing, or a process with other weights, ends the training. None of this depends on
what a record holds. A process that dies ends the others: no step goes on without its share.

Sums without noise, coins and weights pass between the processes: this traffic belongs to the private zone.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.sample import slots_of
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.cinn.layers.layer import Layer
from cadp.errors import PrivacyError

Integers = NDArray[np.int64]

_END = -1
_DIGEST_BYTES = 7  # a whole number below 2^56


@dataclass(frozen=True)
class Sums:
    """What some units add up to, without noise. Private.

    Attributes:
        layers: by layer `(d_out, d_in + 1)` int64.
        loss: the sum of the losses of the records, nats.
        records: how many there were.
        units: how many units were computed.
    """

    layers: list[Integers]
    loss: float
    records: int
    units: int

    @property
    def mean_loss(self) -> float:
        """Nats per record; NaN of none."""
        return self.loss / self.records if self.records else float("nan")


class Processes:
    """The processes that share one training, as one of them sees it: those of torch's process group, on gloo.

    All of them call in the same order: `deal` or `dealt`, then `add_up`, and `dismiss` or a last `dealt` at the end.
    """

    def __init__(self, plan: SgdPlan, records: UnitRecords) -> None:
        """Join those of the process group, which must exist; all must have the same plan and units."""
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._plan = plan
        self._facts = hashlib.sha256(repr(plan).encode())
        for column in (records.starts, records.labels, records.valid):
            self._facts.update(np.ascontiguousarray(column).tobytes())

    def deal(self, stack: Layer, drawn: Integers) -> None:
        """In the first process: tell the others its weights and the units `(n,)` that a step draws."""
        _broadcast(torch.tensor([len(drawn)]))
        _broadcast(torch.from_numpy(np.ascontiguousarray(drawn)))
        _broadcast(_weights(stack))

    def dealt(self, stack: Layer) -> Integers | None:
        """In another: take the weights into `stack` and return who is drawn; None once there are no more steps."""
        count = int(_broadcast(torch.zeros(1, dtype=torch.int64)))
        if count == _END:
            return None
        drawn = _broadcast(torch.zeros(count, dtype=torch.int64))
        vector_to_parameters(_broadcast(torch.zeros_like(_weights(stack))), stack.parameters())
        return drawn.numpy()

    def dismiss(self) -> None:
        """In the first process: tell the others that there are no more steps."""
        _broadcast(torch.tensor([_END]))

    def own(self, drawn: Integers) -> NDArray[np.bool_]:
        """Which of the units `(n,)` are this process's."""
        return np.asarray(owner(drawn, self._plan, self.size) == self.rank, dtype=np.bool_)

    def add_up(self, stack: Layer, took: NDArray[np.bool_], own: Sums) -> Sums:
        """Add up what every process found in its share.

        Args:
            stack: with the weights that it computed with.
            took: `(n,)`, which of the units that were drawn were computed here.
            own: what they add up to.

        Returns:
            In the first process the sums over all of them; in another, which has no use for them, what it gave.

        Raises:
            PrivacyError: in the first, a unit was left out or taken twice, or a process had other weights or units.
        """
        digests = np.zeros(self.size, dtype=np.int64)
        digests[self.rank] = self._digest(stack)
        parts = [*(layer.ravel() for layer in own.layers), took.astype(np.int64), np.array([own.units]), digests]
        whole = torch.from_numpy(np.concatenate(parts))
        losses = torch.tensor([own.loss, own.records], dtype=torch.float64)
        # Sums of 64-bit integers: exact in any order. Towards the first alone: nobody else has to know them.
        distributed.reduce(whole, 0)
        distributed.reduce(losses, 0)
        if self.rank:
            return own
        *layers, times, units, digests = np.split(whole.numpy(), np.cumsum([len(part) for part in parts])[:-1])
        # Whatever the records hold, this is 1 and equal: only broken code or a broken machine makes it something else.
        if (times != 1).any() or int(units[0]) != len(times):
            raise PrivacyError("a share of a step was left out or taken twice: training ends, nothing of it was used")
        if (digests != digests[0]).any():
            raise PrivacyError(
                f"process {int(np.argmax(digests != digests[0]))} of {self.size} computed with other weights or units: "
                f"training ends, nothing of the step was used"
            )
        shaped = [layer.reshape(like.shape) for layer, like in zip(layers, own.layers, strict=True)]
        return Sums(shaped, float(losses[0]), int(losses[1]), int(units[0]))

    def _digest(self, stack: Layer) -> int:
        """Of the weights that gradients were computed with, the plan and the units."""
        digest = self._facts.copy()
        digest.update(_weights(stack).numpy().tobytes())
        return int.from_bytes(digest.digest()[:_DIGEST_BYTES], "big")


def owner(units: Integers, plan: SgdPlan, size: int) -> Integers:
    """Which of `size` processes computes each of the units, whoever else is drawn."""
    return units // slots_of(plan.records) % size


def _weights(stack: Layer) -> Tensor:
    return parameters_to_vector(stack.parameters()).detach().clone()


def _broadcast(tensor: Tensor) -> Tensor:
    """Send a tensor from the first process to all others; return what there is then."""
    distributed.broadcast(tensor, 0)
    return tensor
