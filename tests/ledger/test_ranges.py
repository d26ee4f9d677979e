"""Leases, fencing tokens and seals: a zombie cannot seal."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cadp.errors import LedgerError, SealConflict
from cadp.ledger import Charge, LeaseHeld, Ledger, Notice, process_owner
from cadp.ledger.owner import is_dead
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import SHA, Place, ServerPlace, add_population

Pay = Callable[..., Charge]
OTHER_SHA = SHA[::-1]


@pytest.fixture
def running(ledger: Ledger, pay: Pay) -> str:
    return ledger.begin(pay("train").id).id


def test_a_living_lease_of_another_owner_is_respected(ledger: Ledger, running: str) -> None:
    ledger.lease(running, 0, "machine|1|2", 60)
    with pytest.raises(LeaseHeld, match=r"leased to machine\|1\|2 for another (59|60) s") as held:
        ledger.lease(running, 0, "me", 60)
    assert held.value.owner == "machine|1|2"
    assert 58 < held.value.seconds_left <= 60
    assert ledger.lease(running, 1, "me", 60).token == 1


def test_an_expired_lease_is_taken_over_and_the_zombie_cannot_seal(ledger: Ledger, running: str) -> None:
    zombie = ledger.lease(running, 0, "zombie", 0.01)
    time.sleep(0.02)
    heir = ledger.lease(running, 0, "heir", 60)
    assert heir.token == zombie.token + 1
    for act in (
        lambda: ledger.seal(zombie, key="z", sha256=SHA, facts={}),
        lambda: ledger.renew(zombie),
    ):
        with pytest.raises(SealConflict, match="is lost to heir under token 2"):
            act()
    assert ledger.seals(running) == {}
    assert ledger.seal(heir, key="h", sha256=SHA, facts={"records": 3}).facts == {"records": 3}
    with pytest.raises(SealConflict, match="sealed as h: z is another attempt's"):
        ledger.seal(zombie, key="z", sha256=SHA, facts={})
    with pytest.raises(SealConflict, match="sealed already"):
        ledger.lease(running, 0, "heir", 60)


def test_an_expired_lease_that_nobody_took_still_seals(ledger: Ledger, running: str) -> None:
    lease = ledger.lease(running, 0, "me", 0.01)
    time.sleep(0.02)
    ledger.seal(lease, key="k", sha256=SHA, facts={})


def test_the_owners_own_second_attempt_fences_the_first(ledger: Ledger, running: str) -> None:
    first, second = (ledger.lease(running, 0, "me", 60) for _ in range(2))
    assert (first.token, second.token) == (1, 2)
    with pytest.raises(SealConflict, match="token 1"):
        ledger.seal(first, key="k", sha256=SHA, facts={})
    ledger.seal(second, key="k", sha256=SHA, facts={})


def test_the_same_seal_again_is_the_same_and_another_is_refused(ledger: Ledger, running: str) -> None:
    lease = ledger.lease(running, 0, "me", 60)
    seal = ledger.seal(lease, key="k", sha256=SHA, facts={"n": 1})
    assert ledger.seal(lease, key="k", sha256=SHA, facts={"n": 1}) == seal
    for key, sha256 in (("other", SHA), ("k", OTHER_SHA)):
        with pytest.raises(SealConflict):
            ledger.seal(lease, key=key, sha256=sha256, facts={})
    ledger.finish(running, 1)
    assert ledger.seal(lease, key="k", sha256=SHA, facts={"n": 1}) == seal
    assert ledger.seals(running) == {0: seal}


def test_renewing_keeps_the_token_and_moves_the_end(ledger: Ledger, running: str) -> None:
    lease = ledger.lease(running, 0, "me", 0.05)
    time.sleep(0.03)
    renewed = ledger.renew(lease)
    assert renewed.token == lease.token
    assert renewed.expires > lease.expires
    ledger.seal(lease, key="k", sha256=SHA, facts={})


def test_a_forged_lease_cannot_seal(ledger: Ledger, running: str) -> None:
    from dataclasses import replace

    lease = ledger.lease(running, 0, "me", 60)
    for forged in (replace(lease, token=2), replace(lease, owner="you"), replace(lease, range_id=5)):
        with pytest.raises(SealConflict, match="is lost"):
            ledger.seal(forged, key="k", sha256=SHA, facts={})


def test_nothing_is_leased_or_sealed_unless_the_charge_runs(ledger: Ledger, pay: Pay) -> None:
    charge = pay("a")
    with pytest.raises(LedgerError, match="the charge is RESERVED"):
        ledger.lease(charge.id, 0, "me", 60)
    ledger.begin(charge.id)
    lease = ledger.lease(charge.id, 0, "me", 60)
    ledger.burn("r/1", "given up")
    for act in (lambda: ledger.seal(lease, key="k", sha256=SHA, facts={}), lambda: ledger.renew(lease)):
        with pytest.raises(LedgerError, match="the charge is BURNED"):
            act()


@pytest.mark.parametrize(
    ("range_id", "seconds"),
    [(-1, 60), (1.5, 60), (True, 60), (0, 0), (0, -1), (0, 3601), (2**31, 60), (0, float("nan"))],
)
def test_senseless_leases_are_refused(ledger: Ledger, running: str, range_id: int, seconds: float) -> None:
    with pytest.raises(LedgerError, match="a lease needs"):
        ledger.lease(running, range_id, "me", seconds)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "g" * 64, "A" * 64])
def test_a_seal_needs_a_digest(ledger: Ledger, running: str, sha256: str) -> None:
    with pytest.raises(LedgerError, match="SHA-256"):
        ledger.seal(ledger.lease(running, 0, "me", 60), key="k", sha256=sha256, facts={})


def test_the_range_of_a_killed_process_is_free_at_once(place: Place, ledger: Ledger, running: str) -> None:
    script = (
        "import sys, os, signal\n"
        "from cadp.ledger import Ledger, process_owner\nfrom cadp.store import Store\n"
        "ledger = Ledger.open(sys.argv[1], Store.open(sys.argv[2]))\n"
        "lease = ledger.lease(sys.argv[3], 0, process_owner('gpu 0'), 3600)\n"
        "print(lease.owner, flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, place.url, str(place.anchors_folder), running]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        owner = worker.stdout.readline().strip()
        with pytest.raises(LeaseHeld) as held:
            ledger.lease(running, 0, process_owner(), 60)
        assert held.value.owner == owner
        worker.kill()
        # Dead but not yet waited for is dead enough; the signal needs a moment.
        for _ in range(200):
            if is_dead(owner):
                break
            time.sleep(0.01)
        lease = ledger.lease(running, 0, process_owner(), 60)
    assert lease.token == 2
    ledger.seal(lease, key="k", sha256=SHA, facts={})


def test_who_is_dead() -> None:
    me = process_owner()
    machine, pid, start = me.split("|")
    assert not is_dead(me)
    assert not is_dead(process_owner("worker 3"))
    assert is_dead(f"{machine}|{pid}|{int(start) - 1}"), "the number was given to a younger process"
    assert is_dead(f"{machine}|{2**22 + 1}|{start}"), "no process has this number"
    for unknown in ("me", "host:12", f"elsewhere|{pid}|1", f"{machine}|x|1", f"{machine}|²|1", f"{machine}|{9**40}|1"):
        assert not is_dead(unknown)


def test_another_boot_of_this_machine_is_not_called_dead_but_lapses(ledger: Ledger, running: str) -> None:
    host, boot, rest = process_owner().split("/", 2)
    before = f"{host}/{boot[::-1]}/{rest}"
    ledger.lease(running, 0, before, 0.4)
    with pytest.raises(LeaseHeld):
        ledger.lease(running, 0, process_owner(), 60)
    time.sleep(0.5)
    assert ledger.lease(running, 0, process_owner(), 60).token == 2


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set_neither_blocks_a_range_nor_lets_two_seal(
    ledger: Ledger, running: str, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    holder = ledger.lease(running, 0, "holder", 60)
    clock = ledger._database.clock
    monkeypatch.setattr(ledger._database, "clock", lambda connection: clock(connection) + step)
    # Whichever way it went, the lease is not of this time: the range is free, and the holder is fenced off.
    heir = ledger.lease(running, 0, "heir", 60)
    ledger.seal(heir, key="h", sha256=SHA, facts={})
    with pytest.raises(SealConflict):
        ledger.seal(holder, key="z", sha256=SHA, facts={})
    ledger.finish(running, 1)
    assert [entry.kind for entry in ledger.history()][-1] == "finish"


def test_a_small_step_back_leaves_a_living_lease_alone(
    ledger: Ledger, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.lease(running, 0, "holder", 60)
    clock = ledger._database.clock
    monkeypatch.setattr(ledger._database, "clock", lambda connection: clock(connection) - 5)
    with pytest.raises(LeaseHeld):
        ledger.lease(running, 0, "heir", 60)


@pytest.mark.parametrize("skew", [86400.0, -86400.0])
def test_on_a_server_the_workers_clocks_do_not_matter(
    server_place: ServerPlace, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    with server_place.open() as ledger:
        add_population(ledger)
        charge = ledger.charge("people", release="r/1", key="k", event=PureEvent(0.5), parameters={})
        ledger.begin(charge.id)
        lease = ledger.lease(charge.id, 0, "punctual", 60)
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + skew)
        with pytest.raises(LeaseHeld, match="for another (59|60) s"):
            ledger.lease(charge.id, 0, "wrong clock", 60)
        assert abs(ledger.renew(lease).expires - (clock() + 60)) < 5
        assert abs(ledger.lease(charge.id, 1, "wrong clock", 60).expires - (clock() + 60)) < 5


def test_a_takeover_is_told_with_who_and_why(ledger: Ledger, running: str) -> None:
    told: list[Notice] = []
    with ledger.watched(told.append):
        ledger.lease(running, 0, "first", 0.01)
        time.sleep(0.02)
        ledger.lease(running, 0, "second", 60)
        ledger.lease(running, 0, "second", 60)
    assert [(notice.kind, notice.release) for notice in told] == [("takeover", "r/1")]
    assert "goes from first (its lease ended 0 s ago) to second under token 2" in told[0].text
    assert ledger.notices()[-1] == told[0]


def test_one_seal_and_the_newest_tokens_are_found_without_the_others(ledger: Ledger, running: str) -> None:
    for index, owner in ((0, "a"), (0, "a"), (2, "b")):
        lease = ledger.lease(running, index, owner, 60)
    seal = ledger.seal(lease, key="k", sha256=SHA, facts={})
    assert ledger.seal_of(running, 2) == seal
    assert ledger.seal_of(running, 0) is ledger.seal_of(running, 1) is None
    assert ledger.tokens(running) == {0: 2, 2: 1}
