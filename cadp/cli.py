"""The command line: `cadp --help`. Every command ends with an exit code that scripts can rely on.

0 ok, 1 failed, 2 usage, spec or plan differs, 3 budget refused, 4 verification or audit failed, 5 withheld by the gate.
"""

import json
import sys
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cadp.errors import CadpError
from cadp.reporter import plain_table
from cadp.settings import Settings

app = typer.Typer(
    name="cadp",
    help="Turn a private labelled dataset into one that may be published, under a stated privacy guarantee.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
budget = typer.Typer(help="The privacy budget of each population: make it, look at it.", no_args_is_help=True)
keys = typer.Typer(help="The key that signs releases.", no_args_is_help=True)
model = typer.Typer(
    help="The models of the private zone: look at one, bring one in, train one on public data.", no_args_is_help=True
)
app.add_typer(budget, name="budget")
app.add_typer(model, name="model")
app.add_typer(keys, name="keys")

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="a release.yaml", show_default=False)]
Population = Annotated[
    str | None, typer.Argument(metavar="[POPULATION]", help="only this one and its holdout", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line; a `CadpError` becomes its message and its exit code, never a stack trace."""
    try:
        app()
    except CadpError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on")
        sys.exit(1)


def _print_error(message: str) -> None:
    """Print a message: as it is for scripts; on a screen it breaks between words, never inside a path or a URL."""
    lines = f"error: {message}".splitlines()
    if err.is_terminal:
        lines = [fill(line, err.width, break_long_words=False, break_on_hyphens=False) for line in lines]
    text = "\n".join(lines).removeprefix("error:")
    err.print(f"[red]error:[/red]{escape(text)}", highlight=False, soft_wrap=True)


@app.command()
def plan(spec: Spec, as_json: AsJson = False) -> None:
    """Show what a release will do, read and cost. Reads no private record and charges nothing."""
    from cadp.show import plan_view

    view = plan_view(spec, Settings.load())
    if as_json:
        out.print_json(json.dumps(view.to_json()))
        return
    _table("Zones", view.zones)
    _table(f"Plan of {view.release}", view.rows)
    for line in view.lines:
        out.print(escape(line), highlight=False, soft_wrap=True)


@app.command()
def release(spec: Spec) -> None:
    """Take a release from its source to its signed manifest. Run it again after any interruption: it goes on."""
    from cadp.release import Job, run_release, summary
    from cadp.reporter import ConsoleReporter
    from cadp.show import print_summary

    job = Job.open(spec)
    run_release(job, ConsoleReporter(err))
    print_summary(summary(job), out)


def _step(name: str, doc: str) -> None:
    def command(spec: Spec) -> None:
        from cadp.release import STEPS, Job, run_step
        from cadp.reporter import ConsoleReporter

        job = Job.open(spec)
        run_step(next(step for step in STEPS if step.name == name), job, ConsoleReporter(err))

    command.__doc__ = doc
    app.command(name)(command)


_step("shard", "Read the source into raw shards in the private zone. Charges nothing.")
_step("train", "Charge the training and fit the model.")
_step("privatize", "Charge the mechanism and seal every range of released records.")
_step("validate", "Charge the gate and check the released records.")
_step("publish", "Write the release, its signed manifest last.")


@app.command()
def audit(
    spec: Spec,
    trials: Annotated[int, typer.Option(min=40, help="of each figure; more take longer and show more")] = 5000,
    as_json: AsJson = False,
) -> None:
    """Audit the code that the spec runs, on synthetic records. Reads no private record and charges nothing."""
    from cadp.reporter import ConsoleReporter
    from cadp.show.audit import print_audit
    from cadp.steps.audit import audit_release, require_not_refuted

    document = audit_release(spec, Settings.load(), ConsoleReporter(err), trials)
    if as_json:
        out.print_json(json.dumps(document))
    else:
        print_audit(document, out)
    require_not_refuted(document)


@app.command()
def abandon(
    spec: Spec, reason: Annotated[str, typer.Option(help="why, for the ledger's history")] = "abandoned"
) -> None:
    """Give a release up: its charges are burned, never refunded. One that charged nothing is forgotten."""
    from cadp.steps.abandon import abandon_release

    out.print(abandon_release(spec, Settings.load(), reason), highlight=False, soft_wrap=True)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
    older_than: Annotated[
        int | None, typer.Option(metavar="DAYS", min=0, max=999_999, help="instead of the settings' retention")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what nothing needs any more: lost attempts, and what old published or burned releases were made from."""
    from cadp.steps.collect import collect

    collected = collect(Settings.load(), days=older_than, dry_run=dry_run)
    if as_json:
        out.print_json(json.dumps(collected.to_json()))
        return
    if rows := collected.rows():
        _table("Garbage", rows)
    else:
        out.print("nothing to delete")
    for line in [*(f"unknown, left alone: {url}" for url in collected.unknown), *collected.notes]:
        out.print(escape(line), highlight=False, soft_wrap=True)


@app.command()
def verify(
    url: Annotated[str, typer.Argument(metavar="URL", help="a release: a folder or s3://…", show_default=False)],
    key: Annotated[list[Path] | None, typer.Option(help="a trusted public key (PEM); else the settings' keys")] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a release against its signed manifest, and its ε against its events."""
    from cadp.publish.sign import load_public
    from cadp.publish.verify import verify as check

    paths = key or sorted(Settings.load().keys_dir.glob("*.pub"))
    verified = check(url, [load_public(path) for path in paths])
    facts = {
        "release": verified.release,
        "signed_by": verified.signed_by,
        "files": verified.files,
        "bytes": verified.size,
        "records": verified.records,
        "looked_for_extra_files": verified.listed,
        "statement": verified.manifest.body["statement"],
    }
    if as_json:
        out.print_json(json.dumps(facts))
        return
    line = (
        f"{verified.release}: {verified.files} files, {verified.records:,} records, signed by {verified.signed_by[:16]}"
    )
    out.print(f"[green]ok[/green] {escape(line)}", highlight=False, soft_wrap=True)
    if not verified.listed:
        out.print("this store cannot be listed, so extra files could not be looked for", highlight=False)


@keys.command("new")
def keys_new(if_absent: Annotated[bool, typer.Option("--if-absent", help="keep a key that is there")] = False) -> None:
    """Make the Ed25519 key that signs releases, readable by you alone, and its public half beside it."""
    from cadp.publish.sign import load_signer, new_key
    from cadp.steps.publish import signing_key_path

    settings = Settings.load()
    settings.make_private_folders()
    path = signing_key_path(settings)
    signer = load_signer(path) if if_absent and path.exists() else new_key(path)
    out.print(escape(f"signing key {signer.key_id[:16]} in {path}"), highlight=False, soft_wrap=True)


@budget.command("init")
def budget_init(
    spec: Spec,
    epsilon: Annotated[float, typer.Option(help="the most the population may ever lose (replace-one)")],
    delta: Annotated[float, typer.Option(help="δ of that limit")],
    holdout_epsilon: Annotated[float, typer.Option(help="the same for its holdout units, which only gates use")] = 1.0,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="keep a budget that is there")] = False,
) -> None:
    """Make the ledger if there is none, and the budget of the spec's population. Limits are never raised."""
    from cadp.show import budget_view, print_budget
    from cadp.show.opening import lost_at_restart
    from cadp.steps.budgets import has_budget, init_budget

    settings = Settings.load()
    if not (if_absent and has_budget(spec, settings)):
        init_budget(spec, settings, epsilon=epsilon, delta=delta, holdout_epsilon=holdout_epsilon)
    for warning in lost_at_restart(settings):
        err.print(escape(warning), highlight=False, soft_wrap=True)
    print_budget(budget_view(settings), out)


@budget.command("show")
def budget_show(population: Population = None, as_json: AsJson = False) -> None:
    """Show what is spent, reserved and left of every limit, and which release holds how much."""
    from cadp.show import budget_view, print_budget

    view = budget_view(Settings.load(), population)
    if as_json:
        out.print_json(json.dumps(view.to_json()))
        return
    print_budget(view, out)


@budget.command("history")
def budget_history(
    population: Population = None,
    release: Annotated[str | None, typer.Option(metavar="NAME/VERSION", help="only this release")] = None,
    as_json: AsJson = False,
) -> None:
    """List every change of a budget, oldest first, with the ε of the population after it."""
    from cadp.show import history_json, history_view, print_history

    lines = history_view(Settings.load(), population, release)
    if as_json:
        out.print_json(json.dumps(history_json(lines)))
        return
    print_history(lines, out)


@budget.command("backup")
def budget_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a new SQLite file", show_default=False)],
) -> None:
    """Write the whole ledger to a new file, whichever database it is in. Others may go on working meanwhile."""
    from cadp.steps.backups import back_up_ledger, not_backed_up

    settings = Settings.load()
    _facts(back_up_ledger(settings, file))
    out.print(escape(not_backed_up(settings)), highlight=False, soft_wrap=True)


@budget.command("restore")
def budget_restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what `cadp budget backup` wrote", show_default=False)],
) -> None:
    """Put a backup where the settings say that the ledger is and none is there, and compare it with its anchors."""
    from cadp.steps.backups import open_restored, restore_ledger

    settings = Settings.load()
    _facts(restore_ledger(settings, file))
    out.print(escape(open_restored(settings)), highlight=False, soft_wrap=True)


@budget.command("verify")
def budget_verify(as_json: AsJson = False) -> None:
    """Recompute the whole budget from ledger and published manifests: chain, anchors, sums, and what was promised."""
    from cadp.errors import VerificationFailed
    from cadp.show.verify import account_rows, accounts_json
    from cadp.steps.accounts import verify_accounts

    accounts = verify_accounts(Settings.load())
    if as_json:
        out.print_json(json.dumps(accounts_json(accounts)))
        if not accounts.hold:
            raise typer.Exit(VerificationFailed.exit_code)
        return
    if accounts.accounts:
        _table("Accounts (replace-one ε, recomputed)", account_rows(accounts))
    for finding in accounts.findings:
        if not finding.wrong:
            out.print(escape(f"{finding.about}: {finding.text}"), highlight=False, soft_wrap=True)
    wrong = [f"  {finding.about}: {finding.text}" for finding in accounts.findings if finding.wrong]
    if wrong:
        raise VerificationFailed("the accounts do not hold:\n" + "\n".join(wrong))
    checked = accounts.checked
    line = f"entries: {checked.entries if checked else 0}, releases read: {len(accounts.manifests)}"
    out.print(f"[green]ok[/green] {line}", highlight=False, soft_wrap=True)


@budget.command("recover")
def budget_recover(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="there is no copy at all: make it from the anchors")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring back from the anchors what a restored or lost ledger has forgotten. Burns whatever was at work.

    With --json and without --yes nothing is changed: it is only said what would be done.
    """
    from cadp.ledger import Ledger
    from cadp.show.verify import recovery_json, recovery_lines
    from cadp.zones import anchor_zone

    settings = Settings.load()
    anchors = anchor_zone(settings)
    shown = None if yes else Ledger.survey(settings.ledger_url, anchors, rebuild=rebuild)
    if shown is not None and shown.reentered is not None and not as_json:
        for line in recovery_lines(shown):
            out.print(escape(line), highlight=False, soft_wrap=True)
        typer.confirm("Recover?", abort=True)
    if shown is not None and as_json:
        out.print_json(json.dumps(recovery_json(shown)))
        return
    done = Ledger.recover(settings.ledger_url, anchors, rebuild=rebuild, shown=shown)
    if as_json:
        out.print_json(json.dumps(recovery_json(done)))
        return
    for line in recovery_lines(done):
        out.print(escape(line), highlight=False, soft_wrap=True)


@model.command("inspect")
def model_inspect(
    which: Annotated[str, typer.Argument(metavar="DIGEST|PATH", help="a model, or its .json", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="public records (.npz: images, labels) for bits/dim")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's network, digest, bits/dim and privacy record."""
    from cadp.show.model import inspect_model, print_model

    document = inspect_model(which, Settings.load(), data)
    if as_json:
        out.print_json(json.dumps(document))
        return
    print_model(document, out)


@model.command("import")
def model_import(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="a .pt of the paper's code", show_default=False)
    ],
    *,
    shape: Annotated[str, typer.Option(metavar="HxWxC", help="of a record")] = "28x28x1",
    clamp: Annotated[float, typer.Option(help="of the couplings, as it was configured")] = 1.5,
    gin: Annotated[bool, typer.Option("--gin", help="it was trained with GIN couplings, not GLOW")] = False,
    attributes: Annotated[bool, typer.Option("--attributes", help="conditions are attributes, not one label")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a model of the paper's published code in. It has no privacy record: only a spec may declare it public."""
    from cadp.show.model import import_model, parse_shape

    size = parse_shape(shape)
    digest = import_model(checkpoint, Settings.load(), shape=size, clamp=clamp, gin=gin, attributes=attributes)
    if as_json:
        out.print_json(json.dumps({"digest": digest}))
        return
    out.print(digest, highlight=False, soft_wrap=True)


@model.command("train")
def model_train(
    spec: Annotated[Path, typer.Argument(metavar="MODEL", help="a model.yaml", show_default=False)],
    processes: Annotated[int, typer.Option(min=1, max=64, help="that share the work, one a GPU if there are any")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a network on data declared public, by maximum likelihood. Run it again after any interruption."""
    from cadp.reporter import ConsoleReporter
    from cadp.steps.train_public import train_public_model

    trained = train_public_model(spec, Settings.load(), ConsoleReporter(err), processes)
    if as_json:
        out.print_json(json.dumps({"digest": trained.digest, "round_trip": trained.fit.round_trip}))
        return
    out.print(trained.digest, highlight=False, soft_wrap=True)


@model.command("report")
def model_report(spec: Spec, as_json: AsJson = False) -> None:
    """Show how private records return from their own model, and the losses of its training. For the operator alone."""
    from cadp.show.model_report import print_report
    from cadp.steps.job import Job
    from cadp.steps.private_round_trip import operators_report

    report = operators_report(Job.open(spec))
    if as_json:
        out.print_json(json.dumps(report))
        return
    print_report(report, out)


def _facts(facts: dict[str, str]) -> None:
    for name, value in facts.items():
        out.print(escape(f"{name:14}{value}"), highlight=False, soft_wrap=True)


def _table(title: str, rows: list[dict[str, str]]) -> None:
    if not rows:
        out.print(f"{title}: nothing yet")
        return
    out.print(plain_table(title, rows))
