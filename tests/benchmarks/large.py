"""Pictures of 128×128×3 through the steps of a release: how fast, in how much memory, on which device.

Each way to a model is a process of its own, so that its peak memory is its own: class moments, couplings behind them by
DP-SGD, and the network of several scales, trained on other, public pictures of the same kind and loaded by the spec.
`CADP_DEVICE=cuda` runs the same on a GPU. What was measured is written to docs/benchmarks.md.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cadp.cinn.architecture import Conditions
from cadp.cinn.checkpoint import Origin, save_public
from cadp.cinn.layers.layer import Condition
from cadp.cinn.multi_scale import multi_scale
from cadp.cinn.network import ConditionalFlow
from cadp.cinn.precision import existing, prepared
from cadp.cinn.public_training import PublicRecipe, PublicRecords, train_public
from cadp.publish.sign import new_key
from cadp.release import STEPS, Job, run_step
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.steps.budgets import init_budget
from cadp.steps.publish import signing_key_path
from cadp.steps.train import load_model
from cadp.store import Store
from tests.benchmarks.figures import Figure, write_section
from tests.benchmarks.pictures import CLASSES, pictures

SIDE, RECORDS, HOLDOUT, PUBLIC = 128, 400, 40, 256
EPOCHS, BATCH = 2, 16
MOST_MEGABYTES = 4096
MOMENTS, COUPLINGS, SCALES = "moments", "moments, couplings by DP-SGD", "several scales, public"
MODELS = {
    MOMENTS: "{train: {epsilon: 30}}",
    COUPLINGS: "{train: {epsilon: 30, couplings: true}}",
    SCALES: "{load: DIGEST, public: made by a formula for a benchmark}",
}
SPEC = """\
name: pictures
version: 1.0.0
license: MIT
population: pictures
source:
  format: imagefolder
  url: {url}
  unit: record
  why: every picture is of another shape
  labels: public
  records: {records}
  holdout_records: {holdout}
  shape: [{side}, {side}, 3]
  classes: [{classes}]
spend:     {{epsilon: 40, delta: 1e-6}}
model:     {model}
mechanism: {{kind: privunit, epsilon: 8, content_dims: 4}}
validate:  {{classifier: cnn, holdout: test, epsilon: 1, accuracy_at_least: 0}}
publish:   {{publisher: The benchmark}}
run:       {{range_records: 200, workers: 1, audit_trials: 40}}
"""


def large() -> list[Figure]:
    """Every way to a model, in turn; docs/benchmarks.md tells of it."""
    with tempfile.TemporaryDirectory() as folder:
        write_source(Path(folder) / "source")
        told = {name: measured(name, Path(folder)) for name in MODELS}
    figures = [figure for name, facts in told.items() for figure in figures_of(name, facts)]
    write_section("large", f"Pictures of {SIDE}×{SIDE}×3", introduction(told), figures)
    return figures


def figures_of(name: str, facts: dict[str, float | str]) -> list[Figure]:
    """The lines of one way."""
    rates = [
        Figure(f"{name}: {step}", float(facts[step]), "records/core-s")
        for step in ("public training", "train", "privatize")
        if step in facts
    ]
    where = f"{facts['device']}, subnets in {facts['subnets']}; torch alone takes {facts['before']:.0f} MB"
    peak = Figure(f"{name}: peak memory", float(facts["peak"]), "MB", MOST_MEGABYTES, most=True, note=where)
    trip = Figure(f"{name}: round trip", float(facts["round trip"]), "", 1e-3, most=True)
    return [*rates, peak, trip]


def introduction(told: dict[str, dict[str, float | str]]) -> str:
    """What is measured, and what the moments are at this size."""
    dims = SIDE * SIDE * 3
    block = told[MOMENTS]["block"]
    low, content, bands = (int(told[MOMENTS][fact]) for fact in ("low", "content", "bands"))
    sides = f"{block:.0f}×{block:.0f}"
    return (
        f"`make bench ONLY=cinn-large`, {datetime.now(UTC):%d %B %Y}: {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}; {RECORDS} pictures made by a formula through "
        f"the steps `train` and `privatize` of a release, {PUBLIC} other ones for {EPOCHS} epochs of public training. "
        f"Rates are of CPU time (a record counts once, though training reads it in several passes), memory is the "
        f"peak of a whole process.\n\n"
        f"No matrix is {dims:,} × {dims:,}. The moments fit class means and one covariance of the lowest {sides} "
        f"cosine coefficients of each colour ({low:,} numbers), a covariance a class of its first {content} principal "
        f"dimensions, and for the other {dims - content:,} coefficients one variance a class in each of {bands} bands "
        f"of frequency. Couplings work on the principal dimensions alone. The network of several scales is "
        f"`cadp.cinn.multi_scale`: Haar wavelets, convolutions that see the label at every scale, half of the channels "
        f"split off at each."
    )


def measured(name: str, folder: Path) -> dict[str, float | str]:
    """Run one way in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.large", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    facts: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return facts


