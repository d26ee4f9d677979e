"""Every command of docs/operating.md is run, in its section's order, in a real shell and on real databases."""

import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cadp.ledger import Ledger, State
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.servers.postgres import PostgresServer
from tests.small_release import Place

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operating.md").read_text()
# GitHub's anchors: lower case, no punctuation, dashes for blanks.
HEADINGS = re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)


def blocks(heading: str, language: str = "console") -> list[str]:
    """The blocks between a heading and the next one."""
    section = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    return re.findall(rf"```{language}\n(.*?)```", re.split(r"^#+ ", section, flags=re.MULTILINE)[0], flags=re.DOTALL)


@dataclass
class Shell:
    """A shell on the operator's machine: what the page names is put where the test has it.

    Attributes:
        place: the deployment.
        names: what the page says → what it is here.
        environ: the shell's variables; `export` changes them.
    """

    place: Place
    names: dict[str, str]
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, block: str) -> list[str]:
        """Run every line, check its exit code (`# ends with N`, else 0) and return what each printed."""
        printed = []
        for line in block.splitlines():
            command, _, comment = line.partition("#")
            wanted = re.match(r" ends with (\d)", comment)
            for name, here in self.names.items():
                command = command.replace(name, here)
            if command.startswith("export "):
                name, _, value = shlex.split(command)[1].partition("=")
                self.environ[name] = value
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                env=self.environ,
                cwd=self.place.folder,
                input="y\n",  # to what asks before it burns
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == (int(wanted[1]) if wanted else 0), f"{line}\n{done.stdout}\n{done.stderr}"
            printed.append(done.stdout + done.stderr)
        return printed


Open = Callable[..., Shell]


@pytest.fixture
def shell(tmp_path: Path) -> Open:
    """Opens a shell for a place, with `cadp` on its path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "cadp"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from cadp.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    for folder in ("backup", "drill"):
        (tmp_path / folder).mkdir()

    def make(place: Place, names: Mapping[str, str] | None = None) -> Shell:
        here = {
            "/backup": str(tmp_path / "backup"),
            "/tmp/drill": str(tmp_path / "drill"),
            ".cadp/": f"{place.settings.home}/",
            "xrays": "shapes",
            **(names or {}),
        }
        return Shell(place, here, place.environ | {"PATH": f"{programs}:{place.environ['PATH']}"})

    return make


@pytest.fixture
def copied(published: Place, tmp_path: Path) -> Place:
    """A published release that the test may break."""
    return published.copy(tmp_path / "copied")


@dataclass(frozen=True)
class Server:
    """The page's PostgreSQL: its database and roles under names of the test's own.

    Attributes:
        postgres: the server.
        database: also the name of the workers' role, as on the page.
        names: what the page says → what it is here.
    """

    postgres: PostgresServer
    database: str
    names: dict[str, str]

    def sql(self, block: str, user: str, password: str, database: str) -> None:
        """Run the page's statements one by one."""
        where = {"host": self.postgres.host, "port": self.postgres.port, "dbname": database}
        with psycopg.connect(**where, user=user, password=password, autocommit=True) as connection:
            for statement in re.sub(r"\bcadp(?=\b|_)", self.database, block).split(";\n"):
                if statement.strip():
                    connection.execute(statement.encode())

    def make(self) -> None:
        """Make database and roles as the page says."""
        self.sql(SQL[0], self.postgres.user, self.postgres.password, self.postgres.maintenance)

    def grant(self) -> None:
        """Give the workers' role its rights as the page says, as the owner."""
        self.sql(SQL[1], f"{self.database}_owner", "choose one", self.database)


SQL = blocks("Making the database", "sql")


@pytest.fixture
def server(postgres: PostgresServer, tmp_path: Path) -> Iterator[Server]:
    database = f"cadp{secrets.token_hex(4)}"
    file = tmp_path / "pgpass"
    file.touch(mode=0o600)
    roles = {f"{database}_owner": "choose one", database: "choose another"}
    file.write_text("".join(f"{postgres.host}:{postgres.port}:*:{role}:{word}\n" for role, word in roles.items()))
    at = f"{postgres.host}:{postgres.port}/{database}"
    names = {
        "/etc/cadp/pgpass": str(file),
        "cadp_owner@db.hospital.example:5432/cadp": f"{database}_owner@{at}",
        "cadp@db.hospital.example:5432/cadp": f"{database}@{at}",
    }
    try:
        yield Server(postgres, database, names)
    finally:
        postgres.drop(database)
        with psycopg.connect(postgres.url(postgres.maintenance), autocommit=True) as connection:
            for role in roles:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def opened(place: Place) -> Ledger:
    return Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url))


def lose(place: Place) -> Path:
    """Take the ledger's file away, with what SQLite has beside it."""
    path = Path(place.settings.ledger_url.removeprefix("sqlite:///"))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return path


def begin_another(place: Place) -> None:
    """Begin version 2.0.0, as far as a charge that runs."""
    with opened(place) as ledger:
        release = "shapes/2.0.0"
        charge = ledger.charge("shapes", release=release, key=f"{release}/train", event=PureEvent(1.0), parameters={})
        ledger.begin(charge.id)


def states(place: Place) -> dict[str, set[State]]:
    found: dict[str, set[State]] = {}
    with opened(place) as ledger:
        for charge in ledger.charges():
            found.setdefault(charge.release, set()).add(charge.state)
    return found


