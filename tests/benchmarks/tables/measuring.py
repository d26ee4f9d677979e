"""Fit, release and score one table, by the code that a release runs; storage, ledger and audit are left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadp.cinn.fit.moments import fit_moments
from cadp.cinn.fit.plan import MomentsPlan, choose_architecture
from cadp.columns import Table, rows_in_columns
from cadp.privacy.accountant import calibrate_gaussian, curve
from cadp.privacy.mechanisms import plan_mechanism
from cadp.publish.histograms import counts
from cadp.records import ENTRIES, Batch, Values, stack
from cadp.reporter import Silent
from cadp.shards import decode_values
from cadp.sources import PublicFacts, open_source
from cadp.spec import ReleaseSpec, load_spec
from cadp.steps.classify import Kind, train
from cadp.steps.privatize import privatize_batch
from tests.benchmarks.tables.marginals import columns_alone
from tests.benchmarks.utility.retention import others

ROOT = Path(__file__).resolve().parents[3]
TABLES = ("breast-cancer", "diabetes")
CARRIED, SINGLE, RESAMPLED, ALONE = "p/o", "p/o, one Gaussian a class", "resample", "columns alone"
WAYS = (CARRIED, SINGLE, RESAMPLED, ALONE)
KINDS: tuple[Kind, ...] = ("linear", "boosting")
EPSILONS = (1.0, 3.0, 8.0, 10.0)
DELTA = 1e-4
MODEL_SHARE = 0.6  # of ε where the record's latent is carried; decided beforehand
CONTENT_DIMS = 4


@dataclass(frozen=True)
class Originals:
    """A table as its example spec declares it: rows to release and rows held out."""

    spec: ReleaseSpec
    facts: PublicFacts
    rows: Batch
    held_out: Batch

    @property
    def table(self) -> Table:
        """What the columns are."""
        if self.facts.table is None:
            raise ValueError(f"{self.spec.name} is no table")
        return self.facts.table

    @property
    def majority(self) -> float:
        """Accuracy of always saying the largest class of the rows to release."""
        largest = int(np.bincount(self.rows.labels).argmax())
        return float((self.held_out.labels == largest).mean())


@dataclass(frozen=True)
class Figures:
    """What one release of a table is like.

    Attributes:
        accuracy: by kind of classifier, on the rows held out.
        apart: mean over columns of the total variation distance between histograms by class, released and original.
        untied: mean difference between correlations of two entries in a class, released and original.
        nearer: the share of rows that are nearer their own original than another of the same class; chance is .50.
        epsilon: by the ledger's accountant, replace-one.
    """

    accuracy: dict[str, float]
    apart: float
    untied: float
    nearer: float
    epsilon: float


def originals(name: str, data: Path) -> Originals:
    """Read a table that ships with scikit-learn; it is public."""
    spec = load_spec(ROOT / "docs" / "examples" / f"{name}.yaml")
    source = open_source(spec.source, data_dir=data)
    shape = source.facts.shape
    train_rows, held_out = (
        stack(list(source.records(split, lambda *_: None)), shape, ENTRIES) for split in ("train", "test")
    )
    return Originals(spec, source.facts, train_rows, held_out)


def planned(own: Originals, epsilon: float, *, mixtures: bool = True) -> MomentsPlan:
    """The fit that a release of this ε for the model would run; without `mixtures`, one Gaussian a class by force."""
    facts = own.facts
    shape, classes, units = facts.shape, len(facts.classes), facts.unit_count
    if mixtures:
        return MomentsPlan.calibrate(epsilon, DELTA, shape=shape, classes=classes, units=units)
    mu, network = calibrate_gaussian(epsilon, DELTA), choose_architecture(epsilon, shape, classes, units)
    while curve((plan := MomentsPlan.split(mu, network, units, 1)).event()).epsilon(DELTA) > epsilon:
        mu *= 1 - 2.0**-20
    return plan


def ways(own: Originals, epsilon: float) -> list[str]:
    """What is measured at this ε: one Gaussian a class apart where the rule gives several."""
    several = planned(own, MODEL_SHARE * epsilon).architecture.components > 0
    return [way for way in WAYS if way != SINGLE or several]


def released(own: Originals, epsilon: float, way: str = CARRIED) -> tuple[Batch, float]:
    """One released row for each original, in their order, and what it costs.

    Args:
        own: the table.
        epsilon: for model and records together.
        way: `CARRIED` by PrivUnit; `SINGLE`, that without mixtures, whatever the rule says; `RESAMPLED`, where the
            record's latent is not used and the model has the whole ε; or `ALONE`, the baseline without a network.
    """
    if way == ALONE:
        return columns_alone(own.table, own.rows, epsilon, DELTA)
    facts, carry = own.facts, way != RESAMPLED
    share = MODEL_SHARE if carry else 1.0
    plan = planned(own, share * epsilon, mixtures=way != SINGLE)
    rest = (1 - share) * epsilon if carry else 0.0
    mechanism = plan_mechanism(
        "privunit" if carry else "resample", epsilon=rest, delta=DELTA, content_dims=CONTENT_DIMS
    )
    sizes = np.bincount(own.rows.labels, minlength=len(facts.classes)).astype(np.int64)
    flow = fit_moments(lambda: [own.rows], plan, sizes, Silent())
    made = privatize_batch(flow, mechanism, own.rows)
    rows = np.stack([decode_values(one.data, facts.shape, ENTRIES) for one in made])
    cost = (curve(plan.event()) + curve(mechanism.event())).epsilon(DELTA)
    return Batch(rows, own.rows.labels, own.rows.valid), cost


def accuracies(own: Originals, rows: Batch) -> dict[str, float]:
    """Each classifier trained on `rows`, on the rows held out."""
    found = {}
    for kind in KINDS:
        classifier = train(kind, own.facts, rows.images, rows.labels, Silent())
        found[kind] = classifier.correct(own.held_out) / len(own.held_out)
    return found


def measure(own: Originals, epsilon: float, way: str) -> Figures:
    """Release once, with fresh noise, and look."""
    rows, cost = released(own, epsilon, way)
    return Figures(accuracies(own, rows), apart(own, rows), untied(own, rows), nearer(own, rows), cost)


def apart(own: Originals, rows: Batch) -> float:
    """Mean total variation distance between columns' histograms, class by class, of `rows` and of the originals."""
    gaps = []
    for one, other in zip(_histograms(own, rows), _histograms(own, own.rows), strict=True):
        p, q = one / one.sum(), other / other.sum()
        gaps.append(0.5 * np.abs(p - q).sum())
    return float(np.mean(gaps))


