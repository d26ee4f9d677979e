"""The exact layer: what a mechanism does to adversarial latents, recomputed and compared with what is charged.

The mechanism's own `privatize` runs, with its own draws, which are watched (`watch`). Each check is a statement without
chance in it: a planted flaw is found at the first run or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.additive import Gaussian, Laplace
from cadp.privacy.audit.adversaries import NEIGHBOURS, adversarial_rows, hostile_rows
from cadp.privacy.audit.event import event_check
from cadp.privacy.audit.exact_additive import read_additive, worst_additive_pair
from cadp.privacy.audit.exact_privunit import read_privunit, worst_privunit_pair
from cadp.privacy.audit.verdict import Check
from cadp.privacy.audit.watch import Draw, watched
from cadp.privacy.mechanisms import Mechanism, PrivUnit, Resample

Floats = NDArray[np.float64]
Valid = NDArray[np.bool_]

_CHANCE = 0.1  # share of rows whose noise may repeat: by chance it is below 0.001
_REST = 3  # latents beside the content, filled with what must not be read


class Refuted(PrivacyError):
    """An output is not what the plan and the draws behind it give."""


@dataclass(frozen=True)
class Reading:
    """One run, read with its draws known.

    Attributes:
        centres: `(n, k)` what of each record is in its output: lattice points, or unit vectors; exact.
        noise: `(n, …)` a draw behind each row, to see that it is fresh.
        law: the parameter that the noise was really drawn with.
    """

    centres: NDArray[np.int64] | Floats
    noise: Floats
    law: float


def exact_checks(mechanism: Mechanism) -> tuple[Check, ...]:
    """Return the exact layer's findings on one plan.

    Raises:
        PrivacyError: a mechanism that this audit does not know.
    """
    event = event_check(mechanism)
    k = mechanism.content_dims
    if not isinstance(mechanism, Gaussian | Laplace | PrivUnit | Resample):
        raise PrivacyError(f"the audit has no exact check for {mechanism.kind}: it cannot vouch for it")
    rows = adversarial_rows(k, mechanism.parameters()) if k else np.zeros((64, 0))
    z, valid = _with_rest(rows), np.ones(len(rows), dtype=np.bool_)
    try:
        first = read(mechanism, z, valid)
    except PrivacyError as error:
        return event, Check("draws", False, str(error))
    held = Check("draws", True, f"{len(z)} adversarial records: exact draws of the planned law, on the planned lattice")
    return (
        event,
        held,
        _guarded("distance", lambda: _distance(mechanism, first)),
        _guarded("independence", lambda: _independence(mechanism, z, first)),
        _guarded("fresh-noise", lambda: _fresh(mechanism, z, valid, first)),
        _guarded("null-records", lambda: _null(mechanism)),
    )


def read(mechanism: Mechanism, z: Floats, valid: Valid) -> Reading:
    """Privatize under watch and take the draws out again.

    Raises:
        Refuted: an output is not the plan's function of its own record and its own draws.
        PrivacyError: the mechanism refused the records.
    """
    with watched() as draws:
        out = mechanism.privatize(z.copy(), valid.copy())
    k = mechanism.content_dims
    if out.shape != z.shape or out.dtype != np.float64:
        raise Refuted(f"an output of {out.dtype} {out.shape} for latents {z.shape}")
    _check_rest(out[:, k:], draws)
    if isinstance(mechanism, Gaussian | Laplace):
        centres, drawn = read_additive(mechanism, out[:, :k], draws, Refuted)
        return Reading(centres, drawn.astype(np.float64), float(_parameter(draws, f"discrete_{mechanism.kind}")))
    if isinstance(mechanism, PrivUnit):
        axes, used = read_privunit(mechanism, out[:, :k], draws, Refuted, z=z[:, :k], valid=valid)
        return Reading(axes, used, float(_parameter(draws, "bernoulli_exact")))
    return Reading(np.zeros((len(z), 0)), out, 0.0)


def _with_rest(rows: Floats) -> Floats:
    """Add latents that are no content: numbers that no output may depend on."""
    rest = np.full((len(rows), _REST), 1e6)
    rest[::3, 0] = np.nan
    rest[1::3, 1] = np.inf
    return np.concatenate([rows, rest], axis=1)


def _check_rest(rest: Floats, draws: Sequence[Draw]) -> None:
    """The latents that carry nothing are draws from the prior, bit for bit."""
    prior = [draw.values for draw in draws if draw.sampler == "standard_normal"]
    if len(prior) != 1 or prior[0].tobytes() != np.ascontiguousarray(rest).tobytes():
        raise Refuted("a latent that is no content is not a draw from the prior")


def _parameter(draws: Sequence[Draw], sampler: str) -> float:
    return next(draw.parameter for draw in draws if draw.sampler == sampler)  # type: ignore[no-any-return]


def _distance(mechanism: Mechanism, reading: Reading) -> Check:
    """The loss of the worst pair, computed from what the code put under the noise, is within the charged one."""
    if isinstance(mechanism, Gaussian | Laplace):
        loss, charged, within = worst_additive_pair(mechanism, np.asarray(reading.centres, dtype=np.int64))
    elif isinstance(mechanism, PrivUnit):
        loss, charged, within = worst_privunit_pair(mechanism, np.asarray(reading.centres, np.float64), reading.law)
    else:
        loss, charged, within = 0.0, 0.0, True
    pairs = len(reading.centres) ** 2
    return Check("distance", within, f"worst of {pairs:,} pairs loses {loss:.6g}, charged {charged:.6g}", loss, charged)


def _independence(mechanism: Mechanism, z: Floats, first: Reading) -> Check:
    """At a fixed shape a row's centre has the same bits whatever the other rows hold."""
    runs, place = 0, np.arange(len(z))
    for mine in (place % 2 == 0, place % 2 == 1):
        for value in NEIGHBOURS:
            changed = z.copy()
            changed[~mine] = value
            runs += _same(mechanism, changed, np.ones(len(z), dtype=np.bool_), mine, first)
        rolled = z.copy()
        rolled[~mine] = np.roll(z[~mine], 1, axis=0)
        runs += _same(mechanism, rolled, np.ones(len(z), dtype=np.bool_), mine, first)
        runs += _same(mechanism, z, mine, mine, first)  # the others are refused records
    return Check("independence", True, f"bit for bit the same in {runs} batches of other neighbours")


