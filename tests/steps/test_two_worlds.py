"""What becomes public is a function of what was charged, and of nothing else that is private.

Two worlds that agree in what is public by declaration and differ in all the rest: every pixel, every label, which
records can be read. Both run the real release, and in the second every charged output (the model, the noisy latents,
the released labels, the gate's answer) is put back to what it was in the first. Then all that is published and all that
is said while it runs must be the same, byte for byte. A count, a digest, an order or a metadata field that saw a record
without passing through a charge would differ.
"""

import logging
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cadp.cinn.fit import moments
from cadp.privacy import bits
from cadp.privacy.label_response import RandomizedResponse
from cadp.privacy.privunit import PrivUnit
from cadp.release import run_release
from cadp.reporter import Advance, Silent
from cadp.steps import disclosure, privatize
from cadp.steps.shard import read_facts
from cadp.utility.gate import GatePlan
from tests.small_release import CLASSES, HOLDOUT, RECORDS, SIDE, Place

pytestmark = pytest.mark.audits

REJECTED = 12
# What these log is of themselves: that they are imported, and names of temporary folders.
OTHERS = ("great_expectations", "py.warnings")
World = tuple[dict[str, bytes], list[object], list[str], dict[str, Any]]


class Everything(Silent):
    """Keeps all that it is told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    @contextmanager
    def progress(self, label: str, total: int | None, things: str, done: int = 0) -> Iterator[Advance]:
        def advance(done: int = 1) -> None:
            self.told.append(("advance", label, done))

        self.told.append(("progress", label, total, things, done))
        yield advance

    def table(self, key: str, title: str, rows: Sequence[Mapping[str, str]]) -> None:
        self.told.append(("table", key, title, [dict(row) for row in rows]))

    def picture(self, key: str, title: str, png: bytes) -> None:
        self.told.append(("picture", key, title, png))

    def figure(self, key: str, title: str, value: str) -> None:
        self.told.append(("figure", key, title, value))

    def event(self, kind: str, message: str) -> None:
        self.told.append(("event", kind, message))


class Tape:
    """Keeps what charged code returned in the first world, and returns it in the second, after the code has run."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._kept, self._calls, self._again = patch, dict[str, list[Any]](), Counter[str](), False
        self._reseed(0)

    def over(self, place: object, name: str) -> None:
        method: Callable[..., Any] = getattr(place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            made = method(*args, **kwargs)
            kept = self._kept.setdefault(name, [])
            if not self._again:
                kept.append(made)
            self._calls[name] += 1
            # How many bits were used depends on records; what uses bits next, without seeing any, must not.
            self._reseed(sum(self._calls.values()))
            return kept[self._calls[name] - 1]

        self._patch.setattr(place, name, call)

    def rewind(self) -> None:
        assert {len(kept) for kept in self._kept.values()} != {0}
        self._again = True
        self._calls.clear()
        self._reseed(0)

    def _reseed(self, seed: int) -> None:
        self._patch.setattr(bits, "os", SimpleNamespace(urandom=np.random.default_rng(seed).bytes))


def write_world(place: Place, seed: int) -> None:
    """Plain idx files: whatever they hold, they have the same size and time."""
    generator = np.random.default_rng(seed)
    for split, count in (("train", RECORDS), ("t10k", HOLDOUT)):
        images = generator.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
        labels = generator.choice(len(CLASSES), count, p=generator.dirichlet((1, 1, 1))).astype(np.uint8)
        if split == "train":
            labels[generator.choice(count, REJECTED + seed, replace=False)] = 99  # no such class
        for suffix, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            path = place.folder / "source" / f"{split}-{suffix}"
            path.write_bytes(head + array.tobytes())
            os.utime(path, (1_700_000_000, 1_700_000_000))


def written(place: Place) -> dict[str, bytes]:
    root = Path(place.settings.public_url)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def two_worlds(
    place: Place,
    patch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> list[World]:
    """Return of each world what is public, what was told, the log, and what was counted in private."""
    for path in (place.folder / "source").iterdir():
        path.unlink()
    place.write_spec(floor=0)
    text = place.spec.read_text().replace("labels: public", "labels: {randomized-response: {epsilon: 2}}")
    # One thread: the order of the calls is the tape's.
    text = text.replace("workers: 2", "workers: 1").replace("  records:", "  max_rejects: 0.1\n  records:")
    place.spec.write_text(text)
    write_world(place, 1)
    place.open_budget()
    fresh = place.folder / "fresh"
    shutil.copytree(place.settings.home, fresh)
    tape = Tape(patch)
    for where, name in (
        (moments, "fit_moments"),
        (PrivUnit, "privatize"),
        (RandomizedResponse, "release"),
        (privatize, "random_bytes"),
        (GatePlan, "answer"),
    ):
        tape.over(where, name)
    today = SimpleNamespace(now=lambda _: datetime(2026, 1, 2, tzinfo=UTC))
    patch.setattr(disclosure, "datetime", today)
    worlds = []
    for world in (1, 2):
        if world == 2:
            shutil.rmtree(place.settings.home)
            shutil.copytree(fresh, place.settings.home)
            write_world(place, 2)
            tape.rewind()
        names = iter(range(1, 1 << 30))
        patch.setattr(secrets, "token_hex", lambda size=32, names=names: f"{next(names):0{2 * size}x}")
        reporter = Everything()
        caplog.clear()
        # Pillow's own DEBUG lines give the sizes of the files that it opens: whoever asks for them reads private logs.
        with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "cadp"):
            job = place.job()
            run_release(job, reporter)
        log = [record.getMessage() for record in caplog.records if not record.name.startswith(OTHERS)]
        log += list(capfd.readouterr())
        worlds.append((written(place), reporter.told, log, dict(read_facts(job)["train"])))
    return worlds


def differences(worlds: list[World]) -> list[str]:
    """Name whatever is not the same in both."""
    (one, told, log, _), (other, retold, relog, _) = worlds
    found = [f"published: {name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    for what, mine, theirs in (("told", told, retold), ("log", log, relog)):
        pairs = zip_longest(mine, theirs)
        found += [f"{what}: {str(a)[:200]} and {str(b)[:200]}" for a, b in pairs if a != b]
    return found


def test_private_differences_are_nowhere_in_public(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    worlds = two_worlds(place, monkeypatch, caplog, capfd)
    (one, told, _, facts), (_, _, _, others) = worlds
    # The worlds are as different as they can be, and something was published of them.
    assert facts["class_counts"] != others["class_counts"]
    assert facts["rejected"] != others["rejected"]
    assert len(one) > 10
    assert len(told) > 20
    assert differences(worlds) == []
