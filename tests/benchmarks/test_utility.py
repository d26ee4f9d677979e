"""The utility benchmark measures what it says: its parts on small made-up pictures, and how it goes on and reports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cadp.cinn.model_plan import ModelPlan
from cadp.privacy.accountant import curve
from cadp.privacy.events import RELATION, ZERO_OUT
from cadp.privacy.mechanisms import Resample
from cadp.utility.classifier import ClassifierRecipe
from tests.benchmarks.utility import __main__ as command
from tests.benchmarks.utility import plans
from tests.benchmarks.utility.cells import (
    DELTA,
    PrivateClassifier,
    Release,
    Training,
    cells,
    digest,
    from_json,
    name,
    to_json,
)
from tests.benchmarks.utility.data import SHAPE, Pictures
from tests.benchmarks.utility.frechet import Gaussian, frechet
from tests.benchmarks.utility.measuring import Bench, recipe_of
from tests.benchmarks.utility.oriented import features
from tests.benchmarks.utility.pixelated import pixelated
from tests.benchmarks.utility.private_classifier import CLIP_NORM, clipped_sum
from tests.benchmarks.utility.recipe import RECIPES
from tests.benchmarks.utility.releasing import Kept, fitted, released
from tests.benchmarks.utility.report import write_report
from tests.benchmarks.utility.results import Result, Results
from tests.benchmarks.utility.retention import others, retention

WHERE = {"machine": "a machine", "torch": "2", "load": 0.5}
UNITS = 60_000


@pytest.fixture
def pictures() -> Pictures:
    draw, labels = np.random.default_rng(0), np.arange(400) % 10
    images = draw.integers(0, 100, (400, *SHAPE))
    for i, label in enumerate(labels):
        images[i, 2 * label : 2 * label + 8] += 120
    return Pictures(images.astype(np.uint8), labels.astype(np.int64))


def test_every_cell_has_a_name_of_its_own_and_comes_back_from_json() -> None:
    found = list(cells())
    assert [from_json(json.loads(json.dumps(to_json(cell)))) for cell in found] == found
    assert len(set(map(name, found))) == len(set(found)) == len(found)


@pytest.mark.parametrize(
    "training",
    [Training(1.0), Training(10.0), Training(10.0, mixture=False), Training(4.0, RELATION), Training(3.0, content=32)],
    ids=str,
)
def test_a_plan_costs_what_is_asked_for_under_its_relation(training: Training) -> None:
    plan = plans.model_plan(training, SHAPE, 10, UNITS)
    cost = curve(plans.event(plan, training.relation)).epsilon(DELTA)
    assert 0.99 * training.epsilon <= cost <= training.epsilon
    assert plan.moments.architecture.content == training.content or training.content is None
    assert plan.moments.architecture.components == 0 or training.mixture
    if training == Training(4.0, RELATION):  # nothing is searched for: it is the plan of a release
        assert plan == ModelPlan.calibrate(4.0, DELTA, shape=SHAPE, classes=10, units=UNITS)


def test_an_exact_plan_has_less_noise_and_its_exact_epsilon() -> None:
    exact, usual = (plans.model_plan(Training(1.0, exact=e), SHAPE, 10, UNITS) for e in (True, False))
    assert 0.99 <= plans.exact_epsilon(exact, ZERO_OUT) <= 1.0
    assert plans.exact_epsilon(usual, ZERO_OUT) < 0.9
    assert exact.moments.covariance.noise_multiplier < usual.moments.covariance.noise_multiplier


def test_retention_of_copies_of_strangers_and_of_noise(pictures: Pictures) -> None:
    copies = retention(pictures, pictures)
    assert copies["nearer"] == 1
    assert copies["cosine_own"] == pytest.approx(1)
    assert abs(copies["cosine_other"]) < 0.1
    index = others(pictures.labels)
    assert np.array_equal(pictures.labels[index], pictures.labels)
    assert np.all(index != np.arange(len(index)))
    assert retention(pictures, Pictures(pictures.images[index], pictures.labels))["nearer"] == 0
    noise = np.random.default_rng(1).integers(0, 256, pictures.images.shape).astype(np.uint8)
    assert 0.4 < retention(pictures, Pictures(noise, pictures.labels))["nearer"] < 0.6


def test_frechet_of_gaussians_whose_distance_is_known() -> None:
    one = Gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    other = Gaussian(np.array([3.0, 0, 4.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet(one, other) == pytest.approx(25 + 1 + 0 + 4)


def test_the_private_classifier_clips_each_record_alone() -> None:
    draw = np.random.default_rng(2)
    weight, rows = draw.standard_normal((10, 5)), draw.standard_normal((7, 5)).astype(np.float32)
    rows[0] *= 100
    labels = np.arange(7)
    each = [clipped_sum(weight, rows[i : i + 1], labels[i : i + 1]) for i in range(7)]
    assert np.allclose(sum(each), clipped_sum(weight, rows, labels))
    assert max(np.linalg.norm(one) for one in each) <= CLIP_NORM * (1 + 1e-6)
    assert np.linalg.norm(each[0]) == pytest.approx(CLIP_NORM)


def test_features_have_one_norm_whatever_the_picture(pictures: Pictures) -> None:
    assert np.linalg.norm(features(pictures.images), axis=1) == pytest.approx(2.0)


def test_pixelated_pictures_are_cell_means_with_the_noise_of_their_sensitivity(pictures: Pictures) -> None:
    means = pictures.images.reshape(400, 7, 4, 7, 4).mean(axis=(2, 4))
    clear = pixelated(pictures, 1e9).images[..., 0]
    assert np.array_equal(clear[:, ::4, ::4], np.rint(means))
    assert np.array_equal(clear[:, 3::4, 3::4], np.rint(means))
    noisy = pixelated(pictures, 8.0).images
    # Noise of scale 49·255/8 leaves few means between black and white.
    assert np.mean((noisy == 0) | (noisy == 255)) > 0.8


def test_a_release_runs_the_code_of_a_release(pictures: Pictures) -> None:
    plan = plans.model_plan(Training(1e6, RELATION, content=16), SHAPE, 10, len(pictures))
    flow = fitted(plan, pictures)
    kept, cosines = released(flow, Kept(16), pictures)
    assert cosines is not None
    assert cosines.min() > 1 - 1e-9
    drawn, none = released(flow, Resample(), pictures)
    assert none is None
    assert drawn.images.shape == pictures.images.shape
    assert retention(pictures, kept)["nearer"] > retention(pictures, drawn)["nearer"] + 0.2


def test_a_release_has_couplings_where_its_plan_has_them(pictures: Pictures) -> None:
    plan = plans.model_plan(Training(100.0, RELATION, couplings=True), SHAPE, 10, len(pictures))
    assert plan.couplings is not None
    short = ModelPlan(plan.moments, replace(plan.couplings, steps=2))
    flow = fitted(short, pictures)
    assert flow.architecture == plan.couplings.architecture
    assert released(flow, Resample(), pictures)[0].images.shape == pictures.images.shape


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_goes_on_with_what_is_missing_or_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, int]] = []

    def measure(bench: Bench, cell: Any, seed: int) -> dict[str, Any]:
        measured.append((name(cell), seed))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {
            "records": UNITS,
            "recipe": digest(recipe_of(cell)),
            "plan": bench.plan(cell, UNITS),
            "figures": {"accuracy": 0.8123},
            "cpu_seconds": {},
        }

    monkeypatch.setattr(Bench, "measure", measure)
    wanted = ["--only", "gate", "replace-one", "4", "resample", "--out", str(tmp_path), "--seeds"]
    with pytest.raises(KeyboardInterrupt):
        command.main([*wanted, "0", "1"])
    command.main([*wanted, "0", "1"])
    assert measured == [(measured[0][0], seed) for seed in (0, 1, 1)]
    path = tmp_path / "utility.jsonl"
    stale = lines(path)
    stale[0]["plan"]["digest"] = "another"
    path.write_text("".join(json.dumps(line) + "\n" for line in stale))
    page = tmp_path / "utility.md"
    command.main([*wanted, "0", "--keep"])
    assert len(measured) == 3
    assert "0.812 ± 0.000" in page.read_text()
    command.main(["--only", "nothing", "--out", str(tmp_path)])
    assert len(measured) == 3
    assert "0.812 ±" not in page.read_text()  # of the seed that is not stale
    assert "0.812" in page.read_text()
    command.main([*wanted, "0"])
    assert measured[3:] == [measured[0]]
    command.main([*wanted, "0", "--records", "100"])  # of another number of records
    assert measured[4:] == [measured[0]]
    monkeypatch.setitem(RECIPES, "gate", ClassifierRecipe(epochs=9))
    command.main([*wanted, "0"])
    assert measured[5:] == [measured[0]]
    assert [line["seed"] for line in lines(path)] == [0, 1]
    assert "another" not in path.read_text()


def test_the_report_holds_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    results = Results(tmp_path / "utility.jsonl")
    page, plot = write_report(results, tmp_path)
    assert "not met" not in page.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")

    def put(cell: Any, seed: int, **figures: float) -> None:
        plan = {"epsilon": {RELATION: 1.5, ZERO_OUT: 1.0}, "words": "moments", "components": 0}
        values = {
            "records": UNITS,
            "recipe": "gate",
            "plan": plan,
            "figures": figures,
            "cpu_seconds": {"fit": 301.0},
        }
        results.put(Result(cell, seed, values, WHERE))

    put(Release(Training(1.0)), 0, accuracy=0.91)
    put(Release(Training(1.0)), 1, accuracy=0.93)
    put(Release(Training(1.0), recipe="plain"), 0, accuracy=0.9)
    put(PrivateClassifier(3.0), 0, accuracy=0.777)
    text = write_report(Results(tmp_path / "utility.jsonl"), tmp_path)[0].read_text()
    assert "| p/o at zero-out ε = 1 | 0.920 ± 0.010 | ≥ 0.800 | met |" in text
    assert "| its fit and sampling, CPU-s, at ε = 1 | 301 ± 0 | ≤ 300 | **not met** |" in text
    assert "| DP-SGD classifier on originals | 3, zero-out | 0.777 |" in text
    assert "| 1 | the plain classifier | 0.900 | 0.920 ± 0.010 | -0.020 |" in text
    assert "60,000 records" in text
