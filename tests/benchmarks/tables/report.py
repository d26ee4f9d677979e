"""`docs/tables.md`: what was measured, in words and tables."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from tests.benchmarks.tables.marginals import BINS
from tests.benchmarks.tables.measuring import (
    CARRIED,
    CONTENT_DIMS,
    DELTA,
    EPSILONS,
    KINDS,
    MODEL_SHARE,
    RESAMPLED,
    Figures,
    Originals,
    planned,
    ways,
)
from tests.benchmarks.utility.markdown import paragraph, section, table

DRAWN_AT = 8.0
Measured = Mapping[tuple[float, str], Sequence[Figures]]
"""(ε, one of `WAYS`) → one entry a release."""


def report(
    tables: Sequence[tuple[Originals, Mapping[str, float], tuple[float, float], Measured]], releases: int, words: str
) -> str:
    """The page.

    Args:
        tables: of each its originals, o/o by classifier, how far apart and untied the two splits of the originals are,
            and the figures.
        releases: how many of each kind there were.
        words: on which machine.
    """
    head = """Written by `make bench-tables`; nothing here is typed by hand. The two tables of scikit-learn that the
        paper (arXiv 2207.14625) draws, breast cancer and diabetes, by the specs
        [breast-cancer.yaml](examples/breast-cancer.yaml) and [diabetes.yaml](examples/diabetes.yaml): rows of numbers
        with declared bounds and of categories with declared levels, a fixed fifth of them held out. Both are declared
        public, so originals may be drawn and scored as often as one likes here; a release of anything else shows
        neither, and its one accuracy is charged. The bounds in the two specs are the ranges that the documentation of
        these tables prints, which are of these very rows: public here, but of a private table that would be a figure
        taken from the data."""
    how = f"""**p/o**: a classifier trained on released rows, tested on the held-out originals. **o/o**: trained on
        originals. **resample**: p/o where the record's latent is not used and the model has the whole ε; else the model
        has {MODEL_SHARE:.0%} of it and PrivUnit on {CONTENT_DIMS} latents the rest. **columns alone**: a baseline
        without a network, rows drawn column by column from noisy histograms of {BINS} bins a class, which have the
        whole ε. The classifiers are the gate's,
        `cadp.utility.tabular`: logistic regression and gradient boosting. **apart**: mean total variation distance
        between the histograms of a column and class, released and original; 0 is the same. **untied**: mean difference
        between their correlations of two columns in a class. **nearer**: the share of released rows nearer their own
        original than another of its class; chance is .50. **one Gaussian a class** is measured apart where the public
        rule gives mixtures. ε is replace-one at
        δ = {DELTA:.0e}, labels public. Every figure is the mean of {releases} releases with fresh noise, ± their
        standard deviation; with about a hundred rows held out, an accuracy is uncertain by ±.03 to ±.05 beside that.
        {words}"""
    parts = [_table(*one) for one in tables]
    return "\n\n".join(["# Tables", paragraph(head), paragraph(how), *parts, _limits(), _declaring()]) + "\n"


def _table(own: Originals, direct: Mapping[str, float], splits: tuple[float, float], measured: Measured) -> str:
    facts, name = own.facts, own.spec.name
    about = f"""{facts.records} rows released and {facts.holdout_records} held out, {len(own.table.columns)} columns in
        {own.table.width} entries, {len(facts.classes)} classes ({", ".join(facts.classes)}). Always saying the largest
        class scores {own.majority:.3f}. Between the two splits of the originals, histograms are {splits[0]:.3f} apart
        and correlations {splits[1]:.3f}. {_mixtures(own)}"""
    rows = [["o/o", *(f"{direct[kind]:.3f}" for kind in KINDS), "0", "0", "–", "∞"]]
    for epsilon in EPSILONS:
        for way in ways(own, epsilon):
            found = measured[epsilon, way]
            title = f"{way}, ε = {epsilon:g}"
            accuracy = [_spread([one.accuracy[kind] for one in found]) for kind in KINDS]
            apart, nearer = _spread([one.apart for one in found]), _spread([one.nearer for one in found])
            untied = _spread([one.untied for one in found])
            rows.append([title, *accuracy, apart, untied, nearer, f"{max(one.epsilon for one in found):.3f}"])
    heads = ["", *KINDS, "apart", "untied", "nearer", "ε charged"]
    drawn = f"![Columns of {name}: originals filled, released at ε = {DRAWN_AT:g} as a line](images/tables-{name}.png)"
    return section(name.replace("-", " ").capitalize(), paragraph(about), table(heads, rows), drawn)


def _mixtures(own: Originals) -> str:
    """What the rule gives: Gaussians a class, by the ε that the model has."""
    told = []
    for way, share in ((CARRIED, MODEL_SHARE), (RESAMPLED, 1.0)):
        found = {epsilon: planned(own, share * epsilon).architecture.components for epsilon in EPSILONS}
        several = [f"{count} at ε = {epsilon:g}" for epsilon, count in found.items() if count]
        told.append(f"{way} {', '.join(several) or 'one at every ε'}")
    return f"Gaussians a class, one unless said, by the public rule: {'; '.join(told)}."


def _limits() -> str:
    said = """A few hundred rows are little. The noise of the moments does not depend on how many rows there are, so at
        ε = 1 released columns are much wider than the data's, and at any ε most of what one sees is the class means. A
        class is one Gaussian in the space of entries, or a mixture of a few in its principal dimensions where the
        public rule of ε and the number of rows gives one; a part of it then has a hundred rows at
        least, which neither of these tables has for three. With one, a skewed column comes out symmetric unless its
        scale is log; values pile up at a bound that cuts a distribution. Bounds that are needlessly wide
        cost accuracy; bounds taken from the data would cost privacy, so a spec says them and nothing derives them. The
        network behind a table is a whitening of all entries, fitted to their DP moments; dense couplings behind it
        (`couplings: true`) are trained by DP-SGD as for images. They are off by default and were not measured here."""
    beside = """The baseline of columns alone shows what that costs. For so few rows, of columns each of which tells
        the class, noisy histograms are hard to beat: at small ε they make the better columns and the better
        classifiers, and who needs nothing else is better served by them. They lose, at any ε, what columns have to do
        with each other, which the network keeps from about ε = 8 on, and every record's own content."""
    return section("Limits", paragraph(said), paragraph(beside))


