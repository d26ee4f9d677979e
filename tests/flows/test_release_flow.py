"""The flow `release` on a real server: run names, tasks, artifacts, and what a failure looks like to each onlooker."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.servers.prefect import ROOT, PrefectServer

Failed = Callable[[str], subprocess.CompletedProcess[str]]
STEPS = ("shard", "train", "privatize", "validate", "publish")


def spec_file(folder: Path, name: str) -> Path:
    text = (ROOT / "docs" / "examples" / "fashion-mnist.yaml").read_text()
    path = folder / "release.yaml"
    path.write_text(text.replace("name: fashion-mnist\n", f"name: {name}\n", 1))
    return path


def run(prefect: PrefectServer, mode: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(prefect, "tests.flows.fake_release", mode, "release", *arguments)


def python(prefect: PrefectServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=prefect.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A release that goes well."""
    return run(prefect, "well", str(spec_file(tmp_path_factory.mktemp("spec"), "garments")), "--workers", "2")


def test_the_terminal_shows_the_summary_and_the_ui(
    prefect: PrefectServer, whole: subprocess.CompletedProcess[str]
) -> None:
    assert whole.returncode == 0, whole.stderr
    for said in ("file:///public/fake/1.0.0", "ε = 8 for one record", "import webdataset", prefect.url):
        assert said in whole.stdout
    assert "reserved  train: ε = 1" in whole.stderr
    assert "Beginning flow run" not in whole.stderr, "Prefect's own lines are for the UI"


@pytest.mark.usefixtures("whole")
def test_runs_have_names_and_each_range_is_a_task(prefect: PrefectServer) -> None:
    release = prefect.flow_run("release garments 1.0.0")
    assert release["state"]["type"] == "COMPLETED"
    assert release["parameters"]["workers"] == 2
    for step in STEPS:
        step_run = prefect.flow_run(f"{step} garments 1.0.0")
        assert step_run["state"]["type"] == "COMPLETED"
        tasks = prefect.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [step_run["id"]]}}})
        ranges = 1 if step in {"train", "validate"} else 4
        assert {task["name"] for task in tasks} == {f"range {index:02d}" for index in range(ranges)}
        assert {task["state"]["type"] for task in tasks} == {"COMPLETED"}
    children = prefect.ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [release["id"]]}}})
    in_order = sorted(children, key=lambda child: child["start_time"])
    assert [child["name"].split()[0] for child in in_order] == list(STEPS)


@pytest.mark.usefixtures("whole")
def test_artifacts_hold_progress_budget_picture_and_figure(prefect: PrefectServer) -> None:
    publish = prefect.artifacts(prefect.flow_run("publish garments 1.0.0")["id"])
    assert publish["garments-budget"]["type"] == "table"
    assert "8.00" in publish["garments-budget"]["data"]
    assert "](data:image/png;base64,iVBOR" in publish["garments-contact-sheet"]["data"]
    progress = publish["garments-publish"]
    assert progress["type"] == "progress"
    assert progress["data"] == 100.0
    assert "400 of 400 records" in progress["description"]
    assert "records/s" in progress["description"]
    validate = prefect.artifacts(prefect.flow_run("validate garments 1.0.0")["id"])
    assert "0.83" in validate["garments-accuracy"]["data"]
    release = prefect.artifacts(prefect.flow_run("release garments 1.0.0")["id"])
    assert "ε = 8 for one record" in release["garments-release"]["data"]


@pytest.mark.usefixtures("whole")
def test_logs_of_a_steps_own_threads_reach_the_ui(prefect: PrefectServer) -> None:
    run_id = prefect.flow_run("privatize garments 1.0.0")["id"]
    logs = prefect.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})
    said = [log["message"] for log in logs]
    assert {f"sealed: range {index}" for index in range(4)} <= set(said)


@pytest.fixture(scope="module")
def failed(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Failed:
    """A release that fails in the given mode; run once a mode."""
    return cache(lambda mode: run(prefect, mode, str(spec_file(tmp_path_factory.mktemp("spec"), mode))))


@pytest.mark.parametrize(
    ("mode", "code", "step", "message", "advice"),
    [
        ("broken", 1, "privatize", "the bucket went away", "run the same release again"),
        ("refused", 3, "train", "difference 2.5", "ask whoever holds this population's budget"),
        ("withheld", 5, "validate", "accuracy 0.61 is below 0.75", "Nothing was published"),
    ],
)
def test_a_failure_is_one_line_an_exit_code_and_a_failed_run(
    prefect: PrefectServer, failed: Failed, mode: str, code: int, step: str, message: str, advice: str
) -> None:
    ended = failed(mode)
    assert ended.returncode == code
    errors = [line for line in ended.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in ended.stdout + ended.stderr
    for name in ("release", step):
        flow_run = prefect.flow_run(f"{name} {mode} 1.0.0")
        assert flow_run["state"]["type"] == "FAILED"
        assert message in flow_run["state"]["message"]
    why = prefect.artifacts(prefect.flow_run(f"release {mode} 1.0.0")["id"])[f"release-{mode}-1-0-0-stopped"]
    assert message in why["data"]
    assert advice in why["data"]
    after = STEPS[STEPS.index(step) + 1]
    assert not prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [f"{after} {mode} 1.0.0"]}}})


def test_a_failed_range_is_shown_and_the_others_are_not_blamed(prefect: PrefectServer, failed: Failed) -> None:
    failed("broken")
    step_run = prefect.flow_run("privatize broken 1.0.0")
    tasks = prefect.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [step_run["id"]]}}})
    states = {task["name"]: task["state"]["type"] for task in tasks}
    assert states["range 02"] == "FAILED"
    assert states["range 00"] == states["range 01"] == "COMPLETED"


def test_a_fault_of_the_program_keeps_its_stack_trace(prefect: PrefectServer, tmp_path: Path) -> None:
    ended = run(prefect, "fault", str(spec_file(tmp_path, "fault")))
    assert ended.returncode == 1
    assert "ZeroDivisionError: a fault of the program" in ended.stderr


def test_a_published_version_ends_with_the_same_summary_and_runs_no_step(
    prefect: PrefectServer, tmp_path: Path
) -> None:
    ended = run(prefect, "published", str(spec_file(tmp_path, "again")))
    assert ended.returncode == 0
    assert "ε = 8 for one record" in ended.stdout
    assert not prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": ["shard again 1.0.0"]}}})


def test_bad_arguments_are_a_usage_error_before_any_run(prefect: PrefectServer, tmp_path: Path) -> None:
    missing = python(prefect, "flows", "release", str(tmp_path / "missing.yaml"))
    assert missing.returncode == 2
    assert "there is no spec" in missing.stderr
    workers = python(prefect, "flows", "release", str(spec_file(tmp_path, "garments")), "--workers", "0")
    assert workers.returncode == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [")
    unread = run(prefect, "well", str(bad))
    assert unread.returncode == 2
    assert "bad.yaml:1" in unread.stderr
    assert prefect.flow_run("release bad.yaml")["state"]["type"] == "FAILED"


def test_the_users_home_stays_empty(prefect: PrefectServer) -> None:
    assert list(prefect.user_home.rglob("*")) == []


def test_every_step_of_a_release_has_its_flow(prefect: PrefectServer) -> None:
    code = "import flows.release as f, cadp.release as r; print([step.name for step in r.STEPS], list(f.FLOWS))"
    env = prefect.environment | {"PREFECT_HOME": str(prefect.cadp_home / "prefect")}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"{list(STEPS)} {list(STEPS)}"
