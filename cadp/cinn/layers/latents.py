"""A Gaussian for every class: a last layer after which latents are N(0, I) whatever the class."""

import torch
from torch import Tensor, nn

from cadp.cinn.layers.layer import Condition, Layer


class ClassGaussian(Layer):
    """`z = (x - μ_y)·e^-λ_y`: x is modelled as N(μ_y, diag e^2λ_y); log-det `-Σ λ_y`."""

    def __init__(self, classes: int, dims: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, dims, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(classes, dims, dtype=torch.float64))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Standardise."""
        log_scale = self.log_scale[c.labels]
        return (x - self.mean[c.labels]) * (-log_scale).exp(), -log_scale.sum(dim=1)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Undo it."""
        return z * self.log_scale[c.labels].exp() + self.mean[c.labels]
