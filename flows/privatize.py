"""The flow `privatize`."""

from prefect import flow

from flows.step import Pool, SpecPath, Workers, on_cancellation, on_failure, run_name, run_step


@flow(name="privatize", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def privatize(spec: SpecPath, workers: Workers | None = None, pool: Pool | None = None) -> None:
    """Run every record through the mechanism, range by range, each sealed in the ledger."""
    run_step("privatize", spec, workers, pool)
