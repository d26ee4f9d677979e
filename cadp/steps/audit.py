"""Audit: the code that a release runs, on synthetic records through a synthetic network of the planned architecture.

It reads no private record, charges nothing and needs no ledger. What it finds is public: `audit.json` in the release's
private folder, from which publishing takes it into the privacy statement.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cadp.errors import CheckpointRefused, ObjectExists, ObjectMissing, VerificationFailed
from cadp.plan import Plan, check_plan, plan_release
from cadp.privacy.audit.path import CodePath, Images, Labels, Output, Valid
from cadp.privacy.audit.run import SMALL_EPSILONS, TRIALS, audit, records_of
from cadp.privacy.audit.verdict import Audit
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.records import Batch
from cadp.reporter import Reporter
from cadp.settings import Settings
from cadp.shards import decode_png
from cadp.spec import load_spec
from cadp.steps.privatize import privatize_batch
from cadp.store import Store

if TYPE_CHECKING:
    from cadp.cinn.architecture import Architecture
    from cadp.cinn.network import ConditionalFlow

AUDIT_KEY = "audit.json"


def audit_release(spec_path: Path, settings: Settings, reporter: Reporter, trials: int = TRIALS) -> dict[str, Any]:
    """Audit the mechanism of a spec, keep `audit.json` in the private zone and return it.

    A later audit takes the place of an earlier one, but one that refuted the code stays: trying again until the trials
    are kind would undo their confidence.

    Raises:
        CadpError: the spec or its source cannot be planned, the code cannot be audited, or another plan is under way.
    """
    spec = load_spec(spec_path)
    settings.make_private_folders()
    private = Store.open(settings.private_url).child(f"releases/{spec.release}")
    plan = plan_release(spec, settings.data_dir, private)
    check_plan(plan, private)
    refuted = kept_audit(plan, private)
    if refuted is not None and refuted["refuted"]:
        return refuted
    document = {
        **audit_plan(plan, reporter, trials).to_json(),
        "release": spec.release,
        "versions": dict(plan.versions),
    }
    _keep(private, document)
    return document


def audit_plan(plan: Plan, reporter: Reporter, trials: int = TRIALS) -> Audit:
    """Audit a plan's mechanism and the same mechanism at small ε, through the code that a release runs."""
    smaller = _smaller(plan)
    path = code_path(synthetic_flow(plan.moments.architecture))
    records, delta = records_of(trials, 1 + len(smaller)), plan.spec.spend.delta
    with reporter.progress("audit", records, "records") as advance, _one_thread():
        return audit(path, plan.mechanism, smaller, delta=delta, trials=trials, advance=advance)


def kept_audit(plan: Plan, private: Store) -> dict[str, Any] | None:
    """Return the kept audit of this very plan: its mechanism under its library versions; None if there is none."""
    try:
        document = json.loads(private.get(AUDIT_KEY))
    except ObjectMissing:
        return None
    mine = plan.mechanism.parameters()
    planned = [row["parameters"] for row in document["settings"] if row["planned"]]
    if planned != [json.loads(json.dumps(mine))] or document["versions"] != dict(plan.versions):
        return None
    return dict(document)


def public_figures(document: Mapping[str, Any] | None) -> dict[str, object] | None:
    """Return what the privacy statement says of an audit; None if there was none.

    Raises:
        VerificationFailed: the audit refuted the code.
    """
    if document is None:
        return None
    require_not_refuted(document)
    measured = [
        {"mechanism": row["mechanism"], "epsilon": row["epsilon"], "delta": row["delta"], **measure}
        for row in document["settings"]
        for measure in row["measured"]
    ]
    names = ("trials", "epsilon_lower_bound", "ceiling", "confidence", "verdict", "records", "network")
    return {**{name: document[name] for name in names}, "measured": measured}


def require_not_refuted(document: Mapping[str, Any]) -> None:
    """Stop where an audit refuted the code.

    Raises:
        VerificationFailed: with what was found.
    """
    if document["refuted"]:
        problems = "\n".join(f"  {problem}" for problem in document["problems"])
        raise VerificationFailed(
            f"the audit refutes the privacy of the code that {document['release']} runs:\n{problems}\n"
            f"nothing made by this code may be published; next: correct it and plan a new version"
        )


def code_path(flow: "ConditionalFlow") -> CodePath:
    """Return the code that a release runs on its records, with `flow` as its network."""
    shape = flow.architecture.shape

    def release(mechanism: Mechanism, images: Images, labels: Labels, valid: Valid) -> Output:
        records = privatize_batch(flow, mechanism, Batch(images=images, labels=labels, valid=valid))
        return Output(
            images=np.stack([decode_png(record.png, shape) for record in records]),
            labels=np.array([record.label for record in records], dtype=np.int64),
            ids=tuple(record.id for record in records),
        )

    return CodePath(shape, flow.architecture.classes, release, flow.encode_images, flow.decode_images)


def synthetic_flow(architecture: "Architecture") -> "ConditionalFlow":
    """Return a network with public random weights, as a fit might leave it: no record was ever near it.

    Class means are grey with a little of everything, the rotation is any, the standard deviations fall from 2 % of
    √d, the rest is faint noise: so contents reach far beyond a clip, and the decoder hardly saturates.

    Raises:
        CheckpointRefused: it does not invert, so these are weights that no release would use.
    """
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip  # noqa: PLC0415

    flow = ConditionalFlow(architecture)
    draw = torch.Generator().manual_seed(7)
    k, low, d = architecture.content, architecture.low_dims, architecture.dims

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    with torch.no_grad():
        labels = torch.arange(architecture.classes)
        grey = torch.full((architecture.classes, d), 0.5, dtype=torch.float64)
        flow.shift.mean.copy_(flow.cosine(grey, labels)[0][:, :low] + 0.1 * normal(architecture.classes, low))
        flow.rotation.weight.copy_(torch.linalg.qr(normal(low, low)).Q)
        spread = 0.02 * d**0.5 * (1 + torch.arange(k, dtype=torch.float64)) ** -0.5
        flow.whitening.log_diagonal.copy_(spread.log() + 0.1 * normal(architecture.classes, k))
        flow.whitening.lower.copy_((0.1 * spread[:, None] * normal(architecture.classes, k, k) / k**0.5).tril(-1))
        flow.scale.log_scale.copy_(-3.5 + 0.2 * normal(*flow.scale.log_scale.shape))
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(f"the audit's synthetic network does not invert: round-trip error {error:.1e}")
    return flow


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on batches this small its threads mostly wait for each other."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _smaller(plan: Plan) -> tuple[Mechanism, ...]:
    """The spec's mechanism at small ε, where trials have power; one that cannot be planned there is left out."""
    asked = plan.spec.mechanism
    return tuple(
        plan_mechanism(asked.kind, epsilon=epsilon, delta=plan.spec.spend.delta, content_dims=asked.content_dims)
        for epsilon in SMALL_EPSILONS
        if epsilon < asked.epsilon and plan.stamp is None
    )


def _keep(private: Store, document: Mapping[str, object]) -> None:
    data = (json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    try:
        private.put(AUDIT_KEY, data)
    except ObjectExists:
        private.delete(AUDIT_KEY)
        private.put(AUDIT_KEY, data)
