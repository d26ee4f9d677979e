"""A release in this process: bars in the terminal, everything in the UI. Imported once Prefect's environment is set."""

import logging
from pathlib import Path

from prefect.exceptions import ParameterTypeError
from rich.console import Console

from cadp.errors import SpecError
from cadp.reporter import ConsoleReporter
from cadp.show import print_summary
from flows.release import release
from flows.reporter import WATCHER
from flows.step import Pool


def run_release(spec: Path, workers: int | None, pool: Pool | None, err: Console, out: Console) -> None:
    """Run the flow `release` and print its summary.

    Raises:
        CadpError: what stopped it; the run in the UI has failed with the same message.
    """
    _quiet()
    token = WATCHER.set(ConsoleReporter(err))
    try:
        result = release(str(spec), workers, pool)
    except ParameterTypeError as error:
        raise SpecError(str(error)) from error
    finally:
        WATCHER.reset(token)
    print_summary(result, out)


class _RunsOwnLines(logging.Filter):
    """Keeps the runs' own logs, tracebacks of failures included, out of the terminal; the UI has them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))


def _quiet() -> None:
    for handler in logging.getLogger().handlers:
        handler.addFilter(_RunsOwnLines())
