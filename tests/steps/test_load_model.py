"""A loaded model costs its people its event once, whichever releases load it; what must not be used is refused."""

import json
from pathlib import Path

import pytest
import torch

from cadp.cinn.architecture import Couplings, Dense, Whitening
from cadp.cinn.checkpoint import Origin, save_checkpoint, save_public
from cadp.cinn.layers.blocks import Conditions
from cadp.cinn.loaded import zero_out_of
from cadp.cinn.network import ConditionalFlow
from cadp.errors import BudgetExceeded, CadpError, CheckpointRefused, LedgerError, PrivacyError, SpecError
from cadp.ledger import Ledger, State
from cadp.privacy.accountant import curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event, GaussianEvent, SampledGaussianEvent
from cadp.release import run_step
from cadp.reporter import Silent
from cadp.show import plan_view
from cadp.spec import parse_spec
from cadp.steps import job as job_module
from cadp.steps.abandon import abandon_release
from cadp.steps.accounts import verify_accounts
from cadp.steps.audit import plan_subjects
from cadp.steps.collect import collect
from cadp.steps.model_charge import charge_model, find_model_charge, model_key
from cadp.steps.privatize import PrivatizeStep
from cadp.steps.shard import ShardStep
from cadp.steps.train import TrainStep, load_model
from cadp.store import Store
from tests.small_release import Place, build
from tests.steps.loaded_release import EVENT, ask, models, record, spent, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def flow() -> ConditionalFlow:
    """A network for the pictures of the small release, that somebody trained."""
    return ConditionalFlow(Whitening((12, 12, 1), 3, 6, 8, 4))


@pytest.fixture
def opened(place: Place) -> Place:
    place.open_budget()
    return place


def test_two_releases_of_a_model_from_elsewhere_pay_for_it_once(opened: Place, flow: ConditionalFlow) -> None:
    elsewhere = opened.folder / "theirs"
    digest = save_checkpoint(Store.open(str(elsewhere)), flow, record(), {})
    first = ask(opened, f"{{load: {elsewhere}/{digest}.json}}")
    second = ask(opened, f"{{load: {digest}}}", "1.0.1", "second.yaml")
    job = train(first)
    once = spent(opened)
    assert once == pytest.approx(curve(EVENT).epsilon(1e-6), abs=1e-5)
    (charge,) = job.ledger.charges()
    assert (charge.key, charge.state) == (model_key(digest), State.SEALED)
    # It lies in the private zone now, and nothing outside is needed any more.
    for path in elsewhere.iterdir():
        path.unlink()
    assert load_model(train(first)).architecture == flow.architecture
    other = train(second)
    assert load_model(other).architecture == flow.architecture
    assert spent(opened) == once
    assert other.find_charge("train").id == charge.id  # type: ignore[union-attr]
    rows = plan_view(second.spec, opened.settings).rows
    assert rows[1]["ε"].endswith("paid by shapes/1.0.0")
    # Whatever becomes of the release that paid, it is paid.
    abandon_release(first.spec, opened.settings, "enough")
    assert spent(opened) == once
    assert load_model(second.job()).architecture == flow.architecture
    # And garbage collection leaves a model alone that an open release loads.
    collect(opened.settings, days=0)
    assert load_model(second.job()).architecture == flow.architecture


@pytest.mark.slow
def test_a_model_trained_here_is_loaded_for_nothing_and_stated_by_both(tmp_path: Path) -> None:
    place = build(tmp_path / "own")
    place.open_budget()
    place.release()
    digest = next(path.stem for path in (place.folder / "home/private/models").glob("*.json"))
    before = spent(place)
    second = ask(place, f"{{load: {digest}}}", "1.0.1", "second.yaml")
    job = second.release()
    both = [json.loads((place.public.parent / v / "statement.json").read_text()) for v in ("1.0.0", "1.0.1")]
    trained, loaded = (next(row for row in one["components"] if row["name"] == "train") for one in both)
    assert (loaded["charge"], loaded["event"], loaded["epsilon"]) == (
        trained["charge"],
        trained["event"],
        trained["epsilon"],
    )
    assert loaded["parameters"]["kind"] == "loaded"
    assert not any("believed" in fact for fact in both[1]["unprotected"])  # the ledger knows its training
    assert both[0]["loss"]["epsilon"] == pytest.approx(both[1]["loss"]["epsilon"], rel=1e-6)
    records = job.part("records").event
    assert spent(place) > before
    total = job.ledger.budget("shapes")
    alone = curve(ComposedEvent((job.part("train").event, records, records)))
    assert total.charged == pytest.approx(alone.epsilon(1e-6), abs=1e-4)
    assert digest not in "".join(p.read_text(errors="ignore") for p in place.public.parent.rglob("*.json"))
    found = verify_accounts(place.settings)
    assert found.hold, found.findings
    audit = json.loads((place.public.parent / "1.0.1" / "audit.json").read_text())
    assert [row["mechanism"] for row in audit["settings"] if row["part"] == "train"] == ["loaded"]


