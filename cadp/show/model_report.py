"""What the operator may see of a training: figures on private records, printed where they were asked for."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Print the private figures of one release under a line that says that they are."""
    lines = [f"PRIVATE: figures on the records of {report['release']}, for the operator alone; never publish them."]
    trip = report["round_trip"]
    if trip is None:
        lines.append("round trip: none yet, or the model was loaded")
    else:
        lines.append(
            f"round trip of {trip['records']:,} records: {trip['exact']:.1%} return to the bit, largest error "
            f"{_told(trip['largest_error'])}, mean error {_told(trip['mean_error'])} of a pixel's range, largest "
            f"latent {_told(trip['largest_latent'])}"
        )
    lines += [
        f"step {loss['step']:,}: {_told(loss['nats_per_record'])} nats a record, "
        f"{_told(loss['bits_per_content_dim'])} bits a content dimension"
        for loss in report["losses"]
    ]
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _told(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
