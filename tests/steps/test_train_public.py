"""Training on data declared public: killed and resumed, in several processes, and what its result may be used for."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadp.cinn.architecture import Conditions, Convolutional, Coupled, Couplings, Dense, Scale
from cadp.cinn.checkpoint import load_flow, read_checkpoint
from cadp.cinn.dp_sgd import plan as sgd_plan
from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.multi_scale import multi_scale
from cadp.cinn.network import ConditionalFlow
from cadp.cinn.public_training import PublicRecords
from cadp.errors import CadpError, CheckpointRefused, SpecError
from cadp.release import run_step
from cadp.reporter import Silent
from cadp.steps.disclosure import _declared_models
from cadp.steps.shard import ShardStep
from cadp.steps.train import TrainStep, load_model
from cadp.steps.train_public import in_subset, train_public_model
from cadp.store import Store
from tests.command import Command
from tests.small_release import Place, pictures, write_idx

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = """\
name: drawings
provenance: drawn by the tests, for the tests
source:
  format: idx
  url: {url}
  unit: record
  why: nobody is behind a drawing
  labels: public
  records: 300
  holdout_records: 30
  shape: [12, 12, 1]
  classes: [disc, bar, cross]
architecture: {architecture}
recipe: {{epochs: 4, batch: 32, patience: 4, warm_up: 4}}
"""
SMALL = Convolutional((12, 12, 1), Conditions(3), (Scale(Couplings(1, 4), 2),), Couplings(1, 8), content=8)

KILLED = """
import os, signal, sys
from pathlib import Path
from cadp.cinn import public_training
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.steps import train_public_processes as processes
from cadp.steps.train_public import train_public_model
keep, seen = processes.PublicTask.keep, []
def killed(task, course):
    keep(task, course)
    seen.append(1)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
processes.PublicTask.keep = killed
train_public_model(Path(sys.argv[2]), Settings.load({"CADP_HOME": sys.argv[1]}), Silent())
"""


@pytest.fixture
def model(place: Place) -> Path:
    """A `model.yaml` of the small release's own network, with other pictures."""
    folder = place.folder / "drawings"
    folder.mkdir()
    draw = np.random.default_rng(3)
    for split, count in (("train", 300), ("t10k", 30)):
        images, labels = pictures(draw, count)
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)
    path = place.folder / "model.yaml"
    path.write_text(MODEL.format(url=folder, architecture="{like: release.yaml}"))
    return path


def couple(place: Place, more: str = "couplings: true") -> None:
    place.spec.write_text(place.spec.read_text().replace("{epsilon: 30}", f"{{epsilon: 30, {more}}}"))


def state(place: Place, digest: str) -> dict[str, torch.Tensor]:
    store = Store.open(place.settings.private_url).child("models")
    return load_flow(store, read_checkpoint(store, digest)).state_dict()


