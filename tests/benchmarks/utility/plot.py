"""The plot of the report: p/o by total ε, with what bounds it and what others report."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from cadp.privacy.events import RELATION, ZERO_OUT
from tests.benchmarks.utility.cells import EPSILONS, Originals, PrivateClassifier, Release, Training
from tests.benchmarks.utility.published import PUBLISHED
from tests.benchmarks.utility.summary import Summary

_COLOURS = {ZERO_OUT: "tab:blue", RELATION: "tab:orange"}


def draw(summary: Summary, path: Path) -> None:
    """Draw what is measured so far."""
    figure, axes = plt.subplots(figsize=(7, 4.5), dpi=110)
    for relation, colour in _COLOURS.items():
        cells = [(epsilon, summary.accuracy(Release(Training(epsilon, relation)))) for epsilon in EPSILONS]
        known = [(epsilon, seeds) for epsilon, seeds in cells if seeds.known]
        if known:
            x, means = [epsilon for epsilon, _ in known], [seeds.mean for _, seeds in known]
            low = [seeds.mean - min(seeds.values) for _, seeds in known]
            high = [max(seeds.values) - seeds.mean for _, seeds in known]
            axes.errorbar(x, means, [low, high], color=colour, marker="o", capsize=3, label=f"p/o, ε {relation}")
        private = [(e, summary.accuracy(PrivateClassifier(e, relation))) for e in EPSILONS]
        points = [(epsilon, seeds.mean) for epsilon, seeds in private if seeds.known]
        if points:
            label = f"DP-SGD classifier, ε {relation}"
            axes.plot(*zip(*points, strict=True), color=colour, marker="x", linestyle=":", label=label)
    if (bound := summary.accuracy(Originals())).known:
        axes.axhline(bound.mean, color="tab:green", linewidth=1, label="o/o")
    for index, other in enumerate(PUBLISHED[:4]):
        grey = str(0.2 + 0.15 * index)
        axes.plot(
            [1, 10], [other.at_1, other.at_10], "s", color=grey, markersize=4, label=f"{other.method} (published)"
        )
    axes.set(xscale="log", xlabel="total ε at δ = 1e-5", ylabel="accuracy on the test originals", ylim=(0.7, 0.95))
    axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS], minor=False)
    axes.minorticks_off()
    axes.set_title("Fashion-MNIST, 60,000 records", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version in the file: the same figures are the same bytes.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
