"""Audit: the code that a release runs, on synthetic records through a synthetic network of the planned architecture.

It reads no private record, charges nothing and needs no ledger. What it finds is public: it is kept in the release's
private folder, and publishing puts it into the release as `audit.json`, and its figures into the privacy statement.

A release is audited before its gate is charged, unless somebody did it before with as many trials. Each audit is put
if absent, under what was audited and its number of trials; the one with the most trials counts, and one that refuted
the code counts before all others: trying again until the trials are kind would undo their confidence.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from cadp.errors import ObjectExists, PrivacyError, VerificationFailed
from cadp.plan import Plan, check_plan, plan_release
from cadp.privacy.audit.path import CodePath, Floats, Images, Labels, Output, Valid
from cadp.privacy.audit.run import (
    SMALL_EPSILONS,
    TRIALS,
    Subject,
    Variant,
    outputs_of,
    run_audit,
    subjects_of,
)
from cadp.privacy.audit.verdict import SCHEMA, Audit
from cadp.privacy.labels import AttributeResponse, ClassAttributes, LabelPlan, RandomizedResponse, plan_response
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.privacy.seeded import stamped
from cadp.records import PIXELS, Batch, top
from cadp.reporter import Reporter
from cadp.settings import Settings
from cadp.shards import decode_values
from cadp.spec import canonical_json, load_spec
from cadp.steps.audited_fit import training_audits
from cadp.steps.audited_flow import synthetic_flow
from cadp.steps.audited_gate import gate_audits
from cadp.steps.audited_load import load_audits
from cadp.steps.audited_sgd import couplings_audits
from cadp.steps.privatize import privatize_batch
from cadp.store import Store
from cadp.zones import private_zone

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow

AUDITS = "audits/"
AUDIT = re.compile(r"audits/(?P<subject>[0-9a-f]{32})\.(?P<trials>\d{7,})\.json")
"""The key of an audit: what was audited, and how many trials were asked for."""


def audit_release(spec_path: Path, settings: Settings, reporter: Reporter, trials: int = TRIALS) -> dict[str, Any]:
    """Audit the code that a spec runs, keep what was found in the private zone and return it.

    Raises:
        CadpError: the spec or its source cannot be planned, the code cannot be audited, or another plan is under way.
    """
    spec = load_spec(spec_path)
    settings.make_private_folders()
    private = private_zone(settings).child(f"releases/{spec.release}")
    plan = plan_release(spec, settings.data_dir, private, private_zone(settings).child("models"))
    check_plan(plan, private)
    kept = kept_audit(plan, private)
    if kept is not None and (kept["refuted"] or kept["trials"] >= trials):
        return kept
    return _keep(plan, private, reporter, trials)


def require_audit(plan: Plan, private: Store, reporter: Reporter) -> dict[str, Any]:
    """Return the audit of a release; make it if nobody did with at least as many trials as `run.audit_trials` asks for.

    Raises:
        VerificationFailed: it refutes the code.
    """
    kept, trials = kept_audit(plan, private), plan.spec.run.audit_trials
    if kept is None or (not kept["refuted"] and kept["trials"] < trials):
        kept = _keep(plan, private, reporter, trials)
    require_not_refuted(kept)
    return kept


def kept_audit(plan: Plan, private: Store) -> dict[str, Any] | None:
    """Return the audit that counts for this very plan, under its library versions; None if there is none."""
    keys = {key: match for key, _ in private.list(AUDITS) if (match := AUDIT.fullmatch(key))}
    own = [(int(match["trials"]), key) for key, match in keys.items() if match["subject"] == _subject(plan)]
    documents = [json.loads(private.get(key)) for _, key in sorted(own, reverse=True)]
    return next((document for document in documents if document["refuted"]), documents[0] if documents else None)


def audit_plan(plan: Plan, reporter: Reporter, trials: int = TRIALS) -> Audit:
    """Audit every part of a plan, and the same code at small ε, through the code that a release runs."""
    subjects = plan_subjects(plan)
    with reporter.progress("audit", outputs_of(subjects, trials), "outputs") as advance, _one_thread():
        return run_audit(subjects, trials=trials, advance=advance)


def plan_subjects(plan: Plan) -> tuple[Subject, ...]:
    """Return what is audited of a plan: records and labels, training, gate; of `legacy` its records alone."""
    path = code_path(synthetic_flow(plan.architecture), plan.facts.kind)
    delta, planned = plan.spec.spend.delta, Variant(plan.mechanism, plan.labels)
    records = subjects_of(path, planned, _smaller(plan), delta=delta)
    if plan.stamp:
        return records
    return (*records, *training_audits(plan), *couplings_audits(plan), *load_audits(plan), *gate_audits(plan))


def public_figures(document: Mapping[str, Any] | None) -> dict[str, object] | None:
    """Return what the privacy statement says of an audit; None if there was none.

    Raises:
        VerificationFailed: the audit refuted the code.
    """
    if document is None:
        return None
    require_not_refuted(document)
    measured = [
        {name: row[name] for name in ("part", "mechanism", "planned", "epsilon", "delta")} | measure
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


def code_path(flow: "ConditionalFlow", kind: DTypeLike = PIXELS) -> CodePath:
    """Return the code that a release runs on its records, pixels or rows, with `flow` as its network."""
    shape = flow.architecture.shape

    def release(mechanism: Mechanism, plan: LabelPlan, images: Images, labels: Labels, valid: Valid) -> Output:
        records = privatize_batch(flow, mechanism, Batch(images=images, labels=labels, valid=valid), plan)
        return Output(
            images=np.stack([decode_values(record.data, shape, kind) for record in records]),
            labels=np.array([record.label for record in records], dtype=np.int64),
            ids=tuple(record.id for record in records),
        )

    def decode(latents: Floats, labels: Labels) -> Images:
        return flow.decode_images(latents, labels, kind)

    return CodePath(shape, flow.architecture.classes, release, flow.encode_images, decode, top(kind))


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


def _smaller(plan: Plan) -> tuple[Variant, ...]:
    """The spec's mechanism and labels at small ε, where trials have power; what is small already stays as it is."""
    asked, delta = plan.spec.mechanism, plan.spec.spend.delta
    if plan.stamp is not None:
        return ()
    return tuple(
        Variant(
            plan_mechanism(asked.kind, epsilon=epsilon, delta=delta, content_dims=asked.content_dims),
            _smaller_labels(plan.labels, epsilon),
        )
        for epsilon in SMALL_EPSILONS
        if epsilon < asked.epsilon
    )


