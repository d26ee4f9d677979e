"""`cadp plan` says the shuffled figure and its premises, or why there is none, before any record is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cadp.ledger import Ledger
from cadp.plan import Plan, plan_release
from cadp.privacy.accountant import curve
from cadp.privacy.legacy import Legacy
from cadp.privacy.shuffling import PREMISES, shuffled_epsilon
from cadp.publish.layout import STATEMENT
from cadp.settings import Settings
from cadp.show import plan_view
from cadp.show.shuffled import shuffled_lines, shuffled_plan
from cadp.sources.idx import IdxSource
from cadp.spec import load_spec
from cadp.steps.budgets import init_budget
from cadp.store import Store
from tests.small_release import Place

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fashion-mnist.yaml"


def planned(place: Place, *changes: tuple[str, str], counts: tuple[int, ...] | None = None) -> Plan:
    text = place.spec.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    place.spec.write_text(text)
    plan = plan_release(load_spec(place.spec), place.settings.data_dir, Store.open(str(place.private)))
    return replace(plan, facts=replace(plan.facts, class_counts=counts))


def test_the_example_says_the_figure_and_every_premise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{split}-{kind}-ubyte.gz").touch()
    monkeypatch.setattr("cadp.sources.catalogue.locate", lambda name, data_dir: tmp_path)
    view = plan_view(EXAMPLE, Settings.load({"CADP_HOME": str(tmp_path / "home")}))
    told = json.loads(json.dumps(view.to_json()))["shuffled"]
    records, train = shuffled_epsilon(told["records"]["local_epsilon"], 6000, 5e-7), view.plan.parts()[0]
    assert told["records"]["n"] == 6000
    assert told["records"]["epsilon"] == records.epsilon
    assert told["others"]["components"] == ["train"]
    assert told["others"]["epsilon"] == curve(train.event).epsilon(told["others"]["delta"])
    assert told["epsilon"] == pytest.approx(records.epsilon + told["others"]["epsilon"], abs=1e-9)
    assert told["epsilon"] < view.plan.total().epsilon(1e-6)
    assert told["premises"] == list(PREMISES)
    start = next(i for i, line in enumerate(view.lines) if line.startswith("Shuffled: "))
    for part in (f"ε = {told['epsilon']:.4g} at δ = 1e-06", "hidden among 6,000", "never charged"):
        assert part in view.lines[start], part
    assert view.lines[start + 1 :] == [f"- {premise}" for premise in PREMISES]


def test_private_labels_hide_a_record_among_all(place: Place) -> None:
    plan = planned(
        place,
        ("labels: public", "labels: {randomized-response: {epsilon: 1}}"),
        ("privunit, epsilon: 8", "privunit, epsilon: 2"),
        counts=(1, 1, 1198),  # nobody's to know, and not looked at
    )
    told = shuffled_plan(plan, None)
    assert told["records"]["n"] == 1200
    assert told["records"]["class_sizes"] is None
    assert told["records"]["local_epsilon"] == pytest.approx(3.0, abs=1e-4)
    assert told["records"]["epsilon"] < 1


def test_delta_is_the_ledgers_once_there_is_one(place: Place) -> None:
    plan = planned(place, ("privunit, epsilon: 8", "privunit, epsilon: 2"), counts=(400, 400, 400))
    assert shuffled_plan(plan, None)["delta"] == 1e-6
    place.settings.make_private_folders()
    init_budget(place.spec, place.settings, epsilon=100.0, delta=2e-6, holdout_epsilon=5.0)
    with Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as ledger:
        assert shuffled_plan(plan, ledger)["delta"] == 2e-6


def test_the_plan_says_what_the_statement_will(published: Place) -> None:
    document = json.loads((published.public / STATEMENT).read_text())
    plan = plan_release(load_spec(published.spec), published.settings.data_dir, Store.open(str(published.private)))
    known = replace(plan, facts=replace(plan.facts, class_counts=(400, 400, 400)))
    assert shuffled_plan(known, None) == document["shuffled"]


GAUSSIAN = ("kind: privunit", "kind: gaussian")
FEW = ("privunit, epsilon: 8", "privunit, epsilon: 2")
REFUSED: dict[str, tuple[str, tuple[tuple[str, str], ...], tuple[int, ...] | None]] = {
    "class sizes unknown": ("how many records each class has is not known", (FEW,), None),
    "not pure": ("has no pure loss", (GAUSSIAN,), None),
    "a lone record": ("cannot be shuffled", (FEW,), (600, 599, 1)),
    "too few for the loss": ("So few records hide nothing", (("epsilon: 8", "epsilon: 9"), ("40", "60")), (1194, 3, 3)),
    "nothing to lower": ("cost nothing", (("kind: privunit, epsilon: 8", "kind: resample, epsilon: 0"),), (400,) * 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_without_premises_the_reason_is_said(place: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def read(*_: object) -> None:
        raise AssertionError("a private record was read")

    monkeypatch.setattr(IdxSource, "records", read)
    reason, changes, counts = REFUSED[name]
    told = shuffled_plan(planned(place, *changes, counts=counts), None)
    assert told["epsilon"] is None
    assert reason in told["reason"]
    (line,) = shuffled_lines(told)
    assert line.startswith("Shuffled: no second figure. ")
    assert reason[5:] in line
    assert line.endswith(".") and not line.endswith("..")


def test_several_records_a_unit_and_legacy_have_none(place: Place) -> None:
    plan = planned(place, FEW)
    several = plan.spec.source.model_copy(update={"max_records_per_unit": 2})
    told = shuffled_plan(replace(plan, spec=plan.spec.model_copy(update={"source": several})), None)
    assert "one record a unit" in str(told["reason"])  # said first, whatever is known of the classes
    assert "NO GUARANTEE" in str(shuffled_plan(replace(plan, mechanism=Legacy.plan(1.0, 144)), None)["reason"])
