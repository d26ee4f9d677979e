"""The PostgreSQL of the tests: fresh databases, kills that lose nothing committed, standbys, nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.servers.postgres import PostgresServer, from_url, place, serve
from tests.servers.postgres_programs import NEEDED, find
from tests.servers.postgres_replica import replica

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    with place(None) as made:
        yield made


def put(url: str, number: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (number int)")
        connection.execute("INSERT INTO numbers VALUES (%s)", [number])


def numbers(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


def is_gone(pid: int, within: float = 20.0) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_fresh_databases_are_empty_and_each_its_own(postgres: PostgresServer, pg_database: str) -> None:
    put(pg_database, 1)
    other = postgres.create()
    assert other != pg_database
    connection = psycopg.connect(other)
    assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    postgres.drop(other)  # the connection does not keep it
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(other)
    assert numbers(pg_database) == [1]


def test_a_template_is_copied(postgres: PostgresServer) -> None:
    template = "ledger's 100 % template"
    url = postgres.create(template)
    put(url, 1)
    copy = postgres.create(template=template)
    put(copy, 2)
    try:
        assert (numbers(url), numbers(copy)) == ([1], [1, 2])
    finally:
        postgres.drop(template)
        postgres.drop(copy)


def test_a_server_given_by_its_url_makes_databases_too(postgres: PostgresServer) -> None:
    given = from_url(postgres.url("postgres"))
    assert given.url("x") == postgres.url("x")
    url = given.create()
    put(url, 1)
    given.drop(url)
    with pytest.raises(RuntimeError, match="not ours to stop"):
        given.kill()
    with pytest.raises(RuntimeError, match="not ours to copy"), replica(given):
        pass


def test_a_password_of_any_characters_survives_the_url() -> None:
    url = "postgresql://some%40body:p%2F%3A%40@db.example:6543/main?sslmode=require"
    server = from_url(url)
    assert (server.user, server.password, server.host, server.port) == ("some@body", "p/:@", "db.example", 6543)
    assert server.url("main") == url
    assert "p/:@" not in repr(server)


def test_a_killed_server_keeps_what_was_committed() -> None:
    with serve() as server:
        url, first = server.create(), server.pid
        put(url, 1)
        with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as open_one:
            open_one.execute("INSERT INTO numbers VALUES (2)")
            server.kill()
            open_one.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.restart()
        assert server.pid != first
        assert numbers(url) == [1]
        assert server.postmaster is not None
        assert "was not properly shut down" in (server.postmaster.folder / "log").read_text()
        second = server.pid
        server.restart()  # of one that runs
        assert is_gone(second)
        assert numbers(url) == [1]


def test_nothing_is_left_behind_even_by_a_test_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), serve(fsync=False) as server:
        _ = 1 / 0
    assert is_gone(server.pid)
    assert server.postmaster is not None
    assert not server.postmaster.folder.exists()


def test_the_same_folder_again_finds_the_same_databases(folder: Path) -> None:
    with serve(folder) as server:
        server.create("kept")
        put(server.url("kept"), 1)
    with serve(folder) as again:
        assert numbers(again.url("kept")) == [1]


def test_a_server_that_cannot_start_shows_the_end_of_its_log(folder: Path) -> None:
    with serve(folder, fsync=False):
        pass
    with (folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with (
        pytest.raises(RuntimeError, match="did not start on port [0-9]+:\n(.|\n)*no_such_setting"),
        serve(folder, fsync=False),
    ):
        pass


def test_a_server_does_not_outlive_killed_tests(folder: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.servers.postgres import serve\n"
        "with serve(Path(sys.argv[1]), fsync=False) as server:\n"
        "    print(server.pid, flush=True)\n    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        os.kill(pid, 0)
        tests.send_signal(signal.SIGKILL)
    assert is_gone(pid)


def test_a_paused_replica_lags_and_catches_up_when_promoted() -> None:
    with serve(fsync=False) as server:
        url = server.create("main")
        put(url, 1)
        with replica(server) as standby:
            there = standby.url("main")
            standby.catch_up()
            assert numbers(there) == [1]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                put(there, 9)
            standby.pause()
            put(url, 2)
            assert numbers(there) == [1]
            standby.resume()
            standby.catch_up()
            assert numbers(there) == [1, 2]
            standby.promote()
            put(there, 3)
            assert (numbers(url), numbers(there)) == ([1, 2], [1, 2, 3])


def test_a_detached_replica_loses_what_comes_later() -> None:
    with serve(fsync=False) as server:
        url = server.create("main")
        put(url, 1)
        with replica(server) as standby:
            standby.catch_up()
            standby.detach()
            put(url, 2)
            server.kill()
            standby.promote()
            assert numbers(standby.url("main")) == [1]


def test_the_wheel_serves_where_the_system_has_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_POSTGRES_FROM", "wheel")
    with serve(fsync=False) as server:
        assert server.postmaster is not None
        assert server.postmaster.programs.source == "wheel"
        url = server.create("main")
        put(url, 1)
        with replica(server) as standby:
            standby.catch_up()
            assert numbers(standby.url("main")) == [1]


def test_a_wheel_that_the_account_cannot_read_is_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = find(folder, ["wheel"]).folder.parents[1]
    for name in (installed.name, f"{installed.name}.libs"):
        shutil.copytree(installed.with_name(name), tmp_path / name, symlinks=True)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(tmp_path)
    programs = find(folder, ["wheel"])
    assert programs.folder.is_relative_to(folder if os.geteuid() == 0 else tmp_path)
    monkeypatch.setenv("TEST_POSTGRES_FROM", "wheel")
    with serve(folder, fsync=False) as server:
        assert server.ask("SELECT 1") == 1


def test_a_link_on_the_path_leads_to_the_other_programs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find(folder).folder
    (tmp_path / "postgres").symlink_to(real / "postgres")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find(folder, ["system"]).folder
    assert all((found / name).is_file() for name in NEEDED)
    assert found == real.resolve()


def test_no_server_at_all_says_what_brings_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.postgres_programs.WHEEL", "no_such_wheel")
    with pytest.raises(RuntimeError, match=r"no PostgreSQL server from wheel: pip install 'cadp\[dev\]'"):
        find(folder, ["wheel"])
    monkeypatch.setenv("TEST_POSTGRES_FROM", "nowhere")
    with pytest.raises(RuntimeError, match="'nowhere' is not one of system, wheel"):
        find(folder)
