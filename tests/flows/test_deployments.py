"""`prefect.yaml` as Prefect takes it, and a worker that runs what it deploys."""

import subprocess
from pathlib import Path

import pytest

from flows import environment
from tests.servers.prefect import BIN, ROOT, PrefectServer

STEPS = {"release", "shard", "train", "privatize", "validate", "publish"}


def cli(prefect: PrefectServer, *arguments: str, cwd: Path = ROOT) -> str:
    """Run Prefect's own command line as an operator does after `eval "$(python -m flows env)"`."""
    ended = subprocess.run(
        [str(BIN / "prefect"), "--no-prompt", *arguments],
        cwd=cwd,
        env=prefect.environment | environment.variables(prefect.cadp_home / "prefect", prefect.url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def deployed(prefect: PrefectServer) -> dict[str, dict[str, object]]:
    prefect.ask("work_pools/", {"name": "cadp", "type": "process"})
    prefect.ask("variables/", {"name": "cadp_checkout", "value": str(ROOT)})
    cli(prefect, "deploy", "--all")
    return {deployment["name"]: deployment for deployment in prefect.ask("deployments/filter", {})}


def test_every_flow_is_deployed_to_the_pool_and_none_is_scheduled(deployed: dict[str, dict[str, object]]) -> None:
    assert set(deployed) == STEPS
    for name, deployment in deployed.items():
        assert deployment["entrypoint"] == f"flows/{name}.py:{name}"
        assert deployment["parameters"] == {"spec": "docs/examples/fashion-mnist.yaml", "workers": None}
        assert deployment["work_pool_name"] == "cadp"
        assert deployment["schedules"] == []
        assert deployment["description"]
        schema = deployment["parameter_openapi_schema"]
        assert schema["required"] == ["spec"]  # type: ignore[index]


def test_the_deployers_folder_is_not_in_a_deployment(deployed: dict[str, dict[str, object]]) -> None:
    for deployment in deployed.values():
        assert deployment["pull_steps"] == [
            {"prefect.deployments.steps.set_working_directory": {"directory": "{{ prefect.variables.cadp_checkout }}"}}
        ]
        assert str(ROOT) not in str(deployment)


@pytest.mark.usefixtures("deployed")
def test_a_worker_runs_the_release_and_says_what_is_missing(prefect: PrefectServer, tmp_path: Path) -> None:
    cli(prefect, "deployment", "run", "release/release")
    cli(prefect, "worker", "start", "--pool", "cadp", "--run-once", cwd=tmp_path)
    run = prefect.flow_run("release fashion-mnist 1.0.0")
    assert run["state"]["type"] == "FAILED"
    assert "there is no ledger" in run["state"]["message"]
    why = prefect.artifacts(run["id"])["release-fashion-mnist-1-0-0-stopped"]
    assert "cadp budget init" in why["data"]
    assert list(prefect.user_home.rglob("*")) == []


@pytest.mark.usefixtures("deployed")
def test_a_parameter_out_of_bounds_is_refused_before_a_run(prefect: PrefectServer) -> None:
    command = [str(BIN / "prefect"), "--no-prompt", "deployment", "run", "release/release", "--param", "workers=0"]
    env = prefect.environment | environment.variables(prefect.cadp_home / "prefect", prefect.url)
    refused = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "minimum of 1" in refused.stdout + refused.stderr
