"""What the chain says of one charge and of one population, and the exact sum of what counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cadp.ledger.accounts import headroom
from cadp.ledger.states import State
from cadp.privacy.accountant import ORDERS, Curve


@dataclass
class Sum:
    """A sum of curves that a curve can be taken out of again.

    Attributes:
        micro: finite micro-nats by order.
        infinite: by order, how many of the curves are infinite there.
        delta_atto: additive δ.
    """

    micro: list[int] = field(default_factory=lambda: [0] * len(ORDERS))
    infinite: list[int] = field(default_factory=lambda: [0] * len(ORDERS))
    delta_atto: int = 0

    def add(self, cost: Curve, times: int = 1) -> None:
        """Add a curve; `times=-1` takes it out."""
        self.delta_atto += times * cost.delta_atto
        for place, value in enumerate(cost.micro):
            if value is None:
                self.infinite[place] += times
            else:
                self.micro[place] += times * value

    @property
    def curve(self) -> Curve:
        """The sum."""
        parts = (None if many else micro for micro, many in zip(self.micro, self.infinite, strict=True))
        return Curve(tuple(parts), self.delta_atto)


@dataclass
class Paid:
    """One charge as the chain tells it.

    Attributes:
        seq: the entry that made it.
        at: when, ISO 8601 UTC.
        body: that entry's body.
        cost: the curve of its event, recomputed.
        state: where it stands.
        finished: the entry that closed its ranges, or None.
        ranges: how many those are, or None.
        seals: the digest over their seals, or None: an earlier version recorded none.
        answered: the entry that recorded its answer, or None.
        answered_at: when, or empty.
        answer: the answer, or None.
    """

    seq: int
    at: str
    body: Mapping[str, Any]
    cost: Curve
    state: State = State.RESERVED
    finished: int | None = None
    ranges: int | None = None
    seals: str | None = None
    answered: int | None = None
    answered_at: str = ""
    answer: Mapping[str, Any] | None = None

    @property
    def population(self) -> str:
        """Whose budget pays."""
        return str(self.body["population"])

    @property
    def release(self) -> str:
        """Who asked for it."""
        return str(self.body["release"])


@dataclass
class Owed:
    """One population as the chain tells it.

    Attributes:
        seq: the entry that made it.
        at: when, ISO 8601 UTC.
        body: that entry's body.
        caps: the most micro-nats at each order.
        cap_delta_atto: the most additive δ.
        total: the sum of every charge that counts.
    """

    seq: int
    at: str
    body: Mapping[str, Any]
    caps: tuple[int, ...]
    cap_delta_atto: int
    total: Sum = field(default_factory=Sum)

    @property
    def is_over(self) -> bool:
        """Whether the total is beyond the caps: the filter."""
        total = self.total.curve
        return headroom(total, self.caps) < 0 or total.delta_atto > self.cap_delta_atto


@dataclass(frozen=True, slots=True)
class Fate:
    """What a recovery does to charges.

    Attributes:
        burned: charges that it burns.
        lost_seals: charges whose seals nobody knows any more.
    """

    burned: tuple[str, ...]
    lost_seals: tuple[str, ...]
