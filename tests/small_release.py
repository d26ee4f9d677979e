"""A release of a small private source: everything real, a few seconds long."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cadp.publish.sign import new_key
from cadp.release import Job, run_release
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.steps.budgets import init_budget
from cadp.steps.publish import signing_key_path

CLASSES = ("disc", "bar", "cross")
SIDE = 12
RECORDS, HOLDOUT = 1200, 300

SPEC = """\
name: shapes
version: {version}
license: MIT
population: shapes
source:
  format: idx
  url: {url}
  unit: record
  why: every picture is of another shape
  labels: public
  records: {records}
  holdout_records: {holdout}
  shape: [12, 12, 1]
  classes: [disc, bar, cross]
spend:     {{epsilon: {spend}, delta: 1e-6}}
model:     {{train: {{epsilon: {train}}}}}
mechanism: {{kind: privunit, epsilon: 8, content_dims: 4}}
validate:  {{classifier: cnn, holdout: test, epsilon: 1, accuracy_at_least: {floor}}}
publish:   {{publisher: The tests}}
run:       {{range_records: 300, workers: 2, audit_trials: 40}}
"""


@dataclass(frozen=True)
class Place:
    """Where a small release lives.

    Attributes:
        folder: everything of it.
        spec: its release.yaml.
        settings: its zones, below `folder/home`.
    """

    folder: Path
    spec: Path
    settings: Settings

    @property
    def environ(self) -> dict[str, str]:
        """What a subprocess needs to find the same places; nothing of the user's own."""
        home = {"HOME": str(self.folder / "user"), "CADP_HOME": str(self.settings.home)}
        return {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **home}

    @property
    def public(self) -> Path:
        """The prefix of version 1.0.0 in the public zone."""
        return Path(self.settings.public_url) / "shapes" / "1.0.0"

    @property
    def private(self) -> Path:
        """The private folder of version 1.0.0."""
        return Path(self.settings.private_url) / "releases" / "shapes" / "1.0.0"

    def open_budget(self, epsilon: float = 100.0) -> None:
        """Make the signing key and the budgets."""
        self.settings.make_private_folders()
        new_key(signing_key_path(self.settings))
        init_budget(self.spec, self.settings, epsilon=epsilon, delta=1e-6, holdout_epsilon=5.0)

    def job(self) -> Job:
        """Open the release."""
        return Job.open(self.spec, self.settings)

    def release(self) -> Job:
        """Take it as far as it goes, in this process."""
        job = self.job()
        run_release(job, Silent())
        return job

    def write_spec(self, **changes: object) -> None:
        """Write the spec again with other values."""
        write_spec(self.spec, self.folder / "source", **changes)

    def copy(self, to: Path) -> "Place":
        """Copy the home and the source; the settings point into the copy."""
        shutil.copytree(self.folder, to, dirs_exist_ok=True)
        return at(to)

    def cadp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own."""
        command = [sys.executable, "-c", "from cadp.cli import main; main()", *arguments]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=300, check=False, cwd=self.folder
        )


def build(folder: Path) -> Place:
    """Write the source and the spec below `folder`."""
    source = folder / "source"
    source.mkdir(parents=True)
    (folder / "user").mkdir()
    generator = np.random.default_rng(7)
    for split, count in (("train", RECORDS), ("t10k", HOLDOUT)):
        images, labels = pictures(generator, count)
        write_idx(source / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(source / f"{split}-labels-idx1-ubyte.gz", labels)
    place = at(folder)
    # A fixed time, so that a copy of the folder is the same source.
    for path in source.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    place.write_spec()
    return place


def at(folder: Path) -> Place:
    """The place below `folder`."""
    return Place(folder, folder / "release.yaml", Settings.load({"CADP_HOME": str(folder / "home")}))


def write_spec(path: Path, source: Path, **changes: object) -> None:
    """Write `release.yaml`; `changes` are values of the template."""
    values: dict[str, object] = {
        "version": "1.0.0",
        "url": source.name,
        "records": RECORDS,
        "holdout": HOLDOUT,
        "spend": 40,
        "train": 30,
        "floor": 0.5,
    }
    path.write_text(SPEC.format(**{**values, "url": source, **changes}))


def pictures(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures of three shapes at random places and brightness."""
    labels = np.arange(count) % len(CLASSES)
    images = np.zeros((count, SIDE, SIDE), dtype=np.float64)
    y, x = np.mgrid[:SIDE, :SIDE]
    for i, label in enumerate(labels):
        cy, cx = generator.uniform(4, 8, size=2)
        if label == 0:
            mask = (y - cy) ** 2 + (x - cx) ** 2 < 9
        elif label == 1:
            mask = abs(x - cx) < 1.2
        else:
            mask = (abs(x - cx) < 1) | (abs(y - cy) < 1)
        images[i] = mask * generator.uniform(120, 255)
    noise = generator.normal(0, 8, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8), labels.astype(np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes as idx.gz."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
