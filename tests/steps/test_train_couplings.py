"""Couplings trained by DP-SGD in a release: charged once, killed and resumed, and nothing unfinished is ever shown."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cadp.cinn.architecture import Coupled
from cadp.cinn.dp_sgd import plan as sgd_plan
from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.plan import coupled
from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.dp_sgd.state import read_state, state_bytes
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CadpError, CheckpointRefused, PrivacyError, SpecError
from cadp.ledger import State
from cadp.release import run_step
from cadp.reporter import Silent
from cadp.secret import PopulationSecret
from cadp.show import plan_view
from cadp.spec import parse_spec
from cadp.steps import train_couplings
from cadp.steps.collect import collect
from cadp.steps.decode import DecodedRecords, decode_once
from cadp.steps.job import Job
from cadp.steps.shard import ShardStep
from cadp.steps.train import TrainStep, load_model
from cadp.steps.train_couplings import SavedTraining, chosen_units, unit_records
from tests.small_release import Place, at, build
from tests.steps.conftest import copy

STEPS, EVERY = 12, 3

# Trains, and kills its own process at the n-th time that a point is reached.
DRIVER = f"""
import os, signal, sys
from cadp.cinn.dp_sgd import training as sgd, plan as sgd_plan
from cadp.ledger import Ledger
from cadp.release import Job, run_step
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.steps import train_couplings
from cadp.steps.train import TrainStep
from cadp.store import Store

sgd_plan.STEPS, train_couplings.SAVE_EVERY = {STEPS}, {EVERY}
home, spec, when, what, part, nth = sys.argv[1:]
seen = [0]

def wrap(owner, name, describe):
    original = getattr(owner, name)
    def wrapped(*args, **kwargs):
        hit = what == name and part in describe(*args, **kwargs)
        seen[0] += hit
        if hit and when == "before" and seen[0] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if hit and when == "after" and seen[0] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapped)

wrap(Store, "put", lambda self, key, data: key)
wrap(Store, "delete", lambda self, key: key)
wrap(Ledger, "seal", lambda self, lease, **kw: str(lease.range_id))
wrap(sgd, "noisy_mean", lambda sums, plan: "")
run_step(TrainStep(), Job.open(spec, Settings.load({{"CADP_HOME": home}})), Silent())
"""

# When, which call, on what, which time; and the step from which the next attempt goes on, None if from the start.
POINTS = {
    "before anything is saved": ("before", "put", "state-0000000", 1, None),
    "before the first step": ("before", "noisy_mean", "", 1, 0),
    "in a step": ("after", "noisy_mean", "", 8, 6),
    "saved twice": ("before", "delete", "state-0000006", 1, 9),
    "all steps taken": ("before", "put", ".safetensors", 6, 12),
    "before the seal": ("before", "seal", "0", 1, 12),
    "behind the seal": ("after", "seal", "0", 1, "sealed"),
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgd_plan, "STEPS", STEPS)
    monkeypatch.setattr(train_couplings, "SAVE_EVERY", EVERY)


@pytest.fixture(scope="module")
def _sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A release with couplings, sharded; and a copy to go back to."""
    place = build(tmp_path_factory.mktemp("live") / "place")
    ask(place, "{epsilon: 30, couplings: true}")
    place.open_budget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sgd_plan, "STEPS", STEPS)
        run_step(ShardStep(), place.job(), Silent())
    kept = tmp_path_factory.mktemp("kept") / "place"
    copy(place.folder, kept)
    return place.folder, kept


@pytest.fixture
def sharded(_sharded: tuple[Path, Path]) -> Iterator[Place]:
    live, kept = _sharded
    subprocess.run(["rm", "-rf", str(live)], check=True, timeout=60)
    copy(kept, live)
    yield at(live)


def ask(place: Place, train: str) -> None:
    text = place.spec.read_text()
    place.spec.write_text(text.replace("{epsilon: 30}", train))


