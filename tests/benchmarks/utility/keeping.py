"""The part of the report on what a released record keeps of the original it came from."""

from cadp.privacy.events import RELATION
from tests.benchmarks.utility.cells import Release, Training, cells
from tests.benchmarks.utility.markdown import paragraph, section, table
from tests.benchmarks.utility.summary import NONE, Summary

_WORDS = """*Nearer its own*: the share of records whose released image is nearer, by pixel distance, to their own
original than to a random other of the same class (chance: .50). Cosines are of pictures less the mean of their class.
The latent cosine is over the k content dimensions, beside what the mechanism's plan expects. `kept` passes content
latents on as they are: no mechanism, and not private, it says what k dimensions carry at best. `resample` is the
ablation: with the model's ε alone, or with as much as model and record have together."""


def what_records_keep(summary: Summary) -> str:
    """Mechanisms at record level, and the ablation."""
    found = [cell for cell in cells() if isinstance(cell, Release) and cell.mechanism != "resample"]
    found += [Release(Training(epsilon, RELATION)) for epsilon in (4.0, 8.0, 12.0)]
    heads = ["model ε", "mechanism", "record ε", "k", "total ε, replace-one", "nearer its own", "cosine to own"]
    heads += ["to another", "latent cosine", "expected", "p/o", "Fréchet"]
    return section("What a record keeps of its own", paragraph(_WORDS), table(heads, [_row(summary, c) for c in found]))


def _row(summary: Summary, cell: Release) -> list[str]:
    result = summary.first(cell)
    losses = result.values["plan"]["epsilon"] if result else {}
    return [
        f"{cell.training.epsilon:g}, {cell.training.relation}",
        cell.mechanism,
        f"{cell.epsilon:g}" if cell.epsilon else NONE,
        f"{cell.dims}" if cell.dims else NONE,
        f"{losses[RELATION]:.2f}" if losses else NONE,
        *(summary.of(cell, what).text() for what in ("nearer", "cosine_own", "cosine_other")),
        *(summary.of(cell, what).text() for what in ("cosine_latent", "cosine_expected")),
        summary.accuracy(cell).text(),
        summary.of(cell, "frechet").text(2),
    ]
