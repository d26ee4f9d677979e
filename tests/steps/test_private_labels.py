"""A release whose labels are private: encoded with the record's own, decoded and published with the released one."""

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cadp.cinn.fit import moments
from cadp.cinn.network import ConditionalFlow
from cadp.errors import SpecError
from cadp.privacy.accountant import curve
from cadp.privacy.additive import Laplace
from cadp.privacy.events import ComposedEvent, PureEvent
from cadp.privacy.labels import (
    AttributeResponse,
    ClassAttributes,
    LabelPlan,
    ResampledLabels,
    plan_response,
    plausible_counts,
)
from cadp.records import Batch, Released
from cadp.shards import decode_png
from cadp.show import plan_view
from cadp.steps import privatize
from cadp.steps.privatize import privatize_batch
from tests.cinn.conftest import random_flow
from tests.command import Command, charges
from tests.small_release import RECORDS, Place

pytestmark = pytest.mark.audits

RESPONSE, RESAMPLE = "{randomized-response: {epsilon: 2}}", "{resample: {weights: [1, 2, 3]}}"
# Four classes are the combinations of two attributes; the source has no record of the fourth.
ATTRIBUTES = (
    "{randomized-response: {epsilon: 2, attributes: "
    "[{name: round, classes: [disc, ring]}, {name: crossed, classes: [cross, ring], share: 3}]}}"
)
SHAPE = (8, 8, 1)


def with_labels(place: Place, labels: str) -> None:
    text = place.spec.read_text()
    assert "labels: public" in text
    if labels == ATTRIBUTES:
        text = text.replace("[disc, bar, cross]", "[disc, bar, cross, ring]")
    place.spec.write_text(text.replace("labels: public", f"labels: {labels}"))


def released(place: Place) -> list[int]:
    return [
        label
        for path in (place.public / "data").glob("*.parquet")
        for label in pq.read_table(path)["label"].to_pylist()
    ]


@pytest.mark.parametrize(
    "labels", [RESPONSE, ATTRIBUTES, RESAMPLE], ids=["randomized-response", "attributes", "resample"]
)
def test_a_release_with_private_labels(
    place: Place, cadp: Command, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    fit = moments.fit_moments

    def watched(*arguments: Any, **more: Any) -> ConditionalFlow:
        given.append((arguments[2], more["records"]))
        return fit(*arguments, **more)

    monkeypatch.setattr(moments, "fit_moments", watched)
    with_labels(place, labels)
    place.open_budget()
    plan = place.job().plan
    done = cadp(place, "release", place.spec)
    assert done.code == 0, done.err
    # The true counts went nowhere near the fit; the other ones are the audit's, on synthetic records.
    assert given[0] == (None, RECORDS)
    assert {counts is None for counts, _ in given} == {True}
    assert cadp(place, "verify", place.public).code == 0

    event = {charge.key: charge.event for charge in charges(place)}["shapes/1.0.0/records"]
    assert event == ComposedEvent((plan.labels.event(), plan.mechanism.event()))
    asked = 8 if labels == RESAMPLE else 10
    assert curve(event).epsilon(0.0) == pytest.approx(asked, abs=1e-4)
    assert curve(event).epsilon(0.0) <= asked

    said = json.loads((place.public / "statement.json").read_text())
    assert said["labels"] == plan.labels.kind
    assert json.loads(json.dumps(plan.labels.parameters())).items() <= said["label_release"].items()
    assert said["components"][1]["parameters"]["labels"] == plan.labels.parameters()
    assert plan.labels.words() in said["lines"][2]
    assert "the label of every record" not in " ".join(said["unprotected"])
    assert said["components"][0]["parameters"]["queries"][0]["name"] == "class counts"
    assert json.loads((place.private / "published" / "context.json").read_text())["class_sizes"] is None

    counts = np.bincount(released(place), minlength=len(plan.facts.classes))
    ranges = plausible_counts(plan.labels, RECORDS)
    assert ranges is not None
    assert all(low <= count <= high for count, (low, high) in zip(counts, ranges, strict=True))
    result = json.loads((place.public / "expectations" / "result.json").read_text())
    names = [one["meta"]["name"] for one in result["results"]]
    assert {"class-sizes-least", "class-sizes-most"} <= {*names}
    assert "class-counts" not in names


def own_labels(flow: Any, mechanism: Any, batch: Batch, labels: Any = None) -> list[Released]:
    """Mistake: decoded with the record's own label."""

    class Own:
        def decode_images(self, codes: Any, *_: Any) -> Any:
            return flow.decode_images(codes, batch.labels)

        def encode_images(self, images: Any, own: Any) -> Any:
            return flow.encode_images(images, own)

    return privatize_batch(Own(), mechanism, batch, labels)  # type: ignore[arg-type]


def true_labels(flow: Any, mechanism: Any, batch: Batch, labels: Any = None) -> list[Released]:
    """Mistake: published with the record's own label."""
    made = privatize_batch(flow, mechanism, batch, labels)
    return [Released(one.id, int(own), one.data) for one, own in zip(made, batch.labels, strict=True)]


def forgetful(flow: Any, mechanism: Any, batch: Batch, labels: Any = None) -> list[Released]:
    """Mistake: the plan for labels gets lost on the way."""
    del labels
    return privatize_batch(flow, mechanism, batch)


def wrong(release: Callable[..., list[Released]], plan: LabelPlan) -> int:
    """How many records are not what their noisy latent and their released label give, or show another label."""
    flow = random_flow(SHAPE, classes=4)
    rng = np.random.default_rng(4)
    n = 60
    batch = Batch(
        rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), np.arange(n, dtype=np.int64) % 4, np.arange(n) % 7 != 3
    )
    encoded_with: list[Any] = []
    codes: list[Any] = []
    answers: list[Any] = []

    class Watched(Laplace):
        def privatize(self, z: Any, valid: Any) -> Any:
            encoded_with.append(z)
            codes.append(super().privatize(z, valid))
            return codes[-1]

    class Labels(type(plan)):  # type: ignore[misc]
        def release(self, labels: Any, valid: Any) -> Any:
            answers.append(super().release(labels, valid))
            return answers[-1]

    asked = Laplace.plan(4.0, 4)
    mechanism = Watched(asked.content_dims, asked.radius, asked.step, asked.scale)
    made = release(flow, mechanism, batch, Labels(**vars(plan)))
    assert np.array_equal(encoded_with[0], flow.encode_images(batch.images, batch.labels))
    if not answers:
        return n
    expected = flow.decode_images(codes[0], answers[0])
    pairs = zip(made, expected, answers[0], strict=True)
    return sum(
        one.label != label or not np.array_equal(decode_png(one.data, SHAPE), image) for one, image, label in pairs
    )


