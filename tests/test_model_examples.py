"""The commands of docs/models.md on the example files, with small pictures in place of the two data sets."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from cadp.cinn.dp_sgd import plan as sgd_plan
from cadp.release import Job, run_step
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.spec import parse_spec
from cadp.steps.budgets import init_budget
from cadp.steps.load_model import flow_of_loaded
from cadp.steps.shard import ShardStep
from cadp.steps.train import TrainStep, load_model
from cadp.steps.train_public_spec import load_public_model
from tests.command import Command
from tests.small_release import Place, write_idx

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "models.md").read_text()
RECORDS, HOLDOUT = 600, 60


def commands(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, flags=re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def pictures(folder: Path, seed: int) -> Path:
    """Blurred noise of ten brightnesses."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for split, count in (("train", RECORDS), ("t10k", HOLDOUT)):
        labels = np.arange(count) % 10
        coarse = draw.uniform(0, 120, (count, 7, 7)) + 13 * labels[:, None, None]
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """The example files below `docs/examples`, about small pictures that are here."""
    examples = tmp_path / "docs" / "examples"
    (examples / "models").mkdir(parents=True)
    (tmp_path / "user").mkdir()
    public, private = pictures(tmp_path / "public", 1), pictures(tmp_path / "private", 2)
    facts = f"records: {RECORDS}\n  holdout_records: {HOLDOUT}\n  shape: [28, 28, 1]"
    model = (DOCS / "examples" / "models" / "clothes.yaml").read_text()
    names = "classes: [a, b, c, d, e, f, g, h, i, j]"
    model = model.replace("url: fashion-mnist", f"url: {public}\n  {facts}\n  {names}\n ")
    (examples / "models" / "clothes.yaml").write_text(
        model.replace("epochs: 10", "epochs: 2").replace("fraction: 0.2", "fraction: 1.0")
    )
    digits = (DOCS / "examples" / "digits.yaml").read_text()
    digits = digits.replace("/srv/private/digits", str(private))
    digits = digits.replace("records: 60000", f"records: {RECORDS}").replace("_records: 10000", f"_records: {HOLDOUT}")
    digits = digits.replace("{epsilon: 8, delta", "{epsilon: 200, delta").replace(
        "epsilon: 4      ", "epsilon: 150    "
    )
    (examples / "digits.yaml").write_text(digits)
    settings = Settings.load({"CADP_HOME": str(tmp_path / "home")})
    return Place(tmp_path, examples / "digits.yaml", settings)


def test_they_are_sound_as_they_stand() -> None:
    spec = parse_spec((DOCS / "examples" / "digits.yaml").read_text())
    model = load_public_model(DOCS / "examples" / "models" / "clothes.yaml")
    assert model.architecture == {"like": "../digits.yaml"}
    assert spec.model.train is not None
    assert spec.model.train.couplings is not None


def test_public_weights_private_training_and_a_second_release(
    here: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd_plan, "STEPS", 2)
    here.settings.make_private_folders()
    ((*train,),) = commands("Training on public data")
    trained = cadp(here, *train)
    assert trained.code == 0, trained.err
    public = trained.out.strip()
    here.spec.write_text(here.spec.read_text().replace("0" * 64, public))
    init_budget(here.spec, here.settings, epsilon=400.0, delta=1e-6, holdout_epsilon=1.0)
    ((*plan,),) = commands("Starting from public weights")
    planned = cadp(here, *plan)
    assert planned.code == 0, planned.err
    assert "started from public weights" in " ".join(planned.out.split()).replace("│ ", "")
    job = Job.open(here.spec, here.settings)
    for step in (ShardStep(), TrainStep()):
        run_step(step, job, Silent())
    ((*report,),) = commands("What the operator may see")
    reported = cadp(here, *report)
    assert reported.code == 0, reported.err
    assert reported.out.startswith("PRIVATE")
    # What it trained, for another release, as the page's table and the comment in the example say.
    (seal,) = job.ledger.seals(job.charge("train").id).values()
    text = here.spec.read_text()
    block = text[text.index("model:\n") : text.index("# Another release")]
    again = here.spec.with_name("again.yaml")
    text = text.replace(block, f"model: {{load: {seal.key}}}\n").replace("version: 1.0.0", "version: 1.0.1")
    again.write_text(text)
    before = job.ledger.budget("digits").charged
    other = Job.open(again, here.settings)
    run_step(TrainStep(), other, Silent())
    assert other.ledger.budget("digits").charged == before
    assert load_model(other).architecture == job.plan.architecture
    assert other.plan.loaded is not None
    assert flow_of_loaded(other, other.plan.loaded).architecture == job.plan.architecture
