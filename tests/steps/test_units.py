"""Several records of a patient: the cap, the ranges, the split, and what a release of them costs and says."""

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadp import plan as planning
from cadp.errors import LedgerError, SourceError, SpecError
from cadp.exchange import Item, interval
from cadp.plan import Plan
from cadp.privacy.accountant import curve
from cadp.privacy.events import PureEvent
from cadp.records import Record, pack_record, unpack_record
from cadp.release import STEPS, run_step
from cadp.reporter import Silent
from cadp.secret import PopulationSecret
from cadp.shards import read_raw_shard, write_raw_shard
from cadp.steps import shard
from cadp.steps.job import Job
from cadp.steps.shard import read_facts, read_shard
from cadp.steps.units import check_disjoint, unit_facts, unit_interval, within_cap
from tests import nih_patients
from tests.command import Command, charges
from tests.patients import CAP, HOLDOUT, PATTERN, TRAIN, by_patient
from tests.small_release import Place

Cap = Callable[[Iterable[Item], int], Iterator[Record]]
Ends = Callable[[int, int], tuple[bytes, bytes | None]]
Keyed = Callable[[Iterator[Record], Job], Iterator[Item]]
JOB = cast(Job, SimpleNamespace(secret=PopulationSecret(b"s" * 32)))


def in_ranges(
    records: list[Record], of: int, most: int, *, cap: Cap = within_cap, ends: Ends = unit_interval, keyed: Keyed
) -> list[list[Record]]:
    """The raw shards that the records give."""
    items = sorted(keyed(iter(records), JOB))
    found = []
    for index in range(of):
        low, high = ends(index, of)
        found.append([*cap((item for item in items if low <= item[0] and (high is None or item[0] < high)), most)])
    return found


def picture(value: int) -> Any:
    return np.full((2, 2, 1), value, dtype=np.uint8)


def made_of(sizes: list[int]) -> list[Record]:
    return [
        Record(f"train/{unit:03d}_{j}", f"{unit:03d}", 0, picture((17 * unit + 5 * j) % 200))
        for unit, size in enumerate(sizes)
        for j in range(size)
    ]


def problems(one: list[Record], other: list[Record], unit: str, of: int, most: int, **parts: Any) -> list[str]:
    """What is wrong with how two neighbours, which differ in the contents of `unit` alone, go into ranges."""
    parts = {"keyed": shard._keyed, **parts}
    left, right = in_ranges(one, of, most, **parts), in_ranges(other, of, most, **parts)
    found = []
    changed, differ = set(), set()
    for index, (mine, theirs) in enumerate(zip(left, right, strict=True)):
        if [record.key for record in mine] != [record.key for record in theirs]:
            found.append("other records are used")
        here = {a.key for a, b in zip(mine, theirs, strict=False) if pack_record(a) != pack_record(b)}
        changed |= here
        differ |= {index} if here else set()
    if len(changed) > most:
        found.append(f"{len(changed)} records differ")
    if len(differ) > 1:
        found.append(f"{len(differ)} ranges differ")
    used = Counter(record.unit for part in left for record in part)
    if any(used[name] != min(size, most) for name, size in Counter(r.unit for r in one).items()):
        found.append("a unit has more or fewer records than the cap leaves")
    if any(len({i for i, part in enumerate(left) if name in {r.unit for r in part}}) != 1 for name in used):
        found.append("a unit is in two ranges")
    return found


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[list[Record], list[Record], str, int, int]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=12))
    chosen = draw(st.integers(0, len(sizes) - 1))
    one = made_of(sizes)
    unit = f"{chosen:03d}"
    contents = st.one_of(st.none(), st.integers(0, 255).map(picture))
    other = [replace(record, image=draw(contents)) if record.unit == unit else record for record in one]
    return one, other, unit, draw(st.integers(1, 7)), draw(st.integers(1, 4))


@settings(max_examples=150, deadline=None)
@given(neighbours())
def test_neighbours_differ_in_m_records_of_one_range(pair: tuple[list[Record], list[Record], str, int, int]) -> None:
    one, other, unit, of, most = pair
    assert problems(one, other, unit, of, most) == []


def readable_first(items: Iterable[Item], most: int) -> Iterator[Record]:
    """Mistake: a unit's records that can be read are preferred."""
    good = sorted(items, key=lambda item: (item[0][:8], unpack_record(item[1]).image is None))
    return within_cap(good, most)