def test_a_public_model_costs_nothing_and_is_said_to_be_declared(opened: Place, flow: ConditionalFlow) -> None:
    digest = save_public(models(opened), flow, Origin("maximum likelihood on drawings"), {})
    ask(opened, f"{{load: {digest}, public: drawings that the tests made}}")
    job = train(opened)
    assert spent(opened) == 0
    assert [part.name for part in job.plan.parts()] == ["records", "gate"]
    assert load_model(job).architecture == flow.architecture
    view = plan_view(opened.spec, opened.settings)
    assert [row["step"] for row in view.rows] == ["shard", "train", "privatize", "validate", "publish"]
    assert view.rows[1]["ε"] == "0"
    assert any("declared public, not verified" in line for line in view.lines)
    assert json.loads(opened.private.joinpath("plan.json").read_text())["model"]["load"] == digest
    collect(opened.settings, days=0)
    assert load_model(job).architecture == flow.architecture


@pytest.mark.slow
def test_a_release_through_a_public_model(opened: Place) -> None:
    import numpy as np

    from cadp.cinn.layers.layer import Condition
    from cadp.cinn.public_training import PublicRecipe, PublicRecords, train_public
    from tests.small_release import pictures

    images, labels = pictures(np.random.default_rng(1), 600)
    net = ConditionalFlow(Whitening((12, 12, 1), 3, 6, 8, 4))
    condition: Condition = net.condition(torch.from_numpy(labels.astype(np.int64)))
    train_public(net, PublicRecords(images[..., None], condition), PublicRecipe(), Silent())
    digest = save_public(models(opened), net, Origin("drawings"), {})
    ask(opened, f"{{load: {digest}, public: drawings that the tests made}}")
    opened.release()
    statement = json.loads((opened.public / "statement.json").read_text())
    assert statement["model"] == "public"
    assert [row["name"] for row in statement["components"]] == ["records", "gate"]
    assert any("declared public, not verified: drawings" in fact for fact in statement["unprotected"])


REFUSED = {
    "without DP on these people": (None, Origin("trained on them", "shapes"), "why it is public", "without DP"),
    "without a record": (None, Origin("from a colleague"), None, "no privacy record"),
    "of others, not declared": (record(population="visitors"), None, None, "visitors"),
    "its own people's, declared public": (record(), None, "why it is public", "cannot be declared public"),
    "of another unit": (record(unit="household"), None, None, "household"),
    "of nobody knows whom": (record(unit=None), None, None, "does not say whom"),
    "at no cost": (record(event=ComposedEvent(()).to_json()), None, None, "at no cost"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_must_not_be_used_is_refused(case: str, opened: Place, flow: ConditionalFlow) -> None:
    privacy, origin, public, words = REFUSED[case]
    store = models(opened)
    digest = save_checkpoint(store, flow, privacy, {}) if privacy else save_public(store, flow, origin, {})  # type: ignore[arg-type]
    declared = f", public: {public}" if public else ""
    ask(opened, f"{{load: {digest}{declared}}}")
    with pytest.raises(CheckpointRefused, match=words):
        opened.job()
    assert spent(opened) == 0


def test_a_public_model_of_this_very_source_is_refused(opened: Place, flow: ConditionalFlow) -> None:
    source = str((opened.folder / "source").resolve())
    digest = save_public(models(opened), flow, Origin("found on the shelf", source=source), {})
    ask(opened, f"{{load: {digest}, public: found on the shelf}}")
    with pytest.raises(CheckpointRefused, match="without DP"):
        opened.job()


def test_a_private_model_of_a_population_that_is_kept_here_is_not_public(opened: Place, flow: ConditionalFlow) -> None:
    digest = save_checkpoint(models(opened), flow, record(population="shapes.holdout"), {})
    ask(opened, f"{{load: {digest}, public: they said so themselves}}")
    with pytest.raises(CheckpointRefused, match="kept here"):
        run_step(TrainStep(), opened.job(), Silent())
    assert spent(opened) == 0


def test_a_model_that_did_not_protect_labels_releases_none_that_are_protected(
    opened: Place, flow: ConditionalFlow
) -> None:
    digest = save_checkpoint(models(opened), flow, record(labels="public"), {})
    ask(opened, f"{{load: {digest}}}")
    text = opened.spec.read_text().replace("labels: public", "labels: {randomized-response: {epsilon: 2}}")
    opened.spec.write_text(text)
    with pytest.raises(CheckpointRefused, match="labels of shapes were public"):
        opened.job()


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (Whitening((10, 12, 1), 3, 6, 8, 4), "10×12×1, these are 12×12×1"),
        (Whitening((12, 12, 1), 5, 6, 8, 4), "5 classes, these have 3"),
        (Dense(6, Conditions(3), Couplings(1, 4), 3), "1×1×6"),
    ],
    ids=["size", "classes", "table"],
)
def test_an_architecture_that_does_not_fit_is_refused(opened: Place, architecture: object, words: str) -> None:
    digest = save_checkpoint(models(opened), ConditionalFlow(architecture), record(), {})  # type: ignore[arg-type]
    ask(opened, f"{{load: {digest}}}")
    with pytest.raises(CheckpointRefused, match=words):
        opened.job()


