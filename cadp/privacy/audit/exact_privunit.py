"""Reading PrivUnit: from the coin and the proposals of each row to the one direction that it may have released."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.event import cap_share, privunit_loss
from cadp.privacy.audit.watch import Draw
from cadp.privacy.content import content_rows
from cadp.privacy.events import PureEvent
from cadp.privacy.lattice import to_sphere
from cadp.privacy.mechanisms import PrivUnit

Floats = NDArray[np.float64]

_BAND = 1e-12  # of ‖x‖: nearer to the cap's edge, membership is decided in rationals
_PROBES = 4096


def read_privunit(
    mechanism: PrivUnit,
    content: Floats,
    draws: Sequence[Draw],
    refused: type[PrivacyError],
    *,
    z: Floats,
    valid: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Return each record's unit vector `(n, k)`, computed from that record alone, and the draw that it released.

    Every output must be the first of the row's own proposals on the side of the cap that the row's coin chose, at the
    row's own radius, to the last bit.

    Raises:
        PrivacyError: of the type `refused`: an output is another one, or a coin, a radius or a proposal is missing.
    """
    k, n = mechanism.content_dims, len(content)
    coins = [draw for draw in draws if draw.sampler == "bernoulli_exact"]
    normals = [draw for draw in draws if draw.sampler == "normal_columns"]
    if len(coins) != 1 or coins[0].values.shape != (n,) or len(normals) != 1 or normals[0].values.shape != (k, n):
        raise refused(f"one coin and one radius a record were due, {n} each; there were {_shapes(draws)}")
    if Fraction(coins[0].parameter) != Fraction(mechanism.p):
        raise refused(f"the coin was thrown with p = {coins[0].parameter!r}, {mechanism.p!r} is planned")
    axes = _directions(z, valid, k, refused)
    found = np.full((n, k), np.nan)
    for draw in draws:
        if draw.sampler == "_proposals":
            rows = np.asarray(draw.parameter)
            if len(np.unique(rows)) != len(rows):
                raise refused("a row was given proposals twice at once")
            open_ = np.flatnonzero(rows < n)  # further rows are nobody's
            open_ = open_[np.isnan(found[rows[open_], 0])]
            own, rows = draw.values[:, open_, :], rows[open_]
            hits = _in_caps(own, axes[rows], mechanism.gamma) == coins[0].values[rows, None]
            done = np.flatnonzero(hits.any(axis=1))
            found[rows[done]] = own[:, done, hits.argmax(axis=1)[done]].T
    radius = np.sqrt((normals[0].values ** 2).sum(axis=0))
    expected = to_sphere(found) * radius[:, None]
    if np.isnan(found).any() or expected.tobytes() != np.ascontiguousarray(content).tobytes():
        wrong = int((expected != content).any(axis=1).sum())
        raise refused(f"{wrong} of {n} outputs are not the first proposal of their own on the side of their coin")
    return axes, found


def in_cap(points: Floats, axis: Floats, gamma: float) -> NDArray[np.bool_]:
    """Return `(m,)`: whether ⟨x, axis⟩ >= gamma·‖x‖ for points x `(m, k)`, exactly for these stored numbers."""
    inside: NDArray[np.bool_] = _in_caps(points.T[:, None], axis[None], gamma)[0]
    return inside


def _in_caps(points: Floats, axes: Floats, gamma: float) -> NDArray[np.bool_]:
    """Return `(n, m)`: for each of n axes `(n, k)` whether its own points `(k, n, m)` lie in its cap; see `in_cap`."""
    norm = np.sqrt((points * points).sum(axis=0))
    excess = np.einsum("knm,nk->nm", points, axes) - gamma * norm
    inside: NDArray[np.bool_] = excess >= 0
    for row, i in np.argwhere(np.abs(excess) <= _BAND * norm):
        own = points[:, row, i]
        dot = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(own, axes[row], strict=True))
        square = sum(Fraction(float(a)) ** 2 for a in own)
        inside[row, i] = dot >= 0 and dot * dot >= Fraction(gamma) ** 2 * square
    return inside


def worst_privunit_pair(mechanism: PrivUnit, axes: Floats, p: float) -> tuple[float, float, bool]:
    """Return the largest loss over all pairs and probes, the charged one, and whether it is within.

    A probe in the cap of one record and outside that of another has densities p/q̂ and (1 − p)/(1 − q̂'), where both
    masses are within η of the cap's share q. `p` is the coin as it was thrown.
    """
    k = mechanism.content_dims
    generator = np.random.default_rng(23)  # public points at which densities are compared
    points = np.concatenate([axes, -axes, generator.normal(size=(_PROBES, k))])
    inside = np.stack([in_cap(points, axis, mechanism.gamma) for axis in axes])
    apart = bool((inside.any(axis=0) & ~inside.all(axis=0)).any())  # a point in one record's cap and not in another's
    loss = privunit_loss(p, cap_share(k, mechanism.gamma), _eta(mechanism)) if apart else 0.0
    event = mechanism.event()
    charged = event.epsilon * event.count if isinstance(event, PureEvent) else math.inf
    return loss, charged, isinstance(event, PureEvent) and loss <= charged * (1 + 1e-12)


def _directions(z: Floats, valid: NDArray[np.bool_], k: int, refused: type[PrivacyError]) -> Floats:
    """Return the unit vectors `(n, k)` of records, each computed alone in its batch; of equal records once."""
    known: dict[tuple[bytes, bool], Floats] = {}
    for i in range(len(z)):
        own = z[i].tobytes(), bool(valid[i])
        if own not in known:
            known[own] = _direction(z[i : i + 1], valid[i : i + 1], k, refused)
    return np.concatenate([known[row.tobytes(), bool(said)] for row, said in zip(z, valid, strict=True)])


def _direction(z: Floats, valid: NDArray[np.bool_], k: int, refused: type[PrivacyError]) -> Floats:
    """Return the unit vector of one record, alone in its batch, and check it in rationals."""
    content = content_rows(z, valid, k)
    axis = to_sphere(content)
    if not _is_direction(content.tobytes(), axis.tobytes()):
        raise refused("a record's direction is not the unit vector along its content")
    return axis


@lru_cache(maxsize=4096)
def _is_direction(content: bytes, axis: bytes) -> bool:
    """Whether the stored `axis` is within rounding of content/‖content‖, in rationals; any unit vector for zero."""
    exact, own = ([Fraction(float(a)) for a in np.frombuffer(data)] for data in (axis, content))
    bound = Fraction(2 * (len(own) + 6), 2**53)
    if abs(_dot(exact, exact) - 1) > 2 * bound:
        return False
    dot = _dot(own, exact)
    return not any(own) or (dot > 0 and dot * dot >= _dot(own, own) * (1 - 8 * bound))


def _dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))


def _eta(mechanism: PrivUnit) -> float:
    eta = mechanism.parameters()["eta"]
    return float(eta) if isinstance(eta, float) else math.inf


def _shapes(draws: Sequence[Draw]) -> list[tuple[str, tuple[int, ...]]]:
    return [(draw.sampler, draw.values.shape) for draw in draws if draw.sampler != "_proposals"]
