"""What the five step flows have in common: open the job, one task a range, artifacts out."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import Flow, State, task
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run as running
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from cadp import release
from cadp.errors import CadpError
from cadp.spec import load_spec
from flows.fan_out import Errand, run_on_pool
from flows.pulse import pulse
from flows.reporter import PrefectReporter, slug

SpecPath = Annotated[str, Field(min_length=1, description="path of the release.yaml, where the run executes")]
Pool = Annotated[
    Literal["cpu", "gpu"],
    Field(description="work pool to which the step's ranges go; the run's own process works on them if null"),
]
Workers = Annotated[int, Field(ge=1, le=256, description="ranges at the same time; the spec's `run.workers` if null")]

NEXT_STEP = {
    1: "Mend what the message names, then run the same release again: it goes on from its last sealed range.",
    2: "Correct the spec, the settings or the command; a spec that differs on purpose needs a new `version`.",
    3: "Nothing was read for this charge. Ask for less in the spec, or ask whoever holds this population's budget.",
    4: "Do not use these bytes. Find out who changed them, and fetch or publish them again.",
    5: "Nothing was published; what was charged stays charged. A new version with another mechanism may pass.",
}


def run_step(name: str, spec: str, workers: int | None, pool: Pool | None = None) -> None:
    """Run one step of the release as the current flow run: its charge, its ranges still to do, its end.

    Args:
        name: of the step.
        spec: path of the spec, on every worker.
        workers: ranges at the same time.
        pool: where they are worked on: as a flow run each on a work pool, or as a task each in this process if None.

    Raises:
        CadpError: the first error of the step or of one of its ranges; no further range starts after it.
    """
    job = release.Job.open(spec)
    step = next(step for step in release.STEPS if step.name == name)
    with pulse(), PrefectReporter(job.spec.name) as reporter, job.telling(reporter):
        release.begin_step(step, job, reporter)
        todo = step.prepare(job, reporter)
        if todo and pool is not None:
            # The plan's digest: a worker with another spec, or another version of the program, refuses the range.
            plan = job.plan_digest
            errand = Errand(
                deployment=f"{name}-range/{pool}",
                label=f"{name} ranges",
                title=lambda index: f"{name} range {index:02d} of {job.spec.name} {job.spec.version}",
                key=f"{plan}/{name}",
                parameters=lambda index: {"spec": spec, "index": index, "plan": plan},
            )
            run_on_pool(errand, todo, workers or job.workers, reporter)
        elif todo:
            _run_ranges(step, job, todo, workers or job.workers, reporter)
        step.finish(job, reporter)


def send_step(name: str, spec: str, pool: Pool) -> None:
    """Have a worker of a pool run a whole step, and wait for it.

    Raises:
        CadpError: the step's own.
    """
    job = release.Job.open(spec)
    with PrefectReporter(job.spec.name) as reporter:
        errand = Errand(
            deployment=f"{name}/{pool}",
            label=name,
            title=lambda _: f"{name} {job.spec.name} {job.spec.version}",
            key=f"{job.plan_digest}/{name}",
            parameters=lambda _: {"spec": spec},
        )
        run_on_pool(errand, [0], 1, reporter)


def _run_ranges(
    step: release.Step, job: release.Job, todo: Sequence[int], workers: int, reporter: PrefectReporter
) -> None:
    stop = threading.Event()

    # The job stays in this closure: a task's parameters are walked through and shown in the UI.
    @task(name=f"{step.name} range", task_run_name="range {index:02d}", cache_policy=NO_CACHE, retries=0)
    def work(index: int) -> None:
        if stop.is_set():
            raise CadpError(f"range {index} was not begun: another one failed")
        step.run(job, index, reporter)

    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=min(workers, len(todo)))
    with runner:
        futures: list[PrefectFuture[Any]] = [runner.submit(work, parameters={"index": index}) for index in todo]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            raise


def run_name() -> str:
    """`privatize fashion-mnist 1.0.0`: the flow, the dataset, its version; the file's name if it cannot be read."""
    path = str(running.parameters.get("spec", ""))
    try:
        spec = load_spec(path)
    except CadpError:
        return f"{running.flow_name} {Path(path).name}"
    return f"{running.flow_name} {spec.name} {spec.version}"


def on_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Leave an artifact with the cause and the next step on the run that a person started."""
    error = state.result(raise_on_failure=False) if state.is_failed() else None
    if isinstance(error, CadpError):
        cause, step = str(error), NEXT_STEP[error.exit_code]
    else:
        cause, step = state.message or f"{type(error).__name__}: {error}", "A fault of the program: see the run's log."
    _stopped(flow, flow_run, "Why it stopped", cause, step)


def on_cancellation(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Leave an artifact that says what a cancelled release still is."""
    cause = state.message or "Cancelled by hand."
    step = "Sealed ranges and charges stay: run the same release again to go on, or `cadp abandon` it for good."
    _stopped(flow, flow_run, "Cancelled", cause, step)


def _stopped(flow: Flow[Any, Any], flow_run: FlowRun, title: str, cause: str, step: str) -> None:
    if flow_run.parent_task_run_id is not None:
        return
    text = f"## {title}\n\n{cause}\n\n**Next:** {step}\n"
    key = slug(f"{flow_run.name}-stopped")
    Artifact(type="markdown", key=key, description=title, data=text, flow_run_id=flow_run.id).create()