def test_a_killed_training_goes_on_to_the_same_model(place: Place, model: Path) -> None:
    couple(place)
    whole = train_public_model(model, place.settings, Silent())
    environ = {**place.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", KILLED, str(place.settings.home), str(model)]
    ended = subprocess.run(command, env=environ, capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    said: list[str] = []

    class Listening(Silent):
        def event(self, kind: str, message: str) -> None:
            said.append(message)

    again = train_public_model(model, place.settings, Listening())
    assert said[0] == "training goes on after epoch 2"
    assert again.fit.validation == pytest.approx(whole.fit.validation, rel=1e-4)
    one, other = state(place, whole.digest), state(place, again.digest)
    assert all(torch.allclose(one[name].double(), other[name].double(), atol=1e-4) for name in one)
    # Nothing is left to go on from, and another recipe would not have taken it.
    assert not list((place.settings.scratch.parent / "public-training").iterdir())


def test_two_processes_train_what_one_does(place: Place, model: Path) -> None:
    model.write_text(model.read_text().replace("{like: release.yaml}", json.dumps(SMALL.to_json())))
    alone = train_public_model(model, place.settings, Silent())
    together = train_public_model(model, place.settings, Silent(), processes=2)
    assert together.fit.validation == pytest.approx(alone.fit.validation, rel=1e-3)
    assert together.fit.best == alone.fit.best
    one, other = state(place, alone.digest), state(place, together.digest)
    assert all(torch.allclose(one[name].double(), other[name].double(), atol=1e-2) for name in one)


TOGETHER = """
import signal, sys
from pathlib import Path
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.steps.train_public import train_public_model
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of whatever a shell script starts in the background
    train_public_model(Path(sys.argv[2]), Settings.load({"CADP_HOME": sys.argv[1]}), Silent(), processes=2)
"""


def endless(place: Place, model: Path) -> Path:
    """Let the training go on until it is killed; returns the folder of its course."""
    text = model.read_text().replace("{like: release.yaml}", json.dumps(SMALL.to_json()))
    model.write_text(text.replace("epochs: 4", "epochs: 10000").replace("patience: 4", "patience: 10000"))
    return place.settings.scratch.parent / "public-training"


def wait_for_an_epoch(folder: Path) -> None:
    while not list(folder.glob("*.safetensors")):
        time.sleep(0.05)


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(place: Place, model: Path) -> None:
    folder = endless(place, model)
    script = place.folder / "together.py"
    script.write_text(TOGETHER)
    environ = {**place.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), str(place.settings.home), str(model)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_an_epoch(folder)
    process.kill()
    process.communicate(timeout=60)  # whoever is left holds the other end of the pipe
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_in_one_line(place: Place, model: Path) -> None:
    folder = endless(place, model)

    def kill() -> None:
        wait_for_an_epoch(folder)
        victim = multiprocessing.active_children()[-1].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(CadpError, match=r"process \d of 2 of the training died: .*SIGKILL\. Next: the same command"):
        train_public_model(model, place.settings, Silent(), processes=2)
    killer.join()
    assert not multiprocessing.active_children()


def test_a_changed_source_is_another_training(place: Place, model: Path) -> None:
    endless(place, model)

    class Stopped(Exception):
        pass

    class Stopping(Silent):
        def event(self, kind: str, message: str) -> None:
            raise Stopped(kind)

    environ = {**place.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", KILLED, str(place.settings.home), str(model)]
    subprocess.run(command, env=environ, timeout=120, check=False)
    with pytest.raises(Stopped, match="resumed"):
        train_public_model(model, place.settings, Stopping())
    images, _ = pictures(np.random.default_rng(8), 300)
    write_idx(place.folder / "drawings" / "train-images-idx3-ubyte.gz", images)
    model.write_text(model.read_text().replace("epochs: 10000", "epochs: 1"))
    with pytest.raises(Stopped, match="trained"):
        train_public_model(model, place.settings, Stopping())


def test_a_network_of_several_scales_by_the_public_rule(place: Place, model: Path) -> None:
    model.write_text(
        model.read_text().replace("{like: release.yaml}", "{multi_scale: true}").replace("epochs: 4", "epochs: 1")
    )
    trained = train_public_model(model, place.settings, Silent())
    record = read_checkpoint(Store.open(place.settings.private_url).child("models"), trained.digest)
    assert record["architecture"] == multi_scale((12, 12, 1), Conditions(3)).to_json()


def test_rows_of_a_table_are_read_whole(place: Place, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 16 bits of an entry: read as 8, a column that hardly varies varies over all its range."""
    folder = place.folder / "table"
    folder.mkdir()
    lines = [f"{50 + number % 3},{number % 100},{'ab'[number % 2]}" for number in range(300)]
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("\n".join(["narrow,wide,kind", *lines]) + "\n")
    source = f"""  format: csv
  url: {folder}
  unit: record
  why: nobody is behind a row
  labels: public
  records: 300
  holdout_records: 300
  classes: [a, b]
  table:
    label: {{column: kind}}
    outside: clamp
    columns: [{{name: narrow, bounds: [0, 100], decimals: 0}}, {{name: wide, bounds: [0, 100], decimals: 0}}]
"""
    network = Dense(2, Conditions(2), Couplings(1, 4), 2)
    head = model.read_text().split("  format: idx")[0]
    model.write_text(f"{head}{source}architecture: {json.dumps(network.to_json())}\nrecipe: {{epochs: 1}}\n")
    seen: list[torch.Tensor] = []
    honest = PublicRecords.rows

    def rows(self: PublicRecords, *asked: Any) -> Any:
        x, condition = honest(self, *asked)
        seen.append(x)
        return x, condition

    monkeypatch.setattr(PublicRecords, "rows", rows)
    train_public_model(model, place.settings, Silent())
    narrow, wide = torch.cat(seen).T
    assert (float(narrow.min()), float(narrow.max())) == pytest.approx((0.5, 0.52), abs=1e-4)
    assert (float(wide.min()), float(wide.max())) == pytest.approx((0, 0.99), abs=1e-4)


def test_the_command_and_what_its_model_may_be_used_for(place: Place, model: Path, cadp: Command) -> None:
    place.open_budget()
    done = cadp(place, "model", "train", model, "--json")
    assert done.code == 0, done.err
    digest = json.loads(done.out)["digest"]
    record = read_checkpoint(Store.open(place.settings.private_url).child("models"), digest)
    origin = record["origin"]
    assert isinstance(origin, dict)
    assert origin["words"] == "drawn by the tests, for the tests"
    declared = f"{{load: {digest}, public: drawn by the tests}}"
    place.spec.write_text(place.spec.read_text().replace("{train: {epsilon: 30}}", declared))
    assert place.job().plan.architecture.to_json() == record["architecture"]
    # For a release of the very pictures that it was trained on it is not public, whatever the spec says.
    own = place.spec.read_text().replace(str(place.folder / "source"), str(place.folder / "drawings"))
    place.spec.write_text(own)
    cadp(place, "plan", place.spec).refused(1, "without DP")


def test_couplings_start_from_public_weights_and_are_trained_with_dp(
    place: Place, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd_plan, "STEPS", 3)
    couple(place)
    trained = train_public_model(model, place.settings, Silent())
    place.write_spec()
    couple(place, f"couplings: {{start: {trained.digest}, public: drawn by the tests}}")
    place.open_budget()
    job = place.job()
    run_step(ShardStep(), job, Silent())
    started: list[torch.Tensor] = []
    honest = sgd.train_couplings

    def watching(flow: ConditionalFlow, *rest: object, **more: object) -> object:
        started.append(torch.cat([p.detach().double().flatten() for p in stack_of(flow).parameters()]))
        return honest(flow, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sgd, "train_couplings", watching)
    run_step(TrainStep(), job, Silent())
    public = state(place, trained.digest)
    flow = ConditionalFlow(job.plan.architecture)
    flow.load_state_dict(public)
    theirs = torch.cat([p.detach().double().flatten() for p in stack_of(flow).parameters()])
    assert torch.equal(started[0], theirs)
    final = load_model(job)
    assert isinstance(final.architecture, Coupled)
    # The whitening is its own, fitted with DP; only couplings were taken.
    assert not torch.equal(final.whitening.lower, flow.whitening.lower)
    part = job.part("train")
    assert "started from public weights" in part.mechanism
    assert part.event == job.plan.training.event()
    assert any("starts from, declared public, not verified" in fact for fact in _declared_models(job))


def test_a_start_of_another_form_is_refused(place: Place, model: Path) -> None:
    trained = train_public_model(model, place.settings, Silent())  # no couplings
    couple(place, f"couplings: {{start: {trained.digest}, public: drawn by the tests}}")
    place.open_budget()
    with pytest.raises(CheckpointRefused, match="not the couplings that are planned"):
        place.job()


def test_the_subset_is_a_public_function_of_ids() -> None:
    ids = [f"drawing {number}" for number in range(4000)]
    some = {unit for unit in ids if in_subset("drawings", 0.25)(unit)}
    assert 0.2 < len(some) / len(ids) < 0.3
    assert some == {unit for unit in ids if in_subset("drawings", 0.25)(unit)}
    assert all(in_subset("drawings", 0.5)(unit) for unit in some)
    assert all(in_subset("drawings", 1.0)(unit) for unit in ids)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 4", "epochs: 0", "recipe.epochs"),
        ("provenance: drawn by the tests, for the tests", "provenance: x", "provenance"),
        ("name: drawings", "nome: drawings", "nome"),
        ("{like: release.yaml}", "{kind: whitening}", "fields"),
        ("{like: release.yaml}", "{like: nowhere.yaml}", "cannot read"),
        ("shape: [12, 12, 1]", "shape: [10, 12, 1]", "does not fit"),
        ("name: drawings", "name: [", "not YAML"),
    ],
)
def test_a_bad_model_file_is_refused(place: Place, model: Path, old: str, new: str, words: str) -> None:
    model.write_text(model.read_text().replace(old, new))
    with pytest.raises((SpecError, CheckpointRefused), match=words):
        train_public_model(model, place.settings, Silent())