def brightest(items: Iterable[Item], most: int) -> Iterator[Record]:
    """Mistake: a unit's best pictures are taken."""

    def darkness(data: bytes) -> int:
        image = unpack_record(data).image
        return 0 if image is None else -int(image.sum())

    return within_cap(sorted(items, key=lambda item: (item[0][:8], darkness(item[1]))), most)


def no_cap(items: Iterable[Item], most: int) -> Iterator[Record]:
    """Mistake: every record is used."""
    del most
    return (unpack_record(data) for _, data in items)


def by_record(records: Iterator[Record], job: Job) -> Iterator[Item]:
    """Mistake: records are placed by their own names."""
    return shard._keyed((replace(record, unit=record.key) for record in records), job)


def named_again(records: Iterator[Record], job: Job) -> Iterator[Item]:
    """`by_record`, with the records' units put back."""
    for key, data in by_record(records, job):
        record = unpack_record(data)
        yield key, pack_record(replace(record, unit=record.key[6:9]))


def by_content(records: Iterator[Record], job: Job) -> Iterator[Item]:
    """Mistake: a record's place in the order is by what it holds."""
    for key, data in shard._keyed(records, job):
        image = unpack_record(data).image
        yield key[:8] + (b"\xff" * 8 if image is None else bytes(image.ravel()[:4]) * 2), data


@pytest.mark.parametrize(
    ("says", "parts"),
    [
        ("other records are used", {"cap": readable_first}),
        ("other records are used", {"cap": brightest}),
        ("other records are used", {"keyed": by_content}),
        ("more or fewer records", {"cap": no_cap}),
        ("a unit is in two ranges", {"keyed": named_again}),
    ],
    ids=["readable first", "brightest", "keyed by content", "no cap", "placed by record"],
)
def test_planted_mistakes_are_caught(says: str, parts: dict[str, Any]) -> None:
    one = made_of([6] * 8)
    found = []
    for unit in range(8):
        name = f"{unit:03d}"
        other = [
            replace(record, image=None if i % 2 else picture(255 - i)) if record.unit == name else record
            for i, record in enumerate(one)
        ]
        assert problems(one, other, name, 5, 3) == []
        found += problems(one, other, name, 5, 3, **parts)
    assert any(says in problem for problem in found), found


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.data())
def test_ends_of_ranges_are_whole_hashes_and_leave_no_gap(of: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, of - 1))
    low, high = unit_interval(index, of)
    assert low[8:] == bytes(8)
    assert (high is None) == (index == of - 1)
    assert low < (high or b"\xff" * 17)
    assert index == 0 or unit_interval(index - 1, of)[1] == low
    assert index > 0 or low == bytes(16)


@pytest.mark.parametrize(("ends", "split"), [(unit_interval, False), (interval, True)], ids=["as it is", "any bytes"])
def test_a_unit_whose_hash_is_at_an_end_is_not_split(ends: Ends, split: bool) -> None:
    # A third of the key space ends at 5555…: a unit whose hash that is has records on both sides of it.
    records = [Record(f"train/000_{i}", "000", 0, picture(i)) for i in range(2)]

    def at_the_end(these: Iterator[Record], job: Job) -> Iterator[Item]:
        del job
        return ((b"\x55" * 8 + bytes([255 * i]) * 8, pack_record(record)) for i, record in enumerate(these))

    parts = in_ranges(records, 3, 1, ends=ends, keyed=at_the_end)
    assert (len([part for part in parts if part]) == 2) == split
    # Split, the unit would have been given its cap twice.
    assert sum(map(len, parts)) == 1 + split


def test_units_of_one_hash_have_a_cap_each() -> None:
    records = [Record(f"train/{unit}_{i}", unit, 0, picture(i)) for i in range(4) for unit in "ab"]
    items = [(bytes(15) + bytes([i]), pack_record(record)) for i, record in enumerate(records)]
    assert Counter(record.unit for record in within_cap(items, 3)) == {"a": 3, "b": 3}
    found = unit_facts(items, 3, 1)
    assert (found.units, found.records, found.over_cap, found.class_counts) == (2, 6, 2, [6])


def test_a_unit_on_both_sides_is_refused_and_one_hash_is_not_one_unit() -> None:
    def split(*units: str) -> list[Item]:
        return sorted(shard._keyed((Record(f"x/{u}", u, 0, None) for u in units), JOB))

    check_disjoint(split("a", "b"), split("c", "d"))
    with pytest.raises(SourceError, match="2 units have records in both splits"):
        check_disjoint(split("a", "b", "c"), split("d", "c", "b"))
    one = [(bytes(16), pack_record(Record("x", "a", 0, None)))]
    check_disjoint(one, [(bytes(16), pack_record(Record("y", "b", 0, None)))])


