"""The order of the steps, in this file alone. The command line and the Prefect flows both iterate it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cadp.errors import CadpError
from cadp.publish.sign import load_signer
from cadp.reporter import Reporter
from cadp.steps.access import require_access
from cadp.steps.budgets import budget_row
from cadp.steps.job import Job, Step
from cadp.steps.privatize import PrivatizeStep
from cadp.steps.publish import PublishStep, published_facts
from cadp.steps.published import is_published, signing_key_path
from cadp.steps.shard import ShardStep
from cadp.steps.stamps import stamp_of
from cadp.steps.train import TrainStep
from cadp.steps.validate import ValidateStep, accuracy_line, gate_answer

__all__ = ["STEPS", "Job", "Step", "Summary", "begin_step", "remaining_steps", "run_release", "run_step", "summary"]

STEPS: tuple[Step, ...] = (ShardStep(), TrainStep(), PrivatizeStep(), ValidateStep(), PublishStep())


def remaining_steps(job: Job) -> tuple[Step, ...]:
    """Return the steps to iterate: all of them, or none for a version that is published already.

    Raises:
        CadpError: the public zone cannot be reached or the signing key is missing: better now than when all is spent.
    """
    if is_published(job):
        job.ledger.publish(job.spec.release)  # done before the manifest was put; a ledger that says otherwise refuses
        return ()
    load_signer(signing_key_path(job.settings))
    require_access(job.settings, publishing=True)
    return STEPS


def run_release(job: Job, reporter: Reporter) -> None:
    """Take a release as far as it goes; run again, it goes on where it stopped.

    Raises:
        CadpError: with the exit code and the next step; what is sealed stays sealed, what is charged stays charged.
    """
    for step in remaining_steps(job):
        run_step(step, job, reporter)


def run_step(step: Step, job: Job, reporter: Reporter) -> None:
    """Run one step: its ranges share the job's threads; what the ledger has to tell goes to the reporter."""
    begin_step(step, job, reporter)
    with job.telling(reporter):
        ranges = step.prepare(job, reporter)
        if ranges:
            _run_ranges(step, job, ranges, reporter)
        step.finish(job, reporter)


def begin_step(step: Step, job: Job, reporter: Reporter) -> None:
    """Say what a step's outputs will be stamped, if they must not be published, and ask for the rights that it needs.

    Raises:
        AccessRefused: these credentials lack a right in a zone.
    """
    if stamp := stamp_of(job):
        reporter.event("stamp", f"{step.name}: {stamp}")
    if not is_published(job):
        require_access(job.settings, publishing=step.name == PublishStep.name)


def _run_ranges(step: Step, job: Job, ranges: list[int], reporter: Reporter) -> None:
    with ThreadPoolExecutor(max_workers=min(job.workers, len(ranges))) as pool:
        running = [pool.submit(step.run, job, index, reporter) for index in ranges]
        try:
            for future in running:
                future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished release says at its end.

    Attributes:
        release_url: where it lies.
        statement_lines: the privacy statement in five lines.
        accuracy: the charged p/o accuracy, with its interval and the gate's threshold, in words.
        budget_rows: what the populations that paid have left.
        load_lines: three lines of Python that load it.
    """

    release_url: str
    statement_lines: tuple[str, ...]
    accuracy: str
    budget_rows: list[dict[str, str]]
    load_lines: tuple[str, str, str]


def summary(job: Job) -> Summary:
    """Sum a published release up.

    Raises:
        CadpError: it is not published yet.
    """
    if not is_published(job):
        raise CadpError(f"{job.spec.release} is not published yet: run `cadp release`")
    url = job.public.url
    budgets = (job.ledger.budget(name) for name in (job.spec.population, job.plan.holdout_population))
    return Summary(
        release_url=url,
        statement_lines=published_facts(job).statement_lines,
        accuracy=accuracy_line(gate_answer(job)),
        budget_rows=[budget_row(budget) for budget in budgets],
        load_lines=(
            "from datasets import load_dataset",
            f'release = load_dataset("{url.removeprefix("file://")}", split="train")',
            'release[0]["image"], release.features["label"].int2str(release[0]["label"])'
            if job.plan.facts.table is None
            else "release[0]",
        ),
    )
