"""The whole code path of a record, from pixels to PNG: nothing bypasses the mechanism, nothing else is added.

The mechanism and the label plan that go through the path are the plans themselves, in subclasses that remember what
they were given and what they returned. With that, a released image must be the decoding of one return value under the
released label, and the return values must be those of the charged plans: whatever a path does beside that (a retry
without noise, a label in the pixels, another scale, the true label for the released one) shows.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.verdict import Check
from cadp.privacy.labels import LabelPlan, PublicLabels
from cadp.privacy.mechanisms import Mechanism

Floats = NDArray[np.float64]
Images = NDArray[np.unsignedinteger[Any]]
Labels = NDArray[np.int64]
Valid = NDArray[np.bool_]

_BATCH = 40


@dataclass(frozen=True)
class Output:
    """What the path released.

    Attributes:
        images: `(n, h, w, c)`, read back from the bytes that are released.
        labels: `(n,)`.
        ids: n public names.
    """

    images: Images
    labels: Labels
    ids: tuple[bytes, ...]


@dataclass(frozen=True)
class CodePath:
    """The real code, brought by whoever may import it.

    Attributes:
        shape: `(h, w, c)` of an image.
        classes: number of labels.
        release: (mechanism, label plan, images, labels, valid) → output; the code that a release runs.
        encode: images, labels → latents `(n, d)`.
        decode: latents, labels → images, clamped and rounded.
        white: the largest value of an image: 255 of pixels, 65,535 of a row's entries.
    """

    shape: tuple[int, int, int]
    classes: int
    release: Callable[[Mechanism, LabelPlan, Images, Labels, Valid], Output]
    encode: Callable[[Images, Labels], Floats]
    decode: Callable[[Floats, Labels], Images]
    white: int = 255

    @property
    def kind(self) -> np.dtype[Any]:
        """The type of an image's values."""
        return np.dtype(np.uint8 if self.white == np.iinfo(np.uint8).max else np.uint16)


@dataclass(frozen=True)
class Call:
    """One call of `privatize`: by which plan, on what, and what came back."""

    mechanism: Mechanism
    z: Floats
    valid: Valid
    out: Floats


@dataclass(frozen=True)
class LabelCall:
    """One call of a label plan's `release`."""

    plan: LabelPlan
    labels: Labels
    valid: Valid
    out: Labels


@dataclass
class Memory:
    """What the plans of one run of the path remember."""

    calls: list[Call] = dataclasses.field(default_factory=list)
    labels: list[LabelCall] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Plans:
    """What goes through the path: a mechanism and a label plan."""

    mechanism: Mechanism
    labels: LabelPlan

    def remembering(self, memory: Memory, faults: int = 0) -> "Plans":
        """Return the same plans with a memory."""
        return Plans(remembering(self.mechanism, memory.calls, faults), remembering_labels(self.labels, memory.labels))


class InjectedFault(OSError):
    """What an audited mechanism raises once, as a full disk or a lost connection would."""


def path_checks(path: CodePath, mechanism: Mechanism, labels: LabelPlan | None = None) -> tuple[Check, ...]:
    """Return the findings on the code around the mechanism and the label plan (labels are public if None)."""
    plans = Plans(mechanism, labels or PublicLabels())
    return tuple(
        _guarded(name, check, path, plans)
        for name, check in (
            ("path", _plain),
            ("path-repeat", _repeat),
            ("path-retry", _retry),
            ("path-independence", _independence),
        )
    )


def remembering(mechanism: Mechanism, calls: list[Call], faults: int = 0) -> Mechanism:
    """Return the same plan with a memory; its first `faults` calls raise `InjectedFault` instead.

    A plan that is derived from it, as by `dataclasses.replace`, has the same memory.
    """
    base: Any = type(mechanism)
    left = [faults]

    def privatize(self: Any, z: Floats, valid: Valid) -> Floats:  # noqa: ANN401 (of the subclass made below)
        if left[0]:
            left[0] -= 1
            raise InjectedFault("a fault that the audit injects, to see what a retry releases")
        given = z.copy(), valid.copy()
        out: Floats = base.privatize(self, z, valid)
        calls.append(Call(self, *given, out.copy()))
        return out

    derived: Mechanism = _derived(mechanism, {"privatize": privatize})
    return derived


def remembering_labels(plan: LabelPlan, calls: list[LabelCall]) -> LabelPlan:
    """Return the same label plan with a memory."""
    base: Any = type(plan)

    def release(self: Any, labels: Labels, valid: Valid) -> Labels:  # noqa: ANN401 (of the subclass made below)
        given = labels.copy(), valid.copy()
        out: Labels = base.release(self, labels, valid)
        calls.append(LabelCall(self, *given, out.copy()))
        return out

    derived: LabelPlan = _derived(plan, {"release": release})
    return derived


def _derived(plan: Any, methods: dict[str, Any]) -> Any:  # noqa: ANN401 (a plan of any class; its subclass)
    """Return the same plan in a subclass: equal to another of that class only in every parameter."""
    base: Any = type(plan)
    watching = type(base.__name__, (base,), methods)
    return watching(**{field.name: getattr(plan, field.name) for field in dataclasses.fields(base)})


def _plain(path: CodePath, plans: Plans) -> str:
    images, labels, valid = _records(path)
    _released(path, plans, images, labels, valid)
    return f"{len(images)} records of {path.classes} classes: each is the decoding of one output of the charged plan"


