"""The flow `train`."""

from prefect import flow

from flows.step import SpecPath, Workers, on_cancellation, on_failure, run_name, run_step


@flow(name="train", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def train(spec: SpecPath, workers: Workers | None = None) -> None:
    """Train the model with differential privacy and seal its checkpoint."""
    run_step("train", spec, workers)
