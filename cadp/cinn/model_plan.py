"""How a release's model is trained: moments alone, or moments and then couplings; the loss is split by a public rule.

*The split.* With couplings, the moments get the Gaussian budget of the whole, μ² reduced by `SHARE`: more is worth less
to statistics of which the accountant sees every part. DP-SGD then takes the least noise with which both together cost
what the spec gives, by the ledger's accountant. Nothing in it depends on data.
"""

import math
from dataclasses import dataclass

from cadp.cinn.architecture import Coupled, Shape, Whitening
from cadp.cinn.dp_sgd.plan import SHARE, SgdPlan, coupled
from cadp.cinn.fit.plan import MomentsPlan
from cadp.errors import PrivacyError
from cadp.privacy.accountant import calibrate_gaussian, curve
from cadp.privacy.events import ComposedEvent, Event, GaussianEvent


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything public about the training of one model, under one charge.

    Attributes:
        moments: the statistics that fit the whitening.
        couplings: DP-SGD of the couplings behind it, if there are any.
    """

    moments: MomentsPlan
    couplings: SgdPlan | None = None

    @classmethod
    def calibrate(
        cls,
        epsilon: float,
        delta: float,
        *,
        shape: Shape,
        classes: int,
        units: int,
        max_records_per_unit: int = 1,
        private_labels: bool = False,
        fraction: float | None = None,
    ) -> "ModelPlan":
        """The plan that costs at most `epsilon` at `delta`, replace-one.

        Args:
            epsilon: for all of it.
            delta: of the release.
            shape: `(h, w, c)` of a record.
            classes: number of labels.
            units: of the training set.
            max_records_per_unit: `m`.
            private_labels: whether neighbours may differ in labels.
            fraction: of the units that DP-SGD reads; None for no couplings.

        Raises:
            PrivacyError: ε is too small for any answer.
        """
        share = epsilon if fraction is None else _moments_share(epsilon, delta)
        moments = MomentsPlan.calibrate(
            share,
            delta,
            shape=shape,
            classes=classes,
            units=units,
            max_records_per_unit=max_records_per_unit,
            private_labels=private_labels,
        )
        if fraction is None:
            return cls(moments)
        couplings = SgdPlan.calibrate(
            epsilon,
            delta,
            moments.event(),
            architecture=coupled(moments.architecture),
            units=units,
            max_records_per_unit=max_records_per_unit,
            fraction=fraction,
        )
        return cls(moments, couplings)

    @property
    def architecture(self) -> Whitening | Coupled:
        """The network that comes out."""
        return self.moments.architecture if self.couplings is None else self.couplings.architecture

    def event(self) -> Event:
        """The loss of the training, replace-one: all its queries and all its steps."""
        return _both(self.moments.event(), None if self.couplings is None else self.couplings.event())

    def zero_out_event(self) -> Event:
        """The loss when a unit's contribution is replaced by zero."""
        return _both(self.moments.zero_out_event(), None if self.couplings is None else self.couplings.zero_out_event())

    def words(self) -> str:
        """What is done, in a line."""
        whitening = self.moments.architecture
        mixture = f", mixtures of {whitening.components}" if whitening.components else ""
        moments = f"class moments, {whitening.content} principal dimensions{mixture}, Gaussian"
        return moments if self.couplings is None else f"{moments}; couplings by DP-SGD"

    def parameters(self) -> dict[str, object]:
        """The public facts of the plan, JSON-ready."""
        moments = self.moments.parameters()
        if self.couplings is None:
            return moments
        return {"kind": "moments, dp-sgd", "moments": moments, "couplings": self.couplings.parameters()}


def _moments_share(epsilon: float, delta: float) -> float:
    mu = calibrate_gaussian(epsilon, delta) * math.sqrt(1 - SHARE)
    if mu == 0:
        raise PrivacyError(f"training at ε = {epsilon} buys no answer at δ = {delta:.0e}: raise ε or δ")
    return curve(GaussianEvent(mu)).epsilon(delta)


def _both(first: Event, second: Event | None) -> Event:
    if second is None:
        return first
    return ComposedEvent(events=(first, second), relation=first.relation)
