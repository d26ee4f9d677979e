"""Validate: a classifier trained on the released records, scored once on the holdout, through the charged gate.

Publishing may depend on two things only: the gate's charged answer, and functions of released bytes. Both are here.
"""

import json
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import CadpError, Withheld
from cadp.privacy.labels import plausible_counts
from cadp.privacy.seeded import stamped
from cadp.records import Values
from cadp.reporter import Reporter
from cadp.shards import decode_values
from cadp.steps.audit import require_audit
from cadp.steps.classify import train
from cadp.steps.hits import count_hits
from cadp.steps.job import Job
from cadp.steps.privatize import released_records, sealed_runs
from cadp.steps.shard import TRAIN, read_facts, read_shard
from cadp.steps.stamps import require_guarantee
from cadp.utility.released_frame import ReleasedFrame
from cadp.utility.released_rows import ReleasedRows

if TYPE_CHECKING:
    import pandas as pd

EXPECTATIONS = "validation/expectations/"
VERDICT = "validation/verdict.json"


class ValidateStep:
    """Sealed runs and the holdout → the gate's answer and the expectations' verdict."""

    name = "validate"
    title = "Validate the release"

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Audit the code, then charge the gate, once there are records; nothing is left to do once it has answered.

        Raises:
            VerificationFailed: the audit refutes the code; the gate is not charged.
        """
        require_guarantee(job)
        sealed_runs(job)
        require_audit(job.plan, job.private, reporter)
        charge = job.charge("gate")
        done = job.ledger.recorded_answer(charge.id) is not None and job.private.exists(VERDICT)
        return [] if done else [0]

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Train and score the classifier, record the noisy answer, then check the expectations."""
        del index
        images, labels, frame = _released(job, reporter)
        charge = job.charge("gate")
        answer = job.ledger.recorded_answer(charge.id)
        if answer is None:
            hits = _hits(job, images, labels, reporter)
            answer = job.ledger.answer(charge.id, stamped(job.plan.gate.answer(hits)))
        _check_expectations(job, frame, answer)

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Show the charged figures; hold the release back if the gate or an expectation says so.

        Raises:
            Withheld: naming the figure and the threshold, or the expectations that failed.
        """
        reporter.figure("accuracy", "p/o accuracy (charged)", accuracy_line(gate_answer(job)))
        require_passed(job)


def gate_answer(job: Job) -> dict[str, Any]:
    """Return the recorded answer of the gate.

    Raises:
        CadpError: it was not asked yet.
    """
    charge = job.find_charge("gate")
    answer = job.ledger.recorded_answer(charge.id) if charge else None
    if answer is None:
        raise CadpError(f"{job.spec.release} is not validated yet: run `cadp validate` or `cadp release`")
    return answer


def accuracy_line(answer: dict[str, Any]) -> str:
    """Say the charged accuracy with its interval and the threshold."""
    return (
        f"{answer['accuracy']:.3f} ({answer['confidence']:.0%} interval {answer['low']:.3f} to {answer['high']:.3f}), "
        f"at least {answer['threshold']:g} was asked for"
    )


def require_passed(job: Job) -> None:
    """Let only a release through that passed its gate and its expectations.

    Raises:
        Withheld: it did not; the message says which.
    """
    answer = gate_answer(job)
    if not answer["passed"]:
        raise Withheld(
            f"{job.spec.release} is withheld by the gate: accuracy {accuracy_line(answer)}. The answer is recorded, "
            f"asking again returns it; a new try is a new version with its own charges"
        )
    if not job.private.exists(VERDICT):
        raise CadpError(f"{job.spec.release} is not validated yet: run `cadp validate` or `cadp release`")
    if failures := json.loads(job.private.get(VERDICT))["failures"]:
        raise Withheld(f"{job.spec.release} is withheld by its expectations: {'; '.join(failures)}")


def expectation_files(job: Job) -> dict[str, bytes]:
    """Return the suite, its result and its page: path → bytes, public figures only."""
    keys = [key for key, _ in job.private.list(EXPECTATIONS)]
    return {key.removeprefix(EXPECTATIONS): job.private.get(key) for key in keys}


def _released(job: Job, reporter: Reporter) -> tuple[Values, NDArray[np.int64], "pd.DataFrame"]:
    facts = job.plan.facts
    frame = ReleasedFrame() if facts.table is None else ReleasedRows(facts.table)
    with tempfile.TemporaryFile(dir=job.scratch) as file:  # its pages go to disk where memory is short
        images: Values = np.memmap(file, dtype=facts.kind, mode="w+", shape=(facts.records, *facts.shape))
    labels = np.empty(facts.records, dtype=np.int64)
    count = 0
    with reporter.progress("read released", facts.records, "records") as advance:
        for record in released_records(job):
            images[count], labels[count] = decode_values(record.data, facts.shape, facts.kind), record.label
            frame.add(record, images[count])
            count += 1
            if count % 500 == 0:
                advance(500)
        advance(count % 500)
    return images, labels, frame.frame()


def _hits(job: Job, images: Values, labels: NDArray[np.int64], reporter: Reporter) -> int:
    facts = job.plan.facts
    classifier = train(job.spec.validate_.classifier, facts, images, labels, reporter)
    return count_hits(classifier, list(read_shard(job, job.plan.ranges)), facts, job.secret.key("gate"))


def _check_expectations(job: Job, frame: "pd.DataFrame", answer: dict[str, Any]) -> None:
    from cadp.utility.expectations import check_release  # noqa: PLC0415  (Great Expectations takes seconds)

    facts = job.plan.facts
    report = check_release(
        frame,
        records=facts.records,
        classes=facts.classes,
        shape=facts.shape,
        # True counts are public only with the labels; a broken expectation is published, and withholds the release.
        class_counts=None if job.plan.labels.private else read_facts(job)[TRAIN]["class_counts"],
        gate=answer,
        class_ranges=plausible_counts(job.plan.labels, facts.records),
        table=facts.table,
    )
    if job.private.exists(VERDICT):
        return  # another process was faster
    for key, _ in job.private.list(EXPECTATIONS):
        job.private.delete(key)  # of an attempt that stopped before its verdict
    for name, data in report.files.items():
        job.private.put(EXPECTATIONS + name, data)
    job.private.put(VERDICT, json.dumps(stamped({"failures": list(report.failures)})).encode())
