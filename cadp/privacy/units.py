"""Several records of one unit: what the unit pays for all of them together.

Neighbours differ in the contents of all records of one unit, of which at most m are used. Each goes through the same
local mechanism by draws of its own, so what a unit loses is m such losses composed: a pure ε becomes m·ε, a Gaussian μ
√m·μ (`count=m`), an additive δ m·δ. Sums are not composed: a unit's contribution to one is up to m times as long
(`cadp.cinn.fit.contributions`).
"""

from dataclasses import replace

from cadp.errors import PrivacyError
from cadp.privacy.events import ComposedEvent, DeltaEvent, Event, GaussianEvent, PureEvent


def per_unit(event: Event, records: int) -> Event:
    """Return the event of up to `records` records of one unit, each with `event`.

    Raises:
        PrivacyError: fewer than 1 record, or an event that is not of a record's own mechanism.

    Example:
        >>> per_unit(PureEvent(0.5), 4).count
        4
    """
    if type(records) is not int or records < 1:
        raise PrivacyError(f"a unit has 1 record or more, not {records!r}")
    if records == 1:
        return event
    if isinstance(event, PureEvent | GaussianEvent | DeltaEvent):
        return replace(event, count=event.count * records)
    if isinstance(event, ComposedEvent):
        return replace(event, events=tuple(per_unit(part, records) for part in event.events))
    raise PrivacyError(f"a {event.kind} event is not one record's: it cannot be taken {records} times for a unit")
