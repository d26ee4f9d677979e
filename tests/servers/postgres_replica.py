"""A streaming hot standby of a test server: it lags when told to, and can take over."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from tests.servers.postgres import PostgresServer, place, running
from tests.servers.postmaster import Postmaster

HAPPENS_WITHIN = 30.0


@dataclass(frozen=True)
class Replica(PostgresServer):
    """A standby: readable at its own address, written by the server that it follows until `promote`."""

    follows: PostgresServer | None = None

    def catch_up(self) -> None:
        """Wait until everything that the followed server has written by now can be read here."""
        if self.follows is None:
            raise RuntimeError("this replica follows no server")
        written = self.follows.ask("SELECT pg_current_wal_lsn()")
        self._wait("to replay", lambda: self.ask("SELECT pg_last_wal_replay_lsn() >= %s", written))

    def pause(self) -> None:
        """Stop replaying. What is written goes on arriving, and is replayed at `resume` or `promote`."""
        self.ask("SELECT pg_wal_replay_pause()")
        self._wait("to pause", lambda: self.ask("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

    def resume(self) -> None:
        """Replay again."""
        self.ask("SELECT pg_wal_replay_resume()")

    def detach(self) -> None:
        """Stop receiving for good: what the followed server writes from now on is not there after `promote`."""
        self._maintain(sql.Composed([sql.SQL("ALTER SYSTEM SET primary_conninfo = ''")]))
        self.ask("SELECT pg_reload_conf()")
        self._wait("to detach", lambda: self.ask("SELECT count(*) = 0 FROM pg_stat_wal_receiver"))

    def promote(self) -> None:
        """Become a server that can be written, with everything that has arrived; returns when it can."""
        if not self.ask("SELECT pg_promote(true, %s)", int(HAPPENS_WITHIN)):
            raise RuntimeError(f"the replica on port {self.port} was not promoted within {HAPPENS_WITHIN:.0f} s")

    def _wait(self, what: str, done: Callable[[], object]) -> None:
        until = time.monotonic() + HAPPENS_WITHIN
        while not done():
            if time.monotonic() > until:
                raise RuntimeError(f"the replica on port {self.port} took more than {HAPPENS_WITHIN:.0f} s {what}")
            time.sleep(0.02)


@contextmanager
def replica(server: PostgresServer, folder: Path | None = None) -> Iterator[Replica]:
    """Copy a server that we started, have the copy follow it, and stop it whatever happens.

    Args:
        server: what is followed; one from `serve()`.
        folder: where its data and log lie, as for `serve`.
    """
    if server.postmaster is None:
        raise RuntimeError("a server given by TEST_POSTGRES_URL is not ours to copy: take one from `serve()`")
    programs = server.postmaster.programs
    with place(folder) as chosen:
        how = ("-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", server.url("postgres"))
        programs.run("pg_basebackup", "-D", str(chosen / "data"), *how, cwd=chosen)
        with running(Postmaster(programs, chosen, server.postmaster.fsync), server.password) as copy:
            yield Replica(copy.host, copy.port, copy.user, copy.password, copy.postmaster, follows=server)
