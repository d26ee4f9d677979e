"""A real release, small, as a Prefect flow on a real server: what the operator sees, and what is left untouched."""

import subprocess
import sys

import pytest

from tests.servers.prefect import ROOT, PrefectServer
from tests.small_release import Place

TASKS = {"shard": 5, "train": 1, "privatize": 4, "validate": 1, "publish": 4}


@pytest.fixture
def environ(prefect: PrefectServer, place: Place) -> dict[str, str]:
    """The test's server, and the places of the small release."""
    zones = {"CADP_PRIVATE": place.settings.private_url, "CADP_PUBLIC": place.settings.public_url}
    ledger = {"CADP_LEDGER": place.settings.ledger_url, "CADP_ANCHORS": place.settings.anchors_url}
    keys = {"CADP_KEYS": str(place.settings.keys_dir), "CADP_SECRETS": str(place.settings.secrets_dir)}
    return prefect.environment | zones | ledger | keys


def test_a_release_is_a_flow_of_five_flows(prefect: PrefectServer, place: Place, environ: dict[str, str]) -> None:
    place.open_budget()
    command = [sys.executable, "-m", "flows", "release", str(place.spec)]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for said in (str(place.public), "Protected: ", "Accuracy ", "Budget ", "load_dataset(", prefect.url):
        assert said in ran.stdout

    release = prefect.flow_run("release shapes 1.0.0")
    assert release["state"]["type"] == "COMPLETED"
    for step, count in TASKS.items():
        run = prefect.flow_run(f"{step} shapes 1.0.0")
        assert run["state"]["type"] == "COMPLETED"
        tasks = prefect.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        assert sorted(task["name"] for task in tasks) == [f"range {index:02d}" for index in range(count)]
    artifacts = prefect.artifacts(prefect.flow_run("publish shapes 1.0.0")["id"])
    assert {"shapes-publish", "shapes-budget", "shapes-contact-sheet"} <= set(artifacts)
    assert "shapes-accuracy" in prefect.artifacts(prefect.flow_run("validate shapes 1.0.0")["id"])
    assert list(prefect.user_home.iterdir()) == []
    assert list((place.folder / "user").iterdir()) == []

    verified = place.cadp("verify", str(place.public))
    assert verified.returncode == 0, verified.stderr
