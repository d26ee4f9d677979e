r"""What one unit adds to a step of DP-SGD: integer matrices whose norm is checked in integers, summed in integers.

A unit's gradient of one linear layer is G = Σ_r e_r ⊗ a_r over its records r (`gradients`, beside this). Both factors
are rounded towards zero to lattices of their own, ã = trunc(a / g_a), ẽ = trunc(s·e / g_e), with s the unit's clip
factor. The unit's contribution is *by definition* the integer matrices Σ_r ẽ_r ⊗ ã_r of all layers, and its norm is

    N = Σ_layers Σ_{r,r'} ⟨ã_r, ã_r'⟩·⟨ẽ_r, ẽ_r'⟩        (⟨e ⊗ a, e' ⊗ a'⟩ = ⟨e, e'⟩·⟨a, a'⟩),

an integer. It is computed as one, in Python's integers, and a contribution with N > radius² is zeroed. So whatever a
unit holds, and whatever floating point did on the way to ã and ẽ, its contribution is an integer vector of norm at most
`radius`: two contributions of one unit are at most 2·radius apart, as `cadp.privacy.sampled` supposes of u and v.

The sum over units is ẼᵀÃ, a product of integer matrices, in float64 exact while no partial sum can reach 2^53: every
record's |ẽ_i·ã_j| is at most 16·radius, or its unit contributes nothing, and few enough rows are multiplied at a time.
No gradient is ever written down for one unit, and nothing is added up in floating point.

For one record rounding towards zero only shortens, so s = min(1, C/‖G‖) is enough. Of several records the rounding
errors may add up, so s is lowered once by a 64th where the check fails; the check decides. Everything about a unit is a
function of its own values: NaN and infinities anywhere in it, or inputs of more than 2^26 steps, give zero.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cadp.cinn.dp_sgd.gradients import Factors
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.fit.contributions import EXACT_FLOAT

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pairs = list[tuple[Floats, Floats]]

# ⟨ã, ã'⟩ and ⟨ẽ, ẽ'⟩ are exact in float64 while norms stay below 2^26.
_LARGEST_SQUARE = 2.0**52
_PEAK = 16


@dataclass(frozen=True, slots=True)
class Contributions:
    """Integer factors of a microbatch, as float64: by layer `Ã (n, d_in + 1)`, its last column the bias's, and `Ẽ`."""

    factors: Pairs

    def total(self) -> list[NDArray[np.int64]]:
        """The sum over all rows, by layer `(d_out, d_in + 1)` int64, exact."""
        return [(e.T @ a).astype(np.int64) for a, e in self.factors]


def clipped(factors: Factors, mask: Bools, plan: SgdPlan) -> Contributions:
    """Clip the gradients of units and round them to the plan's lattice.

    Args:
        factors: inputs and errors by layer, `(u·m, d)`: row r of unit i is i·m + r.
        mask: `(u·m,)`, which rows are records; the others contribute nothing.
        plan: the lattice, the clip norm and m.

    Returns:
        The units' contributions, each of norm at most `plan.radius`.
    """
    inputs, errors = _finite(factors, mask, plan.records)
    inputs = [np.trunc(a / plan.input_step) for a in inputs]
    grams = [_gram(a, plan.records) for a in inputs]
    sound = np.all([gram.diagonal(axis1=1, axis2=2).max(axis=1) < _LARGEST_SQUARE for gram in grams], axis=0)
    sound_rows = np.repeat(sound, plan.records)[:, None]
    inputs = [np.where(sound_rows, a, 0.0) for a in inputs]
    grams = [np.where(sound[:, None, None], gram, 0.0) for gram in grams]
    square = sum((gram * _gram(e, plan.records)).sum(axis=(1, 2)) for gram, e in zip(grams, errors, strict=True))
    norm = np.sqrt(np.maximum(square, 0.0)) * plan.input_step
    scale = np.minimum(1.0, plan.clip_norm / np.maximum(norm, np.finfo(np.float64).tiny))
    first = _rounded(errors, scale, plan)
    outside = ~_inside(grams, first, plan)
    if outside.any():
        second = _rounded(errors, np.where(outside, scale * (1 - 1 / 64), scale), plan)
        keep = np.repeat(_inside(grams, second, plan), plan.records)[:, None]
        first = [np.where(keep, e, 0.0) for e in second]
    return Contributions(list(zip(inputs, first, strict=True)))


def rows_at_once(plan: SgdPlan) -> int:
    """How many rows `Contributions.total` may hold for its sums to be exact."""
    return (EXACT_FLOAT - 1) // (_PEAK * plan.radius)


def joined(parts: list[Contributions]) -> Contributions:
    """Several microbatches as one."""
    layers = zip(*(part.factors for part in parts), strict=True)
    return Contributions([(np.concatenate([a for a, _ in x]), np.concatenate([e for _, e in x])) for x in layers])


def _finite(factors: Factors, mask: Bools, records: int) -> tuple[list[Floats], list[Floats]]:
    """Inputs with a one behind them, for the bias, and errors; zero in rows that are none and in units with a NaN."""
    widths = [a.shape[1] for a, _ in factors], [e.shape[1] for _, e in factors]
    wide = [torch.cat(side, dim=1).double().numpy() for side in zip(*factors, strict=True)]
    finite = np.logical_and(*(np.isfinite(side).all(axis=1) for side in wide)) | ~mask
    sound = np.repeat(finite.reshape(-1, records).all(axis=1), records) & mask
    a, e = (
        np.split(np.where(sound[:, None], side, 0.0), np.cumsum(width)[:-1], axis=1)
        for side, width in zip(wide, widths, strict=True)
    )
    ones = sound[:, None].astype(np.float64)
    return [np.concatenate([part, ones], axis=1) for part in a], e


def _gram(rows: Floats, records: int) -> Floats:
    """Inner products of every two records of a unit: `(u, m, m)`."""
    units = rows.reshape(-1, records, rows.shape[1])
    products = np.square(units).sum(axis=2)[:, :, None] if records == 1 else units @ units.transpose(0, 2, 1)
    return np.asarray(products, dtype=np.float64)


def _rounded(errors: list[Floats], scale: Floats, plan: SgdPlan) -> list[Floats]:
    by_row = np.repeat(scale, plan.records)[:, None]
    # A product of two finite numbers, scale at most 1, is finite.
    return [np.trunc(e * by_row / plan.error_step) for e in errors]


def _inside(grams: list[Floats], errors: list[Floats], plan: SgdPlan) -> Bools:
    """Which units' integer contributions have norm at most `radius`: exactly, in Python's integers."""
    others = [_gram(e, plan.records) for e in errors]
    exact = np.ones(len(grams[0]), dtype=np.bool_)
    for gram, other in zip(grams, others, strict=True):
        peak = (gram * other).diagonal(axis1=1, axis2=2).max(axis=1)
        # 2⁻⁵³ is all that the product of two exact squares can err by.
        exact &= (other.diagonal(axis1=1, axis2=2).max(axis=1) < _LARGEST_SQUARE) & (
            peak < (_PEAK**2 - 1) * plan.radius**2
        )
    safe = exact[:, None, None]
    total = sum(
        (np.where(safe, gram, 0.0).astype(np.int64).astype(object) * np.where(safe, other, 0.0).astype(np.int64)).sum(
            axis=(1, 2)
        )
        for gram, other in zip(grams, others, strict=True)
    )
    return exact & np.asarray(total <= plan.radius**2, dtype=np.bool_)
