"""What is no model of this release, although every hash is right: a second record, its own people's, half of it."""

import hashlib
import json

import pytest

from cadp.cinn.architecture import Whitening
from cadp.cinn.checkpoint import Origin, save_checkpoint, save_public
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused
from cadp.privacy.events import GaussianEvent
from cadp.release import run_step
from cadp.reporter import Silent
from cadp.sources.address import addresses
from cadp.steps.budgets import init_budget
from cadp.steps.disclosure import _declared_models
from cadp.steps.train import TrainStep, load_model
from cadp.store import Store
from tests.small_release import Place, write_spec
from tests.steps.loaded_release import ask, models, record, spent, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def flow() -> ConditionalFlow:
    return ConditionalFlow(Whitening((12, 12, 1), 3, 6, 8, 4))


@pytest.fixture
def opened(place: Place) -> Place:
    place.open_budget()
    return place


def rewritten(store: Store, digest: str, **changes: object) -> str:
    """Another record of the same tensors, by hand; its digest is right."""
    data = json.dumps({**json.loads(store.get(f"{digest}.json")), **changes}, sort_keys=True, indent=1).encode()
    found = hashlib.sha256(data).hexdigest()
    store.put(f"{found}.json", data)
    return found


FORGED = {
    "cheaper": {"privacy": record(event=GaussianEvent(0.01).to_json())},
    "another people's": {"privacy": record(population="visitors")},
    "made public": {"privacy": None, "origin": {"words": "from the shelf", "population": None}},
}


@pytest.mark.parametrize("case", FORGED)
def test_a_second_record_of_the_same_tensors_is_refused(case: str, opened: Place, flow: ConditionalFlow) -> None:
    digest = save_checkpoint(models(opened), flow, record(), {})
    forged = rewritten(models(opened), digest, **FORGED[case])
    declared = "" if case == "cheaper" else ", public: from the shelf"
    ask(opened, f"{{load: {forged}{declared}}}")
    with pytest.raises(CheckpointRefused, match="another record of what they cost"):
        opened.job()
    assert spent(opened) == 0


def test_the_same_cost_said_twice_is_no_contradiction(opened: Place, flow: ConditionalFlow) -> None:
    digest = save_checkpoint(models(opened), flow, record(), {})
    again = save_checkpoint(models(opened), flow, record(), {"torch": "another"})
    models(opened).put(f"{'a' * 64}.json", b"{}")  # no model: nothing can be loaded by it
    assert again != digest
    ask(opened, f"{{load: {again}}}")
    assert load_model(train(opened)).architecture == flow.architecture


def test_a_public_model_of_people_who_are_kept_here_is_not_public(opened: Place, flow: ConditionalFlow) -> None:
    """Another population's: by its name in the origin, or by the address of its source."""
    drawings = opened.folder / "drawings"
    drawings.mkdir()
    for path in (opened.folder / "source").iterdir():
        (drawings / path.name).write_bytes(path.read_bytes())
    other = Place(opened.folder, opened.folder / "other.yaml", opened.settings)
    write_spec(other.spec, drawings)
    other.spec.write_text(other.spec.read_text().replace("population: shapes", "population: drawings"))
    init_budget(other.spec, other.settings, epsilon=10.0, delta=1e-6, holdout_epsilon=1.0)
    (address, *_) = addresses(str(drawings), opened.settings.data_dir)
    for origin in (Origin("theirs", population="drawings"), Origin("found", source=address)):
        digest = save_public(models(opened), flow, origin, {})
        ask(opened, f"{{load: {digest}, public: they said so themselves}}")
        with pytest.raises(CheckpointRefused, match="trained on drawings, whose budget is kept here"):
            run_step(TrainStep(), opened.job(), Silent())
        opened.write_spec()
        (opened.private / "plan.json").unlink(missing_ok=True)
        models(opened).delete(f"{digest}.json")
    assert spent(opened) == 0


def test_tensors_that_were_lost_are_brought_in_again(opened: Place, flow: ConditionalFlow) -> None:
    elsewhere = Store.open(str(opened.folder / "theirs"))
    digest = save_checkpoint(elsewhere, flow, record(), {})
    ask(opened, f"{{load: {opened.folder}/theirs/{digest}.json}}")
    train(opened)
    once = spent(opened)
    for key, _ in models(opened).list():
        if key.endswith(".safetensors"):
            models(opened).delete(key)
    with pytest.raises(CheckpointRefused, match="no checkpoint object"):
        load_model(opened.job())
    assert load_model(train(opened)).architecture == flow.architecture
    assert spent(opened) == once


def test_the_statement_says_whose_word_the_cost_is_and_what_training_started_from(
    opened: Place, flow: ConditionalFlow
) -> None:
    started = {**record(), "started_from": "drawings that the tests made"}
    digest = save_checkpoint(models(opened), flow, started, {})
    ask(opened, f"{{load: {digest}}}")
    start, cost = _declared_models(train(opened))
    assert start.endswith("declared public, not verified: drawings that the tests made")
    assert "its own record is believed" in cost
    with pytest.raises(CheckpointRefused, match="in words"):
        save_checkpoint(models(opened), flow, {**record(), "started_from": ""}, {})
