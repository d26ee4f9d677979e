"""A release of colour pictures through a public network of several scales, which its spec loads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cadp.cinn import precision
from cadp.cinn.architecture import Conditions, Convolutional
from cadp.cinn.checkpoint import Origin, save_public
from cadp.cinn.multi_scale import multi_scale
from cadp.errors import SettingsError
from cadp.release import STEPS, Job, run_step
from cadp.reporter import Silent
from cadp.steps.audit import plan_subjects
from cadp.steps.privatize import released_records
from cadp.steps.train import load_model
from cadp.store import Store
from tests.benchmarks.large import SPEC
from tests.benchmarks.pictures import CLASSES, pictures
from tests.cinn.architectures import perturbed_flow
from tests.small_release import Place, at

SIDE, RECORDS, HOLDOUT = 16, 24, 8


@pytest.fixture
def colour(tmp_path: Path) -> Place:
    place = at(tmp_path)
    place.settings.make_private_folders()
    for split, count, seed in (("train", RECORDS, 2), ("test", HOLDOUT, 3)):
        for number, (image, label) in enumerate(zip(*pictures(count, SIDE, seed), strict=True)):
            path = tmp_path / "source" / split / CLASSES[int(label)] / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    flow = perturbed_flow(multi_scale((SIDE, SIDE, 3), Conditions(len(CLASSES)), content=16), size=0.1)
    digest = save_public(Store.open(place.settings.private_url).child("models"), flow, Origin("of a formula"), {})
    values = {"url": tmp_path / "source", "records": RECORDS, "holdout": HOLDOUT, "side": SIDE}
    model = f"{{load: {digest}, public: made by a formula for a test}}"
    place.spec.write_text(SPEC.format(classes=", ".join(CLASSES), model=model, **values))
    place.open_budget()
    return place


@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "float32"])
def test_the_steps_take_the_precision_of_the_rule(
    colour: Place, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: bfloat16)
    for step in STEPS[:3]:
        run_step(step, colour.job(), Silent())
    job = colour.job()
    flow = load_model(job)
    assert isinstance(flow.architecture, Convolutional)
    said = {module.compute_dtype for module in flow.modules() if hasattr(module, "compute_dtype")}
    assert said == {torch.bfloat16 if bfloat16 else torch.float32}
    assert [charge.key for charge in job.ledger.charges()] == ["pictures/1.0.0/records"]
    labels = [record.label for record in released_records(job)]
    assert np.bincount(labels).tolist() == [RECORDS // len(CLASSES)] * len(CLASSES)


def test_the_audit_knows_it(colour: Place) -> None:
    subjects = plan_subjects(colour.job().plan)
    setting = subjects[0].setting(40, 0.001, lambda done: None)
    assert [check for check in setting.checks if not check.held] == []


def test_a_device_that_is_not_there_stops_it(colour: Place) -> None:
    elsewhere = replace(colour.settings, device=f"cuda:{torch.cuda.device_count()}")
    run_step(STEPS[0], colour.job(), Silent())
    with pytest.raises(SettingsError, match="CADP_DEVICE=cpu"):
        run_step(STEPS[1], Job.open(colour.spec, elsewhere), Silent())
