"""Measure what is not measured yet, then write the report: python -m tests.benchmarks.utility [--only WORDS …]."""

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from cadp.sources import catalogue
from tests.benchmarks.utility.cells import Release, cells, digest, name
from tests.benchmarks.utility.data import CLASSES, DATASET, SHAPE
from tests.benchmarks.utility.measuring import Bench, recipe_of
from tests.benchmarks.utility.plans import model_plan
from tests.benchmarks.utility.report import write_report
from tests.benchmarks.utility.results import Result, Results, here

ROOT = Path(__file__).resolve().parents[3]
EVERY = catalogue.get(DATASET).facts.records


def main(arguments: list[str] | None = None) -> int:
    """Run as a command; returns the exit code."""
    options = _options(arguments)
    home = Path(os.environ.get("CADP_HOME", ROOT / ".cadp"))
    out = options.out or (home / "utility" if options.records else ROOT / "docs")
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    bench = Bench(options.data or home / "data", options.records)
    results = Results(out / "utility.jsonl")

    def usable(result: Result) -> bool:
        return options.keep or not _stale(bench, result)

    def report() -> list[Path]:
        return write_report(filter(usable, results), out)

    for seed in options.seeds:
        for cell in cells():
            found = results.find(cell, seed)
            done = found is not None and not options.again and usable(found)
            if done or not all(word in name(cell).split() for word in options.only):
                continue
            console.print(f"{name(cell)}, seed {seed}")
            result = Result(cell, seed, bench.measure(cell, seed), here())
            results.put(result)
            console.print(f"  {result.values['figures']} {result.values['cpu_seconds']} CPU-s")
            report()
    for path in report():
        console.print(str(path))
    return 0


def _stale(bench: Bench, result: Result) -> bool:
    """Whether the plan or the classifier of the figure is no longer what would be run, or its data not all of them."""
    records = result.values["records"]
    if records != min(bench.records or EVERY, EVERY) or result.values["recipe"] != digest(recipe_of(result.cell)):
        return True
    if not isinstance(result.cell, Release):
        return False
    plan = model_plan(result.cell.training, SHAPE, CLASSES, records)
    return bool(result.values["plan"]["digest"] != digest(plan.parameters()))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.utility", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="cells whose name has all these words")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of the classifier (0 1 2)")
    parser.add_argument("--records", type=int, help="a quick look at so many records; written to $CADP_HOME/utility")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured")
    parser.add_argument("--keep", action="store_true", help="keep figures of plans that have changed since")
    parser.add_argument("--out", type=Path, help="folder of utility.jsonl, utility.md and images/utility.png (docs)")
    parser.add_argument("--data", type=Path, help="folder of datasets ($CADP_HOME/data)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
