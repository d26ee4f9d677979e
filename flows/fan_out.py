"""Ranges as flow runs of their own, on a work pool that any number of hosts serve.

A run is asked for under a key made from plan, step, range and attempt: a parent that died and runs again finds the runs
of the first instead of starting them twice. Prefect's states and the pulse say whom to wait for; what is done is said
by the ledger's seals and the private zone. Nothing here is trusted for more than speed: a range that is worked on twice
has one seal.
"""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Crashed

from cadp import errors
from cadp.errors import CadpError
from cadp.reporter import Reporter
from flows.pulse import LABEL, LOST_AFTER

POLL = 1.0
ATTEMPTS = 3
"""Times that a range is sent out before its parent gives up, where a worker was lost each time."""
_AT_ONCE = 100
_PATIENCE = 300.0
_WAITING_AFTER = 30.0
_RAISED = re.compile(r"exception: (?P<kind>\w+): (?P<words>.*)", re.DOTALL)


@dataclass(frozen=True)
class Errand:
    """What is sent to the pool.

    Attributes:
        deployment: `flow/pool`.
        label: of the progress of all.
        title: what one of them is called: `privatize range 03 of fashion-mnist 1.0.0`.
        key: names the plan and the step, so that the same errand is never sent twice.
        parameters: of the run for one range.
    """

    deployment: str
    label: str
    title: Callable[[int], str]
    key: str
    parameters: Callable[[int], dict[str, object]]


@dataclass
class _Sent:
    """A run that is waited for, and when it last changed, by our own clock."""

    index: int
    sign: object = None
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    def still(self, sign: object) -> float:
        """Seconds since the run last gave another sign than this one."""
        if sign != self.sign:
            self.sign, self.since = sign, time.monotonic()
        return time.monotonic() - self.since


def run_on_pool(errand: Errand, todo: Sequence[int], in_flight: int, reporter: Reporter) -> None:
    """Send every range of `todo` to the pool, at most `in_flight` at a time, and wait until all are done.

    Raises:
        CadpError: the first error of a range, of its own kind; no further range starts after it, those that work go on
            to their seals.
    """
    with get_client(sync_client=True) as client, reporter.progress(errand.label, len(todo), "ranges") as advance:
        parent = _Parent(errand, client, reporter)
        waiting = deque(todo)
        try:
            while waiting or parent.sent:
                while waiting and len(parent.sent) < in_flight:
                    parent.send(waiting.popleft())
                time.sleep(POLL)
                done, again = parent.look()
                advance(done)
                waiting.extendleft(again)
        except BaseException:
            parent.call_back()
            raise


