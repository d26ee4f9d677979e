"""Connections that are cut at any message, replies to COMMIT that are lost, servers that die: done again, done once."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import BudgetExceeded, LedgerError, LedgerMissing, LedgerRewound
from cadp.ledger import Ledger, engine
from cadp.ledger.engine import Database, Unavailable
from cadp.privacy.accountant import PureEvent
from tests.ledger.life import KINDS, live, require_whole
from tests.ledger.places import ServerPlace, add_population
from tests.servers.cutting_proxy import CuttingProxy, Moment
from tests.servers.postgres import PostgresServer, serve
from tests.servers.postgres_replica import replica


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(postgres.host, postgres.port) as between:
        yield between


def through(proxy: CuttingProxy, place: ServerPlace) -> Ledger:
    return Ledger.open(proxy.url(place.url), place.anchors)


def live_with_cuts(place: ServerPlace, proxy: CuttingProxy, plan: Callable[[], None]) -> list[int]:
    """Live a life in which `plan` plans a cut for every transaction; return how many messages each one took."""
    told, sizes = list[str](), list[int]()
    repeat = Database._repeat

    def planned(database: Database, begin: Any, work: Any) -> Any:
        before = proxy.messages
        plan()
        try:
            return repeat(database, begin, work)
        finally:
            proxy.spare()
            sizes.append(proxy.messages - before)

    with pytest.MonkeyPatch.context() as patch, through(proxy, place) as ledger:
        patch.setattr(Database, "_repeat", planned)
        live(ledger, told.append)
    require_whole(place, told)
    return sizes


@pytest.mark.slow
def test_a_connection_cut_anywhere_inside_every_transaction_changes_nothing(
    server_template: ServerPlace, tmp_path: Path, proxy: CuttingProxy
) -> None:
    sizes = live_with_cuts(server_template.copy(tmp_path / "whole"), proxy, lambda: None)
    assert len(sizes) > 30
    # A statement is four messages or more: every statement of every transaction is hit.
    for number in range(1, max(sizes) + 1, 3):
        place, cuts = server_template.copy(tmp_path / str(number)), proxy.cuts
        live_with_cuts(place, proxy, lambda number=number: proxy.cut_nth(number))
        # A life takes a transaction more or less as its leases and anchors fall.
        reached = sum(size >= number for size in sizes)
        assert proxy.cuts - cuts >= max(1, reached - 3)
        place.server.drop(place.database)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_lost_reply_to_every_commit_of_a_life_changes_nothing(
    server_place: ServerPlace, proxy: CuttingProxy, moment: Moment
) -> None:
    live_with_cuts(server_place, proxy, lambda: proxy.cut(b"COMMIT", moment))
    assert proxy.cuts >= sum(KINDS.values()) - 1


def test_a_commit_whose_reply_is_lost_charges_once(server_place: ServerPlace, proxy: CuttingProxy) -> None:
    with through(proxy, server_place) as ledger:
        add_population(ledger)
        for number in range(5):
            proxy.cut(b"COMMIT", "after")
            charge = ledger.charge("people", release="r", key=str(number), event=PureEvent(0.5), parameters={})
            assert charge.key == str(number)
        assert len(ledger.charges()) == 5
        assert ledger.budget("people").charged == 2.5
        kinds = [notice.kind for notice in ledger.notices()]
        assert kinds.count("reserved") == 5
        ledger.check()


def test_without_the_repetition_a_cut_is_an_error_that_says_what_to_do(
    server_place: ServerPlace, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETRY_SECONDS", 0.0)
    with through(proxy, server_place) as ledger:
        add_population(ledger)
        proxy.cut(b"COMMIT", "after")
        with pytest.raises(Unavailable, match="run the same command again: .*nothing is charged twice"):
            ledger.charge("people", release="r", key="k", event=PureEvent(0.5), parameters={})
        # It was committed, but not anchored: whoever comes next anchors it, and the same request finds it.
        monkeypatch.undo()
        assert ledger.charge("people", release="r", key="k", event=PureEvent(0.5), parameters={}).curve
        assert len(ledger.charges()) == 1
        ledger.check()


def test_a_server_that_is_not_there_is_said_at_once(server_place: ServerPlace) -> None:
    server = server_place.server
    nobody = f"postgresql://{server.user}:sesame@127.0.0.1:1/{server_place.database}"
    wrong = f"postgresql://{server.user}:sesame@{server.host}:{server.port}/{server_place.database}"
    missing = server.url("no_such_database")
    for url, kind, words in (
        (nobody, Unavailable, "cannot be reached"),
        (wrong, LedgerError, "password .*PGPASSFILE"),
        (missing, LedgerMissing, "there is no database no_such_database"),
    ):
        began = time.monotonic()
        with pytest.raises(kind, match=words) as refusal:
            Ledger.open(url, server_place.anchors)
        assert time.monotonic() - began < engine.RETRY_SECONDS / 2
        assert "sesame" not in str(refusal.value)
        assert server.password not in str(refusal.value)


def test_a_role_without_rights_is_told_which(server_place: ServerPlace) -> None:
    server_place.execute(
        "CREATE ROLE reader LOGIN PASSWORD 'sesame'", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    )
    server = server_place.server
    url = f"postgresql://reader:sesame@{server.host}:{server.port}/{server_place.database}"
    try:
        with Ledger.open(url, server_place.anchors) as ledger:
            assert ledger.populations() == []
            with pytest.raises(LedgerError, match="the role lacks a right"):
                add_population(ledger)
    finally:
        server_place.execute("DROP OWNED BY reader", "DROP ROLE reader")


def test_a_writer_that_hangs_does_not_hold_the_others_for_ever(
    server_place: ServerPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cadp.ledger import postgres as module

    monkeypatch.setitem(module._SESSION, "lock_timeout", "200ms")
    with server_place.open() as hanging, server_place.open() as other:
        add_population(hanging)
        with hanging._database.writing(), pytest.raises(LedgerError, match="held the ledger's row too long"):
            other.charge("people", release="r", key="k", event=PureEvent(0.5), parameters={})
        other.charge("people", release="r", key="k", event=PureEvent(0.5), parameters={})
        monkeypatch.setitem(module._SESSION, "idle_in_transaction_session_timeout", "200ms")
    with server_place.open() as hanging, server_place.open() as other:
        with pytest.raises(LedgerError), hanging._database.writing() as connection:
            time.sleep(0.4)
            connection.exec_driver_sql("SELECT 1")
        other.charge("people", release="r", key="l", event=PureEvent(0.5), parameters={})


CHARGING = """
import sys
from cadp.errors import BudgetExceeded
from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store

