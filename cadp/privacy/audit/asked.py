"""Training under audit: what the fit asks of its records, the sums it gets, and the answers it works with.

The fit asks for integer sums, one query after another, and adds noise to each. So its loss on two datasets is known
exactly, once the answers are given: with the same answers to all earlier queries, the sums of the next one differ by
some integers, and Σ (difference/σ)² over all of them is the μ² of this pair of datasets. The sums are those of the
code that runs; only the answers may be dictated. Whatever of a record is in the model beside its answers shows too:
with the same answers two models must have the same bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.watch import Draw
from cadp.privacy.events import Event

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Images = NDArray[np.uint8]
Dictate = Callable[[int, Integers], Integers]
"""(number of the query, its true sums) → the answer that the fit goes on with."""


class PlannedQuery(Protocol):
    """One planned sum."""

    @property
    def name(self) -> str:
        """What is summed."""

    @property
    def power(self) -> int:
        """1 for sums of vectors, 2 for sums of their squares or outer products."""

    @property
    def bound(self) -> int:
        """The largest norm of one record's integers."""

    @property
    def radius(self) -> int:
        """The clip norm of the vectors."""

    @property
    def count(self) -> int:
        """The last entry of every record's vector, the same for all; 0 where there is none."""

    @property
    def records(self) -> int:
        """m, the most records of one unit."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in integer units."""


@dataclass(frozen=True)
class Dataset:
    """Synthetic records: `(n, h, w, c)` images, `(n,)` labels, and `(n,)` which of them could be read."""

    images: Images
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """One query of one fit.

    Attributes:
        name: which.
        symmetric: whether the sums are symmetric matrices: then noise is drawn for the upper triangle and the diagonal.
        sums: the true ones.
        noisy: the answer.
        draws: what was drawn for it; nothing where the answer was dictated.
    """

    name: str
    symmetric: bool
    sums: Integers
    noisy: Integers
    draws: tuple[Draw, ...]

    def noise(self) -> Integers:
        """Return the noise that the draws make up.

        Raises:
            PrivacyError: they are not one integer for each number that is asked for.
        """
        shape = self.sums.shape
        upper = shape[-1] * (shape[-1] - 1) // 2 if self.symmetric else 0
        due = [(*shape[:-2], upper), shape[:-1]] if self.symmetric else [shape]
        if [draw.values.shape for draw in self.draws] != due or any(d.values.dtype != np.int64 for d in self.draws):
            found = [(draw.values.shape, str(draw.values.dtype)) for draw in self.draws]
            raise PrivacyError(f"{self.name}: integer draws of {due} were due, there were {found}")
        if not self.symmetric:
            return self.draws[0].values
        noise = np.zeros(shape, dtype=np.int64)
        rows, columns = np.triu_indices(shape[-1], 1)
        noise[..., rows, columns] = noise[..., columns, rows] = self.draws[0].values
        diagonal = np.arange(shape[-1])
        noise[..., diagonal, diagonal] = self.draws[1].values
        return noise

    def scales(self) -> tuple[Fraction, Fraction]:
        """Return σ beside the diagonal (or of all numbers) and on it, as they were drawn with."""
        return Fraction(self.draws[0].parameter), Fraction(self.draws[-1].parameter)


@dataclass(frozen=True)
class Fit:
    """One fit: what was asked, in order, and the tensors that came of it."""

    asked: tuple[Asked, ...]
    model: Mapping[str, Floats]

    def bits(self) -> bytes:
        """Return the model's bits."""
        return b"".join(name.encode() + tensor.tobytes() for name, tensor in sorted(self.model.items()))


@dataclass(frozen=True)
class FitPath:
    """The real fit under one plan, brought by whoever may import it.

    Attributes:
        queries: as planned.
        event: what is charged.
        parameters: what is public of the plan.
        shape: `(h, w, c)` of a record.
        classes: number of labels.
        private_labels: whether neighbours may differ in labels.
        waves: `(d, h, w, c)` orthonormal pictures, one a coefficient of the network's transform.
        low: how many of them, the first ones, are in the block that the fit looks at closely.
        run: dataset → fit; with the answers dictated, or as it runs.
    """

    queries: Sequence[PlannedQuery]
    event: Event
    parameters: Mapping[str, object]
    shape: tuple[int, int, int]
    classes: int
    private_labels: bool
    waves: Floats
    low: int
    run: Callable[[Dataset, Dictate | None], Fit]


def square_over_variance(asked: Asked, difference: Integers, scales: tuple[Fraction, Fraction]) -> Fraction:
    """Return Σ (difference/σ)² over the numbers that noise was drawn for, exactly: this query's μ² for two datasets."""
    if not asked.symmetric:
        return Fraction(_square(difference)) / scales[0] ** 2
    diagonal = np.diagonal(difference, axis1=-2, axis2=-1)
    if (difference != np.swapaxes(difference, -1, -2)).any():
        raise PrivacyError(f"{asked.name}: sums that are answered as symmetric matrices are not symmetric")
    beside = _square(difference) - _square(diagonal)
    return Fraction(beside, 2) / scales[0] ** 2 + Fraction(_square(diagonal)) / scales[1] ** 2


def _square(values: Integers) -> int:
    return sum(int(value) ** 2 for value in values[values != 0].tolist())