BY_ATTRIBUTE = ClassAttributes(AttributeResponse.plan(1.0, 2), ("a", "b"), ((0, 0), (1, 0), (0, 1), (1, 1)))


@pytest.mark.parametrize(
    "plan",
    [plan_response(1.0, 4), BY_ATTRIBUTE, ResampledLabels((1.0, 2.0, 3.0, 1.0))],
    ids=["randomized-response", "attributes", "resample"],
)
def test_records_are_decoded_and_published_with_the_released_label(plan: LabelPlan) -> None:
    assert wrong(privatize_batch, plan) == 0
    for mutant in (own_labels, true_labels, forgetful):
        assert wrong(mutant, plan) > 10, mutant.__name__


def test_the_step_hands_the_plan_for_labels_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def watched(flow: object, mechanism: object, batch: Batch, labels: object = None) -> list[Released]:
        seen.append(labels)
        png = io.BytesIO()
        Image.fromarray(np.zeros((12, 12), np.uint8)).save(png, "PNG")
        return [Released(np.random.default_rng(len(seen)).bytes(16), 0, png.getvalue()) for _ in range(len(batch))]

    from cadp.release import STEPS, run_step
    from cadp.reporter import Silent

    monkeypatch.setattr(privatize, "privatize_batch", watched)
    with_labels(place, RESPONSE)
    place.open_budget()
    for step in STEPS[:3]:
        run_step(step, place.job(), Silent())
    assert seen == [place.job().plan.labels] * len(seen)
    assert seen


def test_a_plan_says_what_labels_cost(place: Place) -> None:
    with_labels(place, RESPONSE)
    view = plan_view(place.spec, place.settings)
    row = next(row for row in view.rows if row["step"] == "privatize")
    assert row["ε"] == "10"
    assert row["mechanism"].endswith("labels by randomized response over 3 classes")
    assert any(
        line.startswith("Labels: randomized response, kept with probability 0.787, ε = 2") for line in view.lines
    )
    label = view.plan.parts()[1].event.events[0]  # type: ignore[attr-defined]
    assert isinstance(label, PureEvent)
    assert view.to_json()["plan"]["labels"]["epsilon"] == label.epsilon


def test_a_plan_says_what_each_attribute_is_kept_with(place: Place) -> None:
    with_labels(place, ATTRIBUTES)
    view = plan_view(place.spec, place.settings)
    labels = view.plan.labels
    assert isinstance(labels, ClassAttributes)
    assert (labels.names, labels.vectors) == (("round", "crossed"), ((1, 0), (0, 0), (0, 1), (1, 1)))
    # ε = 2 in shares of 1 and 3.
    kept = [math.exp(part) / (1 + math.exp(part)) for part in (0.5, 1.5)]
    assert labels.response.keeps == pytest.approx(kept, rel=1e-5)
    said = f"round kept with probability {kept[0]:.3f}, crossed kept with probability {kept[1]:.3f}, together ε = 2 "
    assert any(said in line for line in view.lines)
    row = next(row for row in view.rows if row["step"] == "privatize")
    assert row["ε"] == "10"
    assert row["mechanism"].endswith("labels by randomized response on each of round, crossed")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("ring]}, ", "disk]}, "), "names disk: no such class"),
        (("[disc, ring]", "[disc, bar, ring]"), "each must be exactly 1 of the classes"),
        ((", ring]\n", "]\n"), "names ring: no such class"),
        (("name: crossed", "name: round"), "names of their own"),
    ],
    ids=["no class", "a combination twice", "a combination missing", "one name"],
)
def test_attributes_that_classes_do_not_combine_are_refused(
    place: Place, change: tuple[str, str], says: str, cadp: Command
) -> None:
    with_labels(place, ATTRIBUTES)
    text = place.spec.read_text()
    assert change[0] in text
    place.spec.write_text(text.replace(*change))
    with pytest.raises(SpecError, match=says):
        plan_view(place.spec, place.settings)
    cadp(place, "plan", place.spec).refused(2, says)


def test_spend_covers_the_labels(place: Place) -> None:
    place.write_spec(spend=38)
    plan_view(place.spec, place.settings)
    with_labels(place, RESPONSE)
    with pytest.raises(SpecError, match="records 10"):
        plan_view(place.spec, place.settings)


def test_weights_are_one_for_each_class(place: Place) -> None:
    with_labels(place, "{resample: {weights: [1, 2]}}")
    with pytest.raises(SpecError, match="2 weights for 3 classes"):
        plan_view(place.spec, place.settings)
