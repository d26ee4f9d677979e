"""The flow `shard`."""

from prefect import flow

from flows.step import Pool, SpecPath, Workers, on_cancellation, on_failure, run_name, run_step


@flow(name="shard", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def shard(spec: SpecPath, workers: Workers | None = None, pool: Pool | None = None) -> None:
    """Cut the source into raw shards, by unit, in the private zone."""
    run_step("shard", spec, workers, pool)
