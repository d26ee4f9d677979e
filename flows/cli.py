"""The flows' command line: a release in this process on a server that it starts, and that server's life.

The exit codes are those of `cadp`; Prefect is imported once its environment is set, and by `release` alone.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from cadp.errors import CadpError, SpecError
from cadp.settings import Settings
from flows import environment, server
from flows.doctor import examine

app = typer.Typer(
    name="python -m flows",
    help="Run a release as a Prefect flow, on a server of this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line; a `CadpError` becomes its message and its exit code, never a stack trace."""
    try:
        app()
    except CadpError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on")
        sys.exit(1)


@app.command()
def release(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="a release.yaml", show_default=False)],
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="ranges at the same time; the spec's `run.workers` if left out")
    ] = None,
    pool: Annotated[
        Literal["cpu", "gpu"] | None,
        typer.Option(help="send every range to this work pool; `prefect deploy --all` and workers first"),
    ] = None,
) -> None:
    """Take a release from its source to its signed manifest, watched in Prefect's UI. Run it again: it goes on."""
    if not spec.is_file():
        raise SpecError(f"there is no spec {spec}: name a release.yaml, such as docs/examples/fashion-mnist.yaml")
    running = server.up(_home())
    environment.enter(running.home, running.url)
    err.print(f"Prefect UI  {running.url}", highlight=False)
    from flows.terminal import run_release  # noqa: PLC0415  (imports Prefect, whose environment is set now)

    run_release(spec, workers, pool, err, out)
    out.print(f"Prefect UI  {running.url}  (python -m flows down stops it)", highlight=False, soft_wrap=True)


@app.command()
def up() -> None:
    """Start the Prefect server, or find the one that runs."""
    running = server.up(_home())
    out.print(f"Prefect UI  {running.url}", highlight=False, soft_wrap=True)


@app.command()
def down() -> None:
    """Stop the Prefect server; what it knows stays."""
    out.print("stopped" if server.down(_home()) else "no server runs", highlight=False)


@app.command()
def status() -> None:
    """Say whether the Prefect server runs, and where; exit code 1 when it does not."""
    running = server.status(_home())
    if running is None:
        out.print("no server runs; python -m flows up starts it", highlight=False)
        raise typer.Exit(1)
    out.print(f"Prefect UI  {running.url}  (process {running.process.pid})", highlight=False, soft_wrap=True)


@app.command()
def env() -> None:
    """Print what ties a shell to the server: `eval "$(python -m flows env)"`, then `prefect deploy --all`."""
    running = server.up(_home())
    for name, value in environment.variables(running.home, running.url).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


@app.command()
def doctor() -> None:
    """Check what the flows need; exit code 1 when something is missing."""
    findings = examine(Settings.load(), _home())
    for finding in findings:
        mark = "[green]ok[/green]     " if finding.good else "[red]missing[/red]"
        out.print(f"{mark}  {finding.what}: {escape(finding.found)}", highlight=False, soft_wrap=True)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _home() -> Path:
    return Settings.load().home / "prefect"
