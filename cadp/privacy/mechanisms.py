"""The mechanisms that a record's latent can go through, by name, and what they have in common."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.additive import Gaussian, Laplace
from cadp.privacy.events import RELATION, ZERO_OUT, ComposedEvent, Event
from cadp.privacy.legacy import Legacy
from cadp.privacy.precision import decimal, float_down
from cadp.privacy.privunit import PrivUnit

Floats = NDArray[np.float64]
Kind = Literal["privunit", "gaussian", "laplace", "resample", "legacy"]

__all__ = ["Gaussian", "Kind", "Laplace", "Legacy", "Mechanism", "PrivUnit", "Resample", "plan_mechanism"]


@runtime_checkable
class Mechanism(Protocol):
    """A local mechanism: a frozen plan that holds clip, noise and event together, so that they cannot drift apart."""

    @property
    def kind(self) -> str:
        """The name in a spec."""

    @property
    def content_dims(self) -> int:
        """k: how many leading latents carry the record; the others are drawn from the prior."""

    def event(self) -> Event:
        """Return the replace-one event of one record."""

    def zero_out_event(self) -> Event:
        """Return the event of replacing one record by the zero latent: a companion figure, never summed or charged."""

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Privatize each row alone.

        Args:
            z: `(n, d)` latents, any values; only the first `content_dims` columns are read.
            valid: `(n,)`; False for a refused record, which enters as the zero latent, as does a row with a NaN or an
                infinity in its content.

        Returns:
            `(n, d)` float64, ≈ N(0, I) over records. Row i has the same law whatever the other rows hold.

        Raises:
            PrivacyError: the shapes don't fit.
        """

    def expected_cosine(self) -> float:
        """Return the mean cosine between a record's content and its privatized content, for z ~ N(0, I_k)."""

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run, JSON values."""


@dataclass(frozen=True)
class Resample:
    """The record's latent is not used: all latents are drawn from the prior. Loss 0 (model and labels cost theirs)."""

    kind: ClassVar[str] = "resample"

    content_dims: int = 0

    def event(self) -> Event:
        """Return the event that costs nothing."""
        return ComposedEvent(())

    def zero_out_event(self) -> Event:
        """Return the event that costs nothing."""
        return ComposedEvent((), relation=ZERO_OUT)

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Return `(n, d)` draws from the prior; only the shape of `z` is used."""
        if z.ndim != 2 or valid.shape != (len(z),):
            raise PrivacyError(f"latents {z.shape} and valid {valid.shape} do not fit")
        return noise.standard_normal(z.shape)

    def expected_cosine(self) -> float:
        """Return 0: nothing is carried."""
        return 0.0

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run."""
        return {"content_dims": 0, "clip": "none", "noise": "prior only", "relation": RELATION}


def plan_mechanism(kind: Kind, *, epsilon: float, delta: float, content_dims: int) -> Mechanism:
    """Choose a mechanism's parameters so that it costs at most ε (at δ, which only `gaussian` uses) per record.

    Raises:
        PrivacyError: an unknown kind, fewer than one content dimension, or a loss that the mechanism cannot have.

    Example:
        >>> plan_mechanism("privunit", epsilon=4.0, delta=0.0, content_dims=8).event().epsilon <= 4.0
        True
    """
    if kind == "resample":
        return Resample()
    if kind == "legacy":
        return Legacy.plan(epsilon, content_dims)
    if not (math.isfinite(epsilon) and epsilon >= 1e-6):
        raise PrivacyError(f"epsilon is {epsilon}: {kind} needs a finite one, at least 1e-06 (resample costs nothing)")
    # Charges are whole micro-nats, rounded up: what is planned must fit a limit of exactly what was asked.
    epsilon = float_down(Fraction(math.floor(decimal(epsilon) * 10**6), 10**6))
    if type(content_dims) is not int or content_dims < 1:
        raise PrivacyError(f"content_dims is {content_dims!r}: {kind} needs at least 1")
    if kind == "privunit":
        return PrivUnit.plan(epsilon, content_dims)
    if kind == "gaussian":
        return Gaussian.plan(epsilon, delta, content_dims)
    if kind == "laplace":
        return Laplace.plan(epsilon, content_dims)
    raise PrivacyError(f"unknown mechanism {kind!r}: it is privunit, gaussian, laplace, resample or legacy")