def _declaring() -> str:
    said = """A table's source is a folder with `train.csv` and `test.csv` (or `.csv.gz`, or `.parquet`), one file a
        split, CSV in UTF-8 with a header line, and its spec says what is public of the columns; anything else in the
        files is never read. What is missing, unknown or does not fit is told with its line before anything runs."""
    rules = (
        "a number has `bounds`, and `scale: log` where ratios matter; `decimals` of a released one, 0 for an integer",
        "a category has up to 255 `levels`, in quotes where they look like a number or a truth value; an empty cell is "
        "none of them and makes its row a reject",
        "`outside` must be said: `clamp` moves a number beyond its bounds to the nearer one, `reject` rejects its row",
        "the label's column is released under its own name, and `source.classes` are its values; of a number, `edges` "
        "cut it into classes",
        "of several rows a person, `unit` names what a person is, `unit_column` the column of ids, which is never "
        "released, and `max_records_per_unit` how many rows of one are used; ids are text or integers, and a row that "
        "does not say whose it is stops the run",
        "the gate's classifier is `linear` or `boosting`",
    )
    bullets = "\n".join(textwrap.fill(f"- {rule}", 118, subsequent_indent="  ") for rule in rules)
    return section("Declaring a table", paragraph(said), _FORM, bullets)


_FORM = """```yaml
source:
  format: csv
  url: /srv/private/visits
  unit: patient
  why: a patient may have come more than once
  unit_column: patient id
  max_records_per_unit: 2
  records: 600                # all counts are public by declaration, and checked before anything is charged
  units: 300
  over_cap: 100
  holdout_records: 120
  holdout_units: 60
  labels: public
  classes: [well, ill]
  table:
    label: {column: outcome}
    outside: clamp
    columns:
      - {name: age, bounds: [0, 110], decimals: 0}
      - {name: ward, levels: [north, south, west]}
      - {name: marker level, bounds: [0.1, 1000], scale: log, decimals: 2}
```"""


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"
