"""`docs/utility.md`: every figure in it comes from the file of results, whatever has been measured so far."""

import math
from collections.abc import Iterable
from pathlib import Path

from cadp.privacy.events import RELATION, ZERO_OUT
from cadp.utility.classifier import ClassifierRecipe
from tests.benchmarks.utility.cells import (
    DELTA,
    EPSILONS,
    NO_NOISE,
    RELEASE_DIMS,
    Originals,
    Pixelated,
    PrivateClassifier,
    Release,
    Training,
    cells,
    name,
)
from tests.benchmarks.utility.comparing import against_published, against_targets, gains
from tests.benchmarks.utility.keeping import what_records_keep
from tests.benchmarks.utility.markdown import paragraph, section, table
from tests.benchmarks.utility.plot import draw
from tests.benchmarks.utility.published import CLASSIFIERS, CLASSIFIERS_SOURCE
from tests.benchmarks.utility.results import Result
from tests.benchmarks.utility.summary import FIT, NONE, Summary


def write_report(results: Iterable[Result], out: Path) -> list[Path]:
    """Write `utility.md` and `images/utility.png` into a folder, and return both."""
    summary = Summary(results)
    page, plot = out / "utility.md", out / "images" / "utility.png"
    draw(summary, plot)
    parts = [
        _opening(summary),
        against_targets(summary),
        "![p/o by total ε](images/utility.png)",
        _by_epsilon(summary),
        against_published(summary),
        what_records_keep(summary),
        gains(summary),
        _baselines(summary),
        _limits(summary),
        _missing(summary),
    ]
    page.write_text("\n\n".join(part for part in parts if part) + "\n")
    return [page, plot]


def _opening(summary: Summary) -> str:
    results = summary.measured()
    machines = sorted({f"{one.where['machine']}, torch {one.where['torch']}" for one in results})
    loads = [one.where["load"] for one in results]
    busy = f"; load average {min(loads):g} to {max(loads):g}" if loads else ""
    records = {one.values["records"] for one in results}
    seeds, recipe = {one.seed for one in results}, ClassifierRecipe()
    intro = paragraph(
        """Written by `make bench-utility` from [utility.jsonl](utility.jsonl), which holds a line for every cell and
        seed. Run it again and it goes on with what is missing, or with what another plan has made stale. Nothing here
        is typed by hand."""
    )
    words = paragraph(
        f"""Fashion-MNIST, {_several(records)} records, δ = {DELTA:.0e}, labels public. **p/o**: a classifier trained on
        released records, tested on the 10,000 test originals. **o/o**: trained on originals. **p/p**: trained on
        released records, tested on what the same model makes of the test records. Every model is fitted, every latent
        privatized and every record decoded by the code of a release. The classifier is `cadp.utility.classifier` as
        the gate uses it: two convolutions of {recipe.kernel}×{recipe.kernel}, {recipe.epochs} epochs, noise on what it
        learns from; that was chosen on training originals. Seeds ({_several(seeds)}) are the classifier's; noise comes
        from the operating system each time. ± is half the range over seeds; a figure without it is of one seed."""
    )
    machine = f"Measured on: {'; '.join(machines) or 'nothing yet'}. No GPU, one thread{busy}."
    return "\n\n".join(["# Utility", intro, words, machine])


def _by_epsilon(summary: Summary) -> str:
    rows = []
    trainings = [Training(epsilon, relation) for relation in (ZERO_OUT, RELATION) for epsilon in EPSILONS]
    for training in trainings + [
        cell.training for cell in cells() if isinstance(cell, Release) and cell.training.exact
    ]:
        cell = Release(training)
        found = summary.first(cell)
        other = RELATION if training.relation == ZERO_OUT else ZERO_OUT
        rows.append(
            [
                training.relation + (", exact" if training.exact else ""),
                f"{training.epsilon:g}",
                f"{found.values['plan']['epsilon'][other]:.2f}" if found else NONE,
                summary.accuracy(cell).text(),
                summary.of(cell, "p/p").text(),
                summary.of(cell, "frechet").text(2),
                summary.cpu_seconds(cell, FIT).text(0),
            ]
        )
    heads = ["calibrated to", "ε", "ε, other relation", "p/o", "p/p", "Fréchet", "fit and sample, CPU-s"]
    words = """The model has the whole ε; records are drawn from it (`resample`). Replace-one is what a ledger charges;
        published figures are add/remove, which zero-out resembles. Both are the ledger's accountant's, but for *exact*:
        there ε is that of the one Gaussian to which all queries compose, as published accounting has it."""
    floor = summary.of(Originals(), "frechet").text(2)
    frechet = f"""Fréchet: distance to the training originals in the features of a plain classifier, trained on the
        test originals, which no model saw. Between two halves of the training originals it is {floor}."""
    return section("Accuracy by ε", paragraph(words), table(heads, rows), paragraph(frechet))


def _baselines(summary: Summary) -> str:
    rows = [["o/o", NONE, summary.accuracy(Originals()).text()]]
    for relation in (ZERO_OUT, RELATION):
        for epsilon in EPSILONS:
            accuracy = summary.accuracy(PrivateClassifier(epsilon, relation)).text()
            rows.append(["DP-SGD classifier on originals", f"{epsilon:g}, {relation}", accuracy])
    for epsilon in EPSILONS:
        accuracy = summary.accuracy(Pixelated(epsilon)).text()
        rows.append(["DP-Pix, 4×4 cells", f"{epsilon:g} a record, both relations", accuracy])
    known = ", ".join(f"{accuracy:.3f} {what}" for what, accuracy in CLASSIFIERS.items())
    words = f"""The DP-SGD classifier is linear, on fixed oriented edges, with our events and accountant but
        floating-point noise: it publishes nothing. It answers one question, a release any number. Published: {known}
        ({CLASSIFIERS_SOURCE})."""
    return section("Beside releases", paragraph(words), table(["", "ε", "accuracy"], rows))


def _limits(summary: Summary) -> str:
    best, kept = Release(Training(10.0)), Release(Training(10.0), "kept", dims=RELEASE_DIMS)
    lines = []
    for said, above, below in (
        ("from originals to a model of this form without noise", Originals(), Release(Training(NO_NOISE))),
        ("from there to the noise of ε = 10", Release(Training(NO_NOISE)), best),
        ("from ε = 10 to ε = 1", best, Release(Training(1.0))),
        (f"from {RELEASE_DIMS} true content latents to none, at ε = 10", kept, best),
    ):
        lost = summary.accuracy(above).mean - summary.accuracy(below).mean
        lines.append(f"- {said}: {'not measured yet' if math.isnan(lost) else f'{lost:.3f}'}")
    return section("What limits it", "p/o lost, zero-out:", "\n".join(lines))


def _missing(summary: Summary) -> str:
    missing = [name(cell) for cell in cells() if not summary.results(cell)]
    single = [cell for cell in cells() if len(summary.results(cell)) == 1]
    if not missing and not single:
        return ""
    words = f"Of {len(list(cells()))} cells {len(missing)} have no figure and {len(single)} have one seed only."
    return section("Not measured yet", words, "\n".join(f"- {one}" for one in missing))


def _several(values: set[int]) -> str:
    return ", ".join(f"{value:,}" for value in sorted(values)) or "no"
