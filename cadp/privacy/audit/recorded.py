"""The audit of records and their labels: two worst-case records through the code that a release runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Features
from cadp.privacy.audit.exact import exact_checks
from cadp.privacy.audit.exact_labels import label_checks
from cadp.privacy.audit.exact_legacy import MOST_TRIALS, legacy_checks, legacy_pair, legacy_sample
from cadp.privacy.audit.path import CodePath, path_checks
from cadp.privacy.audit.trials import measure
from cadp.privacy.audit.verdict import Check, Claim, Setting
from cadp.privacy.audit.worst_case import WorstPair, is_far, worst_pair
from cadp.privacy.labels import LabelPlan, both
from cadp.privacy.mechanisms import Legacy, Mechanism, Resample

Advance = Callable[[int], object]
Bits = NDArray[np.bool_]

_BATCH = 1000
_VALUES = 8 << 20  # of a batch, so that large records do not take all memory
_PIXELS = 1024
_LAYERS = 2
_OUTPUTS = 5  # a trial: two to choose the attack, two for the black box, one for the one run


@dataclass(frozen=True)
class RecordAudit:
    """A record and its label, each by its plan, through the code path: their losses together.

    With private labels the two records differ in their labels too, and the released labels are part of the attack.

    Attributes:
        path: the real code.
        mechanism: what happens to latents.
        labels: what happens to labels.
        delta: δ at which a loss that is not pure is charged.
        planned: whether this is the release's own plan.
        part: `records`, or `labels` where the latents are not used.
    """

    path: CodePath
    mechanism: Mechanism
    labels: LabelPlan
    delta: float
    planned: bool
    part: str = "records"

    @property
    def bounds(self) -> int:
        """Black box and one run."""
        return _LAYERS

    def outputs(self, trials: int) -> int:
        """Return how many records are privatized."""
        return _OUTPUTS * trials

    def labels_alone(self) -> "RecordAudit":
        """Return the audit of the labels by themselves: the same path, on latents that carry and cost nothing."""
        return RecordAudit(self.path, Resample(), self.labels, self.delta, self.planned, part="labels")

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings; see `Subject`."""
        mechanism, labels = self.mechanism, self.labels
        claim = Claim.of(both(labels, labels.event(), mechanism.event()), self.delta)
        checks = (*exact_checks(mechanism), *path_checks(self.path, mechanism, labels))
        if labels.private:
            checks = (*checks, *label_checks(labels, self.path.classes))
        pair = _pair(self.path, mechanism)
        apart = f"two images {pair.distance:.1%} of the clip's diameter apart in every class"
        measures = measure(lambda second: self._sample(pair, second, advance), claim, trials, alpha)
        checks = (*checks, Check("worst-pair", True, apart + (", of two classes" if labels.private else "")))
        told = mechanism.parameters() | ({"labels": labels.parameters()} if labels.private else {})
        kind = labels.kind if self.part == "labels" else mechanism.kind
        return Setting(kind, told, claim, self.planned, checks, measures, self.part)

    def _sample(self, pair: WorstPair, second: Bits, advance: Advance) -> Features:
        path, latents, pixels, released = self.path, [], [], []
        side = second.astype(np.int64)
        # Private: the first class and the last. Public: two in a row have one label, which says nothing of the bit.
        labels = side * (path.classes - 1) if self.labels.private else np.arange(len(second)) // 2 % path.classes
        step = max(1, min(_BATCH, _VALUES // math.prod(path.shape)))
        for start in range(0, len(second), step):
            own, which = labels[start : start + step], side[start : start + step]
            everyone = np.ones(len(own), dtype=np.bool_)
            output = path.release(self.mechanism, self.labels, pair.images[which, own], own, everyone)
            latents.append(path.encode(output.images, output.labels)[:, : self.mechanism.content_dims])
            flat = output.images.reshape(len(own), -1)
            pixels.append(flat[:, :: -(-flat.shape[1] // _PIXELS)] / path.white)
            released.append(output.labels)
            advance(len(own))
        told = np.concatenate(released) if self.labels.private else None
        return Features(np.concatenate(latents), np.concatenate(pixels), told)


@dataclass(frozen=True)
class LegacyAudit:
    """`legacy`, whose ε is only said."""

    path: CodePath
    mechanism: Legacy

    @property
    def bounds(self) -> int:
        """Black box and one run."""
        return _LAYERS

    def outputs(self, trials: int) -> int:
        """Return how many batches of one are privatized."""
        return _OUTPUTS * min(trials, MOST_TRIALS)

    def setting(self, trials: int, alpha: float, advance: Advance) -> Setting:
        """Return the findings; see `Subject`."""
        path, mechanism = self.path, self.mechanism
        pair, claim = legacy_pair(path, mechanism), Claim(mechanism.nominal, 0.0, charged=False)
        count = min(trials, MOST_TRIALS)
        measures = measure(lambda second: legacy_sample(path, mechanism, pair, second, advance), claim, count, alpha)
        checks = (*legacy_checks(path, mechanism, pair), *path_checks(path, mechanism))
        return Setting(mechanism.kind, mechanism.parameters(), claim, True, checks, measures)


def _pair(path: CodePath, mechanism: Mechanism) -> WorstPair:
    pair = worst_pair(path, mechanism)
    if mechanism.content_dims and not is_far(pair):
        raise PrivacyError(
            f"the audit found no pair of images farther apart than {pair.distance:.0%} of the clip's diameter on this "
            f"network: its trials would have no power, and it says nothing"
        )
    return pair
