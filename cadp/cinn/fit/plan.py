"""The frozen public plan of a private fit: clips, noise, lattice and events in one value."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from cadp.cinn.architecture import Shape, Whitening
from cadp.cinn.fit.contributions import check_total
from cadp.cinn.fit.mixture_plan import choose_components, lloyd_queries, moments_share, spread_query
from cadp.cinn.fit.query import Query
from cadp.cinn.fit.tones_plan import SHARE as TONES_SHARE
from cadp.cinn.fit.tones_plan import UNIT, choose_knots, tones_query
from cadp.errors import PrivacyError
from cadp.privacy.accountant import calibrate_gaussian, curve
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event

__all__ = ["MomentsPlan", "Query", "choose_architecture"]

# Radii as fractions of √d, for pixels in [0, 1]. PIXELS is where the sensitivity √2·R is √d, the distance of a white
# picture from a black one: no two are farther apart, so a larger clip norm would pay for nothing, and a smaller one
# bends the means of bright classes. WITHIN is the .95 quantile of ‖x − class mean‖/√d on the public handwritten digits
# of scikit-learn (1,797 images of 8×8, divided by 16), rounded to 1/64: a covariance lives in its tail. RESIDUAL is
# half of WITHIN by decision: digits have too little fine detail to say.
PIXELS = math.sqrt(0.5)
WITHIN = 19 / 64
RESIDUAL = WITHIN / 2
# Every clipped vector is rounded to this lattice: a quarter of an 8-bit grey level.
STEP = 2.0**-10
# Where noise would be too wide for exact sampling and 64-bit sums, the lattice is made coarser, up to one grey level.
COARSEST_STEP = 2.0**-8
WIDEST_SIGMA = 2.0**39
# Noise multipliers in proportion: class means : covariance : class covariances : residual energies. Their provenance:
# chosen on Fashion-MNIST, a public dataset, as were SHRINKAGE and the 64 dimensions of `choose_architecture`. For other
# sources they are constants fixed beforehand; for Fashion-MNIST itself that choice is not in the charge. scikit-learn's
# digits do not settle one vector: their held-out likelihood prefers another one at each image size.
WEIGHTS = (4.0, 1.0, 1.75, 6.0)
BANDS = 16
# With private labels the class counts are asked for as well, by a rule fixed beforehand: counts of thousands bear far
# more noise than the sums do, and at this multiplier they take under 1 % of μ².
COUNTS_WEIGHT = 12.0


@dataclass(frozen=True, slots=True)
class MomentsPlan:
    """Everything public about one private fit of a `ConditionalFlow`.

    The queries are composed adaptively: each clips whatever the earlier ones returned, so μ² adds up.

    Attributes:
        architecture: the network that is fitted.
        units: number of units in the training set, public.
        mean: class sums of pixels.
        covariance: outer products of the centred low-frequency block, over all classes.
        class_covariance: outer products of the k whitened principal dimensions, by class.
        residual: energies of everything else, by class and frequency band.
        step: the lattice step, in pixels or in whitened units.
        counts: with private labels, the class counts; None where they are public.
        mixture: sums of the principal dimensions by class and component, a query an iteration; none without a mixture.
        spread: outer products of the whitened k dimensions by class and component; None without a mixture.
        tones: histograms of every channel's values; None without a tone curve.
    """

    architecture: Whitening
    units: int
    mean: Query
    covariance: Query
    class_covariance: Query
    residual: Query
    step: float
    counts: Query | None = None
    mixture: tuple[Query, ...] = ()
    spread: Query | None = None
    tones: Query | None = None

    @classmethod
    def calibrate(
        cls,
        epsilon: float,
        delta: float,
        shape: Shape,
        classes: int,
        *,
        units: int,
        max_records_per_unit: int = 1,
        private_labels: bool = False,
    ) -> "MomentsPlan":
        """The plan that costs at most `epsilon` at `delta` by the accountant, replace-one.

        With `private_labels`, neighbours may differ in labels, and the class counts are one more query.

        Raises:
            PrivacyError: ε, δ or a count is out of range, or ε is too small for any answer at this δ and shape.
        """
        if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
            raise PrivacyError(f"training at ε = {epsilon}, δ = {delta}: ε is positive and finite, δ between 0 and 1")
        if units < 1 or max_records_per_unit < 1:
            raise PrivacyError(f"units {units} and records per unit {max_records_per_unit} must be at least 1")
        mu = calibrate_gaussian(epsilon, delta)
        if mu == 0:
            raise PrivacyError(f"training at ε = {epsilon} buys no answer at δ = {delta:.0e}: raise ε or δ")
        architecture = choose_architecture(epsilon, shape, classes, units)
        components = choose_components(mu, architecture, units, max_records_per_unit)
        tones = choose_knots(mu, shape, units, max_records_per_unit)
        architecture = replace(architecture, components=components, tones=tones)
        plan = cls.split(mu, architecture, units, max_records_per_unit, private_labels=private_labels)
        # Each event rounds up; give back the last digits.
        while curve(plan.event()).epsilon(delta) > epsilon:
            mu *= 1 - 2.0**-20
            plan = cls.split(mu, architecture, units, max_records_per_unit, private_labels=private_labels)
        return plan

    @classmethod
    def split(
        cls, mu: float, architecture: Whitening, units: int, records: int, *, private_labels: bool = False
    ) -> "MomentsPlan":
        """Split a total μ over the queries: multiplier wᵢ·s with Σ 1/(wᵢ·s)² = μ².

        Raises:
            PrivacyError: so much noise, or so many records, do not fit 64-bit sums on the coarsest lattice.
        """
        step = STEP
        plan = cls._on_lattice(step, mu, architecture, units, records, private_labels=private_labels)
        while step < COARSEST_STEP and max(query.sigma for query in plan.queries) > WIDEST_SIGMA:
            step *= 2
            plan = cls._on_lattice(step, mu, architecture, units, records, private_labels=private_labels)
        for query in plan.queries:
            if query.sigma > WIDEST_SIGMA:
                raise PrivacyError(
                    f"the {query.name} need noise of {query.sigma:.1e} lattice units, at most {WIDEST_SIGMA:.1e} is "
                    f"exact: raise ε, or lower the records per unit ({records})"
                )
            check_total(units * records, query.bound)
        return plan

    @classmethod
    def _on_lattice(
        cls, step: float, mu: float, architecture: Whitening, units: int, records: int, *, private_labels: bool
    ) -> "MomentsPlan":
        weights = (*WEIGHTS, COUNTS_WEIGHT) if private_labels else WEIGHTS
        share = moments_share(architecture) - (TONES_SHARE if architecture.tones else 0.0)
        scale = math.sqrt(sum(1 / weight**2 for weight in weights) / share) / mu
        root = math.sqrt(architecture.dims)
        radii = (PIXELS * root, WITHIN * root, math.sqrt(architecture.content), RESIDUAL * root)
        names = ("class means", "covariance", "class covariances", "residual energies")
        powers: tuple[Literal[1, 2], ...] = (1, 2, 2, 2)
        mean, covariance, class_covariance, residual = (
            Query(name, power, math.ceil(radius / step), weight * scale, records)
            for name, power, radius, weight in zip(names, powers, radii, WEIGHTS, strict=True)
        )
        # Each record is 1 in its class: two records of different classes are √2 apart, as contributions of norm 1 are.
        counts = Query("class counts", 1, 1, COUNTS_WEIGHT * scale, records) if private_labels else None
        mixture = lloyd_queries(mu, architecture, covariance.radius, records)
        spread = spread_query(mu, architecture, step, records)
        tones = tones_query(mu, architecture.shape, records) if architecture.tones else None
        return cls(
            architecture, units, mean, covariance, class_covariance, residual, step, counts, mixture, spread, tones
        )

    @property
    def content(self) -> int:
        """`k`, the principal dimensions: the most that a mechanism may carry."""
        return self.architecture.content

    @property
    def queries(self) -> tuple[Query, ...]:
        """The queries, in the order they are asked."""
        counts = () if self.counts is None else (self.counts,)
        spread = () if self.spread is None else (self.spread,)
        tones = () if self.tones is None else (self.tones,)
        moments = (*counts, self.mean, self.covariance, self.class_covariance, self.residual)
        return (*moments, *self.mixture, *spread, *tones)

    def event(self) -> Event:
        """The loss of the whole fit, replace-one."""
        return ComposedEvent(events=tuple(query.event() for query in self.queries))

    def zero_out_event(self) -> Event:
        """The loss of the whole fit when a unit's contribution is replaced by zero."""
        events = tuple(query.zero_out_event() for query in self.queries)
        return ComposedEvent(events=events, relation=ZERO_OUT)

    def parameters(self) -> dict[str, object]:
        """The public facts of the plan, JSON-ready, for the ledger and the privacy statement."""
        return {
            "kind": "moments",
            "architecture": self.architecture.to_json(),
            "units": self.units,
            "max_records_per_unit": self.mean.records,
            "lattice_step": self.step,
            "queries": [
                {
                    "name": query.name,
                    "clip_norm": query.radius * self._step_of(query),
                    "sensitivity": query.sensitivity * self._step_of(query) ** query.power,
                    "noise_multiplier": query.noise_multiplier,
                }
                for query in self.queries
            ],
        }

    def _step_of(self, query: Query) -> float:
        if query is self.counts:
            return 1.0
        return 1 / UNIT if query is self.tones else self.step


def choose_architecture(epsilon: float, shape: Shape, classes: int, units: int) -> Whitening:
    """The network for a budget, by a public rule of ε, the number of units and the shape.

    The block is half the shorter side, at least 8 and at most 16 frequencies. The content is 64 dimensions for 60,000
    units at ε = 8; every halving of ε·units costs 8 of them, because noise per unit grows; never fewer than 8, nor more
    than 96 or the block holds.
    """
    h, w, c = shape
    block = min(h, w, max(8, min(16, min(h, w) // 2)))
    halvings = math.log2(8 * 60_000 / (max(epsilon, 1e-9) * units))
    content = min(96, max(8, 8 * round((64 - 8 * halvings) / 8)), block * block * c)
    return Whitening(shape, classes, block, content, BANDS)
