"""Train the couplings behind a fitted whitening: what DP-SGD reads, and where its state is kept between steps.

The state of an unfinished training lies in the release's private prefix under its charge. It is read by a later attempt
at the same charge and by nothing else: no step takes a model from it, `cadp gc` drops it once the charge is closed. An
attempt that lost its lease may still put one; whichever attempt goes on from it, the model that is sealed came out of
one chain of steps, each drawn once, and the others are deleted unread.
"""

import hmac
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cadp.errors import ObjectExists, PrivacyError
from cadp.ledger import Charge
from cadp.privacy.accountant import curve
from cadp.privacy.seeded import is_seeded
from cadp.records import top
from cadp.reporter import Reporter
from cadp.secret import PopulationSecret
from cadp.steps.decode import DecodedRecords
from cadp.steps.job import Job
from cadp.steps.load_model import public_flow

if TYPE_CHECKING:
    from cadp.cinn.dp_sgd.plan import SgdPlan
    from cadp.cinn.dp_sgd.training import Training
    from cadp.cinn.dp_sgd.unit_records import UnitRecords
    from cadp.cinn.network import ConditionalFlow

SAVE_EVERY = 25
TRAINING = re.compile(
    r"training/(?P<charge>[^/]+)/((state|loss)-\d{7}\.(safetensors|json)|round-trip-[0-9a-f]{16}\.json)"
)
"""Every key that training writes."""


def is_state(key: str) -> bool:
    """Whether a key of this file is a state, which nothing needs once its charge is closed."""
    return key.endswith(".safetensors")


def chosen_units(secret: PopulationSecret, fraction: float) -> Callable[[str], bool]:
    """Return which units are read: a keyed hash of the id below `fraction`, whatever the unit's records hold."""
    key, bound = secret.key("training subset"), math.floor(fraction * 2.0**64)

    def read(unit: str) -> bool:
        return int.from_bytes(hmac.digest(key, unit.encode(), "sha256")[:8], "big") < bound

    return read


def train_couplings(
    job: Job, saved: "SavedTraining", flow: "ConditionalFlow", records: DecodedRecords, reporter: Reporter
) -> "ConditionalFlow":
    """Give a fitted whitening flow trained couplings, from the last saved state if there is one.

    Args:
        job: a release whose plan has couplings.
        saved: the states of its charge.
        flow: the whitening, or what `saved` returned.
        records: what was decoded.
        reporter: told of public progress.
    """
    from cadp.cinn.dp_sgd import training as sgd  # noqa: PLC0415  (torch only where a step runs)
    from cadp.cinn.dp_sgd.start import public_start, start_from  # noqa: PLC0415
    from cadp.cinn.network import ConditionalFlow  # noqa: PLC0415

    plan = saved.plan
    # A unit whose records did not stand together would be drawn, and clipped, in parts.
    if (found := int(records.units.max(initial=-1)) + 1) != job.plan.units:
        raise PrivacyError(f"the records stand in runs of {found:,} units, the public number is {job.plan.units:,}")
    if saved.training is None:
        whitening, flow = flow, ConditionalFlow(plan.architecture)
        flow.load_state_dict(whitening.state_dict(), strict=False)
        public_start(flow)
        if job.plan.start is not None:
            start_from(flow, public_flow(job, job.plan.start))
    else:
        reporter.event(
            "resumed", f"training of the couplings goes on at step {saved.training.step:,} of {plan.steps:,}"
        )
    data = unit_records(flow, records, reporter)
    saved.flow = flow
    # Coins and noise of a seeded test come out of this process; what several give is the same.
    if (processes := job.spec.run.processes) > 1 and not is_seeded():
        from cadp.steps.train_couplings_processes import train_together  # noqa: PLC0415

        return train_together(saved, flow, data, records.folder, reporter, processes=processes, save_every=SAVE_EVERY)
    return sgd.train_couplings(flow, data, plan, reporter, resumed=saved.training, after_step=saved.after_step)


