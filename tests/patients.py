"""A source with several pictures of each patient, named as those of chest-X-ray collections are: `00000013_005.png`.

The pictures are drawn and so are the sizes, because a release of a real collection's 112,120 would take minutes; the
grouping of a real one is in `tests.nih_patients`, and goes through sharding without its pictures.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.small_release import CLASSES, Place, pictures

PATTERN = r"(\d{8})_\d{3}\.png"
CAP = 3


@dataclass(frozen=True)
class Patients:
    """What a split holds: how many pictures of each patient, by number."""

    first: int
    sizes: tuple[int, ...]

    @property
    def records(self) -> int:
        return sum(self.sizes)

    def over(self, most: int) -> int:
        return sum(max(0, size - most) for size in self.sizes)


def drawn(units: int, first: int, seed: int) -> Patients:
    """Most patients come once or twice and a few a dozen times, as in hospitals."""
    return Patients(first, tuple(np.minimum(np.random.default_rng(seed).geometric(0.45, units), 12).tolist()))


TRAIN, HOLDOUT = drawn(150, 0, 3), drawn(60, 1000, 4)


def write_pictures(root: Path, train: Patients = TRAIN, holdout: Patients = HOLDOUT) -> None:
    """Write both splits as class folders."""
    generator = np.random.default_rng(5)
    for split, patients in (("train", train), ("test", holdout)):
        names = [f"{patients.first + i:08d}_{j:03d}.png" for i, size in enumerate(patients.sizes) for j in range(size)]
        images, labels = pictures(generator, len(names))
        for name, image, label in zip(names, images, labels, strict=True):
            path = root / split / CLASSES[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            os.utime(path, (1_700_000_000, 1_700_000_000))


def by_patient(place: Place, *, labels: str = "public", most: int = CAP, **changes: object) -> None:
    """Make a place's source one of patients, and say so in its spec; `changes` replace lines of it."""
    source = place.folder / "source"
    shutil.rmtree(source)
    write_pictures(source)
    place.write_spec(records=TRAIN.records, holdout=HOLDOUT.records, floor=0, spend=200)
    lines: dict[str, object] = {
        "format": "imagefolder",
        "unit": "patient",
        "why": "a file name begins with the number of its patient",
        "labels": labels,
        "unit_pattern": PATTERN,
        "max_records_per_unit": most,
        "units": len(TRAIN.sizes),
        "holdout_units": len(HOLDOUT.sizes),
        "over_cap": TRAIN.over(most),
        **changes,
    }
    text = place.spec.read_text().replace("range_records: 300", "range_records: 60")
    for name, value in lines.items():
        text, found = re.subn(rf"^  {name}: .*$", lambda _, n=name, v=value: f"  {n}: {v}", text, flags=re.MULTILINE)
        if not found:
            text = text.replace("source:\n", f"source:\n  {name}: {value}\n")
    place.spec.write_text(text)
