"""`release.yaml`: YAML 1.2's numbers, every problem at once, and a digest of what is released and of nothing else."""

from pathlib import Path

import pytest

from cadp.errors import SpecError
from cadp.spec import ReleaseSpec, canonical_json, load_spec, parse_spec
from tests.small_release import Place

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

TEXT = """\
name: shapes
version: 1.0.0
license: MIT
population: shapes
source: {format: idx, url: somewhere, unit: record, why: each is another, labels: public}
spend: {epsilon: 8, delta: 1e-6}
model: {train: {epsilon: 4}}
mechanism: {kind: privunit, epsilon: 4}
validate: {classifier: cnn, holdout: test, epsilon: 0.1, accuracy_at_least: 0.75}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as refused:
        parse_spec(text)
    return str(refused.value).splitlines()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    assert load_spec(path).release == f"{path.stem}/1.0.0"


@pytest.mark.parametrize("number", ["1e-6", "1E-6", "1.0e-06", "0.000001", ".000001"])
def test_numbers_are_those_of_yaml_1_2(number: str) -> None:
    delta = parse_spec(TEXT.replace("1e-6", number)).spend.delta
    assert type(delta) is float
    assert delta == 1e-6


@pytest.mark.parametrize("bad", [".nan", ".inf", "-1", "0", "eight", "[8]"])
def test_a_loss_is_a_positive_finite_number(bad: str) -> None:
    (problem,) = problems(TEXT.replace("spend: {epsilon: 8", f"spend: {{epsilon: {bad}"))
    assert problem.startswith("release.yaml:6: spend.epsilon: ")


def test_every_problem_is_told_with_its_line() -> None:
    text = TEXT.replace("version: 1.0.0", "version: 1").replace("kind: privunit", "kind: none").replace("test,", "all,")
    found = problems(text + "colour: red\n")
    assert [problem.split(": ")[:2] for problem in found] == [
        ["release.yaml:2", "version"],
        ["release.yaml:8", "mechanism.kind"],
        ["release.yaml:9", "validate.holdout"],
        ["release.yaml:10", "colour"],
    ]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "a: [", "a: 1\na: 2\n", "{{", "a: !!python/none x\n"])
def test_what_is_no_spec_is_one_error(text: str) -> None:
    assert all(problem.startswith("release.yaml:") for problem in problems(text))


@pytest.mark.parametrize("name", ["../up", "a/b", "A", "", "-a", "a" * 65, "a.holdout", "a\\nb", "ä"])
def test_names_cannot_leave_their_place(name: str) -> None:
    for field in ("name", "population"):
        (problem,) = problems(
            TEXT.replace(f"\n{field}: shapes", f'\n{field}: "{name}"').replace(
                "name: shapes", f'name: "{name}"' if field == "name" else "name: shapes", 1
            )
        )
        assert f": {field}: " in problem


def test_a_mechanism_has_the_epsilon_of_its_kind() -> None:
    assert "leave epsilon out" in problems(TEXT.replace("privunit", "resample"))[0]
    assert "needs an epsilon" in problems(TEXT.replace("privunit, epsilon: 4", "privunit"))[0]
    assert parse_spec(TEXT.replace("privunit, epsilon: 4", "resample")).mechanism.epsilon == 0


LABELS = {
    "randomized-response": "{randomized-response: {epsilon: 1.5}}",
    "resample": "{resample: {weights: [1, 2.5, 0]}}",
    "by attribute": "{randomized-response: {epsilon: 2, attributes: [{name: round, classes: [a], share: 2}]}}",
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_public_or_private_in_one_way(kind: str) -> None:
    text = TEXT.replace("labels: public", f"labels: {LABELS[kind]}")
    spec = parse_spec(text)
    assert spec.source.labels.kind == ("randomized-response" if kind == "by attribute" else kind)
    assert ReleaseSpec.model_validate(spec.model_dump(mode="json", by_alias=True)) == spec
    assert spec.digest() != parse_spec(TEXT).digest()
    assert parse_spec(TEXT).source.labels.kind == "public"
    assert parse_spec(TEXT).model_dump(mode="json", by_alias=True)["source"]["labels"] == "public"


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ("private", "source.labels"),
        ("{}", "source.labels"),
        ("[public]", "source.labels"),
        ("{public: {}}", "source.labels.public"),
        ("{randomized-response: {epsilon: 1}, resample: {weights: [1, 1]}}", "source.labels"),
        ("{randomized-response: }", "source.labels"),
        ("{randomized-response: {epsilon: 0}}", "source.labels.randomized-response.epsilon"),
        ("{randomized-response: {epsilon: .inf}}", "source.labels.randomized-response.epsilon"),
        ("{randomized-response: {}}", "source.labels.randomized-response.epsilon"),
        ("{randomized-response: {epsilon: 1, delta: 1e-6}}", "source.labels.randomized-response.delta"),
        (
            "{randomized-response: {epsilon: 1, attributes: []}}",
            "source.labels.randomized-response.attributes",
        ),
        (
            "{randomized-response: {epsilon: 1, attributes: "
            "[{name: a, classes: [b]}, {name: c, classes: [d], share: 0}]}}",
            "source.labels.randomized-response.attributes.1.share",
        ),
        ("{resample: {weights: [1]}}", "source.labels.resample.weights"),
        ("{resample: {weights: [0, 0]}}", "source.labels.resample"),
        ("{resample: {weights: [1, -1, 1]}}", "source.labels.resample.weights.1"),
    ],
    ids=lambda value: value.replace(" ", ""),
)
def test_labels_that_say_nothing_are_refused_with_their_line(labels: str, field: str) -> None:
    (problem,) = problems(TEXT.replace("labels: public", f"labels: {labels}"))
    assert problem.startswith(f"release.yaml:5: {field}: ")


def test_digest_covers_all_but_how_to_run() -> None:
    spec = parse_spec(TEXT)
    assert parse_spec(TEXT + "run: {range_records: 5, workers: 3, batch: 7}\n").digest() == spec.digest()
    assert parse_spec("# a comment\n" + TEXT.replace("8", "8.0")).digest() == spec.digest()
    for old, new in (("8", "9"), ("MIT", "CC0-1.0"), ("another", "a second"), ("0.75", "0.7"), ("1.0.0", "1.0.1")):
        assert parse_spec(TEXT.replace(old, new)).digest() != spec.digest(), old


def test_a_spec_is_frozen(place: Place) -> None:
    spec = load_spec(place.spec)
    with pytest.raises(ValueError, match="frozen"):
        spec.spend.epsilon = 1.0


def test_canonical_json_is_one_form() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "ε"]}) == '{"a":[1.5,"ε"],"b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


def test_round_trip() -> None:
    spec = parse_spec(TEXT)
    assert ReleaseSpec.model_validate(spec.model_dump(mode="json", by_alias=True)) == spec