class _Parent:
    """Whoever sent ranges out and waits for them."""

    def __init__(self, errand: Errand, client: SyncPrefectClient, reporter: Reporter) -> None:
        self.sent: dict[UUID, _Sent] = {}
        self._errand, self._client, self._reporter = errand, client, reporter
        self._lost = Counter[int]()
        self._numbers = Counter[int]()
        self._seen = time.monotonic()

    def send(self, index: int) -> None:
        """Ask for a run of this range; one that an earlier parent asked for and that still works is taken up."""
        while True:
            number = self._numbers[index]
            try:
                run: FlowRun = run_deployment(  # type: ignore[assignment]  # this code is not async
                    self._errand.deployment,
                    parameters=self._errand.parameters(index),
                    idempotency_key=f"{self._errand.key}/{index}/{number}",
                    flow_run_name=self._errand.title(index),
                    timeout=0,
                )
            except ObjectNotFound as error:
                raise CadpError(
                    f"this Prefect server has no deployment {self._errand.deployment}: make its pool and run "
                    f"`prefect deploy --all`"
                ) from error
            except (httpx.HTTPError, PrefectException) as error:
                raise CadpError(
                    f"{self._errand.title(index)} could not be sent out: {error or type(error).__name__}. Ranges that "
                    f"work go on to their seals; run the same release again once the Prefect server takes runs"
                ) from error
            if run.state is None or not run.state.is_final():
                self.sent[run.id] = _Sent(index)
                return
            self._numbers[index] += 1  # it ended, and its range is still to do

    def look(self) -> tuple[int, list[int]]:
        """Return how many ranges were done since the last look, and those that must be sent again.

        Raises:
            CadpError: a range failed or was cancelled, or was lost too often; or the server is away for long.
        """
        done, again = 0, []
        for run in self._runs():
            sent = self.sent[run.id]
            state = run.state
            if state is None:
                continue
            if state.is_completed():
                done += 1
            elif state.is_crashed() or self._is_lost(run, sent):
                self._count_loss(sent.index, state.message or "it gave no sign of life")
                again.append(sent.index)
            elif state.is_final() or state.is_cancelling():
                raise _error(self._errand.title(sent.index), state.message or state.name or "it was cancelled")
            else:
                continue
            del self.sent[run.id]
        return done, again

    def call_back(self) -> None:
        """Cancel what no worker has begun; what has begun goes on to its seal, which a later run will find."""
        for run in self._runs(patient=False):
            if run.state is not None and (run.state.is_scheduled() or run.state.is_pending()):
                with suppress(httpx.HTTPError, PrefectException):
                    self._client.set_flow_run_state(run.id, Cancelled(message="its parent stopped"))

    def _runs(self, *, patient: bool = True) -> list[FlowRun]:
        """The runs that are waited for, as the server has them now; none for a while if it is away."""
        ids, runs = list(self.sent), list[FlowRun]()
        try:
            for start in range(0, len(ids), _AT_ONCE):
                some = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _AT_ONCE]))
                runs += self._client.read_flow_runs(flow_run_filter=some)
        except (httpx.HTTPError, PrefectException) as error:
            if patient and time.monotonic() - self._seen > _PATIENCE:
                raise CadpError(
                    f"the Prefect server has been away for {_PATIENCE:.0f} s: {error or type(error).__name__}. Ranges "
                    f"that work go on to their seals; run the same release again once it is back"
                ) from error
            return []
        self._seen = time.monotonic()
        return runs

    def _is_lost(self, run: FlowRun, sent: _Sent) -> bool:
        """Whether a worker that has taken the run gives no more signs; then the run is closed as crashed."""
        state = run.state
        still = sent.still((state and state.id, run.labels.get(LABEL)))
        if state is None or not (state.is_running() or state.is_pending()):
            if still > _WAITING_AFTER and not sent.told:
                sent.told = True
                pool = self._errand.deployment.rpartition("/")[2]
                what = f"{self._errand.title(sent.index)} has waited {still:.0f} s for a worker of the pool {pool}"
                self._reporter.event("waiting", f"{what}: prefect worker start --pool {pool}")
            return False
        # Between the worker's taking a run and its first sign lie the start of a process and its imports.
        if still <= (LOST_AFTER if state.is_running() else 2 * LOST_AFTER):
            return False
        message = f"no sign of life for {still:.0f} s: its range goes to another run"
        try:
            self._client.set_flow_run_state(run.id, Crashed(message=message), force=True)
        except (httpx.HTTPError, PrefectException):
            return False  # the next look finds it as still as this one
        return True

    def _count_loss(self, index: int, why: str) -> None:
        self._lost[index] += 1
        self._numbers[index] += 1
        if self._lost[index] >= ATTEMPTS:
            raise CadpError(
                f"{self._errand.title(index)} lost its worker {ATTEMPTS} times, at last: {why}. Its charge stays: "
                f"look at the workers' logs and memory, then run the same release again"
            )
        self._reporter.event("takeover", f"{self._errand.title(index)} is sent out again: {why}")


def _error(title: str, message: str) -> CadpError:
    """The error of a range as its flow run tells it: of its own kind where it is one of ours."""
    raised = _RAISED.search(message)
    kind = getattr(errors, raised["kind"], None) if raised else None
    text = f"{title}: {raised['words'] if raised else message}"
    return kind(text) if isinstance(kind, type) and issubclass(kind, CadpError) else CadpError(text)
