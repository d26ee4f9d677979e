"""The audit of the gate: one noisy count, of holdout units that differ in one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Features
from cadp.privacy.audit.trials import black_box, practise
from cadp.privacy.audit.verdict import Check, Claim, Setting
from cadp.privacy.audit.watch import Draw, Place, fed, watched
from cadp.privacy.events import RELATION, Event, PureEvent
from cadp.privacy.precision import decimal

Advance = Callable[[int], object]
Bits = NDArray[np.bool_]

_OUTPUTS = 4  # a trial: two to choose the attack, two for the black box
_SAMPLER = "discrete_laplace"
_REPEATS = 16


@dataclass(frozen=True)
class GateAudit:
    """The gate's own code.

    Attributes:
        answer: count of hits → the answer.
        event: what is charged.
        parameters: what is public of the plan.
        units: n; a count is 0 … n.
        place: the gate's module, where it calls its sampler.
        counts: returns pairs of true counts of neighbouring synthetic holdouts, through the code that counts.
        planned: whether this is the release's own plan.
    """

    answer: Callable[[int], Mapping[str, Any]]
    event: Event
    parameters: Mapping[str, object]
    units: int
    place: Place
    counts: Callable[[], list[tuple[int, int]]]
    planned: bool

    @property
    def bounds(self) -> int:
        """The black box alone: there is one answer, about all units together."""
        return 1

    def outputs(self, trials: int) -> int:
        """Return how many answers are given."""
        return _OUTPUTS * trials

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings; see `Subject`."""
        claim, middle = Claim.of(self.event, 0.0), self.units // 2
        checks = (
            self._guarded("gate-event", self._event),
            self._guarded("gate-draws", self._draws),
            self._guarded("gate-answer", self._function),
            self._guarded("gate-fresh", self._fresh),
            self._guarded("gate-count", self._count),
        )

        def sample(second: Bits) -> Features:
            answers = [self.answer(middle + int(bit))["noisy_correct"] for bit in second]
            advance(len(answers))
            return Features(np.array(answers, dtype=np.float64)[:, None] - middle, np.zeros((len(answers), 0)))

        chosen = practise(sample, claim, trials, alpha)
        measures = (black_box(sample, chosen, claim, trials, alpha),)
        kind = str(self.parameters.get("kind", "gate"))
        return Setting(kind, self.parameters, claim, self.planned, checks, measures, "gate")

    def _event(self) -> Check:
        """One unit moves the count by at most 1, so the loss is 1 over the scale as drawn."""
        _, draw = self._answered(self.units // 2)
        due, event = 1 / Fraction(draw.parameter), self.event
        if not isinstance(event, PureEvent):
            raise PrivacyError(f"the gate is charged by a {event.kind} event, which the audit cannot compare")
        charged = decimal(event.epsilon) * event.count
        # The scale is 1/ε of the float that the plan holds, which may be a hair off the decimal that is charged.
        held = event.relation == RELATION and due <= max(charged, Fraction(event.epsilon) * event.count)
        detail = f"a count at this noise loses {float(due):.6g}, charged {float(charged):.6g}"
        return Check("gate-event", held, detail, float(due), float(charged))

    def _draws(self) -> Check:
        """Every answer is the count and one integer draw of one scale, the same for every count."""
        scales = set()
        for count in sorted({0, 1, self.units // 2, self.units - 1, self.units}):
            answer, draw = self._answered(count)
            if answer["noisy_correct"] != count + int(draw.values[0]):
                raise PrivacyError("an answer is not the count and the noise that was drawn for it")
            scales.add(Fraction(draw.parameter))
        if len(scales) != 1:
            raise PrivacyError(f"noise was drawn at {len(scales)} scales: the scale tells the count")
        return Check("gate-draws", True, f"one exact draw of scale {float(scales.pop()):.6g} in every answer")

    def _function(self) -> Check:
        """Two counts with the same noisy count have the same answer, to the last figure."""
        for noisy in (-3, 0, self.units // 2, self.units + 5):
            answers = []
            for count in (0, self.units // 2, self.units):
                draw = np.array([noisy - count], dtype=np.int64)

                def feed(scale: object, size: object, draw: NDArray[np.int64] = draw) -> NDArray[np.int64]:
                    return draw

                with fed({_SAMPLER: feed}, self.place):
                    answers.append(dict(self.answer(count)))
            if any(answer != answers[0] for answer in answers):
                raise PrivacyError("beside its noisy count the answer tells something of the true one")
        return Check("gate-answer", True, "the whole answer follows from the noisy count")

    def _fresh(self) -> Check:
        runs = [[int(self._answered(self.units // 2)[1].values[0]) for _ in range(_REPEATS)] for _ in range(2)]
        scale = float(self._answered(0)[1].parameter)
        if scale > 1 and (runs[0] == runs[1] or len(set(runs[0])) == 1):
            raise PrivacyError("noise was used twice")
        return Check("gate-fresh", True, "the same count again: new draws")

    def _count(self) -> Check:
        pairs = self.counts()
        farthest = max(abs(one - other) for one, other in pairs)
        detail = f"one unit of {len(pairs)} synthetic holdouts moves the count by at most {farthest}"
        return Check("gate-count", farthest <= 1, detail, float(farthest), 1.0)

    def _answered(self, count: int) -> tuple[Mapping[str, Any], Draw]:
        with watched(self.place) as draws:
            answer = self.answer(count)
        if len(draws) != 1 or draws[0].sampler != _SAMPLER or draws[0].values.shape != (1,):
            raise PrivacyError(f"one draw of {_SAMPLER} was due; there were {[d.sampler for d in draws]}")
        if draws[0].values.dtype != np.int64:
            raise PrivacyError(f"the noise is {draws[0].values.dtype}, not an integer")
        return answer, draws[0]

    @staticmethod
    def _guarded(name: str, check: Callable[[], Check]) -> Check:
        try:
            return check()
        except PrivacyError as error:
            return Check(name, False, str(error))