def untied(own: Originals, rows: Batch) -> float:
    """Mean over classes and pairs of entries of |r − r'|, correlations in `rows` and in the originals."""
    gaps = []
    for label in np.unique(own.rows.labels):
        one, other = (_correlations(batch.images[batch.labels == label]) for batch in (rows, own.rows))
        gaps.append(np.abs(one - other)[np.triu_indices(len(one), 1)].mean())
    return float(np.mean(gaps))


def nearer(own: Originals, rows: Batch) -> float:
    """The share of rows nearer, entry by entry, to their own original than to a random other of the same class."""
    images, out = (batch.images.reshape(len(batch), -1).astype(np.float64) for batch in (own.rows, rows))
    other = images[others(own.rows.labels)]
    return float((np.square(out - images).sum(axis=1) < np.square(out - other).sum(axis=1)).mean())


def _correlations(images: Values) -> NDArray[np.float64]:
    """Of each two entries; 0 with one that is the same everywhere."""
    entries = images.reshape(len(images), -1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.corrcoef(entries, rowvar=False))


def _histograms(own: Originals, rows: Batch) -> Iterator[NDArray[np.int64]]:
    columns = rows_in_columns(own.table, rows.images.reshape(len(rows), -1))
    for column in own.table.columns:
        yield counts(column, columns[column.name], rows.labels, len(own.facts.classes))
