"""The flow `validate`."""

from prefect import flow

from flows.step import SpecPath, Workers, on_cancellation, on_failure, run_name, run_step


@flow(name="validate", flow_run_name=run_name, on_failure=[on_failure], on_cancellation=[on_cancellation], retries=0)
def validate(spec: SpecPath, workers: Workers | None = None) -> None:
    """Measure the release against the holdout, charge it, and let the gate decide."""
    run_step("validate", spec, workers)