def test_too_few_content_dimensions_are_refused(opened: Place) -> None:
    digest = save_checkpoint(models(opened), ConditionalFlow(Whitening((12, 12, 1), 3, 6, 3, 4)), record(), {})
    ask(opened, f"{{load: {digest}}}")
    with pytest.raises(SpecError, match="content_dims 4 is more than the 3"):
        opened.job()


def test_an_altered_model_is_refused_before_anything_is_charged(opened: Place, flow: ConditionalFlow) -> None:
    elsewhere = opened.folder / "theirs"
    digest = save_checkpoint(Store.open(str(elsewhere)), flow, record(), {})
    ask(opened, f"{{load: {elsewhere}/{digest}.json}}")
    (tensors,) = elsewhere.glob("*.safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointRefused, match="was altered"):
        run_step(TrainStep(), opened.job(), Silent())
    assert spent(opened) == 0
    assert not list(models(opened).list())


def test_a_model_that_does_not_fit_the_budget_is_refused(opened: Place, flow: ConditionalFlow) -> None:
    digest = save_checkpoint(models(opened), flow, record(event=GaussianEvent(3.0).to_json()), {})
    ask(opened, f"{{load: {digest}}}")
    job = opened.job()
    job.ledger.charge("shapes", release="other/1", key="other", event=GaussianEvent(9.0), parameters={})
    with pytest.raises(BudgetExceeded):
        run_step(TrainStep(), job, Silent())


def test_loading_without_the_charge_is_caught(
    opened: Place, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted mistake: the step says that the model was charged and charges nothing."""
    digest = save_checkpoint(models(opened), flow, record(), {})
    ask(opened, f"{{load: {digest}}}")
    job = opened.job()
    run_step(ShardStep(), job, Silent())
    monkeypatch.setattr(TrainStep, "prepare", lambda self, job, reporter: [])
    monkeypatch.setattr(TrainStep, "finish", lambda self, job, reporter: None)
    run_step(TrainStep(), job, Silent())
    with pytest.raises(CadpError, match="not charged its model"):
        run_step(PrivatizeStep(), job, Silent())
    assert spent(opened) == 0
    # And a lookup that finds any charge at all does not pass the statement's sum.
    job.ledger.charge("shapes", release="other/1", key="other", event=GaussianEvent(0.1), parameters={})
    cheap = job.ledger.charges()[0]
    monkeypatch.setattr(job_module, "find_model_charge", lambda *ignored: cheap)
    from cadp.steps.disclosure import privacy_statement, publication_context

    monkeypatch.setattr("cadp.steps.disclosure.read_facts", lambda job: {"train": {"class_counts": [400] * 3}})
    for name in ("records", "gate"):
        job.charge(name)
    with pytest.raises(PrivacyError, match="do not add up"):
        privacy_statement(job, publication_context(job))


def test_the_audit_of_a_loaded_model_refutes_a_loader_that_does_not_charge(
    opened: Place, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cadp.steps import audited_load

    digest = save_checkpoint(models(opened), flow, record(), {})
    ask(opened, f"{{load: {digest}}}")
    plan = opened.job().plan
    (subject,) = [one for one in plan_subjects(plan) if isinstance(one, audited_load.LoadAudit)]
    honest = subject.setting(40, 1e-3, lambda done: None)
    assert not honest.problems()
    assert honest.claim.epsilon == pytest.approx(curve(EVENT).epsilon(1e-6), abs=1e-5)

    def twice(ledger: Ledger, population: str, **asked: object) -> object:
        return ledger.charge(
            population,
            release=str(asked["release"]),
            key=str(asked["release"]),
            event=asked["event"],  # type: ignore[arg-type]
            parameters={},
        )

    def cheaper(ledger: Ledger, population: str, **asked: object) -> object:
        return charge_model(ledger, population, **{**asked, "event": GaussianEvent(0.01)})  # type: ignore[arg-type]

    def never(ledger: Ledger, population: str, **asked: object) -> object:
        return None

    for mutant in (twice, cheaper, never):
        monkeypatch.setattr(audited_load, "charge_model", mutant)
        assert subject.setting(40, 1e-3, lambda done: None).problems(), mutant.__name__


@pytest.mark.parametrize("releases", [1, 2, 5])
@pytest.mark.parametrize("models_", [1, 3])
def test_the_ledger_has_each_model_once(opened: Place, releases: int, models_: int) -> None:
    ledger = opened.job().ledger
    events = [GaussianEvent(0.1 * (1 + number)) for number in range(models_)]
    for number in range(releases):
        for which, event in enumerate(events):
            charge = charge_model(
                ledger,
                "shapes",
                release=f"shapes/{number}.0.0",
                digest=f"{which:064x}",
                event=event,
                parameters={"part": "train"},
            )
            assert charge.state is not State.RESERVED  # nobody can take back what others rely on
    assert spent(opened) == pytest.approx(curve(ComposedEvent(tuple(events))).epsilon(1e-6), abs=1e-5)
    # Under another event it is another claim, and is charged for itself.
    charge_model(
        ledger,
        "shapes",
        release="shapes/9.0.0",
        digest=f"{9:064x}",
        event=GaussianEvent(1.0),
        parameters={"part": "train"},
    )
    assert len(ledger.charges()) == models_ + 1


def test_a_charge_that_was_taken_back_pays_for_nothing(opened: Place) -> None:
    ledger, digest = opened.job().ledger, "a" * 64
    charge = ledger.charge("shapes", release="shapes/2.0.0", key=model_key(digest), event=EVENT, parameters={})
    ledger.void(charge.id)
    assert find_model_charge(ledger, "shapes", digest, EVENT) is None
    again = charge_model(ledger, "shapes", release="shapes/3.0.0", digest=digest, event=EVENT, parameters={})
    assert again.id != charge.id
    with pytest.raises(LedgerError):
        ledger.void(again.id)


EVENTS: list[Event] = [
    GaussianEvent(0.7, 3),
    SampledGaussianEvent(0.04, 2.0, 100),
    ComposedEvent((GaussianEvent(0.7), ComposedEvent((SampledGaussianEvent(0.5, 1.5, 4),)))),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_a_zero_out_event_is_found_for_every_event_and_costs_no_more(event: Event) -> None:
    found = zero_out_of(event)
    assert found.relation == ZERO_OUT
    assert curve(found).epsilon(1e-6) <= curve(event).epsilon(1e-6)


@pytest.mark.parametrize(
    "model",
    ["{}", "{load: abc, train: {epsilon: 3}}", "{train: {epsilon: 3}, public: because they say so}", "{load: ../x.pt}"],
)
def test_a_spec_names_one_model(place: Place, model: str) -> None:
    text = place.spec.read_text().replace("{train: {epsilon: 30}}", model)
    if "x.pt" in model:
        place.open_budget()
        place.spec.write_text(text)
        with pytest.raises(CheckpointRefused, match="digest of a model"):
            place.job()
        return
    with pytest.raises(SpecError, match="model"):
        parse_spec(text)
