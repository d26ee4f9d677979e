"""Run the benchmarks whose names begin with one of the words given, or all, and print a table.

python -m tests.benchmarks [NAME…]
"""

import os
import platform
import sys
import time

from rich.console import Console
from rich.table import Table

from tests.benchmarks import cinn, large, ledger, privacy, training

BENCHMARKS = {
    "ledger-charges": ledger.charges,
    "ledger-seals": ledger.seals,
    "noise": privacy.samplers,
    "mechanisms": privacy.mechanisms,
    "cinn-speed": cinn.speed,
    "cinn-records": cinn.records,
    "cinn-large": large.large,
    "training-several": training.several,
}


def main(names: list[str]) -> int:
    """Print one table a benchmark."""
    console = Console()
    chosen = [name for name in BENCHMARKS if not names or any(name.startswith(wanted) for wanted in names)]
    if not chosen:
        console.print(f"no benchmark {' '.join(names)}: known are {', '.join(BENCHMARKS)}")
        return 2
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in chosen:
        began = time.monotonic()
        figures = BENCHMARKS[name]()
        table = Table("measured", "", "target", "", "note", title=f"{name} ({time.monotonic() - began:.0f} s)")
        for figure in figures:
            bound = "" if figure.target is None else f"{'≤' if figure.most else '≥'} {figure.target:,.6g}"
            met = "" if figure.target is None else "met" if figure.met else "[red]not met[/red]"
            table.add_row(figure.what, f"{figure.value:,.4g} {figure.unit}", bound, met, figure.note)
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
