"""Releases of the small population that load their model, and what a model's record may say."""

from cadp.ledger import Ledger
from cadp.privacy.accountant import RELATION
from cadp.privacy.events import GaussianEvent
from cadp.release import run_step
from cadp.reporter import Silent
from cadp.steps.job import Job
from cadp.steps.train import TrainStep
from cadp.store import Store
from tests.small_release import Place

EVENT = GaussianEvent(0.5)


def models(place: Place) -> Store:
    return Store.open(place.settings.private_url).child("models")


def record(**changes: object) -> dict[str, object]:
    usual = {"relation": RELATION, "population": "shapes", "event": EVENT.to_json(), "unit": "record"}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def ask(place: Place, model: str, version: str = "1.0.0", name: str = "release.yaml") -> Place:
    """Write another spec of the same population, which loads its model."""
    text = place.spec.read_text().replace("{train: {epsilon: 30}}", model)
    other = Place(place.folder, place.folder / name, place.settings)
    other.spec.write_text(text.replace("version: 1.0.0", f"version: {version}"))
    return other


def spent(place: Place) -> float:
    with Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as ledger:
        return ledger.budget("shapes").charged


def train(place: Place) -> Job:
    job = place.job()
    run_step(TrainStep(), job, Silent())
    return job
