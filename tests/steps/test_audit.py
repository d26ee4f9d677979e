"""The audit of what a release really runs: silent about the code as it is, loud about planted flaws, and free."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cadp.cinn.architecture import Coupled
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.model_plan import ModelPlan
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CadpError, VerificationFailed
from cadp.plan import plan_release
from cadp.privacy.audit.path import CodePath, InjectedFault, Output, path_checks
from cadp.privacy.audit.run import Variant, audit
from cadp.privacy.audit.verdict import Audit
from cadp.privacy.audit.worst_case import worst_pair
from cadp.privacy.labels import LabelPlan, ResampledLabels, plan_response
from cadp.privacy.mechanisms import Laplace, Mechanism, PrivUnit, plan_mechanism
from cadp.publish.sign import load_public, public_path
from cadp.publish.verify import verify
from cadp.records import Batch, Released
from cadp.reporter import Silent
from cadp.shards import decode_png, encode_values
from cadp.show.audit import audit_rows
from cadp.spec import load_spec
from cadp.steps import audit as step
from cadp.steps import privatize
from cadp.steps.audit import AUDIT, AUDITS, audit_release, code_path, kept_audit, plan_subjects
from cadp.steps.audited_flow import synthetic_flow
from cadp.steps.publish import published_facts, signing_key_path
from cadp.store import Store, StoredObject
from tests.command import Command
from tests.small_release import Place

pytestmark = [pytest.mark.audits, pytest.mark.usefixtures("one_thread")]

Floats = NDArray[np.float64]
KINDS = ("privunit", "gaussian", "laplace", "resample")
DELTA = 1e-6
Records = list[Released]


@pytest.fixture(scope="module")
def flow() -> ConditionalFlow:
    plan = MomentsPlan.calibrate(8.0, DELTA, shape=(12, 12, 1), classes=3, units=1200)
    return synthetic_flow(plan.architecture)


@pytest.fixture(scope="module")
def path(flow: ConditionalFlow) -> CodePath:
    return code_path(flow)


def planned(kind: str, epsilon: float = 4.0) -> Mechanism:
    return plan_mechanism(kind, epsilon=epsilon, delta=DELTA, content_dims=4)  # type: ignore[arg-type]


def whole(path: CodePath, mechanism: Mechanism, trials: int = 1500) -> Audit:
    return audit(path, mechanism, (), delta=DELTA, trials=trials)


def statistical(found: Audit) -> list[str]:
    return [problem for problem in found.problems() if "more than is charged" in problem]


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_as_it_is_is_not_refuted(kind: str, path: CodePath) -> None:
    found = whole(path, planned(kind))
    assert found.problems() == []
    assert found.verdict == "not refuted at 1,500 trials"
    if kind in ("privunit", "laplace"):  # and the trials come near the charged ε through decode, clamp and PNG
        assert max(m.lower_bound for m in found.settings[0].measures) > 2.5


def test_mixtures_and_couplings_are_in_the_audited_network(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    rich = ModelPlan.calibrate(30.0, DELTA, shape=(12, 12, 1), classes=3, units=60_000, fraction=1.0)
    architecture = rich.architecture
    assert isinstance(architecture, Coupled)
    assert architecture.whitening.components > 0
    flow = synthetic_flow(architecture)
    tensors = {**dict(flow.named_parameters()), **dict(flow.named_buffers())}
    fresh = ConditionalFlow(architecture)
    assert all((tensors[name] != 0).any() for name, _ in fresh.named_parameters())
    assert (tensors["mixture.centre"] != 0).all()
    assert whole(code_path(flow), planned("privunit")).problems() == []

    spec = load_spec(place.spec)
    plan = plan_release(spec, place.settings.data_dir, Store.open(str(place.private)))
    asked: list[object] = []
    monkeypatch.setattr(step, "synthetic_flow", lambda kind: asked.append(kind) or synthetic_flow(kind))
    plan_subjects(dataclasses.replace(plan, couplings=rich.couplings))
    assert asked == [architecture]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_pair_is_a_diameter_apart(kind: str, path: CodePath) -> None:
    assert worst_pair(path, planned(kind)).distance > 0.99


class Path:
    """A path with a planted flaw: `privatize_batch` replaced by a method."""

    def __init__(self, flow: ConditionalFlow) -> None:
        self.flow = flow

    def label_leak_scale(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """One class gets a quarter of the noise."""
        quiet = dataclasses.replace(mechanism, scale=mechanism.scale / 4)  # type: ignore[type-var, attr-defined]
        out = privatize_batch(flow, mechanism, batch, *labels)
        for i in np.flatnonzero(batch.labels == 1):
            out[i] = privatize_batch(flow, quiet, _rows(batch, i), *labels)[0]
        return out

    def label_leak_pixel(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """The corner pixel shows a bit of the record."""
        out = privatize_batch(flow, mechanism, batch, *labels)
        bit = (batch.images.reshape(len(batch), -1).mean(axis=1) > 100).astype(int)
        images = flow.decode_images(flow.encode_images(_images(out, batch), batch.labels), batch.labels)
        images[:, 0, 0, 0] = np.where(bit, 255, 0)
        return [dataclasses.replace(r, data=encode_values(x)) for r, x in zip(out, images, strict=True)]

    def no_noise_on_retry(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """A fault is caught, and what is released then never met the mechanism."""
        try:
            return privatize_batch(flow, mechanism, batch, *labels)
        except OSError:
            images = flow.decode_images(flow.encode_images(batch.images, batch.labels), batch.labels)
            own = batch.labels.tolist()
            return [Released(os.urandom(16), y, encode_values(x)) for x, y in zip(images, own, strict=True)]

    def neighbour(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """Brightness is normalised over the batch."""
        bright = batch.images.astype(float) * (100 / max(batch.images.mean(), 1.0))
        bright_batch = dataclasses.replace(batch, images=bright.clip(0, 255).astype(np.uint8))
        return privatize_batch(flow, mechanism, bright_batch, *labels)

    def same_names(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """A record's public name is its place."""
        out = privatize_batch(flow, mechanism, batch, *labels)
        return [dataclasses.replace(record, id=i.to_bytes(16)) for i, record in enumerate(out)]

    def refused_as_valid(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """Refused records are privatized like the others."""
        return privatize_batch(flow, mechanism, dataclasses.replace(batch, valid=np.ones_like(batch.valid)), *labels)

    def best_of_two(
        self, flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan
    ) -> list[Released]:
        """Of two draws the one nearer to the record is released."""
        tries = [privatize_batch(flow, mechanism, batch, *labels) for _ in range(2)]
        far = [np.abs(_images(t, batch).astype(int) - batch.images).sum(axis=(1, 2, 3)) for t in tries]
        return [a if x <= y else b for a, b, x, y in zip(*tries, *far, strict=True)]


privatize_batch = privatize.privatize_batch


def _rows(batch: Batch, i: int) -> Batch:
    part = slice(i, i + 1)
    return Batch(batch.images[part], batch.labels[part], batch.valid[part])


def _images(records: list[Released], batch: Batch) -> NDArray[np.uint8]:
    return np.stack([decode_png(record.data, batch.images.shape[1:]) for record in records])


@pytest.mark.parametrize(
    ("flaw", "finds"),
    [
        ("label_leak_scale", "path"),
        ("label_leak_pixel", "path"),
        ("no_noise_on_retry", "path-retry"),
        ("neighbour", "path-independence"),
        ("same_names", "path-repeat"),
        ("refused_as_valid", "path"),
        ("best_of_two", "path"),
    ],
)
def test_planted_flaws_around_the_mechanism(
    flaw: str, finds: str, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "privatize_batch", getattr(Path(flow), flaw))
    checks = {check.name: check for check in path_checks(code_path(flow), planned("laplace"))}
    assert not checks[finds].held, checks


def test_a_retry_with_fresh_noise_is_no_flaw(flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan) -> list[Released]:
        try:
            return privatize_batch(flow, mechanism, batch, *labels)
        except InjectedFault:
            return privatize_batch(flow, mechanism, batch, *labels)

    monkeypatch.setattr(step, "privatize_batch", stubborn)
    assert all(check.held for check in path_checks(code_path(flow), planned("laplace")))


def statistically(path: CodePath, mechanism: Mechanism, trials: int = 2500) -> list[str]:
    return statistical(whole(path, mechanism, trials))


def test_trials_alone_refute_noise_that_is_too_small(path: CodePath) -> None:
    # What no exact check is told: the plan claims half of what it costs.
    class Half(Laplace):
        def event(self) -> object:  # type: ignore[override]
            event = super().event()
            return dataclasses.replace(event, epsilon=event.epsilon / 2)  # type: ignore[type-var, attr-defined]

    right = planned("laplace", 2.0)
    problems = statistically(path, Half(*dataclasses.astuple(right)))  # type: ignore[call-overload]
    assert any("black box" in problem for problem in problems)
    assert any("one run" in problem for problem in problems)
    assert statistically(path, right) == []


def test_trials_alone_refute_a_missing_clip_and_a_stuck_scale(path: CodePath, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unclipped(PrivUnit):
        def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
            out = super().privatize(z, valid)
            out[:, : self.content_dims] += 0.5 * np.clip(np.nan_to_num(z[:, : self.content_dims]), -9, 9)
            return out

    class Stuck(Laplace):
        def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
            return Laplace.privatize(dataclasses.replace(self, scale=self.scale / 8), z, valid)

    unclipped = Unclipped(*dataclasses.astuple(planned("privunit", 1.0)))  # type: ignore[call-overload]
    stuck = Stuck(*dataclasses.astuple(planned("laplace", 0.5)))  # type: ignore[call-overload]
    assert statistically(path, unclipped)
    assert statistically(path, stuck)


def test_trials_alone_refute_a_leak_in_one_pixel(flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch) -> None:
    def stamped(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, *labels: LabelPlan) -> list[Released]:
        out = privatize_batch(flow, mechanism, batch, *labels)
        images = _images(out, batch)
        images[:, 0, 0, 0] = batch.images[:, 0, 0, 0]
        return [dataclasses.replace(r, data=encode_values(x)) for r, x in zip(out, images, strict=True)]

    monkeypatch.setattr(step, "privatize_batch", stamped)
    assert statistically(code_path(flow), planned("resample"))


def test_an_audit_reads_nothing_private_and_charges_nothing(place: Place, cadp: Command) -> None:
    for file in (place.folder / "source").iterdir():  # the plan needs the list of files, never what is in them
        size, times = file.stat().st_size, file.stat()
        file.write_bytes(b"\0" * size)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = cadp(place, "audit", place.spec, "--trials", "300", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["schema"] == 1
    assert told["verdict"] == "not refuted at 300 trials"
    parts = ["records"] * 4 + ["train"] * 2 + ["gate"]
    assert [row["part"] for row in told["settings"]] == parts
    assert [row["planned"] for row in told["settings"]] == [True, False, False, False, True, False, True]
    assert [round(row["epsilon"], 3) for row in told["settings"]] == [8.0, 0.5, 1.0, 2.0, 30.0, 1.0, 1.0]
    assert {m["layer"] for row in told["settings"] for m in row["measured"]} == {"black box", "one run"}
    assert all(m["epsilon_lower_bound"] <= m["ceiling"] for row in told["settings"] for m in row["measured"])
    assert all(check["held"] for row in told["settings"] for check in row["exact"])
    wrong = [1 - measure["confidence"] for row in told["settings"] for measure in row["measured"]]
    assert len(wrong) == 13
    assert sum(wrong) <= 1 - told["confidence"] + 2e-5  # Bonferroni, over everything that is looked at
    (kept,) = (place.private / AUDITS).iterdir()
    assert AUDIT.fullmatch(AUDITS + kept.name)
    assert json.loads(kept.read_text()) == told
    assert not (place.settings.home / "ledger.db").exists()
    assert [file for file in place.private.rglob("*") if file.is_file()] == [kept]
    said = cadp(place, "audit", place.spec, "--trials", "40")
    text = " ".join(said.out.split())
    assert "not refuted at 300 trials" in text  # the one with more trials counts
    assert "verified" not in text
    assert [file for file in place.private.rglob("*") if file.is_file()] == [kept]


def test_each_line_says_what_it_bounds(place: Place, cadp: Command) -> None:
    document = audit_release(place.spec, place.settings, Silent(), trials=40)
    row = audit_rows(document)[1]
    assert row == {
        "part": "records",
        "mechanism": "privunit",
        "charged ε": "8",
        "layer": "black box",
        "ε at least": row["ε at least"],
        "trials": "40",
        "confidence": "99.923%",
        "ceiling": row["ceiling"],
        "found": row["found"],
    }
    for setting in document["settings"]:
        setting["charged"] = False
    assert "nominal ε" in audit_rows(document)[0]
    assert "charged ε" not in audit_rows(document)[0]


def test_a_refuted_audit_fails_and_stays(place: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(step, "privatize_batch", Path(None).same_names)  # type: ignore[arg-type]
        message = cadp(place, "audit", place.spec, "--trials", "40").refused(4, "refutes", "128-bit names")
        assert "plan a new version" in message
    cadp(place, "audit", place.spec, "--trials", "40").refused(4, "128-bit names")  # trying again does not help
    place.open_budget()
    with pytest.raises(VerificationFailed, match="refutes"):
        place.release()
    assert not (place.public / "claim.json").exists()


def test_a_release_audits_itself_before_its_gate_is_charged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.open_budget()
    with monkeypatch.context() as patch:  # the flaw is in the code that the audit runs, as it would be in both
        patch.setattr(step, "privatize_batch", Path(None).same_names)  # type: ignore[arg-type]
        with pytest.raises(VerificationFailed, match="128-bit names"):
            place.release()
    job = place.job()
    assert job.find_charge("records") is not None
    assert job.find_charge("gate") is None
    assert not (place.public / "claim.json").exists()
    with pytest.raises(VerificationFailed, match="plan a new version"):  # and trying again does not help
        place.release()
    assert place.job().find_charge("gate") is None


def test_a_release_carries_its_audit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.open_budget()
    put = Store.put

    def dies(self: Store, key: str, data: bytes) -> StoredObject:
        if key == "manifest.json":
            raise KeyboardInterrupt
        return put(self, key, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "put", dies)
        place.release()
    first = (place.public / "audit.json").read_bytes()
    audit_release(place.spec, place.settings, Silent(), trials=60)  # more trials, but the release has begun
    job = place.release()
    assert (place.public / "audit.json").read_bytes() == first
    told, said = json.loads(first), json.loads((place.public / "statement.json").read_text())["audit"]
    assert told["records"] == "synthetic pairs only"
    assert told["trials"] == said["trials"] == 40
    assert {name: said[name] for name in ("epsilon_lower_bound", "ceiling", "verdict")} == {
        name: told[name] for name in ("epsilon_lower_bound", "ceiling", "verdict")
    }
    listed = {
        file["path"]: file["sha256"] for file in json.loads((place.public / "manifest.json").read_text())["files"]
    }
    assert listed["audit.json"] == hashlib.sha256(first).hexdigest()
    assert f"{listed['audit.json']}  audit.json" in (place.public / "SHA256SUMS").read_text()
    assert verify(str(place.public), [load_public(public_path(signing_key_path(place.settings)))]).files
    assert "did not refute it at 40 trials" in published_facts(job).statement_lines[4]
    (place.public / "audit.json").write_bytes(first.replace(b"not refuted", b"it is safe!"))
    with pytest.raises(VerificationFailed, match=r"audit\.json"):
        verify(str(place.public), [load_public(public_path(signing_key_path(place.settings)))])


def test_an_audit_by_hand_is_the_one_that_is_kept(place: Place) -> None:
    place.open_budget()
    audit_release(place.spec, place.settings, Silent(), trials=100)
    place.release()
    said = json.loads((place.public / "statement.json").read_text())["audit"]
    assert said["run"] is True
    assert said["trials"] == 100
    assert said["verdict"] == "not refuted at 100 trials"
    assert {(row["part"], row["layer"], round(row["epsilon"], 1)) for row in said["measured"]} >= {
        ("records", "one run", 8.0),
        ("records", "black box", 0.5),
        ("train", "black box", 30.0),
        ("gate", "black box", 1.0),
    }
    assert "problems" not in said
    assert len(list((place.private / AUDITS).iterdir())) == 1


def test_an_audit_of_other_code_is_not_this_releases(place: Place) -> None:
    document = audit_release(place.spec, place.settings, Silent(), trials=40)
    private = Store.open(str(place.private))
    plan = plan_release(load_spec(place.spec), place.settings.data_dir, private)
    assert kept_audit(plan, private) == document
    assert kept_audit(dataclasses.replace(plan, versions={**plan.versions, "numpy": "0"}), private) is None
    assert kept_audit(dataclasses.replace(plan, mechanism=planned("laplace")), private) is None


def test_a_mechanism_that_the_audit_does_not_know_is_not_passed(path: CodePath) -> None:
    @dataclasses.dataclass(frozen=True)
    class Other:
        kind: str = "other"
        content_dims: int = 4

        def __getattr__(self, name: str) -> Callable[..., object]:
            return getattr(planned("laplace"), name)  # type: ignore[no-any-return]

    with pytest.raises(CadpError, match="other"):
        whole(path, Other(), 40)  # type: ignore[arg-type]


def test_an_output_that_is_no_image_of_the_code_is_found(path: CodePath) -> None:
    def cropped(mechanism: Mechanism, *rest: object) -> Output:
        out = path.release(mechanism, *rest)  # type: ignore[arg-type]
        return dataclasses.replace(out, images=out.images[:, 1:])

    checks = path_checks(dataclasses.replace(path, release=cropped), planned("laplace"))
    assert not checks[0].held


LABELS = [plan_response(2.0, 3), ResampledLabels((1, 2, 3))]


@pytest.mark.parametrize("labels", LABELS, ids=["response", "resample"])
def test_private_labels_go_through_the_path_too(path: CodePath, labels: LabelPlan) -> None:
    smaller = Variant(planned("laplace", 1.0), labels)
    found = audit(path, planned("laplace"), (smaller,), labels=labels, delta=DELTA, trials=1000)
    assert found.problems() == []
    both, other, alone = found.settings
    assert [setting.part for setting in found.settings] == ["records", "records", "labels"]
    losses = {"randomized-response": 2.0, "resample": 0.0}
    assert alone.claim.epsilon == pytest.approx(losses[labels.kind], abs=1e-5)
    assert both.claim.epsilon == pytest.approx(4 + losses[labels.kind], abs=1e-5)
    assert other.claim.epsilon == pytest.approx(1 + losses[labels.kind], abs=1e-5)
    if labels.kind == "randomized-response":
        assert max(measure.lower_bound for measure in alone.measures) > 1.2
        assert max(measure.lower_bound for measure in other.measures) > 1.5  # more than the label alone could lose


def true_label_released(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, plan: LabelPlan) -> Records:
    out = privatize_batch(flow, mechanism, batch, plan)
    return [dataclasses.replace(r, label=int(y)) if y == 1 else r for r, y in zip(out, batch.labels, strict=True)]


def decoded_with_the_true_label(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, plan: LabelPlan) -> Records:
    codes = mechanism.privatize(flow.encode_images(batch.images, batch.labels), batch.valid)
    released, images = plan.release(batch.labels, batch.valid), flow.decode_images(codes, batch.labels)
    return [Released(os.urandom(16), int(y), encode_values(x)) for x, y in zip(images, released, strict=True)]


def label_in_a_pixel(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, plan: LabelPlan) -> Records:
    out = privatize_batch(flow, mechanism, batch, plan)
    images = _images(out, batch)
    images[:, 0, 0, 0] = 100 * batch.labels
    return [dataclasses.replace(r, data=encode_values(x)) for r, x in zip(out, images, strict=True)]


@pytest.mark.parametrize("labels", LABELS, ids=["response", "resample"])
@pytest.mark.parametrize(
    "flaw", [true_label_released, decoded_with_the_true_label, label_in_a_pixel], ids=lambda flaw: flaw.__name__
)
def test_label_leaks_are_found_by_the_checks_and_by_trials_alone(
    flaw: Callable[..., Records], labels: LabelPlan, flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "privatize_batch", flaw)
    leaky = code_path(flow)
    checks = {check.name: check for check in path_checks(leaky, planned("laplace"), labels)}
    # A response keeps most labels: one of the two may find nothing by chance.
    assert not (checks["path"].held and checks["path-independence"].held), checks
    if flaw is label_in_a_pixel:  # the two records of the trials are of the first class and the last
        found = audit(leaky, planned("resample"), (), labels=labels, delta=DELTA, trials=1000)
        assert statistical(found)


def test_labels_of_an_attempt_that_failed_are_not_released_twice(
    flow: ConditionalFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, plan: LabelPlan) -> Records:
        plan.release(batch.labels, batch.valid)  # drawn, and perhaps written down
        return privatize_batch(flow, mechanism, batch, plan)

    monkeypatch.setattr(step, "privatize_batch", careless)
    checks = path_checks(code_path(flow), planned("laplace"), LABELS[0])
    assert not checks[0].held
    assert "more than once" in checks[0].detail
