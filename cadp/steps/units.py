"""Units with several records: at most m of each are used, a range holds all of a unit's, and no unit is on both sides.

A split's run is in the order of 16-byte keys: 8 bytes of the keyed hash of the unit's id, then 8 of the record's own.

*The cap.* A unit's records stand in the order of the keyed hashes of their names, and the first m are used. Which those
are depends on ids, names and the population's secret, never on what a record holds: one that cannot be read may well be
among them, and enters as any rejected record does.

*Ranges.* A range's ends are multiples of 2^64: whole hashes of units. All of a unit's records have its hash in common,
so they lie in one range, whichever ends there are. Two units of one hash lie in one range, too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from cadp.errors import SourceError
from cadp.exchange import KEY_BYTES, Item, interval
from cadp.records import Record, unpack_record

UNIT_BYTES = 8


def unit_interval(index: int, of: int) -> tuple[bytes, bytes | None]:
    """Return the ends of range `index` of `of`: those of equal intervals, brought down to whole hashes of units."""
    low, high = interval(index, of)
    return _whole(low), None if high is None else _whole(high)


def within_cap(items: Iterable[Item], most: int) -> Iterator[Record]:
    """Yield the first `most` records of each unit.

    Args:
        items: packed records in the order of their keys.
        most: m, the most records that a unit contributes.
    """
    for _, group in groupby(items, key=lambda item: item[0][:UNIT_BYTES]):
        seen: Counter[str] = Counter()  # two units may have one hash
        for _, data in group:
            record = unpack_record(data)
            seen[record.unit] += 1
            if seen[record.unit] <= most:
                yield record


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What was counted in one split.

    Attributes:
        units: how many.
        records: within the cap, rejected ones included.
        over_cap: beyond it.
        rejected: within the cap, that could not be read.
        class_counts: within the cap, by label.
    """

    units: int
    records: int
    over_cap: int
    rejected: int
    class_counts: list[int]


def unit_facts(items: Iterable[Item], most: int, classes: int) -> UnitFacts:
    """Count a split's units and their records; `items` are packed records in the order of their keys."""
    units = over_cap = rejected = 0
    labels: Counter[int] = Counter()
    for _, group in groupby(items, key=lambda item: item[0][:UNIT_BYTES]):
        packed = list(group)
        kept = list(within_cap(packed, most))
        units += len({record.unit for record in kept})
        over_cap += len(packed) - len(kept)
        rejected += sum(record.image is None for record in kept)
        labels.update(record.label for record in kept)
    return UnitFacts(units, labels.total(), over_cap, rejected, [labels[label] for label in range(classes)])


def check_disjoint(one: Iterable[Item], other: Iterable[Item]) -> None:
    """Refuse two splits that share a unit; both are in the order of their keys.

    Raises:
        SourceError: they share one or more.
    """
    left, right = _units(one), _units(other)
    a, b = next(left, None), next(right, None)
    shared = 0
    while a is not None and b is not None:
        if a[0] == b[0]:
            shared += len(a[1] & b[1])
            a, b = next(left, None), next(right, None)
        elif a[0] < b[0]:
            a = next(left, None)
        else:
            b = next(right, None)
    if shared:
        raise SourceError(
            f"{shared:,} units have records in both splits: a unit's records are either released or in the holdout; "
            f"nothing was charged. Next: `cadp abandon`, and divide the source by unit"
        )


def _units(items: Iterable[Item]) -> Iterator[tuple[bytes, set[str]]]:
    for prefix, group in groupby(items, key=lambda item: item[0][:UNIT_BYTES]):
        yield prefix, {unpack_record(data).unit for _, data in group}


def _whole(key: bytes) -> bytes:
    return key[:UNIT_BYTES] + bytes(KEY_BYTES - UNIT_BYTES)