@pytest.fixture(scope="module")
def collection() -> list[Item]:
    """A real collection's pictures in the order of their keys: 30,805 patients with 1 to 184."""
    pattern = re.compile(PATTERN)
    records = []
    for number, (patient, name) in enumerate(nih_patients.names()):
        found = pattern.fullmatch(name)
        assert found is not None and found[1] == patient
        records.append(Record(f"train/{name}", patient, number % 2, None))
    return sorted(shard._keyed(iter(records), JOB))


def test_the_grouping_of_a_real_collection_is_capped_and_kept_together(collection: list[Item]) -> None:
    patients, pictures = sum(nih_patients.PATIENTS.values()), len(collection)
    assert (patients, pictures) == (30_805, 112_120)
    over = sum(max(0, size - CAP) * count for size, count in nih_patients.PATIENTS.items())
    found = unit_facts(collection, CAP, 2)
    assert (found.units, found.records, found.over_cap, found.rejected) == (
        patients,
        pictures - over,
        over,
        pictures - over,
    )
    keys = [key for key, _ in collection]
    of, seen, sizes = 12, dict[str, int](), []
    for index in range(of):
        low, high = unit_interval(index, of)
        part = collection[bisect_left(keys, low) : None if high is None else bisect_left(keys, high)]
        used = Counter(record.unit for record in within_cap(part, CAP))
        assert not used.keys() & seen.keys()  # no patient is in two ranges
        seen |= used
        sizes.append(used.total())
    assert Counter(seen.values()) == Counter(
        {size: count for size, count in nih_patients.PATIENTS.items() if size < CAP}
        | {CAP: sum(count for size, count in nih_patients.PATIENTS.items() if size >= CAP)}
    )
    assert sum(sizes) == pictures - over
    # Ranges are a dozenth each, give or take six standard deviations of 30,805 patients with up to 3 pictures.
    assert max(abs(size - sum(sizes) / of) for size in sizes) < 6 * CAP * math.sqrt(patients / of)


def test_a_real_collection_divided_by_picture_shares_patients_and_is_refused(collection: list[Item]) -> None:
    whole = [item for item in collection if item[0] < b"\xcc" * 16]
    check_disjoint(whole, collection[len(whole) :])
    by_picture = collection[::5], [item for i, item in enumerate(collection) if i % 5]
    shared = set.intersection(*({unpack_record(data).unit for _, data in part} for part in by_picture))
    assert len(shared) > 5_000
    with pytest.raises(SourceError, match=f"{len(shared):,} units have records in both splits"):
        check_disjoint(*by_picture)


HOSTILE = [
    "a\nb", "a\0b", "../../etc/passwd", "/", ".", "é", "e\u0301", "\u202e", "𝒳" * 60, "x" * 250, '"\\', "\\udcff", " ",
    "a", "a ", "A", "train", '{"unit": "a"}', "00", "0",
]  # fmt: skip


def test_units_of_any_name_are_kept_apart_and_come_back(tmp_path: Path) -> None:
    """Normal forms, case and spaces make other names, hence other units: whoever writes the ids decides who is who."""
    records = [Record(f"train/{name}/{j}", name, 0, picture(j)) for name in HOSTILE for j in range(3)]
    items = sorted(shard._keyed(iter(records), JOB))
    assert len({key[:8] for key, _ in items}) == len(HOSTILE)
    write_raw_shard(tmp_path / "shard.tar", within_cap(items, 2))
    with (tmp_path / "shard.tar").open("rb") as stream:
        back = list(read_raw_shard(stream))
    assert Counter(record.unit for record in back) == dict.fromkeys(HOSTILE, 2)
    assert {record.key for record in back} < {record.key for record in records}
    check_disjoint(items, sorted(shard._keyed(iter([Record("test/x", "B", 0, None)]), JOB)))


def sharded(place: Place) -> Job:
    job = place.job()
    run_step(STEPS[0], job, Silent())
    return job