def _same(mechanism: Mechanism, z: Floats, valid: Valid, mine: Valid, first: Reading) -> int:
    reading = read(mechanism, z, valid)
    if reading.centres[mine].tobytes() != first.centres[mine].tobytes():
        moved = int((reading.centres[mine] != first.centres[mine]).any(axis=1).sum())
        raise Refuted(f"{moved} of {int(mine.sum())} records moved when only their neighbours changed")
    return 1


def _fresh(mechanism: Mechanism, z: Floats, valid: Valid, first: Reading) -> Check:
    """Asked again, a mechanism draws again, with the same law, around the same centres."""
    again = read(mechanism, z, valid)
    if (again.noise == first.noise).all(axis=1).mean() > _CHANCE:
        raise Refuted("noise was used twice")
    if again.centres.tobytes() != first.centres.tobytes():
        raise Refuted("the same records had other centres when they were privatized again")
    return Check("fresh-noise", True, "the same batch again: new draws of the same law")


def _null(mechanism: Mechanism) -> Check:
    """Zero, NaN, infinities and refused records are one and the same null record."""
    k = mechanism.content_dims
    rows = _with_rest(np.concatenate([hostile_rows(k), np.full((2, k), 7.0)]) if k else np.zeros((8, 0)))
    valid = np.arange(len(rows)) < len(rows) - 2
    centres = read(mechanism, rows, valid).centres
    if (centres != centres[0]).any():
        raise Refuted("records that are zero, not finite or refused do not all enter as the zero latent")
    return Check("null-records", True, "zero, NaN, infinite and refused records have one law")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except PrivacyError as error:
        return Check(name, False, str(error))
