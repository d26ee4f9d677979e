"""Coupling blocks: each half of the coordinates is scaled and shifted by functions of the other half and the condition.

With `(s, t)` from a subnet of the passive half u and the condition, the active half becomes `v·e^s + t`. The inverse
needs the same `(s, t)`, and gets them: u is still there. Scales are clamped softly, `s = clamp·0.636·atan(s₀)`, so that
no coordinate is stretched by more than e^±clamp and a round trip stays exact in the tails.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cadp.cinn.layers.layer import Condition, Layer
from cadp.cinn.layers.subnets import Subnet

# Not quite 2/π: the constant of Ardizzone et al.'s FrEIA, with which published weights were trained.
ATAN_SCALE = 0.636


class Coupling(Layer):
    """A two-sided affine block over the first axis after the batch: `glow` as it stands, `gin` with volume kept.

    `glow` (Kingma and Dhariwal 2018) has log-det Σ s. `gin` (Sorrenson, Rother and Köthe 2020, in the variant that
    subtracts the mean) centres s over the channels of every pixel, so its log-det is exactly 0.
    """

    def __init__(
        self, channels: int, subnet: Callable[[int, int], Subnet], coupling: Literal["glow", "gin"], clamp: float
    ) -> None:
        """Make the subnets.

        Args:
            channels: how many coordinates, or channels, there are; they are halved.
            subnet: makes one for so many passive channels and so many numbers out.
            coupling: the kind of block.
            clamp: the largest |s|, nearly.
        """
        super().__init__()
        first = self.first = round(channels / 2)
        self.keeps_volume, self.clamp = coupling == "gin", clamp
        self.subnet1 = subnet(first, 2 * (channels - first))
        self.subnet2 = subnet(channels - first, 2 * first)

    def _scale_and_shift(self, subnet: Subnet, passive: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        raw, shift = subnet(passive, c.vector).chunk(2, dim=1)
        scale = self.clamp * ATAN_SCALE * torch.atan(raw)
        return (scale - scale.mean(dim=1, keepdim=True) if self.keeps_volume else scale), shift

    def _log_det(self, x: Tensor, *scales: Tensor) -> Tensor:
        if self.keeps_volume:
            return x.new_zeros(len(x))
        return sum((scale.flatten(1).sum(dim=1) for scale in scales), start=x.new_zeros(len(x)))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """First half by the second, then second by the new first."""
        first, second = x[:, : self.first], x[:, self.first :]
        s2, t2 = self._scale_and_shift(self.subnet2, second, c)
        first = torch.addcmul(t2, s2.exp(), first)
        s1, t1 = self._scale_and_shift(self.subnet1, first, c)
        second = torch.addcmul(t1, s1.exp(), second)
        return torch.cat([first, second], dim=1), self._log_det(x, s1, s2)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Second half first."""
        first, second = z[:, : self.first], z[:, self.first :]
        s1, t1 = self._scale_and_shift(self.subnet1, first, c)
        second = (second - t1) * (-s1).exp()
        s2, t2 = self._scale_and_shift(self.subnet2, second, c)
        first = (first - t2) * (-s2).exp()
        return torch.cat([first, second], dim=1)