ledger = Ledger.open(sys.argv[1], Store.open(sys.argv[2]))
sys.stdout.write("ready\\n")
sys.stdout.flush()
for number in range(10_000):
    try:
        charge = ledger.charge(
            "people", release="r", key=f"{sys.argv[3]}/{number}", event=PureEvent(0.001), parameters={}
        )
    except BudgetExceeded:
        break
    sys.stdout.write(charge.id + "\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_a_server_that_is_killed_under_load_loses_nothing_that_was_handed_out(tmp_path: Path) -> None:
    import subprocess

    with serve() as server:
        place = ServerPlace.fresh(tmp_path / "place", server)
        with place.init() as ledger:
            add_population(ledger)
        command = [sys.executable, "-c", CHARGING, place.url, str(place.anchors_folder)]
        writers = [
            subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for i in range(3)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
            for _ in range(4):
                time.sleep(0.5)
                server.kill()
                server.restart()
            time.sleep(0.5)
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
        seen = [line for writer in writers for line in writer.communicate()[0].splitlines()]
        with place.open() as ledger:
            held = {charge.id for charge in ledger.charges()}
            # The last line of a killed writer may be cut.
            assert {line for line in seen if len(line) == 16} <= held
            assert len(seen) > 20
            ledger.check()


def test_a_lagging_standby_is_refused_before_and_after_it_is_promoted(tmp_path: Path) -> None:
    with serve(fsync=False) as server:
        place = ServerPlace.fresh(tmp_path / "place", server)
        with place.init() as ledger:
            add_population(ledger)
        with replica(server) as standby:
            standby.catch_up()
            behind = standby.url(place.database)
            # In step with the primary it may be read, and takes no writes.
            with Ledger.open(behind, place.anchors) as reader:
                assert [population.name for population in reader.populations()] == ["people"]
                with pytest.raises(LedgerError, match="a standby.* point to the primary"):
                    reader.charge("people", release="r", key="k", event=PureEvent(0.5), parameters={})
            standby.pause()
            with place.open() as ledger:
                ledger.charge("people", release="r", key="k", event=PureEvent(3.0), parameters={})
            with pytest.raises(LedgerRewound, match="ends at entry 2, but entry 3 is anchored"):
                Ledger.open(behind, place.anchors)
            standby.resume()
            standby.catch_up()
            Ledger.open(behind, place.anchors).close()
            standby.detach()
            with place.open() as ledger:
                ledger.charge("people", release="r", key="l", event=PureEvent(4.0), parameters={})
            standby.promote()
            # A primary now, and 4.0 of the budget forgotten.
            with pytest.raises(LedgerRewound, match="ends at entry 3, but entry 4 is anchored"):
                Ledger.open(behind, place.anchors)
        with place.open() as ledger, pytest.raises(BudgetExceeded):
            ledger.charge("people", release="r", key="m", event=PureEvent(4.0), parameters={})


def test_a_process_that_had_the_standby_open_is_stopped_too(tmp_path: Path) -> None:
    with serve(fsync=False) as server:
        place = ServerPlace.fresh(tmp_path / "place", server)
        with place.init() as ledger:
            add_population(ledger)
        with replica(server) as standby:
            standby.catch_up()
            with Ledger.open(standby.url(place.database), place.anchors) as stale:
                standby.detach()
                with place.open() as ledger:
                    ledger.charge("people", release="r", key="k", event=PureEvent(7.0), parameters={})
                standby.promote()
                with pytest.raises(LedgerRewound, match="another entry 3"):
                    stale.charge("people", release="r", key="k", event=PureEvent(7.0), parameters={})
                with pytest.raises(LedgerRewound):
                    stale.charge("people", release="r", key="k", event=PureEvent(7.0), parameters={})


def test_a_child_of_a_fork_leaves_its_parents_connection_alone(server_place: ServerPlace) -> None:
    with server_place.open() as ledger:
        add_population(ledger)
        for number in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    ledger.charge("people", release="child", key=f"c{number}", event=PureEvent(0.1), parameters={})
                    code = 0
                finally:
                    os._exit(code)
            ledger.charge("people", release="parent", key=f"p{number}", event=PureEvent(0.1), parameters={})
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(ledger.charges()) == 6
        ledger.check()