def drive(place: Place, *point: object) -> subprocess.CompletedProcess[bytes]:
    arguments = [sys.executable, "-c", DRIVER, str(place.settings.home), str(place.spec), *map(str, point)]
    environ = {**place.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(arguments, env=environ, capture_output=True, cwd=place.folder, timeout=300, check=False)


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.figures: list[tuple[str, str]] = []

    def event(self, kind: str, message: str) -> None:
        self.events.append((kind, message))

    def figure(self, key: str, title: str, value: str) -> None:
        self.figures.append((title, value))


USUAL = ("in a step", "before the seal")


@pytest.mark.parametrize(
    "point", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in POINTS]
)
def test_a_killed_training_goes_on_without_a_second_charge(point: str, sharded: Place) -> None:
    *where, resumed = POINTS[point]
    killed = drive(sharded, *where)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    job = sharded.job()
    (charge,) = job.ledger.charges()
    spent = job.ledger.budget("shapes").charged
    # Nothing of an unfinished training can be taken for a model, and nothing is public.
    assert (job.ledger.seal_of(charge.id, 0) is not None) == (resumed == "sealed")
    assert not Path(job.settings.public_url).exists() or not any(Path(job.settings.public_url).rglob("*"))

    said, steps = Listening(), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        count(patch, steps)
        run_step(TrainStep(), job, said)
    assert len(steps) == (0 if resumed == "sealed" else STEPS - (resumed or 0))
    goes_on = [message for kind, message in said.events if kind == "resumed"]
    assert goes_on == (
        [] if resumed in (None, "sealed") else [f"training of the couplings goes on at step {resumed} of 12"]
    )
    assert [c.id for c in job.ledger.charges()] == [charge.id]
    assert job.ledger.budget("shapes").charged == spent
    assert job.ledger.charges()[0].state is State.SEALED
    assert isinstance(load_model(job).architecture, Coupled)
    if resumed != "sealed":
        assert states(job) == []
    collect(job.settings)
    assert states(job) == []


def count(patch: pytest.MonkeyPatch, steps: list[int]) -> None:
    mean = sgd.noisy_mean

    def counted(sums: list[np.ndarray], plan: sgd_plan.SgdPlan) -> torch.Tensor:
        steps.append(1)
        return mean(sums, plan)

    patch.setattr(sgd, "noisy_mean", counted)


def states(job: Job) -> list[str]:
    return [key for key, _ in job.private.list("training/") if key.endswith(".safetensors")]


def test_training_tells_epsilon_so_far_and_keeps_losses_private(sharded: Place) -> None:
    said, job = Listening(), sharded.job()
    run_step(TrainStep(), job, said)
    told = [float(value) for title, value in said.figures if "ε so far" in title]
    assert len(told) == STEPS // EVERY
    assert told == sorted(told)
    assert told[-1] == pytest.approx(job.part("train").epsilon(1e-6), abs=0.01)
    losses = [key for key, _ in job.private.list("training/") if "/loss-" in key]
    assert [key[-12:] for key in losses] == [f"{step:07d}.json" for step in (3, 6, 9, 12)]
    notes = [json.loads(job.private.get(key)) for key in losses]
    assert all(note["private"] and note["nats_per_record"] > 0 for note in notes)
    figures = [f"{note[name]:.4g}" for note in notes for name in ("nats_per_record", "bits_per_content_dim")]
    assert not [figure for figure in figures if figure in str(said.events) + str(said.figures)]


