"""A plan is a function of the spec and the source's list of files: what it will do and cost, and no record read."""

import json
import os

import pytest

from cadp.errors import ObjectExists, PlanDiffers
from cadp.plan import Plan, bind_plan, plan_release
from cadp.privacy.accountant import curve
from cadp.secret import PopulationSecret
from cadp.show import plan_view
from cadp.sources.idx import IdxSource
from cadp.spec import load_spec
from cadp.store import Store
from tests.small_release import Place


def private(place: Place) -> Store:
    return Store.open(str(place.private))


def made(place: Place) -> Plan:
    return plan_release(load_spec(place.spec), place.settings.data_dir, private(place))


def change(place: Place, old: str, new: str) -> None:
    text = place.spec.read_text()
    assert old in text
    place.spec.write_text(text.replace(old, new))


def test_same_spec_same_plan_same_cost(place: Place) -> None:
    first, again = made(place), made(place)
    assert first.to_json() == again.to_json()
    assert json.loads(json.dumps(first.to_json())) == json.loads(json.dumps(again.to_json()))
    assert first.total() == again.total()


def test_no_record_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a private record was read")

    before = plan_view(place.spec, place.settings)
    monkeypatch.setattr(IdxSource, "records", read)
    # Not even with content that nothing could read: a plan knows names, sizes and times.
    for path in (place.folder / "source").iterdir():
        size = path.stat().st_size
        path.write_bytes(os.urandom(size))
        os.utime(path, (1_700_000_000, 1_700_000_000))
    view = plan_view(place.spec, place.settings)
    assert view.rows == before.rows
    assert view.to_json() == before.to_json()
    assert not place.settings.home.exists()


def test_parts_are_what_will_be_charged(place: Place) -> None:
    plan = made(place)
    train, records, gate = plan.parts()
    assert (train.population, records.population, gate.population) == ("shapes", "shapes", "shapes.holdout")
    assert train.epsilon(1e-6) == pytest.approx(30, abs=1e-3)
    assert records.epsilon(0.0) == pytest.approx(8, abs=1e-5)
    assert records.epsilon(0.0) <= 8
    assert gate.epsilon(0.0) == pytest.approx(1)
    assert plan.total() == curve(train.event) + curve(records.event)
    assert [charge["name"] for charge in plan.to_json()["charges"]] == ["train", "records", "gate"]


def test_view_shows_every_step_and_what_is_left(place: Place) -> None:
    rows = {row["step"]: row for row in plan_view(place.spec, place.settings).rows}
    assert list(rows) == ["shard", "train", "privatize", "validate", "publish"]
    assert {rows[step]["ε"] for step in ("shard", "publish")} == {"0"}
    assert rows["train"]["left after it"] == "no budget yet"
    place.open_budget(epsilon=35.0)
    rows = {row["step"]: row for row in plan_view(place.spec, place.settings).rows}
    assert rows["train"]["left after it"] == "5 of 35, shapes"
    assert rows["privatize"]["left after it"] == "refused: 3 too much, shapes"
    assert rows["validate"]["left after it"] == "4 of 5, shapes.holdout"
    assert not place.private.exists()


def test_left_counts_other_releases_and_not_this_one_twice(published: Place) -> None:
    rows = {row["step"]: row for row in plan_view(published.spec, published.settings).rows}
    assert rows["privatize"]["left after it"] == "62 of 100, shapes"


def test_how_to_run_is_outside(place: Place) -> None:
    secret = PopulationSecret(b"a" * 32)
    first = made(place)
    change(place, "workers: 2", "workers: 1, batch: 7")
    assert made(place).digest(secret) == first.digest(secret)
    change(place, "range_records: 300", "range_records: 500")
    assert made(place).ranges == 3
    assert made(place).digest(secret) != first.digest(secret)


def test_a_rerun_keeps_the_first_plans_ranges(place: Place) -> None:
    first = made(place)
    bind_plan(first, private(place))
    change(place, "range_records: 300", "range_records: 1200")
    again = made(place)
    assert again.ranges == first.ranges == 4
    bind_plan(again, private(place))
    place.write_spec(version="1.0.1")
    change(place, "range_records: 300", "range_records: 1200")
    assert plan_release(load_spec(place.spec), place.settings.data_dir, private(place).child("new")).ranges == 1


def test_a_bound_plan_is_never_replaced(place: Place) -> None:
    bind_plan(made(place), private(place))
    bound = (place.private / "plan.json").read_bytes()
    change(place, "epsilon: 8, content", "epsilon: 7, content")
    with pytest.raises(PlanDiffers) as refused:
        bind_plan(made(place), private(place))
    lines = str(refused.value).splitlines()
    assert any(line.startswith("-") and '"epsilon": 8.0' in line for line in lines)
    assert any(line.startswith("+") and '"epsilon": 7.0' in line for line in lines)
    assert lines[-1].startswith("next: ")
    with pytest.raises(ObjectExists):
        private(place).put("plan.json", b"{}")
    assert (place.private / "plan.json").read_bytes() == bound


@pytest.mark.parametrize("what", ["time", "size"])
def test_a_changed_source_is_another_plan(place: Place, what: str) -> None:
    bind_plan(made(place), private(place))
    path = place.folder / "source" / "train-images-idx3-ubyte.gz"
    if what == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, (1_700_000_000, 1_700_000_000 + (what == "time")))
    with pytest.raises(PlanDiffers, match="source files changed"):
        bind_plan(made(place), private(place))


def test_another_version_of_a_library_is_another_plan(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bind_plan(made(place), private(place))
    monkeypatch.setattr("cadp.plan.version", lambda name: "0.0.1")
    with pytest.raises(PlanDiffers, match="numpy"):
        bind_plan(made(place), private(place))


def test_digest_is_keyed(place: Place) -> None:
    plan = made(place)
    digests = {plan.digest(PopulationSecret(root * 32)) for root in (b"a", b"b")}
    assert len(digests) == 2
    # Whoever guesses sizes and tags of the source cannot check the guess against what is public.
    assert plan.spec.digest() not in digests


def test_public_digest_is_the_plans(published: Place) -> None:
    claim = json.loads((published.public / "claim.json").read_text())
    assert published.job().plan_digest in json.dumps(claim)
