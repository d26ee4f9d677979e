"""A sign of life that a flow run gives while it works: SIGKILL, a lost host and a cut network all end it.

Prefect leaves a run whose process was killed in state RUNNING. So the run itself counts upwards in one of its labels,
and whoever waits for it watches the number change, by its own clock: no two clocks are ever compared.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect import get_client
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

LABEL = "cadp.pulse"
BEAT = 5.0
LOST_AFTER = 60.0
"""Seconds without a sign. A false alarm costs one range's work, no privacy: tokens and seals keep attempts apart."""


@contextmanager
def pulse() -> Iterator[None]:
    """Give a sign every `BEAT` seconds for the current flow run, from a thread of its own."""
    stop = threading.Event()
    run_id = UUID(str(flow_run.id))

    def beat() -> None:
        with get_client(sync_client=True) as client:
            count = 0
            while True:
                count += 1
                with suppress(httpx.HTTPError, PrefectException):  # a server that is away sees none, and asks later
                    client.update_flow_run_labels(run_id, {LABEL: count})
                if stop.wait(BEAT):
                    return

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(BEAT)
