"""The histograms of a table's columns, originals beside released rows: both tables are public, so they may be drawn."""

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from cadp.columns import rows_in_columns
from cadp.publish.histograms import counts
from cadp.records import Batch
from tests.benchmarks.tables.measuring import Originals

_ACROSS = 5


def draw(own: Originals, rows: Batch, title: str, path: Path) -> None:
    """One panel a column: originals filled, released rows as a line."""
    columns = own.table.columns
    down = math.ceil(len(columns) / _ACROSS)
    figure, axes = plt.subplots(down, _ACROSS, figsize=(2.2 * _ACROSS, 1.5 * down), dpi=100, squeeze=False)
    sides = [rows_in_columns(own.table, batch.images.reshape(len(batch), -1)) for batch in (own.rows, rows)]
    zeros = np.zeros(len(rows), dtype=np.int64)
    for panel, column in zip(axes.flat, columns, strict=False):
        original, out = (counts(column, side[column.name], zeros, 1)[0] for side in sides)
        low, high = column.interval if column.levels is None else (0, len(column.levels))
        edges = np.geomspace(low, high, len(out) + 1) if column.scale == "log" else np.linspace(low, high, len(out) + 1)
        panel.stairs(original, edges, fill=True, color="0.75", label="original")
        panel.stairs(out, edges, color="tab:red", linewidth=1, label="released")
        panel.set_xscale(column.scale)
        panel.set_title(column.name, fontsize=7)
        panel.tick_params(labelsize=5, which="both")
        panel.minorticks_off()
        panel.set_yticks([])
        if column.scale == "log":
            panel.set_xticks(
                [low, math.sqrt(low * high), high], [f"{x:.2g}" for x in (low, math.sqrt(low * high), high)]
            )
        if column.levels is not None:
            panel.set_xticks(np.arange(len(column.levels)) + 0.5, column.levels)
    for panel in axes.flat[len(columns) :]:
        panel.axis("off")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", fontsize=7, ncols=2, frameon=False)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
