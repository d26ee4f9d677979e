"""The whole code path of a record, from pixels to PNG: nothing bypasses the mechanism, nothing else is added.

The mechanism that goes through the path is the plan itself, in a subclass that remembers what it was given and what it
returned. With that, a released image must be the decoding of one return value, and the return values must be those of
the charged plan: whatever a path does beside that (a retry without noise, a label in the pixels, another scale) shows.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy.audit.verdict import Check
from cadp.privacy.mechanisms import Mechanism

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Valid = NDArray[np.bool_]

_BATCH = 40


@dataclass(frozen=True)
class Output:
    """What the path released.

    Attributes:
        images: `(n, h, w, c)` uint8, read back from the PNG files.
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
        release: (mechanism, images, labels, valid) → output; the code that a release runs.
        encode: images, labels → latents `(n, d)`.
        decode: latents, labels → images, clamped and rounded.
    """

    shape: tuple[int, int, int]
    classes: int
    release: Callable[[Mechanism, Images, Labels, Valid], Output]
    encode: Callable[[Images, Labels], Floats]
    decode: Callable[[Floats, Labels], Images]


@dataclass(frozen=True)
class Call:
    """One call of `privatize`: by which plan, on what, and what came back."""

    mechanism: Mechanism
    z: Floats
    valid: Valid
    out: Floats


class InjectedFault(OSError):
    """What an audited mechanism raises once, as a full disk or a lost connection would."""


def path_checks(path: CodePath, mechanism: Mechanism) -> tuple[Check, ...]:
    """Return the findings on the code around the mechanism."""
    return tuple(
        _guarded(name, check, path, mechanism)
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

    # Equality is by fields within one class, so the plan made here equals another of it only in every parameter.
    watching = type(base.__name__, (base,), {"privatize": privatize})
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(base)
    watching_plan: Mechanism = watching(**{field.name: getattr(mechanism, field.name) for field in fields})
    return watching_plan


def _plain(path: CodePath, mechanism: Mechanism) -> str:
    images, labels, valid = _records(path)
    _released(path, mechanism, images, labels, valid)
    return f"{len(images)} records of {path.classes} classes: each is the decoding of one output of the charged plan"


def _repeat(path: CodePath, mechanism: Mechanism) -> str:
    """The same batch again, as after a crash: fresh noise, fresh names."""
    images, labels, valid = _records(path)
    first, before = _released(path, mechanism, images, labels, valid)
    again, after = _released(path, mechanism, images, labels, valid)
    if (np.concatenate([c.out for c in before]) == np.concatenate([c.out for c in after])).all(axis=1).any():
        raise PrivacyError("a record that was privatized again had the same noise")
    if len({*first.ids, *again.ids}) != 2 * len(images) or {len(name) for name in first.ids + again.ids} != {16}:
        raise PrivacyError("released records have no fresh 128-bit names")
    return "the same batch again: fresh noise and fresh names"


def _retry(path: CodePath, mechanism: Mechanism) -> str:
    """A mechanism that fails once: what is released after it is as private as at the first attempt."""
    images, labels, valid = _records(path)
    calls: list[Call] = []
    flaky = remembering(mechanism, calls, faults=1)
    try:
        output = path.release(flaky, images, labels, valid)
    except InjectedFault:
        output = path.release(flaky, images, labels, valid)
    _check(path, flaky, output, labels, calls)
    return "after a fault: a whole new attempt, with noise"


def _independence(path: CodePath, mechanism: Mechanism) -> str:
    """At a fixed shape the latent that the mechanism gets has the same bits whatever the other records show."""
    images, labels, valid = _records(path)
    _, before = _released(path, mechanism, images, labels, valid)
    kept = np.concatenate([call.z for call in before])
    mine = np.arange(len(images)) % 2 == 0
    for neighbours in (np.zeros_like(images), np.full_like(images, 255), np.roll(images, 1, axis=0)):
        for still in (valid, mine):
            changed = np.where(mine[:, None, None, None], images, neighbours)
            _, after = _released(path, mechanism, changed, labels, still)
            if np.concatenate([call.z for call in after])[mine].tobytes() != kept[mine].tobytes():
                raise PrivacyError("a record's latent moved when only its neighbours changed")
    return "latents have the same bits in 6 batches of other neighbours"


def _released(
    path: CodePath, mechanism: Mechanism, images: Images, labels: Labels, valid: Valid
) -> tuple[Output, list[Call]]:
    calls: list[Call] = []
    plan = remembering(mechanism, calls)
    output = path.release(plan, images, labels, valid)
    _check(path, plan, output, labels, calls)
    if not np.array_equal(np.concatenate([call.valid for call in calls]), valid):
        raise PrivacyError("a refused record entered the mechanism as a valid one")
    return output, calls


def _check(path: CodePath, plan: Mechanism, output: Output, labels: Labels, calls: Sequence[Call]) -> None:
    """Every released image is the decoding of one row that the charged plan returned, under the record's own label."""
    n = len(labels)
    if sum(len(call.out) for call in calls) != n:
        raise PrivacyError(f"{sum(len(call.out) for call in calls)} rows went through the mechanism for {n} records")
    if any(call.mechanism != plan for call in calls):
        raise PrivacyError("another plan than the charged one was run on some of the records")
    if not np.array_equal(output.labels, labels):
        raise PrivacyError("a released label is not the public one")
    ends = np.cumsum([len(call.out) for call in calls])[:-1]
    parts = zip(calls, np.split(labels, ends), strict=True)
    expected = np.concatenate([path.decode(call.out, own) for call, own in parts])
    if expected.shape != output.images.shape:
        raise PrivacyError(f"released images {output.images.shape}, decoded ones {expected.shape}")
    wrong = int((expected != output.images).any(axis=(1, 2, 3)).sum())
    if wrong:
        raise PrivacyError(f"{wrong} of {n} released images are not the decoding of what the mechanism returned")


def _records(path: CodePath) -> tuple[Images, Labels, Valid]:
    """Synthetic records of every class in turn: black, white, halves and even noise."""
    n = max(_BATCH, 2 * path.classes) if path.classes <= 256 else 512
    images = np.random.default_rng(29).integers(0, 256, (n, *path.shape), dtype=np.uint8)
    images[0::8], images[1::8] = 0, 255
    images[2::8, : path.shape[0] // 2] = 0
    labels = np.arange(n, dtype=np.int64) % path.classes
    return images, labels, np.arange(n) % 7 != 3


def _guarded(name: str, check: Callable[[CodePath, Mechanism], str], path: CodePath, mechanism: Mechanism) -> Check:
    try:
        return Check(name, True, check(path, mechanism))
    except (PrivacyError, InjectedFault) as error:
        return Check(name, False, str(error))
