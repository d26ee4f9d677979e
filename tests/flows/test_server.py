"""The server of one machine: started once, found again, stopped, and never mistaken for another process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows import server
from flows.environment import scrubbed
from flows.process import Process
from tests.servers.prefect import ROOT, PrefectServer


def flows(prefect: PrefectServer, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=ROOT,
        env=prefect.environment | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_second_start_finds_the_first(prefect: PrefectServer) -> None:
    began = time.monotonic()
    again = server.up(prefect.cadp_home / "prefect")
    assert again.url == prefect.url
    assert time.monotonic() - began < 2
    assert server.status(prefect.cadp_home / "prefect") == again
    said = flows(prefect, "up")
    assert said.returncode == 0
    assert prefect.url in said.stdout
    assert prefect.url in flows(prefect, "status").stdout


def test_the_ui_is_served_and_calls_its_own_api(prefect: PrefectServer) -> None:
    with urllib.request.urlopen(prefect.url, timeout=10) as page:
        assert b"<!DOCTYPE html>" in page.read()
    with urllib.request.urlopen(f"{prefect.url}/ui-settings", timeout=10) as page:
        assert json.load(page)["api_url"] == f"{prefect.url}/api"


def test_only_the_loopback_can_reach_it(prefect: PrefectServer) -> None:
    port = int(prefect.url.rpartition(":")[2])
    with socket.socket() as probe:
        # Where another address of this machine is served, binding it fails.
        probe.bind(("127.0.0.2", port))


def test_the_environment_for_a_shell_names_the_server(prefect: PrefectServer) -> None:
    said = flows(prefect, "env").stdout
    assert f"export PREFECT_API_URL={prefect.url}/api\n" in said
    assert "PREFECT_HOME=" in said


def test_doctor_finds_what_is_installed(prefect: PrefectServer) -> None:
    said = flows(prefect, "doctor")
    assert said.returncode == 0, said.stdout
    assert prefect.url in said.stdout
    broken = flows(prefect, "doctor", CADP_HOME="/proc/nowhere")
    assert broken.returncode == 1
    assert "missing" in broken.stdout


def test_two_starts_at_once_make_one_server_and_a_stop_is_the_end(tmp_path: Path) -> None:
    home = tmp_path / "cadp"
    env = scrubbed(os.environ) | {"HOME": str(tmp_path / "home"), "CADP_HOME": str(home)}
    command = [sys.executable, "-m", "flows", "up"]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(2)
    ]
    try:
        first, second = (process.communicate(timeout=120)[0] for process in started)
        assert first == second
        state = json.loads((home / "prefect" / "server.json").read_text())
        assert state["url"] in first
    finally:
        stopped = server.down(home / "prefect")
    assert stopped
    assert Process.of(state["pid"]) != Process(state["pid"], state["started"])
    assert not server.down(home / "prefect"), "a second stop finds nothing"
    assert server.status(home / "prefect") is None
    assert not (tmp_path / "home").exists(), "nothing is written to the user's home"
    assert (home / "prefect").stat().st_mode & 0o077 == 0, "only its owner reads the server's home"


def test_another_process_with_the_remembered_number_is_left_alone(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        process = Process.of(innocent.pid)
        assert process is not None
        tmp_path.joinpath("server.json").write_text(
            json.dumps({"pid": process.pid, "started": process.started, "url": "http://127.0.0.1:9"})
        )
        assert server.status(tmp_path) is None
        assert not server.down(tmp_path)
        assert process.alive()
        assert not Process(process.pid, "1").alive(), "the start time is part of its identity"
    finally:
        innocent.kill()
        innocent.wait()
    assert not process.alive()


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_damaged_memory_counts_as_none(tmp_path: Path, text: str) -> None:
    tmp_path.joinpath("server.json").write_text(text)
    assert server.status(tmp_path) is None
    assert not server.down(tmp_path)


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    tmp_path.joinpath("prefect.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(server.ServerError, match=r"(?s)ended with status .*server\.log.*not a database"):
        server.up(tmp_path, seconds=60)


def test_a_server_that_is_too_slow_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(server.ServerError, match=r"did not answer on http://127\.0\.0\.1:\d+ within 0\.01 s"):
        server.up(tmp_path, seconds=0.01)
    assert server.status(tmp_path) is None
    pid = json.loads((tmp_path / "server.json").read_text())["pid"]
    assert Process.of(pid) is None


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(server.ServerError, match="set CADP_HOME"):
        server.up(tmp_path / "file" / "prefect")


def test_a_stubborn_process_is_killed() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"up\n"
    process = Process.of(stubborn.pid)
    assert process is not None
    process.stop(grace=0.2)
    assert stubborn.wait(timeout=10) == -9
    stubborn.stdout.close()