# What runs in a process of its own


def run(name: str, folder: Path) -> dict[str, float | str]:
    """Train and privatize by the steps of a release, and say how it went."""
    torch.set_num_threads(1)
    device = os.environ.get("CADP_DEVICE", "cpu")
    home = folder / name.replace(" ", "-")
    settings = Settings.load({"CADP_HOME": str(home), "CADP_DEVICE": device})
    settings.make_private_folders()
    facts: dict[str, float | str] = {"before": megabytes(), "device": device_name(device)}
    model = MODELS[name]
    if name == SCALES:
        facts["public training"], digest = trained_in_public(settings, device)
        model = model.replace("DIGEST", digest)
    spec = home / "release.yaml"
    values = {"url": folder / "source", "records": RECORDS, "holdout": HOLDOUT, "side": SIDE, "model": model}
    spec.write_text(SPEC.format(classes=", ".join(CLASSES), **values))
    new_key(signing_key_path(settings))
    init_budget(spec, settings, epsilon=100.0, delta=1e-6, holdout_epsilon=5.0)
    for step in STEPS[:3]:
        job = Job.open(spec, settings)
        rate = per_core_second(lambda step=step, job=job: run_step(step, job, Silent()), RECORDS)
        if step.name == "privatize" or (step.name == "train" and name != SCALES):
            facts[step.name] = rate
    if job.plan.moments is not None:
        whitening = job.plan.moments.architecture
        facts |= {"block": whitening.block, "low": whitening.low_dims, "content": whitening.content}
        facts["bands"] = whitening.bands
    ready = prepared(load_model(job), device)
    facts["subnets"] = str(ready.subnets or ready.flow.dtype).removeprefix("torch.")
    return facts | {"round trip": ready.round_trip, "peak": megabytes()}


def trained_in_public(settings: Settings, device: str) -> tuple[float, str]:
    """Train the network of several scales on public pictures, put it into the private zone; its rate and its digest."""
    architecture = multi_scale((SIDE, SIDE, 3), Conditions(len(CLASSES)))
    flow = ConditionalFlow(architecture).to(existing(device))
    images, labels = pictures(PUBLIC, SIDE, seed=1)
    condition = Condition.of(architecture.conditions, torch.from_numpy(labels))
    recipe = PublicRecipe(epochs=EPOCHS, batch=BATCH, warm_up=8, learning_rate=5e-4)
    data = PublicRecords(images, condition)
    rate = per_core_second(lambda: train_public(flow, data, recipe, Silent()), EPOCHS * PUBLIC)
    store = Store.open(settings.private_url).child("models")
    origin = Origin("trained for a benchmark on pictures that a formula made")
    return rate, save_public(store, flow.cpu(), origin, {"torch": torch.__version__})


def per_core_second(work: Callable[[], object], records: int) -> float:
    """Records a second of CPU time."""
    began = time.process_time()
    work()
    return records / (time.process_time() - began)


def megabytes() -> float:
    """The peak of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_name(device: str) -> str:
    """What the records were computed on."""
    if existing(device).type == "cuda":
        return torch.cuda.get_device_name(existing(device))
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}, one thread"


def write_source(folder: Path) -> None:
    """Class folders of PNG files."""
    for split, count, seed in (("train", RECORDS, 2), ("test", HOLDOUT, 3)):
        for number, (image, label) in enumerate(zip(*pictures(count, SIDE, seed), strict=True)):
            path = folder / split / CLASSES[int(label)] / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(path)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], Path(sys.argv[2]))) + "\n")
