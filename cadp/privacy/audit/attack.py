"""The attack: scores that tell the outputs of two records apart, chosen on trials that are used for nothing else.

The scores are linear ones and a likelihood ratio (of histograms, as if latents were independent, which they are for
additive noise). Whichever it is, the bounds hold: they rest on fresh trials alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.privacy.audit.bounds import one_run_bound, two_record_bound

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]
Score = Callable[[Floats], Floats]

_CUTS = 400
_SHARES = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.08, 0.04, 0.02, 0.01)
_LEAST = 1e-9
_BINS = 40


@dataclass(frozen=True)
class Features:
    """What an attacker sees of n outputs.

    Attributes:
        latents: `(n, k)` content of the released images, encoded again; or whatever other numbers tell most.
        pixels: `(n, p)` released pixels.
        labels: `(n,)` released labels that may tell the records apart; None where they are the same on both sides.
    """

    latents: Floats
    pixels: Floats
    labels: NDArray[np.int64] | None = None

    def rows(self, part: slice) -> "Features":
        """Return some of the rows."""
        labels = None if self.labels is None else self.labels[part]
        return Features(self.latents[part], self.pixels[part], labels)


@dataclass(frozen=True)
class Attack:
    """A fixed attack.

    Attributes:
        score: features → `(n,)`; large speaks for the second record.
        threshold: the event of the two-record bound is a score at least this (or at most, see `above`).
        above: whether the event is a large score, more likely on the second record; else a small one, on the first.
        share: of the records of one run, those guessed: the highest and the lowest scores.
    """

    score: Callable[[Features], Floats]
    threshold: float
    above: bool
    share: float

    def event(self, features: Features) -> Bits:
        """Return `(n,)`: whether the event happened."""
        scores = self.score(features)
        found: Bits = scores >= self.threshold if self.above else scores <= self.threshold
        return found


def choose_attack(features: Features, second: Bits, *, delta: float, alpha: float) -> Attack:
    """Fit scores to half of these trials; choose the one, its threshold and share that prove most on the other half.

    A score that is chosen on what it was fitted to is chosen for its overfitting.

    Args:
        features: of outputs of both records.
        second: `(n,)` which outputs are of the second record.
        delta: δ of the claim.
        alpha: of the bounds that the attack will be used for.
    """
    half = len(second) // 2
    fitted = _scores(features.rows(slice(half)), second[:half])
    features, second = features.rows(slice(half, None)), second[half:]
    best: tuple[float, Attack] | None = None
    for score in fitted:
        scores = score(features)
        share = best_share(scores, second, delta, alpha)
        for above in (True, False):
            for threshold in np.unique(np.quantile(scores, np.linspace(0, 1, _CUTS), method="nearest")):
                attack = Attack(score, float(threshold), above, share)
                bound = _bound(scores, second, attack, delta, alpha)
                if best is None or bound > best[0]:
                    best = bound, attack
    if best is None:  # there is always a threshold, if there is a trial
        raise ValueError("an attack is chosen on at least one trial")
    return best[1]


def guesses(scores: Floats, count: int) -> tuple[NDArray[np.int64], Bits]:
    """Return which `count` records are guessed, and the guesses: the highest scores as second, the lowest as first."""
    order = np.argsort(scores, kind="stable")
    low, high = count // 2, count - count // 2
    chosen = np.concatenate([order[:low], order[len(order) - high :]])
    return chosen.astype(np.int64), np.arange(count) >= low


def _bound(scores: Floats, second: Bits, attack: Attack, delta: float, alpha: float) -> float:
    event = scores >= attack.threshold if attack.above else scores <= attack.threshold
    likely, other = (second, ~second) if attack.above else (~second, second)
    trials = int(min(likely.sum(), other.sum()))
    hits, false_hits = min(int((event & likely).sum()), trials), min(int((event & other).sum()), trials)
    return two_record_bound(hits, false_hits, trials, delta=delta, alpha=alpha)


def best_share(scores: Floats, second: Bits, delta: float, alpha: float) -> float:
    """Return the share of guesses that would prove most on these records of one run."""
    best, chosen = -1.0, _SHARES[0]
    for share in _SHARES:
        count = guess_count(share, len(scores))
        which, said = guesses(scores, count)
        right = int((said == second[which]).sum())
        bound = one_run_bound(len(scores), count, right, delta=delta, alpha=alpha)
        if bound > best:
            best, chosen = bound, share
    return chosen


def guess_count(share: float, records: int) -> int:
    """Return how many records are guessed: fixed before the run, at least 2."""
    return max(2, min(records, round(share * records)))


def _scores(features: Features, second: Bits) -> list[Callable[[Features], Floats]]:
    """Linear scores and likelihood ratios in latents, their directions, labels and pixels, fitted to these trials."""
    scores: list[Callable[[Features], Floats]] = []
    if features.latents.shape[1]:
        raw = _linear(features.latents, second)
        turned = _linear(_directions(features.latents), second)
        ratio = _likelihood_ratio(features.latents, second)
        scores += [
            lambda seen: raw(seen.latents),
            lambda seen: ratio(seen.latents),
            lambda seen: turned(_directions(seen.latents)),
        ]
    if features.labels is not None:
        told_label = _label_ratio(features.labels, second)
        scores.append(lambda seen: told_label(_labels(seen)))
        if features.latents.shape[1]:  # the coins are independent, so the ratios of both multiply
            scores.append(lambda seen: ratio(seen.latents) + told_label(_labels(seen)))
    if features.pixels.shape[1]:
        drawn = _linear(features.pixels, second)
        scores.append(lambda seen: drawn(seen.pixels))
        one = _telling(features.pixels, second)
        told = _likelihood_ratio(features.pixels[:, one : one + 1], second)
        scores.append(lambda seen: told(seen.pixels[:, one : one + 1]))
    return scores


def _linear(rows: Floats, second: Bits) -> Score:
    """Return the best linear score for columns that are uncorrelated: difference of means over variance."""
    gap = rows[second].mean(axis=0) - rows[~second].mean(axis=0)
    spread = (rows[second].var(axis=0) + rows[~second].var(axis=0)) / 2
    # A column that never varies tells nothing, or everything: it keeps a finite weight.
    weights = gap / (spread + 1e-6 * max(float(spread.max(initial=0.0)), _LEAST))
    return lambda rows: np.asarray(rows @ weights)


def _likelihood_ratio(rows: Floats, second: Bits) -> Score:
    """Return Σ_j ln p̂(x_j | second)/p̂(x_j | first) over the columns, p̂ a histogram with one trial added to each bin."""
    edges = _edges(rows)
    tables = []
    for j in range(rows.shape[1]):
        first, other = _histograms(rows[:, j], edges[:, j], second)
        tables.append(np.log(other) - np.log(first))

    def score(rows: Floats) -> Floats:
        total: Floats = np.zeros(len(rows))
        for j, table in enumerate(tables):
            total = total + table[np.searchsorted(edges[:, j], rows[:, j])]
        return np.asarray(total)

    return score


def _label_ratio(labels: NDArray[np.int64], second: Bits) -> Callable[[NDArray[np.int64]], Floats]:
    """Return ln p̂(label | second)/p̂(label | first), p̂ the share of each label with one trial added."""
    size = int(labels.max(initial=0)) + 2  # the last for labels that these trials have not seen
    first, other = (np.bincount(labels[side], minlength=size) + 1.0 for side in (~second, second))
    table = np.log(other / other.sum()) - np.log(first / first.sum())
    return lambda labels: np.asarray(table[np.minimum(labels, size - 1)])


def _labels(features: Features) -> NDArray[np.int64]:
    if features.labels is None:
        raise ValueError("these trials have labels and others had none")
    return features.labels


def _telling(rows: Floats, second: Bits) -> int:
    """Return the column whose histograms differ most."""
    edges = _edges(rows)
    apart = [np.abs(np.subtract(*_histograms(rows[:, j], edges[:, j], second))).sum() for j in range(rows.shape[1])]
    return int(np.argmax(apart))


def _edges(rows: Floats) -> Floats:
    return np.asarray(np.quantile(rows, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0))


def _histograms(column: Floats, edges: Floats, second: Bits) -> tuple[Floats, Floats]:
    """Return the shares of each bin among the outputs of the first and of the second record."""
    bins = np.searchsorted(edges, column)
    first, other = (np.bincount(bins[side], minlength=_BINS) + 1.0 for side in (~second, second))
    return first / first.sum(), other / other.sum()


def _directions(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.sqrt((rows**2).sum(axis=1, keepdims=True)), _LEAST))
