"""A real Prefect server for tests: the one that users get, in a home of its own, and a way to ask it what it knows."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import environment, server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class PrefectServer:
    """A running server below `cadp_home`, and an empty home folder for the processes that use it."""

    url: str
    cadp_home: Path
    user_home: Path

    @property
    def environment(self) -> dict[str, str]:
        """For a subprocess: an ordinary environment with an empty HOME and this server's CADP_HOME."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CADP_", "XDG_"))}
        return {**kept, "HOME": str(self.user_home), "CADP_HOME": str(self.cadp_home), "COLUMNS": "160"}

    @property
    def tied(self) -> dict[str, str]:
        """The environment of a process that was tied to this server by `python -m flows env`."""
        return self.environment | environment.variables(self.cadp_home / "prefect", self.url)

    def cli(self, *arguments: str, cwd: Path = ROOT) -> str:
        """Run Prefect's own command line as an operator does."""
        command = [str(BIN / "prefect"), "--no-prompt", *arguments]
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120}
        ended = subprocess.run(command, cwd=cwd, env=self.tied, check=False, **quiet)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return str(ended.stdout)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call the API: POST with `body`, or GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_run(self, name: str) -> dict[str, Any]:
        """The latest flow run called `name`."""
        runs = self.ask(
            "flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
        )
        assert runs, f"no flow run {name}"
        return dict(runs[0])

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The artifacts of one flow run by key."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}})
        return {artifact["key"]: artifact for artifact in found}


@contextmanager
def prefect_server(folder: Path) -> Iterator[PrefectServer]:
    """Serve below `folder` while the context is open."""
    cadp_home, user_home = folder / "cadp", folder / "home"
    user_home.mkdir(parents=True)
    try:
        running = server.up(cadp_home / "prefect")
        yield PrefectServer(running.url, cadp_home, user_home)
    finally:
        server.down(cadp_home / "prefect")