def _smaller_labels(plan: LabelPlan, epsilon: float) -> LabelPlan:
    if isinstance(plan, RandomizedResponse) and plan.epsilon > epsilon:
        return plan_response(epsilon, plan.classes)
    if isinstance(plan, ClassAttributes):
        shares = [part.epsilon for part in plan.response.parts()]
        if sum(shares) > epsilon:
            return replace(plan, response=AttributeResponse.plan(epsilon, len(shares), shares))
    return plan


def _subject(plan: Plan) -> str:
    """Name what is audited: everything planned but the source's own files, which an audit does not see."""
    told = {name: value for name, value in plan.to_json().items() if name not in ("inventory", "ranges")}
    return hashlib.sha256(canonical_json(stamped({"audit": SCHEMA, **told}))).hexdigest()[:32]


def _keep(plan: Plan, private: Store, reporter: Reporter, trials: int) -> dict[str, Any]:
    """Audit, and keep what was found; what another process kept before is what counts.

    Raises:
        PrivacyError: the code cannot be audited.
    """
    found = audit_plan(plan, reporter, trials).to_json()
    document = stamped({**found, "release": plan.spec.release, "versions": dict(plan.versions)})
    with suppress(ObjectExists):
        # Other bytes than the public file's: no digest of anything in the private zone is ever public.
        private.put(f"{AUDITS}{_subject(plan)}.{trials:07d}.json", canonical_json(document))
    kept = kept_audit(plan, private)
    if kept is None:
        raise PrivacyError(f"the audit of {plan.spec.release} was kept and is not there: run it again")
    return kept


def audit_bytes(document: Mapping[str, object]) -> bytes:
    """Return the bytes of `audit.json`."""
    return (json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
