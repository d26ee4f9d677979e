"""How fine a tone curve is, and what its histogram may cost: a public rule.

The argument. Of a record with h·w values in each of c channels, every value adds `UNIT` to one cell of its channel's
histogram. All entries are non-negative, and a channel's add up to UNIT·h·w, so the 2-norm of a channel is at most that
(‖v‖₂ ≤ ‖v‖₁) and the record's at most √c·UNIT·h·w: with no clipping, and in integers. Two are at most √2 times that
apart (`cadp.cinn.fit.contributions`, sums of non-negative vectors): one all black, one all white.
"""

import math

from cadp.cinn.architecture import Shape
from cadp.cinn.fit.query import Query

KNOTS = 64
UNIT = 64
SHARE = 0.01  # of μ², for the histogram: a record has many values, so they are known far better than any moment
NOISE = 0.25  # at most, on the histogram's cells, over their mean


def choose_knots(mu: float, shape: Shape, units: int, records: int) -> int:
    """`KNOTS`, or 0 where the histogram would be made of noise; from public sizes alone.

    A unit is taken for one record: that it may have `records` is no promise that it has.
    """
    query = tones_query(mu, shape, records)
    mean = UNIT * units * shape[0] * shape[1] / KNOTS
    return KNOTS if query.sigma <= NOISE * mean else 0


def tones_query(mu: float, shape: Shape, records: int) -> Query:
    """The query for the histograms, which takes the share μ²·`SHARE` of a fit."""
    h, w, c = shape
    radius = math.isqrt(c * (UNIT * h * w) ** 2 - 1) + 1
    return Query("tones", 1, radius, 1 / (mu * math.sqrt(SHARE)), records)
