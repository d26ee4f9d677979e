"""The frozen public plan of DP-SGD: sampling, clip, lattice, noise, steps and events together. The plan is what runs.

A step draws each unit with probability q, adds up the integer contributions of those drawn, each of norm at most
`radius`, and adds discrete Gaussian noise of `sigma` to the sum (in `training`); `cadp.privacy.sampled` bounds
what that costs, with C = `radius` and the noise `smoothed`, all in lattice units.
"""

import math
from dataclasses import dataclass

from cadp.cinn.architecture import Coupled, Couplings, Whitening
from cadp.cinn.fit.contributions import check_total
from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.events import RELATION, ZERO_OUT, Event, SampledGaussianEvent
from cadp.privacy.sampled import smoothed

# The public rule. Nothing here was chosen by looking at private data: the rate and the steps are those of MODEL-sized
# runs (2,400 of 60,000 units, 400 steps); the clip norm is 1 because a gradient's length is hardly ever below it, so
# that every unit counts alike and Adam makes up for the scale.
SAMPLING_RATE = 5 / 128
STEPS = 400
CLIP_NORM = 1.0
BLOCKS = 6
WIDEST = 128
# The couplings' share of the loss, as a share of μ²: the moments get the Gaussian budget of the whole with μ² reduced
# by it, the couplings whatever the accountant then leaves.
SHARE = 0.25
# A linear layer's gradient is an outer product input ⊗ error; each factor has a lattice of its own.
INPUT_STEP = 2.0**-12
ERROR_STEP = 2.0**-22
# Where the noise would be too wide for exact sampling, errors get a coarser lattice, up to this one.
COARSEST_ERROR_STEP = 2.0**-14
WIDEST_SIGMA = 2.0**39
# Noise multipliers are multiples of this.
_GRID = 64
_MOST_MULTIPLIER = 1 << 13
MOST_RECORDS = 256
MOST_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class SgdPlan:
    """Everything public about one DP-SGD training of the coupling stack.

    Attributes:
        architecture: the whole network; its couplings are trained.
        units: number of units of the population, public.
        records: `m`, the most records of one unit; they are clipped together.
        fraction: of the units that training reads, by a keyed hash of their ids.
        sampling_rate: q, a multiple of 2^-64: every step draws each unit by a coin of its own.
        steps: how many are taken; all are charged before the first.
        input_step: lattice step of the inputs of layers, a power of two.
        error_step: lattice step of the clipped gradients of their outputs, a power of two.
        radius: the clip norm in steps of `input_step·error_step`.
        sigma: standard deviation of the noise on a sum, in the same steps.
    """

    architecture: Coupled
    units: int
    records: int
    fraction: float
    sampling_rate: float
    steps: int
    input_step: float
    error_step: float
    radius: int
    sigma: int

    def __post_init__(self) -> None:
        """Check what the mechanism relies on.

        Raises:
            PrivacyError: a value is out of its range.
        """
        problems = []
        if self.units < 1 or not 1 <= self.records <= MOST_RECORDS:
            problems.append(f"{self.units} units of up to {self.records} records: at least 1, at most {MOST_RECORDS}")
        if not 0 < self.fraction <= 1:
            problems.append(f"fraction {self.fraction}: above 0 and at most 1")
        if not 0 < self.sampling_rate <= 1 or not (self.sampling_rate * 2.0**64).is_integer():
            problems.append(f"sampling rate {self.sampling_rate}: a probability that is a multiple of 2^-64")
        if not 1 <= self.steps <= MOST_STEPS:
            problems.append(f"{self.steps} steps: between 1 and {MOST_STEPS}")
        if any(math.frexp(step)[0] != 0.5 for step in (self.input_step, self.error_step)):
            problems.append(f"lattice steps {self.input_step} and {self.error_step}: powers of two")
        if not 1 <= self.radius <= 1 << 40 or not 0 < self.sigma <= WIDEST_SIGMA:
            problems.append(f"radius {self.radius} and noise {self.sigma}: up to 2^40 and {WIDEST_SIGMA:.0f}")
        if self.architecture.couplings.mixing != "permutation":
            problems.append(f"mixing {self.architecture.couplings.mixing}: only linear layers are clipped, permutation")
        if problems:
            raise PrivacyError("no such training: " + "; ".join(problems))
        check_total(self.units, self.radius)

    @classmethod
    def calibrate(
        cls,
        epsilon: float,
        delta: float,
        before: Event,
        *,
        architecture: Coupled,
        units: int,
        max_records_per_unit: int = 1,
        fraction: float = 1.0,
    ) -> "SgdPlan":
        """The plan with the least noise that costs, together with `before`, at most `epsilon` at `delta`, replace-one.

        Raises:
            PrivacyError: no noise that can be drawn exactly is enough, or a unit has too many records.
        """
        spent = curve(before)

        def plan(multiplier: int) -> "SgdPlan":
            return cls.with_noise(multiplier / _GRID, architecture, units, max_records_per_unit, fraction)

        def fits(multiplier: int) -> bool:
            return (spent + curve(plan(multiplier).event())).epsilon(delta) <= epsilon

        low, high = 0, _GRID // 4
        while not fits(high):
            low, high = high, 2 * high
            if high > _MOST_MULTIPLIER * _GRID:
                raise PrivacyError(
                    f"what the moments leave of ε = {epsilon:g} at δ = {delta:.0e} buys no step of DP-SGD: raise ε, or "
                    f"leave the couplings out"
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return plan(high)

    @classmethod
    def with_noise(
        cls, multiplier: float, architecture: Coupled, units: int, records: int = 1, fraction: float = 1.0
    ) -> "SgdPlan":
        """The plan of the public rule whose noise is `multiplier` times the clip norm."""
        error_step = ERROR_STEP
        while multiplier * CLIP_NORM / (INPUT_STEP * error_step) > WIDEST_SIGMA and error_step < COARSEST_ERROR_STEP:
            error_step *= 2
        radius = int(CLIP_NORM / (INPUT_STEP * error_step))
        return cls(
            architecture=architecture,
            units=units,
            records=records,
            fraction=fraction,
            sampling_rate=SAMPLING_RATE,
            steps=STEPS,
            input_step=INPUT_STEP,
            error_step=error_step,
            radius=radius,
            sigma=math.ceil(multiplier * radius),
        )

    @property
    def step(self) -> float:
        """The lattice step of a contribution."""
        return self.input_step * self.error_step

    @property
    def clip_norm(self) -> float:
        """The clip norm of a unit's gradient, in nats per unit of weight."""
        return self.radius * self.step

    @property
    def noise_multiplier(self) -> float:
        """Noise standard deviation over the clip norm."""
        return self.sigma / self.radius

    @property
    def expected_batch(self) -> float:
        """What every noisy sum is divided by: the units that a step draws on average, public."""
        return self.sampling_rate * self.fraction * self.units

    def event(self, steps: int | None = None) -> Event:
        """The loss of all steps, or of the first `steps` of them, replace-one."""
        return self._event(RELATION, self.steps if steps is None else steps)

    def zero_out_event(self) -> Event:
        """The loss when a unit's contribution is replaced by zero."""
        return self._event(ZERO_OUT, self.steps)

    def _event(self, relation: str, steps: int) -> SampledGaussianEvent:
        # Rounded down once more: the quotient of two floats may be a hair above the true one.
        multiplier = math.nextafter(smoothed(float(self.sigma), 1.0) / self.radius, 0.0)
        return SampledGaussianEvent(self.sampling_rate, multiplier, steps, relation=relation)

    def parameters(self) -> dict[str, object]:
        """The public facts of the plan, JSON-ready, for the ledger and the privacy statement."""
        return {
            "kind": "dp-sgd",
            "architecture": self.architecture.to_json(),
            "units": self.units,
            "max_records_per_unit": self.records,
            "fraction": self.fraction,
            "sampling": "Poisson, each unit by its own coin",
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "expected_batch": self.expected_batch,
            "clip_norm": self.clip_norm,
            "lattice_step": self.step,
            "noise": "discrete Gaussian",
            "noise_multiplier": self.noise_multiplier,
        }


def coupled(whitening: Whitening) -> Coupled:
    """The network whose stack DP-SGD trains, by a public rule of k: six blocks, 2·k hidden units, 16 to 128."""
    return Coupled(whitening, Couplings(BLOCKS, min(WIDEST, max(16, 2 * whitening.content))))
