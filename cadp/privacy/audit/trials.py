"""The two statistical layers: many trials of two records (black box), and many records with a secret bit (one run)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Attack, Features, choose_attack, guess_count, guesses
from cadp.privacy.audit.bounds import one_run_bound, one_run_ceiling, two_record_bound, two_record_ceiling
from cadp.privacy.audit.verdict import Claim, Measure
from cadp.privacy.noise import random_bits64

Bits = NDArray[np.bool_]
Sample = Callable[[Bits], Features]
"""Runs the code path on one record a bit, the second of the pair where it is set, and returns what an attacker sees."""

LEAST_TRIALS = 40


def measure(sample: Sample, claim: Claim, trials: int, alpha: float) -> tuple[Measure, Measure]:
    """Return the black-box and the one-run bound, each above the true ε with probability at most `alpha`.

    The attack is chosen on `trials` outputs of each record that are used for nothing else.

    Args:
        sample: the code path on the worst pair.
        claim: δ is taken from it.
        trials: of each record in the black box; records in the one run.
        alpha: for each bound.

    Raises:
        PrivacyError: too few trials to choose and measure anything.
    """
    attack = practise(sample, claim, trials, alpha)
    return black_box(sample, attack, claim, trials, alpha), one_run(sample, attack, claim, trials, alpha)


def practise(sample: Sample, claim: Claim, trials: int, alpha: float) -> Attack:
    """Choose the attack on `trials` outputs of each record that are used for nothing else.

    Raises:
        PrivacyError: too few trials to choose and measure anything.
    """
    if trials < LEAST_TRIALS:
        raise PrivacyError(f"{trials} trials: an audit needs at least {LEAST_TRIALS}")
    practice = alternating(2 * trials)
    return choose_attack(sample(practice), practice, delta=claim.delta, alpha=alpha)


def black_box(sample: Sample, attack: Attack, claim: Claim, trials: int, alpha: float) -> Measure:
    """Run a fixed attack on `trials` fresh outputs of each record."""
    second = alternating(2 * trials)
    event = attack.event(sample(second))
    likely = second if attack.above else ~second
    hits, false_hits = int((event & likely).sum()), int((event & ~likely).sum())
    return Measure(
        layer="black box",
        trials=trials,
        lower_bound=two_record_bound(hits, false_hits, trials, delta=claim.delta, alpha=alpha),
        ceiling=two_record_ceiling(trials, delta=claim.delta, alpha=alpha),
        counts={"hits": hits, "false_hits": false_hits},
        alpha=alpha,
    )


def one_run(sample: Sample, attack: Attack, claim: Claim, records: int, alpha: float) -> Measure:
    """Give each of `records` records a secret fair bit, run once, and guess the bits of those that stand out."""
    secret = fair_bits(records)
    count = guess_count(attack.share, records)
    return guessed(attack.score(sample(secret)), secret, count, claim, alpha)


def guessed(scores: NDArray[np.float64], secret: Bits, count: int, claim: Claim, alpha: float) -> Measure:
    """Return what `count` guesses prove, a number fixed before the run: the highest scores and the lowest."""
    which, said = guesses(scores, count)
    right = int((said == secret[which]).sum())
    return Measure(
        layer="one run",
        trials=len(secret),
        lower_bound=one_run_bound(len(secret), count, right, delta=claim.delta, alpha=alpha),
        ceiling=one_run_ceiling(len(secret), count, delta=claim.delta, alpha=alpha),
        counts={"guesses": count, "right": right},
        alpha=alpha,
    )


def fair_bits(count: int) -> Bits:
    """Return secret bits, from the operating system's CSPRNG."""
    return np.asarray((random_bits64(count) & np.uint64(1)).astype(np.bool_))


def alternating(count: int) -> Bits:
    """Return bits that alternate: the same number of each."""
    return np.asarray(np.arange(count) % 2 == 1)
