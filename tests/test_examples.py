"""The example specs of tables, as they stand: planned, and one of them released from scikit-learn's rows."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cadp.plan import make_plan
from cadp.publish.sign import load_public, new_key, public_path
from cadp.publish.verify import verify
from cadp.release import Job, run_release
from cadp.reporter import Silent
from cadp.settings import Settings
from cadp.sources import open_source
from cadp.sources.fetch import fetch
from cadp.spec import load_spec
from cadp.steps.budgets import init_budget
from cadp.steps.publish import signing_key_path

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes"])
def test_its_parts_fit_what_it_may_spend(name: str, tmp_path: Path) -> None:
    fetch(name, tmp_path, lambda line: None)
    spec = load_spec(EXAMPLES / f"{name}.yaml")
    plan = make_plan(spec, open_source(spec.source, data_dir=tmp_path))
    assert [part.name for part in plan.parts()] == ["train", "records", "gate"]
    assert plan.versions["scikit-learn"] != "absent"


def test_breast_cancer_is_released(tmp_path: Path) -> None:
    settings = Settings.load({"CADP_HOME": str(tmp_path)})
    settings.make_private_folders()
    fetch("breast-cancer", settings.data_dir, lambda line: None)
    spec = tmp_path / "breast-cancer.yaml"
    # Its own audit with fewer trials; nothing else is changed.
    text = (EXAMPLES / spec.name).read_text()
    spec.write_text(text.replace("{range_records: 200}", "{range_records: 200, audit_trials: 40}"))
    assert spec.read_text() != text
    new_key(signing_key_path(settings))
    init_budget(spec, settings, epsilon=16.0, delta=1e-6, holdout_epsilon=2.0)  # as `make demo` does
    run_release(Job.open(spec, settings), Silent())
    release = Path(settings.public_url) / "breast-cancer" / "1.0.0"
    assert verify(str(release), [load_public(public_path(signing_key_path(settings)))]).release == "breast-cancer/1.0.0"
    rows = pq.read_table(release / "data")
    assert (rows.num_rows, rows.num_columns) == (469, 32)
    counts = rows["diagnosis"].value_counts().to_pylist()
    assert {one["values"]: one["counts"] for one in counts} == {"malignant": 176, "benign": 293}
    assert json.loads((release / "manifest.json").read_bytes())["accuracy"]["accuracy"] >= 0.7
