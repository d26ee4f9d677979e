"""The privacy statement says what the ledger charged, in figures and in words, and nothing else passes for it."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy import plain_words
from cadp.privacy.accountant import Curve, calibrate_gaussian, curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, DeltaEvent, Event, GaussianEvent, PureEvent
from cadp.privacy.labels import AttributeResponse, ClassAttributes, LabelPlan, ResampledLabels, plan_response
from cadp.privacy.mechanisms import plan_mechanism
from cadp.privacy.plain_words import losses_in, losses_of, nats, scientific
from cadp.privacy.shuffling import PREMISES, shuffled_epsilon
from cadp.privacy.statement import (
    Circumstances,
    Component,
    Population,
    shuffled_row,
    statement,
    statement_lines,
    verify_statement,
)
from cadp.privacy.units import per_unit

PRIVUNIT = plan_mechanism("privunit", epsilon=4.0, delta=0.0, content_dims=8)
MU = calibrate_gaussian(4.0, 1e-6)
TRAINING = Component(
    name="training",
    what="the model",
    mechanism="moments",
    parameters={"clip_norm": 9.25},
    event=GaussianEvent(MU),
    population="clinic",
    charge="c1",
    zero_out_event=GaussianEvent(MU / 2, relation=ZERO_OUT),
)
RECORDS = Component(
    name="records",
    what="the records",
    mechanism="privunit",
    parameters=PRIVUNIT.parameters(),
    event=PRIVUNIT.event(),
    population="clinic",
    charge="c2",
    zero_out_event=PRIVUNIT.zero_out_event(),
)
GATE = Component(
    name="gate",
    what="the accuracy",
    mechanism="discrete-laplace",
    parameters={"scale": 2.0},
    event=PureEvent(0.5),
    population="clinic-holdout",
    charge="c3",
    zero_out_event=PureEvent(0.5, relation=ZERO_OUT),
)
CHARGED = curve(TRAINING.event) + curve(RECORDS.event)
CLINIC = Population(
    name="clinic",
    unit="person",
    why="",
    units=1000,
    records=1500,
    max_records_per_unit=2,
    limit_epsilon=10.0,
    limit_delta=1e-6,
    charged=CHARGED,
    cumulative=CHARGED + curve(PureEvent(1.25)),
    releases=2,
)
HOLDOUT = dataclasses.replace(
    CLINIC,
    name="clinic-holdout",
    limit_epsilon=1.0,
    charged=curve(GATE.event),
    cumulative=curve(GATE.event),
    releases=1,
)
AUDIT = {"trials": 5000, "epsilon_lower_bound": 2.5, "ceiling": 7.2}


def build(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "scans",
        "version": "1.0.0",
        "date": "2026-01-02",
        "components": [TRAINING, RECORDS, GATE],
        "populations": [CLINIC, HOLDOUT],
        "circumstances": Circumstances(labels="public", model="dp", versions={"numpy": "2"}, audit=AUDIT),
    }
    return json.loads(json.dumps(statement(**{**values, **changes})))


def test_the_figures_are_the_ledgers() -> None:
    document = build()
    clinic, holdout = document["populations"]
    assert clinic["epsilon"] == CHARGED.epsilon(1e-6) == document["loss"]["epsilon"] <= 8.0
    assert clinic["cumulative_epsilon"] == CLINIC.cumulative.epsilon(1e-6)
    assert holdout["epsilon"] == holdout["pure_epsilon"] == 0.5
    assert clinic["pure_epsilon"] is None  # a Gaussian has none
    assert clinic["zero_out_epsilon"] < clinic["epsilon"]
    assert [c["epsilon"] for c in document["components"]] == [4.0, 4.0, 0.5]
    assert document["loss"]["delta_text"] == "1e-06"
    verify_statement(document)


def test_five_lines_say_the_same() -> None:
    document = build()
    said = document["lines"]
    assert said == statement_lines(document)
    assert len(said) == 5
    assert all(line and "\n" not in line for line in said)
    epsilon = nats(CHARGED.epsilon(1e-6))
    assert f"e^{epsilon} times" in said[1]
    assert f"(epsilon = {epsilon}, delta = 1e-06, replace-one" in said[1]
    assert "up to 2 records" in said[0]
    assert "paid by the separate population clinic-holdout" in said[2]
    assert "the label of every record" in said[3]
    assert "2 releases, this one included" in said[4]
    assert "did not refute it at 5,000 trials" in said[4]


def test_no_statement_calls_anyone_anonymous_or_anything_verified() -> None:
    text = json.dumps([build(), build(circumstances=Circumstances(labels="resample", model="public", seeded=True))])
    text += Path(plain_words.__file__).read_text()
    assert "anonym" not in text.lower()
    assert "verified" not in " ".join(build()["lines"])


SINGLE = dataclasses.replace(CLINIC, units=15_000, records=15_000, max_records_per_unit=1)


def hidden(
    population: Population = SINGLE, labels: str = "public", sizes: list[int] | None = None, **changes: Any
) -> dict[str, Any]:
    """A statement with what it says of its shuffled records, which are of two classes."""
    components = changes.pop("components", [TRAINING, RECORDS, GATE])
    row = shuffled_row(components, population, labels=labels, class_sizes=sizes or [9000, 6000])
    circumstances = Circumstances(labels=labels, model="dp", shuffled=row)
    return build(components=components, populations=[population, HOLDOUT], circumstances=circumstances, **changes)


def test_shuffled_records_have_a_second_figure() -> None:
    document = hidden()
    row = document["shuffled"]
    found = shuffled_epsilon(row["records"]["local_epsilon"], 6000, 5e-7)
    assert row["records"]["epsilon"] == found.epsilon < 4.0
    assert row["records"]["n"] == 6000
    assert row["records"]["local_epsilon"] == curve(RECORDS.event).micro[-1] / 1e6  # type: ignore[operator]
    assert row["others"] == {"components": ["training"], "epsilon": curve(TRAINING.event).epsilon(5e-7), "delta": 5e-7}
    assert row["epsilon"] == pytest.approx(found.epsilon + row["others"]["epsilon"], abs=1e-9)
    assert row["epsilon"] < CHARGED.epsilon(1e-6) == document["loss"]["epsilon"]
    assert row["premises"] == list(PREMISES)
    said = document["lines"]
    assert len(said) == 6
    assert f"epsilon = {nats(row['epsilon'])} at delta = 1e-06, since each record hides among 6,000." in said[5]
    assert "premises" in said[5] and "not charged" in said[5]
    verify_statement(document)


def test_without_labels_to_tell_them_apart_all_records_hide_each_other() -> None:
    row = hidden(labels="resample")["shuffled"]
    assert (row["records"]["n"], row["records"]["class_sizes"]) == (15_000, None)
    label = dataclasses.replace(RECORDS, name="labels", event=PureEvent(0.5), zero_out_event=None, charge="c4")
    charged = CHARGED + curve(label.event)
    population = dataclasses.replace(SINGLE, charged=charged, cumulative=charged, limit_epsilon=11.0)
    document = hidden(population, "randomized-response", components=[TRAINING, RECORDS, label, GATE])
    row = document["shuffled"]
    assert row["records"]["components"] == ["records", "labels"]
    assert row["records"]["local_epsilon"] == pytest.approx(4.5, abs=1e-5)
    verify_statement(document)
    document["shuffled"]["records"]["components"] = ["records"]
    with pytest.raises(VerificationFailed):
        verify_statement(document)


def test_a_label_composed_into_the_records_is_a_part_of_what_shuffling_hides() -> None:
    event = ComposedEvent((PureEvent(0.5), RECORDS.event))
    paid = dataclasses.replace(RECORDS, event=event, zero_out_event=None, parameters={"labels": {"epsilon": 0.5}})
    charged = curve(TRAINING.event) + curve(event)
    population = dataclasses.replace(SINGLE, charged=charged, cumulative=charged, limit_epsilon=11.0)
    document = hidden(population, "randomized-response", components=[TRAINING, paid, GATE])
    row = document["shuffled"]
    assert row["records"]["local_epsilon"] == pytest.approx(4.5, abs=1e-5)
    assert (row["records"]["n"], row["records"]["class_sizes"]) == (15_000, None)
    verify_statement(document)
    unpaid = dataclasses.replace(paid, parameters={})
    refused = hidden(population, "randomized-response", components=[TRAINING, unpaid, GATE])["shuffled"]
    assert "not among the charges" in refused["reason"]


def _mechanism(event: Event) -> dict[str, Any]:
    records = dataclasses.replace(RECORDS, event=event, zero_out_event=None)
    charged = CHARGED if event == RECORDS.event else curve(TRAINING.event) + curve(event)
    population = dataclasses.replace(SINGLE, charged=charged, cumulative=charged, limit_epsilon=90.0)
    return {"components": [TRAINING, records, GATE], "population": population}


NO_FIGURE: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("no pure loss", _mechanism(GaussianEvent(0.5))),
    "resample": ("cost nothing", _mechanism(ComposedEvent(()))),
    "several-records": ("up to 2 records", {"population": dataclasses.replace(SINGLE, max_records_per_unit=2)}),
    "large-loss": ("hide nothing", _mechanism(PureEvent(20.0))),
    "small-class": ("no smaller than the loss that is charged", {"sizes": [14_400, 600]}),
    "class-of-one": ("cannot be shuffled", {"sizes": [14_999, 1]}),
    "sizes": ("add up to 15000 records", {"sizes": [9000, 6001]}),
    "labels": ("not among the charges", {"labels": "randomized-response"}),
}


@pytest.mark.parametrize("name", NO_FIGURE)
def test_where_there_is_no_second_figure_the_reason_is_given(name: str) -> None:
    reason, changes = NO_FIGURE[name]
    document = hidden(**changes)
    assert document["shuffled"]["epsilon"] is None
    assert reason in document["shuffled"]["reason"]
    assert len(document["lines"]) == 5
    verify_statement(document)


SHUFFLED: dict[str, Callable[[dict[str, Any]], None]] = {
    "figure": lambda d: _restate(d, epsilon=d["shuffled"]["epsilon"] - 1e-3),
    "delta": lambda d: _restate(d, delta=1e-5, delta_text="1e-05"),
    "records": lambda d: _restate(
        d, epsilon=d["shuffled"]["epsilon"] - 0.1, records={"epsilon": d["shuffled"]["records"]["epsilon"] - 0.1}
    ),
    "records by a micro-nat": lambda d: _restate(d, records={"epsilon": d["shuffled"]["records"]["epsilon"] - 1e-6}),
    "records at more delta": lambda d: _restate(d, records={"delta": 9e-7}),
    "local loss": lambda d: _restate(d, records={"local_epsilon": 1.0}),
    "hidden among all": lambda d: _restate(d, records={"n": 15_000}),
    "labels": lambda d: _restate(d, labels="resample"),
    "classes that do not add up": lambda d: _restate(d, records={"class_sizes": [9000, 9000], "n": 9000}),
    "no classes": lambda d: _restate(d, records={"class_sizes": None, "n": 15_000}),
    "components": lambda d: _restate(d, records={"components": []}),
    "training": lambda d: _restate(d, epsilon=d["shuffled"]["epsilon"] - 1, others={"epsilon": 2.0}),
    "training left out": lambda d: _restate(d, others={"components": []}),
    "relation": lambda d: _restate(d, relation=ZERO_OUT),
    "population": lambda d: _restate(d, population="clinic-holdout"),
    "premises": lambda d: _restate(d, premises=[]),
    "not a number": lambda d: d["shuffled"].update(epsilon="0.1"),
    "negative": lambda d: _restate(d, epsilon=-1.0),
    "not an object": lambda d: d.update(shuffled=7),
    "gone": lambda d: d.update(shuffled=None),
    "gone from the lines": lambda d: d["lines"].pop(),
    "several records a unit": lambda d: d["populations"][0].update(max_records_per_unit=2),
}


def _restate(document: dict[str, Any], **changes: Any) -> None:
    """Change the figure and say it again in the lines, so that only the arithmetic can object."""
    document["labels"] = changes.pop("labels", document["labels"])
    for key, value in changes.items():
        if isinstance(value, dict):
            document["shuffled"][key].update(value)
        else:
            document["shuffled"][key] = value
    if document["shuffled"]["epsilon"] >= 0:
        document["lines"] = statement_lines(document)


@pytest.mark.parametrize("name", SHUFFLED)
def test_a_tampered_figure_for_shuffled_records_is_detected(name: str) -> None:
    document = hidden()
    SHUFFLED[name](document)
    with pytest.raises(VerificationFailed):
        verify_statement(document)


RESPONSES: dict[str, LabelPlan] = {
    "randomized-response": plan_response(0.5, 10),
    "attributes": ClassAttributes(AttributeResponse.plan(0.5, 1), ("ill",), ((0,), (1,))),
    "resample": ResampledLabels((1.0, 2.0)),
}


def answered(plan: LabelPlan) -> dict[str, Any]:
    """A statement of records whose labels are private, of units with up to two."""
    event = per_unit(ComposedEvent((plan.event(), RECORDS.event)), 2)
    parameters = {**RECORDS.parameters, "labels": plan.parameters()}
    paid = dataclasses.replace(RECORDS, event=event, zero_out_event=None, parameters=parameters)
    charged = curve(TRAINING.event) + curve(event)
    return build(
        components=[TRAINING, paid, GATE],
        populations=[dataclasses.replace(CLINIC, charged=charged, cumulative=charged, limit_epsilon=20.0), HOLDOUT],
        circumstances=Circumstances(labels=plan.kind, label_parameters=plan.parameters(), model="dp"),
    )


LABEL_LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "less": lambda d: _labels(d).update(epsilon=0.1),
    "less by little": lambda d: _labels(d).update(epsilon=d["label_release"]["epsilon"] - 1e-4),
    "in one place": lambda d: d["label_release"].update(epsilon=0.1),
    "nothing": lambda d: _labels(d).update(epsilon=0.0),
    "another kind": lambda d: _labels(d).update(kind="public"),
    "no event": lambda d: d["components"][1]["parameters"].pop("labels"),
    "of one record": lambda d: d["populations"][0].update(max_records_per_unit=1),
    "not a number": lambda d: _labels(d).update(epsilon=None),
}


def _labels(document: dict[str, Any]) -> dict[str, Any]:
    """What is said of labels in both places, as one object, so that only their event can object."""
    said = {key: value for key, value in document["label_release"].items() if key not in plain_words.LABELS["resample"]}
    document["components"][1]["parameters"]["labels"] = said
    changed: dict[str, Any] = _Both(document["label_release"], said)
    return changed


class _Both(dict[str, Any]):
    """Two objects that are changed together."""

    def __init__(self, *these: dict[str, Any]) -> None:
        super().__init__()
        self.these = these

    def update(self, **changes: Any) -> None:  # type: ignore[override]
        for one in self.these:
            one.update(changes)


@pytest.mark.parametrize("kind", RESPONSES)
def test_the_loss_of_a_label_is_in_the_events(kind: str) -> None:
    document = answered(RESPONSES[kind])
    assert document["label_release"]["epsilon"] == pytest.approx(0.0 if kind == "resample" else 0.5, abs=1e-5)
    verify_statement(document)


@pytest.mark.parametrize("lie", LABEL_LIES)
@pytest.mark.parametrize("kind", ["randomized-response", "attributes"])
def test_another_loss_of_a_label_is_detected(kind: str, lie: str) -> None:
    document = answered(RESPONSES[kind])
    LABEL_LIES[lie](document)
    with pytest.raises(VerificationFailed):
        verify_statement(document)


def test_a_record_as_the_unit_is_said_with_its_reason() -> None:
    clinic = dataclasses.replace(CLINIC, unit="record", why="one image a person", max_records_per_unit=1)
    first = build(populations=[clinic, HOLDOUT])["lines"][0]
    assert first == "Protected: each single record (one image a person) of the 1,500 records of clinic."


def test_private_labels_are_not_listed_as_unprotected() -> None:
    document = build(circumstances=Circumstances(labels="resample", model="dp"))
    assert "label of every record" not in document["lines"][3]
    assert "no audit" in document["lines"][4]


def test_a_seeded_run_is_stamped_and_refused() -> None:
    document = build(circumstances=Circumstances(labels="public", model="dp", seeded=True))
    assert document["guarantee"].startswith("NOT PRIVATE")
    assert document["lines"][1].startswith("NOT PRIVATE")
    with pytest.raises(VerificationFailed, match="NOT PRIVATE"):
        verify_statement(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"components": [TRAINING, GATE]},  # a charge that is not stated
        {"components": [TRAINING, RECORDS, RECORDS, GATE]},
        {"components": [TRAINING, RECORDS, dataclasses.replace(GATE, population="elsewhere")]},
        {"components": [TRAINING, dataclasses.replace(RECORDS, event=PureEvent(3.9)), GATE]},
        {"components": [TRAINING, dataclasses.replace(RECORDS, event=RECORDS.zero_out_event), GATE]},
        {"components": [TRAINING, dataclasses.replace(RECORDS, zero_out_event=RECORDS.event), GATE]},
        {"populations": []},
        {"populations": [dataclasses.replace(CLINIC, limit_delta=0.0), HOLDOUT]},  # the loss is infinite there
        {"populations": [dataclasses.replace(CLINIC, why="at epsilon = 0.1 really"), HOLDOUT]},
    ],
)
def test_what_does_not_add_up_is_not_stated(changes: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        build(**changes)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *steps, last, value = path

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in steps:
            place = place[step]
        place[last] = value

    return change


TAMPERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "headline": _set("loss", "epsilon", 1.0),
    "headline by little": lambda d: d["loss"].update(epsilon=d["loss"]["epsilon"] - 1e-4),
    "headline delta": _set("loss", "delta", 1e-9),
    "headline delta in words": _set("loss", "delta_text", "1e-09"),
    "population": _set("populations", 0, "epsilon", 7.0),
    "population delta": _set("populations", 0, "delta", 1e-5),
    "both deltas": lambda d: d["populations"][0].update(delta=1e-5, delta_text="1e-05"),
    "cumulative": _set("populations", 0, "cumulative_epsilon", 7.5),
    "cumulative curve below the release": lambda d: d["populations"][0].update(cumulative=Curve.zero().to_json()),
    "cumulative curve finite where the release is not": lambda d: d["populations"][0]["cumulative"][
        "micro"
    ].__setitem__(-1, 10**9),
    "limit": _set("populations", 0, "limit_epsilon", 5.0),
    "component": _set("components", 1, "epsilon", 3.0),
    "component delta": _set("components", 1, "delta", 1e-9),
    "component event": _set("components", 1, "event", PureEvent(1.0).to_json()),
    "component relation": _set("components", 1, "event", PureEvent(1.0, relation=ZERO_OUT).to_json()),
    "component infinite": _set("components", 1, "event", "epsilon", 10**400),
    "component bottomless": _set("components", 1, "event", "count", -1),
    "component gone": lambda d: d["components"].pop(),
    "component moved": _set("components", 1, "population", "clinic-holdout"),
    "companion": _set("components", 0, "zero_out_epsilon", 0.1),
    "companion relation": _set("components", 0, "zero_out_event", PureEvent(0.1).to_json()),
    "pure": _set("populations", 0, "pure_epsilon", 1.0),
    "pure of the gate": _set("populations", 1, "pure_epsilon", None),
    "extra field": _set("populations", 0, "epsilon_really", 0.1),
    "guarantee": _set("guarantee", "k-something"),
    "schema": _set("schema", 2),
    "lines gone": lambda d: d.pop("lines"),
    "a line missing": lambda d: d["lines"].pop(),
    "a line of another type": _set("lines", 0, 5),
    "a smaller loss in a line": lambda d: d["lines"].__setitem__(
        1, d["lines"][1].replace("epsilon = ", "epsilon = 0.")
    ),
    "a smaller factor in a line": lambda d: d["lines"].__setitem__(1, d["lines"][1].replace("e^", "e^0.")),
    "a smaller delta in a line": lambda d: d["lines"].__setitem__(1, d["lines"][1].replace("1e-06", "1e-16")),
    "a further loss in a line": lambda d: d["lines"].__setitem__(0, d["lines"][0] + " Epsilon=0.1."),
    "no components": _set("components", []),
    "not a list": _set("populations", {"name": "clinic"}),
    "not a number": _set("populations", 0, "limit_epsilon", True),
    "huge": _set("populations", 0, "units", 10**400),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_statement_is_detected(name: str) -> None:
    document = build()
    before = copy.deepcopy(document)
    TAMPERED[name](document)
    assert document != before
    with pytest.raises(VerificationFailed):
        verify_statement(document)


def test_a_later_wording_and_a_last_unit_do_not_refuse_a_release() -> None:
    document = build()
    document["lines"] = [
        line.replace("Protected:", "Who is protected:").replace("Promise:", "We promise that,")
        for line in document["lines"]
    ]
    document["hazards"] = ["others"]
    document["trust"] = "other words"
    document["populations"][0]["epsilon"] += 1e-6  # another library's last micro-nat
    document["loss"]["epsilon"] += 1e-6
    document["lines"] = [
        line.replace(nats(build()["loss"]["epsilon"]), nats(document["loss"]["epsilon"])) for line in document["lines"]
    ]
    verify_statement(document)


def test_a_statement_published_under_schema_1_verifies_for_ever() -> None:
    # Written once and never rewritten: if this fails, the accountant or the reader broke releases that are out there.
    verify_statement(json.loads((Path(__file__).parent / "statement-schema-1.json").read_text()))


def test_additive_delta_takes_the_pure_figure_away() -> None:
    event = ComposedEvent((PureEvent(1.0), DeltaEvent(1e-9)))
    gate = dataclasses.replace(GATE, event=event, zero_out_event=None)
    holdout = dataclasses.replace(HOLDOUT, charged=curve(event), cumulative=curve(event))
    document = build(components=[TRAINING, RECORDS, gate], populations=[CLINIC, holdout])
    assert document["populations"][1]["pure_epsilon"] is None
    assert document["populations"][1]["zero_out_epsilon"] is document["loss"]["zero_out_epsilon"] is None
    verify_statement(document)


def test_figures_in_words_are_rounded_up() -> None:
    assert [nats(x) for x in (0.0, 8.0, 10.0, 7.996976, 0.1, 0.1000001, 1e-6)] == [
        "0",
        "8",
        "10",
        "7.997",
        "0.1",
        "0.101",
        "0.001",
    ]
    assert [scientific(x) for x in (1e-6, 2.5e-7, 0.0, 1 / 3)] == ["1e-06", "2.5e-07", "0e+00", "3.333333333333333e-01"]
    assert all(float(scientific(x)) == x for x in (1 / 3, 5e-324, 1.7e-9))


def test_losses_are_found_in_words() -> None:
    document = build()
    assert losses_in(document["lines"]) == losses_of(document)
    assert losses_in(["Theta ^ 3; see ^4; e^2, Delta = 3e-5 and EPSILON=0.25."]) != []
    assert losses_in(["The ε of 3 and some ^4."]) == []
