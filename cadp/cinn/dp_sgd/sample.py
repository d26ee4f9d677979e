"""Poisson samples: every unit by a coin of its own, and the fixed place at which each is computed.

*Why the place is fixed.* The sampled pair of `cadp.privacy.sampled` moves (1−q)·N(0) + q·N(u) by what the others
contribute, so that sum must be the same whether the unit was drawn or not. Integer contributions add up in any order,
but each is computed in floating point, and a matrix product may round a row by where it stands in its batch. If a drawn
unit pushed the others one row down, their contributions could move with its coin. So unit i is always computed in row
i mod `SLOTS` of a microbatch of fixed shape; a unit that was not drawn leaves its row empty, or to another unit of the
same slot, in which case one of them goes to another microbatch. What a row becomes is then a function of its own values
and of its slot: the bit-exactness at a fixed shape that holds for the whole network.
"""

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.noise import bernoulli_exact

SLOTS = 128
FEWEST_SLOTS = 4
EMPTY = -1

Integers = NDArray[np.int64]


def poisson_sample(rate: float, units: int) -> Integers:
    """Indices of the units drawn, ascending: each of `units` independently, with probability exactly `rate`.

    The coins are the operating system's; a rate that is a multiple of 2^-64 is one comparison of 64 bits. The size of
    the result is as secret as the coins: it is never told to anyone.
    """
    return np.flatnonzero(bernoulli_exact(rate, units))


def slots_of(records: int) -> int:
    """How many units of up to `records` records are computed at a time: 128 rows, but never under four units."""
    return max(FEWEST_SLOTS, SLOTS // records)


def in_slots(drawn: Integers, slots: int = SLOTS) -> Integers:
    """Arrange drawn units into microbatches: `(b, slots)` indices, unit i in column i mod `slots`, else `EMPTY`."""
    slot = drawn % slots
    order = np.argsort(slot, kind="stable")
    counts = np.bincount(slot, minlength=slots)
    rank = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
    batches = np.full((int(counts.max(initial=0)), slots), EMPTY, dtype=np.int64)
    batches[rank, slot[order]] = drawn[order]
    return batches
