"""The flow `publish`."""

from prefect import flow

from flows.step import Pool, SpecPath, Workers, on_cancellation, on_failure, run_name, run_step


@flow(name="publish", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def publish(spec: SpecPath, workers: Workers | None = None, pool: Pool | None = None) -> None:
    """Write the sealed records in random order as the public release, manifest last."""
    run_step("publish", spec, workers, pool)
