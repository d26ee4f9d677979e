"""The central loss of records that are published in a random order: a second figure, with premises, never charged.

A record's local loss holds even against somebody who knows which released record came from it. Whoever sees only the
release, in an order that says nothing, has to find it among the others first. `clones` bounds what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy import optimize

from cadp.errors import PrivacyError
from cadp.privacy.accountant import Curve, curve
from cadp.privacy.clones import MOST_EPSILON0, divergence
from cadp.privacy.events import RELATION, Event
from cadp.privacy.precision import decimal

PREMISES = (
    "One record a unit, through a mechanism of pure loss, each record on its own; records of a class are computed "
    "alike (last bits that differ between batches of another size or machines of another kind are not counted).",
    "A record is hidden by the n records that it could be mistaken for: those of its class where labels are public.",
    "The whole release is in one uniform order, that of fresh random ids that are drawn for no other purpose; which "
    "range, shard or run a record went through is not published.",
    "It is for those who see the release alone. In the private zone, the sealed runs tell which range a record went "
    "through, and the raw shards and the population's secret which records that range held. Publishing does not "
    "destroy them: runs and shards go when the operator collects them, after the retention; backups and the secret "
    "stay. Against somebody who also sees the runs there is only the local loss.",
    "What else was spent on the same units, the training of the model, is added to it.",
    "The ledger charges the local loss; over several releases the local losses add up, not these figures.",
)
"""What has to hold for the figure to, in plain words, as a statement prints them."""

NO_SMALLER = "So few records hide nothing at so large a loss: the figure is the local one."

_MICRO = 10**6


@dataclass(frozen=True)
class Shuffled:
    """The central (ε, δ) of n shuffled reports, of which a neighbour differs in one.

    Attributes:
        epsilon: in nats, rounded up to a micro-nat; at most `epsilon0`, rounded up likewise.
        lower: the same bound evaluated from below and rounded down. It says how exact `epsilon` is as a value of the
            bound; a particular mechanism may lose less than either.
        n: how many reports hide each other.
        delta: where ε is taken.
        epsilon0: the pure local loss of one report, randomised label included.
        premises: what has to hold, in plain words.
    """

    epsilon: float
    lower: float
    n: int
    delta: float
    epsilon0: float
    premises: tuple[str, ...] = PREMISES


@lru_cache(maxsize=256, typed=True)
def shuffled_epsilon(epsilon0: float, n: int, delta: float) -> Shuffled:
    """Return the central loss at `delta` of n reports of pure local loss `epsilon0` in uniform order.

    Args:
        epsilon0: loss of one report; with randomised labels the label's loss is in it.
        n: reports whose units a neighbour could have been: the smallest class if labels are public, else all.
        delta: in (0, 1).

    Raises:
        PrivacyError: there are fewer than two reports, or a loss or δ is not one.

    Example:
        >>> shuffled_epsilon(4.0, 6000, 1e-6).epsilon
        0.546908
    """
    if type(n) is not int or n < 2:
        raise PrivacyError(f"{n} record cannot be shuffled: at least 2 of a class hide each other")
    if not 0 < decimal(delta, "delta") < 1:
        raise PrivacyError(f"delta is {delta}: a shuffled loss needs one in (0, 1)")
    local = decimal(epsilon0, "the local epsilon")
    most = math.ceil(local * _MICRO)  # micro-nats, as charged
    last = most - 1  # the largest that is below the local loss
    if last < 0:
        return Shuffled(0.0, 0.0, n, delta, epsilon0)
    if epsilon0 > MOST_EPSILON0 or not is_bound(last / _MICRO, epsilon0, n, delta):
        return Shuffled(most / _MICRO, last / _MICRO, n, delta, epsilon0, (*PREMISES, NO_SMALLER))
    micro = _guess(epsilon0, n, delta, last)
    while not is_bound(micro / _MICRO, epsilon0, n, delta):
        micro += 1
    while micro > 0 and is_bound((micro - 1) / _MICRO, epsilon0, n, delta):
        micro -= 1
    lower = micro
    while lower > 0 and divergence(lower / _MICRO, epsilon0, n)[0] <= decimal(delta):
        lower -= 1
    return Shuffled(micro / _MICRO, lower / _MICRO, n, delta, epsilon0)


def is_bound(epsilon: float, epsilon0: float, n: int, delta: float) -> bool:
    """Return whether n shuffled reports of pure loss `epsilon0` are proved to cost at most (epsilon, delta).

    Raises:
        PrivacyError: as `divergence`.
    """
    if decimal(epsilon) >= decimal(epsilon0):
        return True
    return divergence(epsilon, epsilon0, n)[1] <= decimal(delta)


def shuffled_reports(
    local: Sequence[Event], *, n: int, delta: float, per_unit: int = 1, uniform_order: bool = True
) -> Shuffled:
    """Return the central loss of n reports, each charged with the `local` events, if the premises allow one.

    Raises:
        PrivacyError: they don't: a loss that is not pure, several records a unit, another order, too few reports.
    """
    return shuffled_epsilon(report_loss(local, per_unit=per_unit, uniform_order=uniform_order), n, delta)


def report_loss(local: Sequence[Event], *, per_unit: int = 1, uniform_order: bool = True) -> float:
    """Return the pure loss of one report that may be shuffled, in nats, rounded up to a micro-nat.

    Raises:
        PrivacyError: it may not: a loss that is not pure, several records a unit, another order.
    """
    if per_unit != 1:
        raise PrivacyError(f"a unit has up to {per_unit} records: the shuffled loss is known for one record a unit")
    if not uniform_order:
        raise PrivacyError("the records are not in one uniform order: their places tell whose they may be")
    return pure_loss(local)


def pure_loss(events: Sequence[Event]) -> float:
    """Return the pure loss of events together, in nats, rounded up to a micro-nat.

    Raises:
        PrivacyError: they have none, as a Gaussian has none, or are not charged as replace-one.
    """
    total = sum((curve(event) for event in events), Curve.zero(RELATION))
    micro = total.micro[-1]
    if micro is None or total.delta_atto:
        raise PrivacyError("the records' mechanism has no pure loss: shuffling is proved to help only where it is pure")
    return micro / _MICRO


def _guess(epsilon0: float, n: int, delta: float, last: int) -> int:
    """Return micro-nats near the least ε that `divergence` bounds at δ; whoever calls it checks."""

    def excess(epsilon: float) -> float:
        return math.log(float(divergence(epsilon, epsilon0, n)[1]) / delta)

    if excess(0.0) <= 0:
        return 0
    return math.ceil(float(optimize.brentq(excess, 0.0, last / _MICRO, xtol=1e-8)) * _MICRO)
