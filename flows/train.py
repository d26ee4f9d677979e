"""The flow `train`."""

from prefect import flow

from flows.step import Pool, SpecPath, Workers, on_cancellation, on_failure, run_name, run_step, send_step


@flow(name="train", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def train(spec: SpecPath, workers: Workers | None = None, pool: Pool | None = None) -> None:
    """Train the model with differential privacy and seal its checkpoint."""
    if pool is None:
        run_step("train", spec, workers)
    else:
        send_step("train", spec, pool)
