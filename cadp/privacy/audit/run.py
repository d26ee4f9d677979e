"""A whole audit: the planned mechanism and the same code at small ε, through all three layers."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Features
from cadp.privacy.audit.exact import exact_checks
from cadp.privacy.audit.exact_legacy import MOST_TRIALS, legacy_checks, legacy_pair, legacy_sample
from cadp.privacy.audit.path import CodePath, path_checks
from cadp.privacy.audit.trials import measure
from cadp.privacy.audit.verdict import Audit, Check, Claim, Setting
from cadp.privacy.audit.worst_case import WorstPair, is_far, worst_pair
from cadp.privacy.mechanisms import Legacy, Mechanism

CONFIDENCE = 0.99
TRIALS = 5000
SMALL_EPSILONS = (0.5, 1.0, 2.0)
_BATCH = 1000
_PIXELS = 1024
_LAYERS = 2

Bits = NDArray[np.bool_]
Advance = Callable[[int], object]


def audit(
    path: CodePath,
    planned: Mechanism,
    smaller: tuple[Mechanism, ...],
    *,
    delta: float,
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    advance: Advance = lambda done: None,
) -> Audit:
    """Audit a plan.

    Args:
        path: the real code.
        planned: what the release runs.
        smaller: the same mechanism planned at small ε, where so many trials have power.
        delta: δ at which a mechanism without a pure loss is charged.
        trials: see `trials.measure`.
        confidence: with which no claim that holds is refuted, over all bounds together (Bonferroni).
        advance: told of records as they are privatized; `records_of` says how many there will be.

    Raises:
        PrivacyError: a mechanism that the audit does not know, or too few trials.
    """
    mechanisms = (planned, *smaller)
    alpha = (1 - confidence) / (_LAYERS * len(mechanisms))

    def one(mechanism: Mechanism) -> Setting:
        if isinstance(mechanism, Legacy):
            return _legacy(path, mechanism, trials, alpha, advance)
        claim, checks = Claim.of(mechanism, delta), (*exact_checks(mechanism), *path_checks(path, mechanism))
        pair = _pair(path, mechanism)
        apart = f"two images {pair.distance:.1%} of the clip's diameter apart in every class"
        measures = measure(lambda second: _sample(path, mechanism, pair, second, advance), claim, trials, alpha)
        checks = (*checks, Check("worst-pair", True, apart))
        return Setting(mechanism.kind, mechanism.parameters(), claim, mechanism is planned, checks, measures)

    return Audit(confidence, trials, tuple(one(mechanism) for mechanism in mechanisms))


def _legacy(path: CodePath, mechanism: Legacy, trials: int, alpha: float, advance: Advance) -> Setting:
    pair, claim, count = legacy_pair(path, mechanism), Claim(mechanism.nominal, 0.0), min(trials, MOST_TRIALS)

    def sample(second: Bits) -> Features:
        return legacy_sample(path, mechanism, pair, second, lambda done: advance(done * trials // count))

    measures = measure(sample, claim, count, alpha)
    checks = (*legacy_checks(path, mechanism, pair), *path_checks(path, mechanism))
    return Setting(mechanism.kind, mechanism.parameters(), claim, True, checks, measures)


def records_of(trials: int, mechanisms: int) -> int:
    """Return how many records the statistical layers privatize: to choose the attack, black box, one run."""
    return 5 * trials * mechanisms


def _pair(path: CodePath, mechanism: Mechanism) -> WorstPair:
    pair = worst_pair(path, mechanism)
    if mechanism.content_dims and not is_far(pair):
        raise PrivacyError(
            f"the audit found no pair of images farther apart than {pair.distance:.0%} of the clip's diameter on this "
            f"network: its trials would have no power, and it says nothing"
        )
    return pair


def _sample(path: CodePath, mechanism: Mechanism, pair: WorstPair, second: Bits, advance: Advance) -> Features:
    latents, pixels = [], []
    # Two neighbours in a row have one label, so that the label says nothing about the bit.
    labels = (np.arange(len(second)) // 2) % path.classes
    for start in range(0, len(second), _BATCH):
        own, side = labels[start : start + _BATCH], second[start : start + _BATCH].astype(np.int64)
        output = path.release(mechanism, pair.images[side, own], own, np.ones(len(own), dtype=np.bool_))
        latents.append(path.encode(output.images, output.labels)[:, : mechanism.content_dims])
        flat = output.images.reshape(len(own), -1)
        pixels.append(flat[:, :: -(-flat.shape[1] // _PIXELS)] / 255.0)
        advance(len(own))
    return Features(np.concatenate(latents), np.concatenate(pixels))