def _repeat(path: CodePath, plans: Plans) -> str:
    """The same batch again, as after a crash: fresh noise, fresh names."""
    images, labels, valid = _records(path)
    first, before = _released(path, plans, images, labels, valid)
    again, after = _released(path, plans, images, labels, valid)
    if (np.concatenate([c.out for c in before]) == np.concatenate([c.out for c in after])).all(axis=1).any():
        raise PrivacyError("a record that was privatized again had the same noise")
    if len({*first.ids, *again.ids}) != 2 * len(images) or {len(name) for name in first.ids + again.ids} != {16}:
        raise PrivacyError("released records have no fresh 128-bit names")
    return "the same batch again: fresh noise and fresh names"


def _retry(path: CodePath, plans: Plans) -> str:
    """A mechanism that fails once: what is released after it is as private as at the first attempt."""
    images, labels, valid = _records(path)
    memory = Memory()
    flaky = plans.remembering(memory, faults=1)
    try:
        output = path.release(flaky.mechanism, flaky.labels, images, labels, valid)
    except InjectedFault:
        memory.labels.clear()  # nothing of the first attempt was released
        output = path.release(flaky.mechanism, flaky.labels, images, labels, valid)
    _check(path, flaky, output, labels, memory)
    return "after a fault: a whole new attempt, with noise"


def _independence(path: CodePath, plans: Plans) -> str:
    """At a fixed shape the latent that the mechanism gets has the same bits whatever the other records are."""
    images, labels, valid = _records(path)
    _, before = _released(path, plans, images, labels, valid)
    kept = np.concatenate([call.z for call in before])
    mine = np.arange(len(images)) % 2 == 0
    # Neighbours may differ in their labels too, unless these are public.
    others = np.where(mine, labels, np.roll(labels, 1)) if plans.labels.private else labels
    for neighbours in (np.zeros_like(images), np.full_like(images, path.white), np.roll(images, 1, axis=0)):
        for still in (valid, mine):
            changed = np.where(mine[:, None, None, None], images, neighbours)
            _, after = _released(path, plans, changed, others, still)
            if np.concatenate([call.z for call in after])[mine].tobytes() != kept[mine].tobytes():
                raise PrivacyError("a record's latent moved when only its neighbours changed")
    return "latents have the same bits in 6 batches of other neighbours"


def _released(path: CodePath, plans: Plans, images: Images, labels: Labels, valid: Valid) -> tuple[Output, list[Call]]:
    memory = Memory()
    own = plans.remembering(memory)
    output = path.release(own.mechanism, own.labels, images, labels, valid)
    _check(path, own, output, labels, memory)
    if not np.array_equal(np.concatenate([call.valid for call in memory.calls]), valid):
        raise PrivacyError("a refused record entered the mechanism as a valid one")
    if not np.array_equal(np.concatenate([call.valid for call in memory.labels]), valid):
        raise PrivacyError("a refused record's label was released as a valid one's")
    return output, memory.calls


def _check(path: CodePath, plans: Plans, output: Output, labels: Labels, memory: Memory) -> None:
    """Every released image is the decoding of one row that the charged plan returned, under the released label."""
    n, calls = len(labels), memory.calls
    if sum(len(call.out) for call in calls) != n:
        raise PrivacyError(f"{sum(len(call.out) for call in calls)} rows went through the mechanism for {n} records")
    if any(call.mechanism != plans.mechanism for call in calls):
        raise PrivacyError("another plan than the charged one was run on some of the records")
    _check_labels(plans.labels, output.labels, labels, memory.labels)
    ends = np.cumsum([len(call.out) for call in calls])[:-1]
    parts = zip(calls, np.split(output.labels, ends), strict=True)
    expected = np.concatenate([path.decode(call.out, own) for call, own in parts])
    if expected.shape != output.images.shape:
        raise PrivacyError(f"released images {output.images.shape}, decoded ones {expected.shape}")
    wrong = int((expected != output.images).any(axis=(1, 2, 3)).sum())
    if wrong:
        raise PrivacyError(f"{wrong} of {n} released images are not the decoding of what the mechanism returned")


def _check_labels(plan: LabelPlan, released: Labels, labels: Labels, calls: Sequence[LabelCall]) -> None:
    """The released labels are what the charged label plan returned for these records, once each."""
    if sum(len(call.out) for call in calls) != len(labels) or any(call.plan != plan for call in calls):
        raise PrivacyError("labels were released beside the charged label plan, or more than once")
    if not np.array_equal(np.concatenate([call.out for call in calls]), released):
        raise PrivacyError("a released label is not what the charged label plan returned")
    if not plan.private and not np.array_equal(released, labels):
        raise PrivacyError("a released label is not the public one")


def _records(path: CodePath) -> tuple[Images, Labels, Valid]:
    """Synthetic records of every class in turn: black, white, halves and even noise."""
    n = max(_BATCH, 2 * path.classes) if path.classes <= 256 else 512
    # Public: these are records, not noise.
    images: Images = np.random.default_rng(29).integers(0, path.white + 1, (n, *path.shape), dtype=path.kind)
    images[0::8], images[1::8] = 0, path.white
    images[2::8, : path.shape[0] // 2] = 0
    labels = np.arange(n, dtype=np.int64) % path.classes
    return images, labels, np.arange(n) % 7 != 3


def _guarded(name: str, check: Callable[[CodePath, Plans], str], path: CodePath, plans: Plans) -> Check:
    try:
        return Check(name, True, check(path, plans))
    except (PrivacyError, InjectedFault) as error:
        return Check(name, False, str(error))
