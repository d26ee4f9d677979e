"""The audit of training: the real fit on small synthetic datasets that differ in one unit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.audit.asked import Dataset, Dictate, Fit, FitPath
from cadp.privacy.audit.attack import Features, best_share, guess_count
from cadp.privacy.audit.exact_training import UnitPair, answers, training_checks, unit_pairs, wave
from cadp.privacy.audit.trials import LEAST_TRIALS, alternating, black_box, fair_bits, guessed, practise
from cadp.privacy.audit.verdict import Check, Claim, Measure, Setting

Advance = Callable[[int], object]
Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

_LAYERS = 2
_FITS = 4  # a trial: two to choose the attack, two for the black box
_SHARE = 25  # one in so many trials of a record is one of a fit
_FEWEST_CANARIES, _MOST_CANARIES = 8, 128


@dataclass(frozen=True)
class TrainingAudit:
    """The fit as planned, in three sizes: each layer on records that are small enough for what it does.

    Attributes:
        exact: for the exact layer; the planned one where that is small enough.
        small: for many fits on two neighbouring datasets.
        crowded: for one fit in which many units have a secret bit.
        delta: δ at which it is charged.
        planned: whether it is planned at the release's own ε.
        parameters: the public parameters of the release's own plan; of `exact` if None.
    """

    exact: FitPath
    small: FitPath
    crowded: FitPath
    delta: float
    planned: bool
    parameters: Mapping[str, object] | None = None

    @property
    def bounds(self) -> int:
        """Black box and one run."""
        return _LAYERS

    def outputs(self, trials: int) -> int:
        """Return how many fits are made in the black box."""
        return _FITS * self._trials(trials)

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings; see `Subject`."""
        checks = training_checks(self.exact)
        claim = Claim.of(self.exact.event, self.delta)
        if not all(check.held for check in checks):  # refuted, and perhaps no fit that trials could be made of
            return self._found(claim, checks, ())
        attack = _OneUnit.of(self.small)
        own = Claim.of(self.small.event, self.delta)

        def sample(second: Bits) -> Features:
            return attack.sample(second, advance)

        count = self._trials(trials)
        chosen = practise(sample, own, count, alpha)
        measures = (black_box(sample, chosen, own, count, alpha), *_one_run(self.crowded, self.delta, alpha))
        size = " × ".join(map(str, self.small.shape))
        told = f"black box: {attack.pair.name}, among other records of {size}"
        return self._found(claim, (*checks, Check("training-pair", True, told)), measures)

    def _found(self, claim: Claim, checks: tuple[Check, ...], measures: tuple[Measure, ...]) -> Setting:
        parameters = self.exact.parameters if self.parameters is None else self.parameters
        return Setting("moments", parameters, claim, self.planned, checks, measures, "train")

    def _trials(self, trials: int) -> int:
        return max(LEAST_TRIALS, trials // _SHARE)


@dataclass(frozen=True)
class _OneUnit:
    """An adversary who knows all records but one unit's, and which two contents that unit may have.

    From the answers of a fit it works out what both contents would have added to each sum, which is the likelihood
    ratio (no score tells more); and it looks at each tensor of the model along the line between two fits without noise.
    """

    path: FitPath
    pair: UnitPair
    tensors: Mapping[str, Floats]

    @classmethod
    def of(cls, path: FitPath) -> "_OneUnit":
        """Choose the pair that is farthest apart with the same answers, in units of the noise."""
        given, best = answers(path), None
        for pair in unit_pairs(path):
            one, other = (path.run(pair.dataset(path, side), lambda index, sums: given[index]) for side in (0, 1))
            size = sum(
                float((((b.sums - a.sums) / query.sigma) ** 2).sum())
                for a, b, query in zip(one.asked, other.asked, path.queries, strict=True)
            )
            if best is None or size > best[0]:
                best = size, pair
        if best is None:
            raise ValueError("there is always a pair of units")
        exact = [path.run(best[1].dataset(path, side), lambda index, sums: sums) for side in (0, 1)]
        tensors = {name: exact[1].model[name] - exact[0].model[name] for name in exact[0].model}
        return cls(path, best[1], tensors)

    def sample(self, second: Bits, advance: Advance) -> Features:
        """Fit once for each bit; return the likelihood ratios of its answers, and how far each tensor lies."""
        datasets = [self.pair.dataset(self.path, side) for side in (0, 1)]
        rows = []
        for bit in second.astype(np.int64):
            fit = self.path.run(datasets[bit], None)
            other = self.path.run(datasets[1 - bit], _same_answers(fit))
            rows.append(self._seen(fit, *((fit, other) if bit == 0 else (other, fit))))
            advance(1)
        return Features(np.array(rows), np.zeros((len(rows), 0)))

    def _seen(self, fit: Fit, first: Fit, second: Fit) -> list[float]:
        ratios = []
        for asked, one, other in zip(fit.asked, first.asked, second.asked, strict=True):
            sigma = float(asked.draws[-1].parameter)
            rest = (asked.noisy - (one.sums + other.sums) / 2) / sigma
            ratios.append(float((rest * ((other.sums - one.sums) / sigma)).sum()))
        along = [float((fit.model[name] * line).sum()) for name, line in self.tensors.items()]
        return [sum(ratios), *ratios, *along]


def _same_answers(fit: Fit) -> Dictate:
    return lambda index, sums: fit.asked[index].noisy


def _one_run(path: FitPath, delta: float, alpha: float) -> tuple[Measure, ...]:
    """One fit on many units, each with one of two waves by a secret bit; the adversary weighs all its answers."""
    waves = [wave(path, number) for number in range(1, path.low)]
    count = min(len(waves) // 2, _MOST_CANARIES)
    pairs = [(waves[2 * i], waves[2 * i + 1]) for i in range(count)]
    if count < _FEWEST_CANARIES:  # on records of a few pixels
        return ()
    claim = Claim.of(path.event, delta)
    practice = alternating(count)
    share = best_share(_canary_scores(path, pairs, practice), practice, delta, alpha)
    secret = fair_bits(count)
    return (guessed(_canary_scores(path, pairs, secret), secret, guess_count(share, count), claim, alpha),)


def _canary_scores(path: FitPath, pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], second: Bits) -> Floats:
    """Return one score a unit from one fit: large if its second wave is more in the answers than its first."""
    m, n = path.queries[0].records, len(pairs)
    images = np.stack([pair[int(bit)] for pair, bit in zip(pairs, second, strict=True)])
    labels = np.zeros(n * m, dtype=np.int64)
    fit = path.run(Dataset(np.repeat(images, m, axis=0), labels, np.ones(n * m, dtype=np.bool_)), None)
    scores = np.zeros(n)
    for asked in fit.asked:
        sigma = float(asked.draws[-1].parameter)
        bound = next(query.bound for query in path.queries if query.name == asked.name)
        if asked.noisy.ndim == 2 and asked.noisy.shape[-1] == len(path.waves):  # sums of pixels by class
            for i, (one, other) in enumerate(pairs):
                gap = (other.astype(np.float64) - one).ravel()
                scores[i] += bound / sigma**2 * float(asked.noisy[0] @ gap / np.sqrt((gap**2).sum() / 2))
        elif asked.symmetric and asked.noisy.shape == (path.low, path.low):  # outer products of the low waves
            energy = np.diagonal(asked.noisy).astype(np.float64)
            scores += bound / sigma**2 * (energy[2 : 2 * n + 1 : 2] - energy[1 : 2 * n : 2])
    return scores
