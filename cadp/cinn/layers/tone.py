"""A tone curve: how dark or bright a pixel comes out, channel by channel, whatever stands beside it."""

import torch
from torch import Tensor

from cadp.cinn.layers.layer import Condition, Layer


class ToneCurve(Layer):
    """`x = T(u)` for every value of a record, T rising and linear between knots; the layer maps x to u.

    T has its knots at `i/K` and keeps 0 and 1; beyond them it goes straight on. Sums of Gaussians are anywhere, pixels
    mostly near the ends. T moves the ones to where the others are, and nothing else: it knows neither label nor
    neighbours. Log-det: `−Σ ln T'(u)`.

    Attributes:
        log_rise: `(channels, K)`; the softmax of a row is what T rises by from knot to knot, whatever its numbers.
    """

    log_rise: Tensor

    def __init__(self, channels: int, knots: int) -> None:
        super().__init__()
        self.register_buffer("log_rise", torch.zeros(channels, knots, dtype=torch.float64))

    def height(self) -> Tensor:
        """T at the knots, `(channels, K + 1)`, rising from 0 to 1."""
        heights = self.log_rise.softmax(dim=1).cumsum(dim=1)
        return torch.cat([torch.zeros_like(heights[:, :1]), heights], dim=1)

    def forward(self, x: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """Values to where T finds them."""
        del c
        by_channel, height = self._by_channel(x), self.height()
        cell = torch.searchsorted(height, by_channel, right=True).sub_(1).clamp_(0, self._knots - 1)
        low, rise = _cell(height, cell)
        u = (cell + (by_channel - low) / rise) / self._knots
        return self._in_rows(u, x), -self._in_rows((rise * self._knots).log(), x).sum(dim=1)

    def inverse(self, z: Tensor, c: Condition) -> Tensor:
        """T itself."""
        del c
        scaled = self._by_channel(z) * self._knots
        cell = scaled.nan_to_num(nan=0.0).clamp(0, self._knots - 1).to(torch.int64)
        low, rise = _cell(self.height(), cell)
        return self._in_rows(low + (scaled - cell) * rise, z)

    @property
    def _knots(self) -> int:
        return self.log_rise.shape[1]

    def _by_channel(self, rows: Tensor) -> Tensor:
        """`(n, h·w·c)` as `(c, n·h·w)`."""
        channels = len(self.log_rise)
        return rows.reshape(-1, channels).T.contiguous()

    def _in_rows(self, values: Tensor, rows: Tensor) -> Tensor:
        return values.T.reshape(rows.shape)


def _cell(height: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """T at the lower end of each value's cell, and its rise over the cell."""
    low = height.gather(1, cell)
    return low, height.gather(1, cell + 1) - low
