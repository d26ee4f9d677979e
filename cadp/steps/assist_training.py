"""A process on another host that takes a share of a training of couplings: `python -m cadp.steps.assist_training`.

It knows no ledger, no store and no secret. What it computes with comes from the first process of the training: the
plan, and the whitened content of its own units, which lies in scratch as long as it runs.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import distributed

from cadp.cinn.dp_sgd.handing_over import take_over
from cadp.cinn.dp_sgd.processes import Processes
from cadp.cinn.dp_sgd.training import assist
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CadpError, SettingsError
from cadp.settings import Settings
from cadp.steps.processes import Meeting
from cadp.steps.scratch import own_scratch, sweep_scratch


def assist_training(environ: Mapping[str, str]) -> None:
    """Join the training that `MASTER_ADDR` and `MASTER_PORT` name, as process `RANK` of `WORLD_SIZE`, to its end.

    Raises:
        SettingsError: one of the four is missing, or is not what it must be.
        PrivacyError: what was handed over does not fit together.
    """
    settings, meeting = Settings.load(environ), Meeting.of_hosts(environ)
    size, rank = _number(environ, "WORLD_SIZE", 2), _number(environ, "RANK", 1)
    if meeting is None or rank >= size:
        raise SettingsError(f"RANK {rank} of {size} at {meeting}: MASTER_ADDR and a RANK below WORLD_SIZE are needed")
    settings.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep_scratch(settings.scratch)
    with tempfile.TemporaryDirectory(dir=own_scratch(settings.scratch)) as folder:
        meeting.join(rank, size)
        plan, records = take_over(Path(folder))
        assist(ConditionalFlow(plan.architecture), records, plan, Processes(plan, records))
        distributed.destroy_process_group()


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit() and least <= int(text) < 1 << 16):
        raise SettingsError(f"{name} is {text!r}: a whole number from {least} on")
    return int(text)


if __name__ == "__main__":
    try:
        assist_training(os.environ)
    except CadpError as error:
        sys.exit(f"cadp: {error}")
