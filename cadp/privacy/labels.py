"""What becomes of a record's label: published as it is, by randomized response, or drawn anew from public weights.

*Randomized response*: `cadp.privacy.label_response` has the proof, `cadp.privacy.label_attributes` that for labels of
several yes-or-no attributes. *Drawn anew*: no label is released, and nothing is lost; the weights are public, and a
rejected record is no exception.

A record is encoded with its true label and decoded with the released one. The coins of its label and the noise of its
latent are independent, so what one record costs is both losses together (sequential composition).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event
from cadp.privacy.label_attributes import AttributeResponse, ClassAttributes
from cadp.privacy.label_response import RandomizedResponse, plan_response
from cadp.privacy.precision import decimal

__all__ = [
    "AttributeResponse",
    "ClassAttributes",
    "LabelPlan",
    "PublicLabels",
    "RandomizedResponse",
    "ResampledLabels",
    "both",
    "plan_response",
    "plausible_counts",
]

Labels = NDArray[np.int64]

_MOST_WEIGHT = 1 << 62
_TAIL = 1e-9  # of a class: a release that is withheld for its class sizes has another fault than bad luck


@runtime_checkable
class LabelPlan(Protocol):
    """What happens to labels: a frozen plan that holds the coin and the event together."""

    @property
    def kind(self) -> str:
        """The name in a spec."""

    @property
    def private(self) -> bool:
        """Whether neighbours may differ in labels; class counts are private then, too."""

    def event(self) -> Event:
        """Return the replace-one event of one record's label."""

    def zero_out_event(self) -> Event:
        """Return the event of replacing one record's label by the null law's: a companion figure, never charged."""

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return the labels to release, each drawn for its record alone.

        Args:
            labels: `(n,)` true labels (`(n, a)` for vectors of attributes).
            valid: `(n,)`; False for a rejected record.

        Raises:
            PrivacyError: the shapes don't fit.
        """

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run, JSON values."""

    def words(self) -> str:
        """Say in a few words what is done."""


@dataclass(frozen=True)
class PublicLabels:
    """Labels are public by declaration: published as they are, at no charge."""

    kind: ClassVar[str] = "public"
    private: ClassVar[bool] = False

    def event(self) -> Event:
        """Return the event that costs nothing: neighbours have the same labels."""
        return ComposedEvent(())

    def zero_out_event(self) -> Event:
        """Return the event that costs nothing."""
        return ComposedEvent((), relation=ZERO_OUT)

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return the labels; a rejected record keeps its public one."""
        _fits(labels, valid)
        return labels.copy()

    def parameters(self) -> dict[str, object]:
        """Return the public parameters."""
        return {"kind": self.kind, "epsilon": 0.0}

    def words(self) -> str:
        """Say what is done."""
        return "labels public"


@dataclass(frozen=True)
class ResampledLabels:
    """Labels drawn from public class weights: the true one is not used, so nothing is lost.

    Attributes:
        weights: one for each class, in any scale; decimals are taken as written.
    """

    kind: ClassVar[str] = "resample"
    private: ClassVar[bool] = True

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or sum(self._whole()) <= 0:
            raise PrivacyError("labels are drawn from class weights of which at least one is above 0")

    def event(self) -> Event:
        """Return the event that costs nothing."""
        return ComposedEvent(())

    def zero_out_event(self) -> Event:
        """Return the event that costs nothing."""
        return ComposedEvent((), relation=ZERO_OUT)

    def release(self, labels: Labels, valid: NDArray[np.bool_]) -> Labels:
        """Return draws from the weights; only the number of `labels` is used."""
        _fits(labels, valid)
        ends = np.cumsum(np.array(self._whole(), dtype=np.int64))
        return np.searchsorted(ends, noise.uniform_below(int(ends[-1]), len(labels)), side="right").astype(np.int64)

    def shares(self) -> tuple[float, ...]:
        """Return the probability of each class."""
        whole = self._whole()
        return tuple(weight / sum(whole) for weight in whole)

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        return {"kind": self.kind, "epsilon": 0.0, "weights": list(self.weights), "sampler": "exact"}

    def words(self) -> str:
        """Say what is done."""
        return "labels drawn anew from public weights"

    def _whole(self) -> tuple[int, ...]:
        """The weights as whole numbers in the same proportion."""
        exact = [decimal(weight, "a class weight") for weight in self.weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        whole = tuple(int(weight * scale) for weight in exact)
        if sum(whole) >= _MOST_WEIGHT:
            raise PrivacyError(f"class weights {list(self.weights)} have too many digits for an exact draw: round them")
        return whole


def both(labels: LabelPlan, label: Event, latent: Event) -> Event:
    """Return the event of a record's label and latent together; the latent's alone where labels are public.

    The two are drawn independently, from the same record: sequential composition.
    """
    return ComposedEvent((label, latent), relation=latent.relation) if labels.private else latent


def plausible_counts(labels: LabelPlan, records: int) -> list[tuple[int, int]] | None:
    """Return the least and most records of each class that a release may have, whatever the true labels are.

    A record's released label is class j with a probability between two public ones, independently of the other records,
    so the size of class j lies between two binomials. None where labels are public, and the sizes with them.
    """
    if isinstance(labels, RandomizedResponse):
        shares = [((1 - labels.keep) / (labels.classes - 1), labels.keep)] * labels.classes
    elif isinstance(labels, ClassAttributes):
        shares = [labels.least_and_most()] * len(labels.vectors)
    elif isinstance(labels, ResampledLabels):
        shares = [(share, share) for share in labels.shares()]
    else:
        return None
    return [
        (max(0, int(stats.binom.ppf(_TAIL, records, low))), int(stats.binom.isf(_TAIL, records, high)))
        for low, high in shares
    ]


def _fits(labels: Labels, valid: NDArray[np.bool_]) -> None:
    if labels.ndim != 1 or valid.shape != labels.shape:
        raise PrivacyError(f"labels {labels.shape} and valid {valid.shape} do not fit")
