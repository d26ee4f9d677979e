"""`prefect.yaml` as Prefect takes it, and a worker that runs what it deploys."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.servers.prefect import BIN, ROOT, PrefectServer

WHOLE = {"release/release", "shard/shard", "train/cpu", "train/gpu", "privatize/privatize", "publish/publish"}
RANGES = {"shard-range/cpu", "privatize-range/cpu", "privatize-range/gpu", "publish-range/cpu"}
SPEC = {"spec": "docs/examples/fashion-mnist.yaml", "workers": None}


def test_every_flow_is_deployed_to_its_pool_and_none_is_scheduled(deployed: dict[str, dict[str, Any]]) -> None:
    assert set(deployed) == WHOLE | RANGES | {"validate/validate"}
    for name, deployment in deployed.items():
        assert deployment["work_pool_name"] == ("gpu" if name.endswith("/gpu") else "cpu")
        assert deployment["schedules"] == []
        assert deployment["description"]


def test_parameters_are_those_of_the_flows(deployed: dict[str, dict[str, Any]]) -> None:
    for name, deployment in deployed.items():
        schema = deployment["parameter_openapi_schema"]
        fields = schema["properties"]
        if name in RANGES:
            assert deployment["parameters"] == {}
            assert schema["required"] == ["spec", "index", "plan"]
            assert fields["index"]["minimum"] == 0
        else:
            assert deployment["parameters"] == SPEC | ({"pool": None} if name in WHOLE else {})
            assert schema["required"] == ["spec"]
            assert ("pool" in fields) == (name in WHOLE)


def test_the_deployers_folder_is_not_in_a_deployment(deployed: dict[str, dict[str, Any]]) -> None:
    for deployment in deployed.values():
        assert deployment["pull_steps"] == [
            {"prefect.deployments.steps.set_working_directory": {"directory": "{{ prefect.variables.cadp_checkout }}"}}
        ]
        assert str(ROOT) not in str(deployment)


@pytest.mark.usefixtures("deployed")
def test_a_worker_runs_the_release_and_says_what_is_missing(prefect: PrefectServer, tmp_path: Path) -> None:
    prefect.cli("deployment", "run", "release/release")
    prefect.cli("worker", "start", "--pool", "cpu", "--run-once", cwd=tmp_path)
    run = prefect.flow_run("release fashion-mnist 1.0.0")
    assert run["state"]["type"] == "FAILED"
    assert "there is no ledger" in run["state"]["message"]
    why = prefect.artifacts(run["id"])["release-fashion-mnist-1-0-0-stopped"]
    assert "cadp budget init" in why["data"]
    assert list(prefect.user_home.rglob("*")) == []


@pytest.mark.usefixtures("deployed")
def test_a_parameter_out_of_bounds_is_refused_before_a_run(prefect: PrefectServer) -> None:
    command = [str(BIN / "prefect"), "--no-prompt", "deployment", "run", "release/release", "--param", "workers=0"]
    env = prefect.tied
    refused = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "minimum of 1" in refused.stdout + refused.stderr
