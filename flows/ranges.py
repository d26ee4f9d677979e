"""The flows of one range each: what a parent sends to a work pool, and any of its workers may take.

Each may run twice, or on two hosts at once: a range is leased in the ledger or put under a key of its own, and what
loses is deleted unread.
"""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run as running
from pydantic import Field

from cadp import release
from cadp.errors import CadpError, PlanDiffers
from cadp.spec import load_spec
from flows.pulse import pulse
from flows.reporter import PrefectReporter
from flows.step import SpecPath, on_cancellation, on_failure

Index = Annotated[int, Field(ge=0, description="which range; `cadp plan` says how many there are")]
PlanDigest = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$", description="of the plan that the parent works by; another one is refused")
]


def range_name() -> str:
    """`privatize range 03 of fashion-mnist 1.0.0`."""
    flow, index = str(running.flow_name).removesuffix("-range"), running.parameters.get("index", 0)
    try:
        spec = load_spec(str(running.parameters.get("spec", "")))
    except CadpError:
        return f"{flow} range {index:02d}"
    return f"{flow} range {index:02d} of {spec.name} {spec.version}"


@flow(
    name="shard-range",
    flow_run_name=range_name,
    on_failure=[on_failure],
    on_cancellation=[on_cancellation],
    retries=0,
)
def shard_range(spec: SpecPath, index: Index, plan: PlanDigest) -> None:
    """Cut one raw shard out of the sorted source, in the private zone."""
    _run("shard", spec, index, plan)


@flow(
    name="privatize-range",
    flow_run_name=range_name,
    on_failure=[on_failure],
    on_cancellation=[on_cancellation],
    retries=0,
)
def privatize_range(spec: SpecPath, index: Index, plan: PlanDigest) -> None:
    """Run the records of one range through the mechanism and seal them in the ledger."""
    _run("privatize", spec, index, plan)


@flow(
    name="publish-range",
    flow_run_name=range_name,
    on_failure=[on_failure],
    on_cancellation=[on_cancellation],
    retries=0,
)
def publish_range(spec: SpecPath, index: Index, plan: PlanDigest) -> None:
    """Merge one interval of the random order out of every sealed range and put it into the public zone."""
    _run("publish", spec, index, plan)


def _run(name: str, spec: str, index: int, plan: str) -> None:
    with pulse():
        job = release.Job.open(spec)
        if job.plan_digest != plan:
            raise PlanDiffers(
                f"this worker plans {job.spec.release} as {job.plan_digest[:16]}, its parent as {plan[:16]}: give all "
                f"workers the same spec, settings and version of cadp"
            )
        step = next(step for step in release.STEPS if step.name == name)
        with PrefectReporter(job.spec.name) as reporter, job.telling(reporter):
            step.run(job, index, reporter)
