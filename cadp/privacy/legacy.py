"""`legacy`: the mechanism of the published CADP code, for reproduction only. It has NO GUARANTEE.

Source: Tölle et al. 2022 (arXiv 2207.14625) and the code published with it, whose record path is

    s = min(ε/2, 4);   Z ← s·Z/‖Z‖₁ if ‖Z‖₁ > s;   Z + Laplace(s/ε) on every entry;   decode under the true label.

Z is the `(n, d)` matrix of a whole batch and ‖Z‖₁ its *matrix* norm, the largest column sum of magnitudes. So a record
is scaled by what the other records hold, and each of its d entries may be as large as s. The scale s/ε is .5 for every
ε ≤ 8. What replacing one record can cost, with Z and Z' clipped:

    Σ_ij |Z_ij − Z'_ij| ≤ Σ_j (‖column j of Z‖₁ + ‖column j of Z'‖₁) ≤ 2·s·d,    over a scale of s/ε:  2·d·ε,

and a record of entries s among zeros against one of −s has exactly that: 1,568 at "ε = 1" on 28×28 pixels. Nothing
is brought back to the model's N(0, I) afterwards, so the decoder gets codes that it was not fitted for.

What is not copied: their float32 sampler, a further flaw, and that the last batch was dropped. With a `delta` of 1,
their default, every mechanism there is would be (ε, δ)-private.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.content import content_rows, with_prior
from cadp.privacy.events import RELATION, ZERO_OUT, Event
from cadp.privacy.precision import decimal, float_up

Floats = NDArray[np.float64]

NO_GUARANTEE = "NO GUARANTEE"
_MOST_SENSITIVITY = 4.0
STEP = 2.0**-24
"""Of the noise, on which it is drawn: finer than their float32."""


@dataclass(frozen=True)
class NominalEvent(Event):
    """An ε that is only said. It has no curve and `Event.from_json` does not read it, so nothing charges it."""

    kind: ClassVar[str] = "no-guarantee"

    epsilon: float

    def _values(self) -> dict[str, object]:
        return {"epsilon": self.epsilon, "guarantee": NO_GUARANTEE}


@dataclass(frozen=True)
class Legacy:
    """One matrix norm over the batch, a sensitivity of s, and Laplace noise of scale s/ε on every latent.

    Attributes:
        content_dims: d, all latents.
        nominal: the ε that the published code gives it.
    """

    kind: ClassVar[str] = "legacy"

    content_dims: int
    nominal: float

    @classmethod
    def plan(cls, epsilon: float, content_dims: int) -> "Legacy":
        """Return the mechanism at a nominal ε; there is nothing to calibrate."""
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise PrivacyError(f"legacy needs a positive, finite nominal epsilon, not {epsilon}")
        if type(content_dims) is not int or content_dims < 1:
            raise PrivacyError(f"content_dims is {content_dims!r}: legacy needs at least 1")
        return cls(content_dims, epsilon)

    @property
    def sensitivity(self) -> float:
        """What the published code takes for it: s = min(ε/2, 4)."""
        return min(self.nominal / 2, _MOST_SENSITIVITY)

    @property
    def scale(self) -> float:
        """Scale of the noise, s/ε: .5 for every ε up to 8."""
        return self.sensitivity / self.nominal

    @property
    def worst_case(self) -> float:
        """What replacing one record can cost, whatever the batch: 2·s·d over the scale; rounded up."""
        return float_up(2 * self.content_dims * decimal(self.sensitivity) / decimal(self.scale))

    def event(self) -> Event:
        """Return the nominal ε, which nothing charges."""
        return NominalEvent(self.nominal)

    def zero_out_event(self) -> Event:
        """Return the nominal ε, which nothing charges."""
        return NominalEvent(self.nominal, relation=ZERO_OUT)

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Return `(n, d)` noisy latents. Row i depends on *every* row: that is the flaw that is reproduced."""
        content = content_rows(z, valid, self.content_dims)
        with np.errstate(over="ignore"):
            norm = float(np.abs(content).sum(axis=0).max(initial=0.0))
        if norm > self.sensitivity:
            content = content * (self.sensitivity / norm)
        drawn = noise.discrete_laplace(Fraction(self.scale) / Fraction(STEP), content.shape)
        return with_prior(content + drawn * STEP, z.shape)

    def expected_cosine(self) -> float:
        """Return the mean cosine for batches of one, roughly; larger batches keep less.

        A lone record z ~ N(0, I_d) is scaled to a largest entry of s: ‖z‖ ≈ √d and its largest entry ≈ √(2·ln 2d).
        """
        signal = (self.sensitivity / math.sqrt(2 * math.log(2 * self.content_dims))) ** 2
        return math.sqrt(signal / (signal + 2 * self.scale**2))

    def parameters(self) -> dict[str, object]:
        """Return the public parameters as run, stamped."""
        return {
            "guarantee": NO_GUARANTEE,
            "content_dims": self.content_dims,
            "clip": "one matrix norm over the batch",
            "clip_norm": self.sensitivity,
            "noise": "Laplace",
            "scale": self.scale,
            "nominal_epsilon": self.nominal,
            "nominal_sensitivity": self.sensitivity,
            "worst_case_epsilon": self.worst_case,
            "relation": RELATION,
        }