def test_the_budget_is_made_and_a_release_abandoned(place: Place, shell: Open) -> None:
    operator = shell(place)
    (block,) = blocks("The budget")
    assert "Budget of shapes" in operator.run(block)[1]
    begin_another(place)
    place.write_spec(version="2.0.0")
    (block,) = blocks("What becomes of a charge")
    assert "shapes/2.0.0 is burned: 1 charges stay spent" in " ".join(operator.run(block))
    with opened(place) as ledger:
        assert [notice.text for notice in ledger.notices() if "the camera of ward 3" in notice.text]


def test_reading(published: Place, shell: Open) -> None:
    (block,) = blocks("Reading `show` and `history`")
    shown, figures, lines, release = shell(published).run(block)
    assert "░ left" in shown
    assert '"holdout_of": "shapes"' in figures
    assert "shapes/1.0.0/train" in lines
    assert '"published"' in release


def test_a_release_on_postgresql_by_a_role_that_cannot_delete(place: Place, shell: Open, server: Server) -> None:
    operator = shell(place, server.names)
    server.make()
    as_owner, as_worker = blocks("Making the database")
    operator.run(as_owner)
    server.grant()
    shown = operator.run(as_worker)[-1]
    assert "PUBLISHED" in shown
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        server.sql("DELETE FROM seals", server.database, "choose another", server.database)
    assert "choose" not in operator.environ["CADP_LEDGER"]
    assert server.postgres.ask("SELECT count(*) FROM seals", database=server.database) > 0


def test_moving_to_postgresql(copied: Place, shell: Open, server: Server) -> None:
    server.make()
    (block,) = blocks("Moving from SQLite to PostgreSQL")
    before = states(copied)
    shell(copied, server.names).run(block)
    settings = copied.settings
    url = server.postgres.url(server.database)
    with Ledger.open(url, Store.open(settings.anchors_url)) as moved:
        assert {charge.release for charge in moved.charges()} == set(before)


def test_backup_and_restore(copied: Place, shell: Open) -> None:
    operator, before = shell(copied), states(copied)
    backup, restore = blocks("Backup and restore")
    operator.run(backup)
    lose(copied)
    operator.run(restore)
    assert states(copied) == before


def test_an_old_copy_is_refused_and_recovered(copied: Place, shell: Open) -> None:
    operator = shell(copied)
    operator.run("cadp budget backup /backup/old.db")
    old = Path(operator.names["/backup"]) / "old.db"
    begin_another(copied)
    shutil.copy(old, lose(copied))
    refused, recover = blocks("An old copy was put back")
    (said,) = operator.run(refused)
    assert "an older copy was restored, or its end was cut off" in said
    assert "cadp budget recover" in said
    operator.run(recover)
    assert states(copied) == {"shapes/1.0.0": {State.PUBLISHED}, "shapes/2.0.0": {State.BURNED}}


def test_total_loss(copied: Place, shell: Open) -> None:
    begin_another(copied)
    lose(copied)
    (block,) = blocks("The ledger is lost altogether")
    shell(copied).run(block)
    assert states(copied) == {"shapes/1.0.0": {State.PUBLISHED}, "shapes/2.0.0": {State.BURNED}}


def test_upgrading(place: Place, shell: Open) -> None:
    place.open_budget()
    (block,) = blocks("Upgrading")
    assert "Budget of shapes" in shell(place).run(block)[1]


def test_collecting(copied: Place, shell: Open) -> None:
    (block,) = blocks("Retention and `cadp gc`")
    operator = shell(copied)
    operator.run(block)
    operator.run("cadp verify .cadp/public/xrays/1.0.0")
    assert not list(copied.private.glob("sealed/*"))


def test_rotating_the_signing_key(copied: Place, shell: Open) -> None:
    keys = copied.settings.keys_dir
    before = (keys / "publisher.pem").read_bytes()
    (block,) = blocks("Secrets and keys")
    shell(copied).run(block)
    assert (keys / "publisher.pem").read_bytes() != before


def test_the_monthly_list(copied: Place, shell: Open) -> None:
    (block,) = blocks("Every month")
    operator = shell(copied)
    operator.run(block)
    assert not Path(operator.names["/tmp/drill"]).exists()
    assert states(copied) == {"shapes/1.0.0": {State.PUBLISHED}}


def test_every_block_is_run_here() -> None:
    tests = (ROOT / "tests" / "test_operating.py").read_text()
    for heading in HEADINGS:
        if blocks(heading) or blocks(heading, "sql"):
            assert f'blocks("{heading}' in tests, heading
    assert set(re.findall(r"```(\w+)\n", PAGE)) == {"console", "sql"}


def test_every_message_is_one_that_cadp_has() -> None:
    said = "".join(path.read_text() for path in sorted((ROOT / "cadp").rglob("*.py"))).replace("`", "")
    # A message is written over several lines of code.
    said = re.sub(r'"\s*f?"', "", said)
    messages = re.findall(r"^\| `([^`]+)` \|", PAGE, flags=re.MULTILINE)
    assert len(messages) > 20
    assert [message for message in messages if message not in said] == []


def test_links_lead_somewhere() -> None:
    places = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert len(links) > 5
    assert [link for link in links if link not in places] == []
    assert "docs/operating.md" in (ROOT / "README.md").read_text()
    assert "operating.md" in (ROOT / "docs" / "architecture.md").read_text()