def unit_records(flow: "ConditionalFlow", records: DecodedRecords, reporter: Reporter) -> "UnitRecords":
    """The whitened content of the records of chosen units, in a memory map beside that of their images."""
    import torch  # noqa: PLC0415

    from cadp.cinn.dp_sgd.unit_records import UnitRecords  # noqa: PLC0415

    chosen, k = records.chosen, flow.architecture.content
    content = np.memmap(records.folder / "content", dtype=np.float32, mode="w+", shape=(max(1, int(chosen.sum())), k))
    at = seen = 0
    before = [layer for name, layer in flow.named_children() if name != "couplings"]
    with reporter.progress("whiten", len(chosen), "records") as advance, torch.no_grad():
        for batch in records.batches():
            condition = flow.condition(torch.from_numpy(batch.labels))
            x = torch.from_numpy(batch.images.reshape(len(batch), -1) / top(batch.images.dtype))
            for layer in before:
                x, _ = layer(x, condition)
            rows = x[:, :k].numpy()[chosen[seen : seen + len(batch)]]
            content[at : at + len(rows)] = rows
            at, seen = at + len(rows), seen + len(batch)
            advance(len(batch))
    first = np.flatnonzero(np.diff(records.units[chosen], prepend=-1))
    starts = np.append(first, at).astype(np.int64)
    return UnitRecords(content[:at], records.labels[chosen], records.valid[chosen], starts)


class SavedTraining:
    """The states of one charge's training: the newest is found when this is made, later ones are put."""

    def __init__(
        self, job: Job, charge: Charge, plan: "SgdPlan", renew: Callable[[], None], reporter: Reporter
    ) -> None:
        """Look for a state to go on from; `renew` keeps the lease, and raises once it is lost.

        Raises:
            CheckpointRefused: what lies there is no state of this plan.
        """
        from cadp.cinn.dp_sgd.state import read_state  # noqa: PLC0415

        self.plan, self._private, self._renew, self._reporter = plan, job.private, renew, reporter
        self._prefix, self._before = f"training/{charge.id}/", curve(job.plan.training.moments.event())
        self._delta = job.spec.spend.delta
        self.flow: ConditionalFlow | None = None
        self.training: Training | None = None
        if states := self._states():
            self.flow, self.training = read_state(self._private.get(states[-1]), plan)

    def renew(self) -> None:
        """Keep the lease, while nothing is said of a step."""
        self._renew()

    def after_step(self, training: "Training") -> None:
        """Keep the lease; save the state every so many steps and after the last, and drop those before it."""
        from cadp.cinn.dp_sgd.state import state_bytes  # noqa: PLC0415

        self._renew()
        if training.step % SAVE_EVERY and training.step != self.plan.steps:
            return
        if self.flow is None:
            raise RuntimeError("no flow to save: train_couplings sets it before the first step")
        name = f"{training.step:07d}"
        older = [key for key in self._states() if key < f"{self._prefix}state-{name}"]
        try:
            self._private.put(f"{self._prefix}state-{name}.safetensors", state_bytes(self.flow, training))
            if training.losses:
                self._private.put(f"{self._prefix}loss-{name}.json", self._loss(training))
        except ObjectExists:
            self._reporter.event("saved", f"another attempt has already saved step {training.step:,}: both go on")
        training.losses.clear()
        for key in older:
            self._private.delete(key)
        if not training.step:
            return
        spent = (self._before + curve(self.plan.event(training.step))).epsilon(self._delta)
        where = f"training, ε so far, at step {training.step:,} of {self.plan.steps:,}"
        self._reporter.figure("couplings", where, f"{spent:.4g}")

    def drop(self) -> None:
        """Delete the states, once the model is sealed; losses stay for the operator."""
        for key in self._states():
            self._private.delete(key)

    def _states(self) -> list[str]:
        keys = (key for key, _ in self._private.list(self._prefix))
        return sorted(key for key in keys if TRAINING.fullmatch(key) and is_state(key))

    def _loss(self, training: "Training") -> bytes:
        """What the operator may look at, in the private zone alone: means of the samples since the last save."""
        k, known = self.plan.architecture.content, [loss for loss in training.losses if math.isfinite(loss)]
        nats = sum(known) / len(known) + k / 2 * math.log(2 * math.pi) if known else None
        bits = None if nats is None else nats / k / math.log(2)
        private = {"private": True, "step": training.step, "nats_per_record": nats, "bits_per_content_dim": bits}
        return json.dumps(private).encode()
