"""Layers whose tensors are learned: class means, a rotation of the low block, class whitening and class scales.

Each acts on a fixed slice of the coordinates and leaves the others alone. Every parametrisation stays invertible when
its tensors are perturbed: diagonals are stored as logarithms, and the rotation is inverted as the matrix it is.
"""

import torch
from torch import Tensor

from cadp.cinn.layers.layer import Condition, Layer


class ClassShift(Layer):
    """Subtract the mean of the record's class from the first `dims` coordinates; log-det 0."""

    mean: Tensor

    def __init__(self, classes: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.register_buffer("mean", torch.zeros(classes, dims, dtype=torch.float64))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Centre."""
        return torch.cat([x[:, : self.dims] - self.mean[c.labels], x[:, self.dims :]], dim=1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Add the mean back."""
        return torch.cat([z[:, : self.dims] + self.mean[c.labels], z[:, self.dims :]], dim=1)


class InvertibleLinear(Layer):
    """Multiply the first `dims` coordinates by one matrix, as fitted a rotation `[V, V⊥]ᵀ` (Kingma and Dhariwal 2018).

    The inverse solves for the matrix rather than transposing it, so a round trip is exact to working precision even
    where rounding or training has moved it away from orthogonality; the log-det is `log|det weight|`, 0 for a rotation.
    """

    weight: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims
        weight = torch.zeros(dims, dims, dtype=torch.float64)
        weight.diagonal().fill_(1.0)  # torch.eye on the meta device imports torch's compiler: a second of a process
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Rotate."""
        del c
        log_det = torch.linalg.slogdet(self.weight).logabsdet
        return torch.cat([x[:, : self.dims] @ self.weight.T, x[:, self.dims :]], dim=1), log_det.expand(len(x))

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Rotate back."""
        del c
        return torch.cat([z[:, : self.dims] @ torch.linalg.inv(self.weight).T, z[:, self.dims :]], dim=1)


class ClassWhitening(Layer):
    """Whiten the first `dims` coordinates with the class's covariance `L_y·L_yᵀ`: `z = L_y⁻¹·x`.

    `L` is lower triangular with diagonal `exp(log_diagonal)`, so latent j depends on coordinates 0 … j only: the order
    of the principal dimensions survives, and `log_det = -Σ log_diagonal`.
    """

    lower: Tensor
    log_diagonal: Tensor

    def __init__(self, classes: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.register_buffer("lower", torch.zeros(classes, dims, dims, dtype=torch.float64))
        self.register_buffer("log_diagonal", torch.zeros(classes, dims, dtype=torch.float64))

    def factor(self) -> Tensor:
        """`(classes, k, k)` lower triangular factors; what `lower` holds on and above its diagonal is not used."""
        return self.lower.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    def _apply_class(self, factors: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        return torch.bmm(factors[labels], x[:, : self.dims, None])[:, :, 0]

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Whiten."""
        factor = self.factor()
        identity = torch.eye(self.dims, dtype=factor.dtype, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        z = torch.cat([self._apply_class(inverse, x, c.labels), x[:, self.dims :]], dim=1)
        return z, -self.log_diagonal.sum(dim=1)[c.labels]

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Colour."""
        return torch.cat([self._apply_class(self.factor(), z, c.labels), z[:, self.dims :]], dim=1)


class ClassScale(Layer):
    """Divide the coordinates from `start` on by the class's standard deviations, kept as logarithms."""

    log_scale: Tensor

    def __init__(self, classes: int, start: int, dims: int) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("log_scale", torch.zeros(classes, dims - start, dtype=torch.float64))

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Scale to unit variance."""
        scaled = x[:, self.start :] * (-self.log_scale).exp()[c.labels]
        return torch.cat([x[:, : self.start], scaled], dim=1), -self.log_scale.sum(dim=1)[c.labels]

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """Scale back."""
        return torch.cat([z[:, : self.start], z[:, self.start :] * self.log_scale.exp()[c.labels]], dim=1)
