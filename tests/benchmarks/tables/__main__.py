"""Release the tables of scikit-learn at several ε and write docs/tables.md: python -m tests.benchmarks.tables."""

import argparse
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from cadp.sources.fetch import fetch
from tests.benchmarks.tables.draw import draw
from tests.benchmarks.tables.measuring import (
    EPSILONS,
    ROOT,
    TABLES,
    accuracies,
    apart,
    measure,
    originals,
    released,
    untied,
    ways,
)
from tests.benchmarks.tables.report import DRAWN_AT, report


def main(arguments: list[str] | None = None) -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tables", description=__doc__)
    parser.add_argument("--releases", type=int, default=10, help="with fresh noise, of each kind (10)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of tables.md and images/ (docs)")
    parser.add_argument("--data", type=Path, help="folder of datasets ($CADP_HOME/data)")
    options = parser.parse_args(arguments)
    data = options.data or Path(os.environ.get("CADP_HOME", ROOT / ".cadp")) / "data"
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    tables = []
    for name in TABLES:
        fetch(name, data, console.print)
        own = originals(name, data)
        measured = {
            (epsilon, way): [measure(own, epsilon, way) for _ in range(options.releases)]
            for epsilon in EPSILONS
            for way in ways(own, epsilon)
        }
        tables.append((own, accuracies(own, own.rows), (apart(own, own.held_out), untied(own, own.held_out)), measured))
        rows, _ = released(own, DRAWN_AT)
        title = f"{name}: originals and one release at ε = {DRAWN_AT:g}"
        draw(own, rows, title, options.out / "images" / f"tables-{name}.png")
    words = f"Measured with torch {version('torch')} and scikit-learn {version('scikit-learn')}, {platform.machine()}."
    path = options.out / "tables.md"
    path.write_text(report(tables, options.releases, words), encoding="utf-8")
    console.print(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
