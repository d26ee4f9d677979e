"""The flow `release`: the steps in the order of `cadp.release`, each as a flow of its own."""

from prefect import Flow, flow

from cadp.release import Job, Summary, remaining_steps, summary
from flows.privatize import privatize
from flows.publish import publish
from flows.reporter import PrefectReporter
from flows.shard import shard
from flows.step import Pool, SpecPath, Workers, on_cancellation, on_failure, run_name
from flows.train import train
from flows.validate import validate

_ON_GPU = {"train", "privatize"}  # the others have nothing for a GPU to do
FLOWS: dict[str, Flow[..., None]] = {step.name: step for step in (shard, train, privatize, validate, publish)}


@flow(name="release", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def release(spec: SpecPath, workers: Workers | None = None, pool: Pool | None = None) -> Summary:
    """Take a release from its source to its signed manifest. Run it again after any interruption: it goes on."""
    for step in remaining_steps(Job.open(spec)):
        if step.name == validate.name or pool is None:
            FLOWS[step.name](spec, workers)
        else:
            FLOWS[step.name](spec, workers, pool if step.name in _ON_GPU else "cpu")
    job = Job.open(spec)
    result = summary(job)
    with PrefectReporter(job.spec.name) as reporter:
        reporter.markdown("release", f"{job.spec.name} {job.spec.version}", _markdown(result))
    return result


def _markdown(result: Summary) -> str:
    statement = "\n".join(f"- {line}" for line in result.statement_lines)
    load = "\n".join(result.load_lines)
    return f"## {result.release_url}\n\n{statement}\n\nAccuracy: p/o {result.accuracy}\n\n```python\n{load}\n```\n"