def test_a_release_by_patient(place: Place, cadp: Command) -> None:
    by_patient(place, max_rejects=0.1)
    often = f"{int(np.argmax(TRAIN.sizes)):08d}"
    for path in (place.folder / "source" / "train").rglob(f"{often}_*.png"):
        path.write_bytes(path.read_bytes()[:-60])
    place.open_budget(epsilon=500)
    done = cadp(place, "release", place.spec)
    assert done.code == 0, done.err
    assert cadp(place, "verify", place.public).code == 0
    job = place.job()

    # In is out and capped; the rejected ones are among those that went on, in their places.
    kept = [record for index in range(job.plan.ranges) for record in read_shard(job, index)]
    facts = read_facts(job)["train"]
    assert (len(kept), facts["over_cap"]) == (TRAIN.records - TRAIN.over(CAP), TRAIN.over(CAP))
    assert facts["records"] + facts["over_cap"] == TRAIN.records
    used = Counter(record.unit for record in kept)
    assert used == {f"{i:08d}": min(size, CAP) for i, size in enumerate(TRAIN.sizes)}
    # None of this patient's pictures can be read. The cap takes as many of them as of anybody's.
    assert {record.unit for record in kept if record.image is None} == {often}
    assert facts["rejected"] == sum(record.image is None for record in kept) == CAP
    rejects = pq.read_table(job.private.open_read("raw/rejects.parquet")).num_rows
    assert rejects == max(TRAIN.sizes) > CAP
    assert sum(facts["class_counts"]) == len(kept)
    rows = [row for path in (place.public / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == len(kept)
    assert np.bincount([row["label"] for row in rows]).tolist() == facts["class_counts"]

    # What a patient pays: three records, and training with contributions three times as long.
    events = {charge.key.rpartition("/")[2]: charge.event for charge in charges(place)}
    assert events["records"] == PureEvent(cast(PureEvent, job.plan.mechanism.event()).epsilon, count=CAP)
    said = json.loads((place.public / "statement.json").read_text())
    own, holdout = said["populations"]
    assert (own["unit"], own["units"], own["records"]) == ("patient", len(TRAIN.sizes), len(kept))
    assert (own["max_records_per_unit"], holdout["max_records_per_unit"]) == (CAP, 1)
    assert (holdout["units"], holdout["records"]) == (len(HOLDOUT.sizes), HOLDOUT.records)
    assert "one patient contributes up to 3 records, which are protected together" in said["lines"][0]
    assert f"{TRAIN.over(CAP)} records beyond the 3 of one patient were left out" in said["lines"][3]
    assert said["components"][0]["parameters"]["max_records_per_unit"] == CAP
    assert "3 records: the shuffled loss is known for one record a unit" in said["shuffled"]["reason"]
    answer = job.ledger.recorded_answer(job.find_charge("gate").id)  # type: ignore[union-attr]
    assert answer is not None
    assert answer["n"] == len(HOLDOUT.sizes)
    # Whose pictures they are is nowhere in what is published.
    ids = [f"{i:08d}_".encode() for i in range(len(TRAIN.sizes))]
    for path in (path for path in place.public.rglob("*") if path.is_file()):
        data = path.read_bytes()
        assert not [unit for unit in ids if unit in data], path


def test_a_neighbouring_source_goes_into_the_same_ranges(place: Place) -> None:
    """Through the real step: all pictures of the patient with the most are exchanged, some for what cannot be read."""
    by_patient(place, max_rejects=0.1)
    place.open_budget(epsilon=500)
    before = sharded(place)
    patient = f"{int(np.argmax(TRAIN.sizes)):08d}"
    pictures = sorted((place.folder / "source" / "train").rglob(f"{patient}_*.png"))
    assert len(pictures) == max(TRAIN.sizes) > CAP
    for i, path in enumerate(pictures):
        path.write_bytes(pictures[-1].read_bytes() if i % 3 else b"nothing")
    left = [[*read_shard(before, i)] for i in range(before.plan.ranges)]
    # Another version has a plan and shards of its own.
    place.spec.write_text(place.spec.read_text().replace("version: 1.0.0", "version: 1.0.1"))
    after = sharded(place)
    right = [[*read_shard(after, i)] for i in range(after.plan.ranges)]
    assert [[r.key for r in part] for part in left] == [[r.key for r in part] for part in right]
    differ = [
        (index, a.unit)
        for index, (mine, theirs) in enumerate(zip(left, right, strict=True))
        for a, b in zip(mine, theirs, strict=True)
        if pack_record(a) != pack_record(b)
    ]
    assert 0 < len(differ) <= CAP
    assert len(set(differ)) == 1
    assert differ[0][1] == patient


def unpaid(plan: Plan) -> list[str]:
    """Parts in which a unit pays less than its m records cost, one by one."""
    m = plan.records_per_unit
    found = []
    record = curve(plan.mechanism.event()).epsilon(0.0) + curve(plan.labels.event()).epsilon(0.0)
    if plan.parts()[1].epsilon(0.0) < m * record - 1e-5:
        found.append("records")
    for query in plan.moments.queries:
        if query.sensitivity < np.sqrt(2) * m * query.bound or query.event().mu < query.sensitivity / query.sigma:
            found.append(query.name)
    return found


def one_record(event: Any, m: int) -> Any:
    """Mistake: a unit pays for one record."""
    del m
    return event


@pytest.mark.parametrize("labels", ["public", "{randomized-response: {epsilon: 1}}"], ids=["public", "response"])
def test_m_is_charged_everywhere(place: Place, labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_patient(place, labels=labels)
    place.open_budget(epsilon=500)
    plan = place.job().plan
    assert unpaid(plan) == []
    assert plan.parts()[1].epsilon(0.0) == pytest.approx(CAP * (8 if labels == "public" else 9), abs=1e-4)
    monkeypatch.setattr(planning, "per_unit", one_record)
    assert unpaid(plan) == ["records"]
    monkeypatch.undo()
    single = replace(plan, moments=replace(plan.moments, mean=replace(plan.moments.mean, records=1)))
    assert unpaid(single) == ["class means"]


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "units": ({"units": 149}, "of 150"),
    "holdout units": ({"holdout_units": 61}, "of 60"),
    "over the cap": ({"over_cap": TRAIN.over(CAP) - 1}, f"{TRAIN.over(CAP)} over it"),
    "cap": ({"max_records_per_unit": CAP + 1}, f"{TRAIN.over(CAP + 1)} over it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_counts_that_are_not_the_sources_stop_before_any_charge(place: Place, name: str) -> None:
    changes, says = WRONG[name]
    by_patient(place, **changes)
    place.open_budget(epsilon=500)
    with pytest.raises(SpecError, match=says) as refused:
        sharded(place)
    assert "nothing was charged" in str(refused.value)
    assert charges(place) == []


def test_a_patient_in_both_splits_stops_before_any_charge(place: Place) -> None:
    by_patient(place)
    place.open_budget(epsilon=500)
    stranger = f"{HOLDOUT.first + next(i for i, size in enumerate(HOLDOUT.sizes) if size == 1):08d}"
    path = next((place.folder / "source" / "test").rglob(f"{stranger}_*.png"))
    path.rename(path.with_name("00000007_077.png"))
    with pytest.raises(SourceError, match="1 units have records in both splits"):
        sharded(place)
    assert charges(place) == []


def test_a_budget_is_of_one_kind_of_unit(place: Place) -> None:
    by_patient(place)
    place.open_budget(epsilon=500)
    place.job()
    text = place.spec.read_text()
    place.spec.write_text(text.replace(PATTERN, r"(\d{8}_\d{3})\.png"))
    with pytest.raises(LedgerError, match="protects one patient by"):
        place.job()
    start, end = text.index("source:\n"), text.index("spend:")
    kept = [
        line
        for line in text[start:end].splitlines()
        if line.split(":")[0].strip()
        not in {"unit_pattern", "max_records_per_unit", "units", "holdout_units", "over_cap"}
    ]
    source = "\n".join(kept).replace("unit: patient", "unit: record")
    place.spec.write_text(text[:start] + source + "\n" + text[end:])
    with pytest.raises(LedgerError, match="the spec says record"):
        place.job()


SPECS: dict[str, tuple[dict[str, object], str]] = {
    "two groups": ({"unit_pattern": r"(\d+)_(\d+)\.png"}, "2 groups"),
    "no group": ({"unit_pattern": r"\d+\.png"}, "0 groups"),
    "no expression": ({"unit_pattern": r"(\d+"}, "no regular expression"),
    "idx": ({"format": "idx"}, "does not say whose records are whose"),
    "nothing left": ({"over_cap": 10_000}, "leaves nothing"),
    "no cap": ({"max_records_per_unit": 0}, "greater than or equal to 1"),
    "record": ({"unit": "record"}, "leave out unit_pattern, max_records_per_unit, units, holdout_units, over_cap"),
    "a name": ({"unit": "Patient 7"}, "match pattern"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_that_cannot_tell_units_is_refused_with_its_line(place: Place, name: str) -> None:
    changes, says = SPECS[name]
    by_patient(place, **changes)
    with pytest.raises(SpecError, match=says) as refused:
        place.open_budget()
    assert "release.yaml:" in str(refused.value)