def test_two_processes_train_under_the_charge_of_one(sharded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is killed in the middle; the next attempt goes on with two again, and pays nothing."""
    monkeypatch.setattr(sgd_plan, "STEPS", 200)  # enough that they are not through before this process hears of it
    monkeypatch.setattr(train_couplings, "SAVE_EVERY", 20)
    sharded.spec.write_text(sharded.spec.read_text().replace("version: 1.0.0", "version: 1.0.1"))
    alone = sharded.job()
    run_step(ShardStep(), alone, Silent())
    sharded.spec.write_text(sharded.spec.read_text().replace("run:       {", "run:       {processes: 2, "))
    job, said = sharded.job(), Listening()
    assert job.spec.run.processes == 2
    assert job.plan_digest == alone.plan_digest
    keep, taken = SavedTraining.after_step, list[int]()

    def kill(self: SavedTraining, training: sgd.Training) -> None:
        keep(self, training)
        taken.append(training.step)
        if taken == list(range(25)):
            victim = multiprocessing.active_children()[-1].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)

    monkeypatch.setattr(SavedTraining, "after_step", kill)
    with pytest.raises(CadpError, match=r"process \d of 2 of the training died"):
        run_step(TrainStep(), job, Silent())
    (charge,) = job.ledger.charges()
    spent = job.ledger.budget("shapes").charged
    assert job.ledger.seal_of(charge.id, 0) is None
    (state,) = states(job)
    taken.clear()
    run_step(TrainStep(), job, said)
    assert taken == list(range(taken[0], 201))
    assert state.endswith(f"state-{taken[0] - 1:07d}.safetensors")
    assert taken[0] > 20
    assert [c.id for c in job.ledger.charges()] == [charge.id]
    assert job.ledger.budget("shapes").charged == spent
    assert job.part("train").event == charge.event
    assert states(job) == []
    assert isinstance(load_model(job).architecture, Coupled)
    told = [float(value) for title, value in said.figures if "ε so far" in title]
    assert told == sorted(told)
    assert len(told) == (200 - taken[0] + 1) // 20


def test_a_seeded_training_stays_in_its_process(sharded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its coins come out of one stream; a process of its own would draw from the operating system."""
    sharded.spec.write_text(sharded.spec.read_text().replace("run:       {", "run:       {processes: 2, "))
    monkeypatch.setattr(train_couplings, "is_seeded", lambda: True)
    steps = list[int]()
    count(monkeypatch, steps)
    run_step(TrainStep(), sharded.job(), Silent())
    assert len(steps) == STEPS


@pytest.mark.slow
def test_a_model_with_couplings_is_released(sharded: Place) -> None:
    job = sharded.release()
    statement = json.loads((sharded.public / "statement.json").read_text())
    (training,) = [row for row in statement["components"] if row["name"] == "train"]
    assert training["parameters"]["couplings"]["steps"] == STEPS
    assert training["parameters"]["couplings"]["sampling_rate"] == sgd_plan.SAMPLING_RATE
    assert training["event"] == job.part("train").event.to_json()
    assert training["zero_out_epsilon"] < training["epsilon"] == pytest.approx(job.part("train").epsilon(1e-6))
    public = b"".join(
        path.read_bytes() for path in sharded.public.rglob("*") if path.suffix in {".json", ".md", ".html"}
    )
    for key in (key for key, _ in job.private.list("training/") if "/loss-" in key):
        note = json.loads(job.private.get(key))
        assert str(note["nats_per_record"]).encode()[:8] not in public
    audit = json.loads((sharded.public / "audit.json").read_text())
    assert [row["mechanism"] for row in audit["settings"] if row["part"] == "train"][-1] == "dp-sgd"


def test_the_plan_has_a_row_of_its_own_for_couplings(sharded: Place) -> None:
    view = plan_view(sharded.spec, sharded.settings)
    steps = [row["step"] for row in view.rows]
    assert steps == ["shard", "train", "… of it couplings", "privatize", "validate", "publish"]
    row = view.rows[2]
    assert "DP-SGD, 12 steps at rate 0.03906" in row["mechanism"]
    assert row["ε"].endswith(" alone")
    assert 0 < float(row["ε"].split()[0]) < float(view.rows[1]["ε"]) <= 30


def test_a_state_that_is_none_of_this_plan_is_refused(sharded: Place) -> None:
    job = sharded.job()
    charge, plan = job.charge("train"), job.plan.couplings
    assert plan is not None
    flow = ConditionalFlow(plan.architecture)
    training = sgd.Training.start(stack_of(flow).float())
    good = state_bytes(flow, training)
    found, again = read_state(good, plan)
    assert again.step == 0
    assert torch.equal(again.weights, training.weights)
    assert torch.equal(found.rotation.weight, flow.rotation.weight)
    training.weights[0] = float("nan")
    broken = state_bytes(flow, training)
    other = replace(plan, architecture=coupled(replace(plan.architecture.whitening, content=16)))
    later = state_bytes(flow, replace(again, step=STEPS + 1))
    for data, read_under in ((good[:-9], plan), (good, other), (broken, plan), (later, plan), (b"x", plan)):
        with pytest.raises(CheckpointRefused):
            read_state(data, read_under)
    job.private.put(f"training/{charge.id}/state-0000003.safetensors", good[:-9])
    with pytest.raises(CheckpointRefused):
        SavedTraining(job, charge, plan, lambda: None, Silent())


def test_an_attempt_that_lost_its_lease_takes_no_later_state_away(sharded: Place) -> None:
    job, said = sharded.job(), Listening()
    charge, plan = job.charge("train"), job.plan.couplings
    assert plan is not None

    def attempt() -> tuple[SavedTraining, sgd.Training]:
        saved = SavedTraining(job, charge, plan, lambda: None, said)
        saved.flow = ConditionalFlow(plan.architecture)
        return saved, sgd.Training.start(stack_of(saved.flow).float())

    (zombie, old), (heir, new) = attempt(), attempt()
    old.weights += 1
    for saved, training, step in ((heir, new, 6), (zombie, old, 3), (zombie, old, 6), (heir, new, 7)):
        training.step = step
        saved.after_step(training)
    assert [key[-19:] for key in states(job)] == ["0000006.safetensors"]
    assert [kind for kind, _ in said.events] == ["saved"]
    found = SavedTraining(job, charge, plan, lambda: None, said).training
    assert found is not None
    assert torch.equal(found.weights, new.weights)


def test_units_are_chosen_by_a_keyed_hash_of_their_ids_alone() -> None:
    ids = [f"person-{number}" for number in range(4000)]
    some = chosen_units(PopulationSecret(b"1" * 32), 0.25)
    kept = {unit for unit in ids if some(unit)}
    assert 0.2 < len(kept) / len(ids) < 0.3
    assert kept != {unit for unit in ids if chosen_units(PopulationSecret(b"2" * 32), 0.25)(unit)}
    assert all(chosen_units(PopulationSecret(b"1" * 32), 0.5)(unit) for unit in kept)
    assert all(chosen_units(PopulationSecret(b"1" * 32), 1.0)(unit) for unit in ids)


def test_only_chosen_units_are_read_and_their_records_stand_together(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    units = np.repeat(np.arange(5), [1, 3, 2, 1, 3])
    chosen = np.isin(units, [1, 3, 4])
    images = draw.integers(0, 256, (10, 12, 12, 1), dtype=np.uint8)
    labels, valid = draw.integers(0, 3, 10), draw.random(10) < 0.7
    records = DecodedRecords(tmp_path, images, labels, valid, units, chosen)
    whitening = sgd_plan.Whitening((12, 12, 1), 3, 6, 8, 4)
    flow = ConditionalFlow(coupled(whitening))
    read = unit_records(flow, records, Silent())
    assert read.starts.tolist() == [0, 3, 4, 7]
    assert read.labels.tolist() == labels[chosen].tolist()
    assert read.valid.tolist() == valid[chosen].tolist()
    z = ConditionalFlow(whitening).encode_images(images, labels)[chosen, :8]
    assert np.allclose(read.content, z, atol=1e-6)


def test_a_fraction_of_the_units_trains(sharded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_fraction = sharded.spec.read_text().replace("couplings: true", "couplings: {fraction: 0.5}")
    sharded.spec.write_text(ask_fraction.replace("version: 1.0.0", "version: 1.0.1"))
    job, read = sharded.job(), list[int]()
    run_step(ShardStep(), job, Silent())
    train = sgd.train_couplings

    def watched(flow: object, data: sgd.UnitRecords, *rest: object, **more: object) -> object:
        read.append(data.units)
        return train(flow, data, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sgd, "train_couplings", watched)
    run_step(TrainStep(), job, Silent())
    assert 480 < read[0] < 720
    assert job.plan.couplings is not None
    assert job.plan.couplings.expected_batch == sgd_plan.SAMPLING_RATE * 600


def test_units_in_pieces_are_refused(sharded: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = sharded.job()
    records = decode_once(job, tmp_path, Silent())
    assert records.units.tolist() == list(range(1200))
    torn = replace(records, units=records.units * 2)
    plan = job.plan.couplings
    assert plan is not None
    saved = SavedTraining(job, job.charge("train"), plan, lambda: None, Silent())
    with pytest.raises(PrivacyError, match="1,200"):
        train_couplings.train_couplings(job, saved, ConditionalFlow(plan.architecture.whitening), torn, Silent())


SPECS = {
    "{epsilon: 30}": None,
    "{epsilon: 30, couplings: false}": None,
    "{epsilon: 30, couplings: true}": 1.0,
    "{epsilon: 30, couplings: {fraction: 0.25}}": 0.25,
    "{epsilon: 30, couplings: {}}": 1.0,
}


@pytest.mark.parametrize("train", SPECS)
def test_the_spec_asks_for_couplings(train: str, place: Place) -> None:
    ask(place, train)
    asked = parse_spec(place.spec.read_text()).model.train.couplings
    assert (None if asked is None else asked.fraction) == SPECS[train]


@pytest.mark.parametrize(
    "train", ["couplings: 3", "couplings: {fraction: 0}", "couplings: {steps: 4}", "couplings: yes please"]
)
def test_other_couplings_are_refused(train: str, place: Place) -> None:
    ask(place, f"{{epsilon: 30, {train}}}")
    with pytest.raises(SpecError, match=r"model\.train\.couplings"):
        parse_spec(place.spec.read_text())
