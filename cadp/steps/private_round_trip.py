"""The round trip of private records through their own model: what the operator may look at, and nobody else.

It informs and never gates: nothing here raises because of a value, no step reads the figures, and what an operator does
after looking is outside the promise, as the statement says. They lie in the release's private prefix, beside the losses
of its training; no reporter is told of them, since what a reporter shows may be seen by more people.
"""

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cadp.records import top
from cadp.steps.decode import DecodedRecords

if TYPE_CHECKING:
    from cadp.cinn.network import ConditionalFlow
    from cadp.steps.job import Job

MOST_RECORDS = 2048


def private_round_trip(flow: "ConditionalFlow", records: DecodedRecords) -> dict[str, Any]:
    """Send the first private records there and back, in the flow's own precision.

    Returns:
        `records`: how many; `largest_error` and `mean_error`: of a pixel, in units of its range, before it is rounded;
        `exact`: the share of records that come back to the bit; `largest_latent`. Figures are None if not finite.
    """
    import torch  # noqa: PLC0415  (torch only where a step runs)

    largest = latent = total = 0.0
    exact = count = 0
    for batch in records.batches():
        rows = np.flatnonzero(batch.valid)[: MOST_RECORDS - count]
        white = top(batch.images.dtype)
        x = torch.from_numpy(batch.images[rows].reshape(len(rows), -1) / white)
        with torch.no_grad():
            labels = torch.from_numpy(batch.labels[rows])
            z = flow.encode(x, labels)[0]
            error = (flow.decode(z, labels).reshape(len(rows), -1).to(torch.float64) - x).abs()
        if len(rows):
            largest = float(torch.maximum(torch.tensor(largest, dtype=torch.float64), error.max()))
            latent = float(torch.maximum(torch.tensor(latent, dtype=z.dtype), z.abs().max()))
            total += float(error.sum())
            exact += int((error.max(dim=1).values * white < 0.5).sum())  # rounded, it is what it was
        count += len(rows)
        if count >= MOST_RECORDS:
            break
    return {
        "private": True,
        "records": count,
        "largest_error": _known(largest),
        "mean_error": _known(total / max(1, count * flow.architecture.dims)),
        "exact": exact / max(1, count),
        "largest_latent": _known(latent),
    }


def keep_round_trip(job: "Job", charge: str, digest: str, figures: dict[str, Any]) -> None:
    """Put the figures of one attempt's model into the release's private prefix."""
    job.private.put(round_trip_key(charge, digest), json.dumps(figures, sort_keys=True).encode())


def round_trip_key(charge: str, digest: str) -> str:
    """Return where the figures of one attempt's model lie."""
    return f"training/{charge}/round-trip-{digest[:16]}.json"


def operators_report(job: "Job") -> dict[str, Any]:
    """Return what the operator may see of a release's training: its round trip and its losses, all of it private."""
    charge = job.find_charge("train") if job.plan.loaded is None else None
    report: dict[str, Any] = {"private": True, "release": job.spec.release, "round_trip": None, "losses": []}
    if charge is None:
        return report
    seal = job.ledger.seal_of(charge.id, 0)
    for key in sorted(key for key, _ in job.private.list(f"training/{charge.id}/") if key.endswith(".json")):
        name = key.rpartition("/")[2]
        if name.startswith("loss-"):
            report["losses"].append(json.loads(job.private.get(key)))
        elif seal is not None and key == round_trip_key(charge.id, seal.key):
            report["round_trip"] = json.loads(job.private.get(key))
    return report


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
