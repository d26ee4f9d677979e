"""A release of a small private table: numbers and categories, several rows of a patient, a column nobody declared."""

import csv
from pathlib import Path

import numpy as np

from cadp.publish.sign import new_key
from cadp.settings import Settings
from cadp.steps.budgets import init_budget
from cadp.steps.publish import signing_key_path
from tests.small_release import Place

CLASSES = ("well", "ill")
PATIENTS, HOLDOUT_PATIENTS, MOST = 300, 60, 2

SPEC = """\
name: visits
version: {version}
license: MIT
population: visits
source:
  format: csv
  url: {url}
  unit: patient
  why: a patient may have come more than once
  unit_column: patient id
  max_records_per_unit: {most}
  records: {records}
  units: {patients}
  over_cap: {over_cap}
  holdout_records: {holdout}
  holdout_units: {holdout_patients}
  max_rejects: 0.01
  classes: [well, ill]
  labels: {labels}
  table:
    label: {{column: outcome}}
    outside: {outside}
    columns:
      - {{name: age, bounds: [0, 110], decimals: 0}}
      - {{name: ward, levels: [north, south, west]}}
      - {{name: marker level, bounds: [0.1, 1000], scale: log, decimals: 2}}
      - {{name: pressure, bounds: [60, 220]}}
      - {{name: smoker, levels: ["no", "yes"]}}
spend:     {{epsilon: 90, delta: 1e-5}}
model:     {model}
mechanism: {mechanism}
validate:  {{classifier: {classifier}, holdout: test, epsilon: 1, accuracy_at_least: {floor}}}
publish:   {{publisher: The tests}}
run:       {{range_records: 300, workers: 2, audit_trials: 40}}
"""


def build(folder: Path, **changes: object) -> Place:
    """Write the source and the spec below `folder`."""
    source = folder / "source"
    source.mkdir(parents=True)
    (folder / "user").mkdir()
    generator = np.random.default_rng(11)
    counts = {}
    for split, patients in (("train", PATIENTS), ("test", HOLDOUT_PATIENTS)):
        rows = visits(generator, split, patients)
        with (source / f"{split}.csv").open("w", newline="") as stream:
            lines = csv.writer(stream)
            lines.writerow(["outcome", "ward", "name", "age", "marker level", "pressure", "smoker", "patient id"])
            lines.writerows(rows)
        counts[split] = [sum(row[-1] == who for row in rows) for who in {row[-1] for row in rows}]
    place = Place(folder, folder / "release.yaml", Settings.load({"CADP_HOME": str(folder / "home")}))
    values: dict[str, object] = {
        "version": "1.0.0",
        "url": source,
        "most": MOST,
        "records": sum(counts["train"]),
        "patients": PATIENTS,
        "over_cap": sum(max(0, count - MOST) for count in counts["train"]),
        "holdout": sum(counts["test"]),
        "holdout_patients": HOLDOUT_PATIENTS,
        "labels": "public",
        "outside": "clamp",
        "model": "{train: {epsilon: 40}}",
        "mechanism": "{kind: privunit, epsilon: 8, content_dims: 3}",
        "classifier": "linear",
        "floor": 0.5,
    }
    place.spec.write_text(SPEC.format(**{**values, **changes}))
    return place


def open_budget(place: Place) -> None:
    """Make the signing key and the budgets."""
    place.settings.make_private_folders()
    new_key(signing_key_path(place.settings))
    init_budget(place.spec, place.settings, epsilon=100.0, delta=1e-5, holdout_epsilon=5.0)


def visits(generator: np.random.Generator, split: str, patients: int) -> list[list[str]]:
    """One row a visit, up to three of each patient; every patient has a name that no spec declares."""
    rows = []
    for patient in range(patients):
        ill = patient % 2
        for _ in range(1 + patient % 3):
            age = int(generator.normal(45 + 20 * ill, 10))
            ward = "south" if generator.random() < 0.2 + 0.6 * ill else "north"
            marker = float(np.exp(generator.normal(1 + 3 * ill, 0.5)))
            pressure = float(generator.normal(120 + 25 * ill, 12))
            smoker = "yes" if generator.random() < 0.3 + 0.4 * ill else "no"
            who = f"Patient-{split}-{patient:04d}"
            told = [CLASSES[ill], ward, f"Name of {who}", str(age), f"{marker:.3f}", f"{pressure:.2f}", smoker, who]
            rows.append(told)
    return rows
