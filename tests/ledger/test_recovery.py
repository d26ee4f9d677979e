"""Recovery at every backup point of a life, with forks, deaths, races, losses: all counts, nothing burned gets out."""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from cadp.errors import LedgerError, LedgerMissing, LedgerRewound, StoreError
from cadp.ledger import Entry, Ledger, State, recovery, reentry
from cadp.ledger.anchored import read_anchors
from cadp.ledger.book import Book
from cadp.ledger.booked import Fate, Paid
from cadp.ledger.divergence import Recovery
from cadp.privacy.accountant import PureEvent
from tests.ledger.copies import OLD_ENTRIES, put_old
from tests.ledger.lives import (
    EVENTS,
    Life,
    charge,
    fork,
    require_recovered,
    require_rewound,
    scripted,
    seal,
)
from tests.ledger.places import FilePlace, Place, ServerPlace, add_population
from tests.ledger.test_crash import Faulty


def lived(place: Place, copied: Callable[[int], bool]) -> tuple[Life, list[Entry]]:
    """Live the scripted life; keep a copy before every step of which `copied` says so."""
    life = Life(place)
    for number, step in enumerate(scripted(life)):
        if copied(number):
            life.copy()
        with place.open() as ledger:
            step(ledger)
    return life, read_anchors(place.anchors)


def recover(place: Place) -> Recovery:
    return Ledger.recover(place.url, place.anchors)


def keep_anchors(place: Place) -> Path:
    kept = place.folder.parent / "kept-anchors"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place.anchors_folder, kept)
    return kept


def put_anchors(place: Place, kept: Path) -> None:
    shutil.rmtree(place.anchors_folder)
    shutil.copytree(kept, place.anchors_folder)


@pytest.mark.parametrize("forked", [0, 1, 2])
def test_every_backup_point_of_a_life(place: Place, forked: int) -> None:
    # Every point once, in a file after one forked entry; the others see every third point.
    every = 1 if isinstance(place, FilePlace) and forked == 1 else 3
    life, truth = lived(place, lambda number: number % every == 0)
    kept = keep_anchors(place)
    for index in range(len(life.copies)):
        put_anchors(place, kept)
        at = life.restore(index)
        require_rewound(place)
        fork(life, at, forked)
        require_recovered(life, truth, at, lambda: recover(place))


def test_what_survives_goes_on_and_what_is_published_can_be_read(file_place: FilePlace) -> None:
    life = Life(file_place)
    with file_place.open() as ledger:
        add_population(ledger)
        untouched, reserved = charge(ledger, "s/1/train"), charge(ledger, "t/1/train")
        published = charge(ledger, "p/1/train")
        for identity in (untouched, published):
            ledger.begin(identity)
            seal(life, ledger, identity, 0)
            ledger.finish(identity, 1)
    life.copy()
    with file_place.open() as ledger:
        ledger.publish("p/1")
        charge(ledger, "late/1/train")
    life.restore(0)
    done = recover(file_place)
    assert done.releases == ("late/1",)
    assert done.lost_seals == ()
    with file_place.open() as ledger:
        assert ledger.seal_of(published, 0) is not None
        ledger.publish("p/1")
        ledger.publish("s/1")
        ledger.begin(reserved)
        seal(life, ledger, reserved, 0)
        ledger.finish(reserved, 1)
        ledger.publish("t/1")
        ledger.check()


def test_seals_of_a_forked_copy_never_stand_for_the_published_ones(file_place: FilePlace) -> None:
    """Two copies at one entry both seal a running range, and one publishes its own, if no token was anchored."""
    life = Life(file_place)
    with file_place.open() as ledger:
        add_population(ledger)
        identity = charge(ledger, "r/1/train")
        ledger.begin(identity)
    life.copy()
    with file_place.open() as ledger:
        seal(life, ledger, identity, 0)
    forked = file_place.twin()
    life.restore(0)
    # The anchored token stops the second lease; a ledger of an earlier version had none.
    with file_place.open() as ledger, pytest.raises(LedgerRewound, match="forgot token 1"):
        ledger.lease(identity, 0, "other", 60)
    for folder in file_place.anchors_folder.glob("*/leases"):
        shutil.rmtree(folder)
    with file_place.open() as ledger:
        ledger.seal(ledger.lease(identity, 0, "other", 60), key="published", sha256="a" * 64, facts={})
        ledger.finish(identity, 1)
        ledger.publish("r/1")
    file_place.restore(forked)
    done = recover(file_place)
    assert done.lost_seals == (identity,)
    with file_place.open() as ledger:
        assert ledger.charges()[0].state is State.PUBLISHED
        assert ledger.seals(identity) == {}
        ledger.check()


def test_a_running_charge_is_burned_though_none_of_its_entries_is_missing(file_place: FilePlace) -> None:
    """Its seals have no entries: a draw that was seen and forgotten must not be made again under one charge."""
    life = Life(file_place)
    with file_place.open() as ledger:
        add_population(ledger)
        identity = charge(ledger, "r/1/train")
        ledger.begin(identity)
        early = ledger.lease(identity, 0, "early", 60)
    life.copy()
    with file_place.open() as ledger:
        seal(life, ledger, identity, 1)
        charge(ledger, "other/1/train")
    life.restore(0)
    assert set(recover(file_place).releases) == {"r/1", "other/1"}
    with file_place.open() as ledger:
        for act in (
            lambda: ledger.seal(early, key="k", sha256="a" * 64, facts={}),
            lambda: ledger.renew(early),
            lambda: ledger.lease(identity, 0, "new", 60),
        ):
            with pytest.raises(LedgerError):
                act()


def test_nothing_missing_changes_nothing_and_a_crashed_tail_is_anchored(place: Place) -> None:
    life, truth = lived(place, lambda number: False)
    assert recover(place) == Recovery() == Ledger.survey(place.url, place.anchors)
    assert read_anchors(place.anchors) == truth
    anchors = Faulty(place.anchors)
    with Ledger.open(place.url, anchors) as ledger:  # type: ignore[arg-type]
        anchors.switch["fault"] = "before"
        with pytest.raises(StoreError):
            charge(ledger, "left/1/train")
    assert recover(place) == Recovery()
    anchored = read_anchors(place.anchors)
    assert (len(anchored), anchored[-1].kind) == (len(truth) + 1, "charge")
    require_recovered(life, anchored, len(anchored), lambda: recover(place))


def test_a_survey_says_what_recovery_then_does(place: Place) -> None:
    life, truth = lived(place, lambda number: number == 12)
    at = life.restore(0)
    fork(life, at, 2)
    said = Ledger.survey(place.url, place.anchors)
    assert read_anchors(place.anchors) == truth
    require_rewound(place)
    done = recover(place)
    assert said.entry is None
    assert (said.reentered, said.dropped, said.burned, said.releases, said.lost_seals) == (
        done.reentered,
        done.dropped,
        done.burned,
        done.releases,
        done.lost_seals,
    )
    assert [entry["kind"] for entry in done.dropped] == ["charge", "burn"]
    assert done.entry == len(truth) + 1


def test_what_was_agreed_to_and_nothing_else_is_done(place: Place) -> None:
    life, truth = lived(place, lambda number: number == 8)
    whole = place.twin()
    life.restore(0)
    shown = Ledger.survey(place.url, place.anchors)
    with Ledger.open(whole, place.anchors) as other:
        charge(other, "meanwhile/1/train")
    with pytest.raises(LedgerError, match="others went on meanwhile") as refusal:
        Ledger.recover(place.url, place.anchors, shown=shown)
    assert not isinstance(refusal.value, LedgerRewound)
    assert len(read_anchors(place.anchors)) == len(truth) + 1
    require_rewound(place)
    again = Ledger.survey(place.url, place.anchors)
    assert "meanwhile/1" in again.releases
    done = Ledger.recover(place.url, place.anchors, shown=again)
    assert (done.burned, done.reentered) == (again.burned, again.reentered)
    # A second that was asked at the same time finds it done.
    assert Ledger.recover(place.url, place.anchors, shown=again) == Recovery()


def test_what_was_agreed_to_holds_for_a_rebuild_too(place: Place) -> None:
    lived(place, lambda number: False)
    whole = place.twin()
    lose(place)
    shown = Ledger.survey(place.url, place.anchors, rebuild=True)
    with Ledger.open(whole, place.anchors) as other:
        charge(other, "meanwhile/1/train")
    with pytest.raises(LedgerError, match="others went on meanwhile"):
        Ledger.recover(place.url, place.anchors, rebuild=True, shown=shown)
    # Nothing was made.
    again = Ledger.survey(place.url, place.anchors, rebuild=True)
    Ledger.recover(place.url, place.anchors, rebuild=True, shown=again)
    with place.open() as ledger:
        ledger.check()


def test_telling_what_was_burned_looks_at_each_charge_once(
    file_place: FilePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_place.open() as ledger:
        add_population(ledger, epsilon=800.0)
        for number in range(40):
            charge(ledger, f"r{number}/1/train")
    lose(file_place)
    looked, release = [0], Paid.release.fget
    assert release is not None

    def counted(paid: Paid) -> str:
        looked[0] += 1
        return str(release(paid))

    monkeypatch.setattr(Paid, "release", property(counted))
    done = Ledger.recover(file_place.url, file_place.anchors, rebuild=True)
    assert len(done.releases) == 40
    assert looked[0] < 20 * 40


# Lives that nobody wrote


STEPS = st.one_of(
    st.tuples(st.just("charge"), st.sampled_from(["a/1", "b/1", "c/1"]), st.sampled_from(["x", "y"])),
    st.tuples(st.sampled_from(["begin", "work", "answer", "void"]), st.integers(0, 7), st.just("")),
    st.tuples(st.sampled_from(["publish", "burn"]), st.sampled_from(["a/1", "b/1", "c/1"]), st.just("")),
    st.tuples(st.just("copy"), st.just(0), st.just("")),
    st.tuples(st.just("restore"), st.integers(0, 7), st.integers(0, 2)),
)


def live(life: Life, step: tuple[str, Any, Any]) -> None:
    what, which, more = step
    with suppress(LedgerError), life.open() as ledger:
        if what == "charge":
            charge(ledger, f"{which}/{more}", event=EVENTS[ord(more) % len(EVENTS)])
        elif what in ("publish", "burn"):
            ledger.publish(which) if what == "publish" else ledger.burn(which, "a life")
        elif found := ledger.charges():
            identity = found[which % len(found)].id
            if what == "work":
                seal(life, ledger, identity, 0)
                ledger.finish(identity, 1)
            else:
                {"begin": ledger.begin, "void": ledger.void, "answer": lambda i: ledger.answer(i, {})}[what](identity)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=6, max_size=40))
def test_any_life_with_any_copies_put_back(file_template: FilePlace, steps: list[tuple[str, Any, Any]]) -> None:
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        life = Life(file_template.copy(Path(folder) / "it"))
        with life.open() as ledger:
            add_population(ledger)
        life.copy()
        for step in [*steps, ("restore", 0, 1)]:
            if step[0] == "copy":
                life.copy()
            elif step[0] == "restore":
                truth = read_anchors(life.place.anchors)
                at = life.restore(step[1] % len(life.copies))
                if at < len(truth):
                    fork(life, at, step[2])
                require_recovered(life, truth, at, lambda: recover(life.place))
            else:
                live(life, step)


# Mistakes that these tests must notice


def _forgets_a_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    written = reentry._insert
    monkeypatch.setattr(reentry, "_insert", lambda c, t, rows: written(c, t, rows[1:] if t.name == "charges" else rows))
    monkeypatch.setattr(recovery, "_require_consistent", lambda *_: None)


def _burns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fate = Book.fate
    monkeypatch.setattr(Book, "fate", lambda self, first, last: Fate((), fate(self, first, last).lost_seals))


def _anchors_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "AnchoredChain", lambda *_: type("Idle", (), {"check_opening": lambda self: None})())


def _charges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reentry, "replace_total", lambda *_: None)
    monkeypatch.setattr(recovery, "_require_consistent", lambda *_: None)


def _keeps_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        recovery, "drop_beyond", lambda c, seq: c.exec_driver_sql(f"DELETE FROM chain WHERE seq > {seq}")
    )


MISTAKES = [_forgets_a_charge, _burns_nothing, _anchors_nothing, _charges_nothing, _keeps_forks]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_"))
def test_a_planted_mistake_is_noticed(
    file_place: FilePlace, monkeypatch: pytest.MonkeyPatch, mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    life, truth = lived(file_place, lambda number: number == 12)
    at = life.restore(0)
    fork(life, at, 2)
    with monkeypatch.context() as patched:
        mistake(patched)
        with pytest.raises((AssertionError, LedgerError)):
            require_recovered(life, truth, at, lambda: recover(file_place))


# Deaths


class Death(Exception):
    """The process ends here."""


@pytest.fixture
def dying() -> Iterator[dict[str, int]]:
    """Die at the n-th statement or commit; `left` counts down, below zero never."""
    clock = {"left": -1}

    def tick(*_: Any) -> None:
        clock["left"] -= 1
        if clock["left"] == 0:
            raise Death

    event.listen(Engine, "before_cursor_execute", tick)
    event.listen(Engine, "commit", tick)
    yield clock
    event.remove(Engine, "before_cursor_execute", tick)
    event.remove(Engine, "commit", tick)


def test_a_death_at_any_statement_commit_or_anchor_leaves_it_to_be_done_again(
    place: Place, dying: dict[str, int]
) -> None:
    life, truth = lived(place, lambda number: number == 12)
    kept = keep_anchors(place)
    stride = 1 if isinstance(place, FilePlace) else 7
    number = deaths = 0
    while True:
        put_anchors(place, kept)
        at = life.restore(0)
        fork(life, at, 2)
        number += stride
        dying["left"] = number
        try:
            recover(place)
        except Death:
            deaths += 1
            dying["left"] = -1
        else:
            break
        # Either nothing was committed, or opening heals it; the second recovery tells the whole of it.
        anchored = len(read_anchors(place.anchors))
        again = recover(place)
        assert again == Recovery() if anchored > len(truth) else again.reentered == (at + 1, len(truth))
        with place.open() as ledger:
            assert [entry.kind for entry in ledger.history()[len(truth) :]] == ["recover"]
            ledger.check()
    assert deaths > 30 // stride


@pytest.mark.parametrize("fault", ["before", "after"])
def test_an_anchor_that_fails_leaves_a_recovery_that_opening_completes(place: Place, fault: str) -> None:
    life, truth = lived(place, lambda number: number == 8)
    life.restore(0)
    anchors = Faulty(place.anchors, {"fault": fault})
    with pytest.raises(StoreError):
        Ledger.recover(place.url, anchors)  # type: ignore[arg-type]
    with place.open() as ledger:
        assert ledger.history()[-1].kind == "recover"
        ledger.check()
    assert read_anchors(place.anchors)[:-1] == truth


KILLED = """
import os, signal, sys
from cadp.ledger import Ledger
from cadp.store import Store

put, moment = Store.put, sys.argv[3]

def deadly(self, key, data):
    if moment == "after":
        put(self, key, data)
    os.kill(os.getpid(), signal.SIGKILL)

Store.put = deadly
Ledger.recover(sys.argv[1], Store.open(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_sigkill_around_the_anchor(place: Place, moment: str) -> None:
    life, truth = lived(place, lambda number: number == 8)
    at = life.restore(0)
    command = [sys.executable, "-c", KILLED, place.url, str(place.anchors_folder), moment]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    done = recover(place)
    assert done == Recovery() if moment == "after" else done.reentered == (at + 1, len(truth))
    with place.open() as ledger:
        assert [entry.kind for entry in ledger.history()[len(truth) :]] == ["recover"]
        ledger.check()


# Races


def test_two_recoveries_at_once_have_one_effect(place: Place) -> None:
    life, truth = lived(place, lambda number: number == 8)
    life.restore(0)
    done: list[Recovery] = []
    threads = [threading.Thread(target=lambda: done.append(recover(place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(done) == 4
    assert {one.entry for one in done} <= {None, len(truth) + 1}
    with place.open() as ledger:
        assert [entry.kind for entry in ledger.history()[len(truth) :]] == ["recover"]
        ledger.check()


def test_a_recovery_that_loses_its_anchor_to_another_copy_begins_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    life, truth = lived(place, lambda number: number == 8)
    whole = place.twin()
    at = life.restore(0)
    read = recovery.read_anchors
    pending = [True]

    def slow(anchors: Any) -> list[Entry]:
        found = read(anchors)
        if pending.pop() if pending else False:
            with Ledger.open(whole, place.anchors) as other:
                charge(other, "meanwhile/1/train")
        return found

    monkeypatch.setattr(recovery, "read_anchors", slow)
    done = recover(place)
    # The first attempt's own entry went with what it burned; the second burns it all again.
    assert [entry["kind"] for entry in done.dropped] == ["recover"]
    assert done.reentered == (at + 1, len(truth) + 1)
    assert "meanwhile/1" in done.releases
    with pytest.raises(LedgerRewound):
        Ledger.open(whole, place.anchors)
    with place.open() as ledger:
        assert not [c for c in ledger.charges() if c.release == "b/1" and c.state is not State.BURNED]
        ledger.check()


def test_a_writer_on_another_copy_stops_at_its_next_step(place: Place) -> None:
    life, _ = lived(place, lambda number: number == 8)
    whole = place.twin()
    life.restore(0)
    with Ledger.open(whole, place.anchors) as other:
        recover(place)
        with pytest.raises(LedgerRewound):
            other.publish("b/1")
    with place.open() as ledger:
        ledger.check()


# Total loss


def lose(place: Place) -> None:
    if isinstance(place, ServerPlace):
        place.server.drop(place.database)
        place.server.create(place.database)
    elif isinstance(place, FilePlace):
        place.file.unlink()


def test_a_lost_ledger_is_rebuilt_from_its_anchors_alone(place: Place) -> None:
    life, truth = lived(place, lambda number: False)
    with pytest.raises(LedgerError, match="there is a ledger"):
        Ledger.recover(place.url, place.anchors, rebuild=True)
    lose(place)
    with pytest.raises(LedgerRewound, match="--rebuild"):
        place.init()
    with pytest.raises(LedgerMissing, match="--rebuild"):
        recover(place)
    said = Ledger.survey(place.url, place.anchors, rebuild=True)
    assert set(said.releases) == {"b/1", "c/1", "e/1", "f/1"}
    require_recovered(life, truth, 0, lambda: Ledger.recover(place.url, place.anchors, rebuild=True))


def test_a_ledger_that_was_lost_before_its_first_anchor_is_rebuilt_empty(file_place: FilePlace) -> None:
    for file in file_place.anchor_files():
        file.unlink()
    lose(file_place)
    Ledger.recover(file_place.url, file_place.anchors, rebuild=True)
    with file_place.open() as ledger:
        add_population(ledger)
        ledger.check()


def test_the_log_of_a_lost_file_is_not_read_into_the_new_one(file_place: FilePlace) -> None:
    lose(file_place)
    Path(f"{file_place.file}-wal").write_bytes(b"left")
    with pytest.raises(LedgerError, match="move it away"):
        Ledger.recover(file_place.url, file_place.anchors, rebuild=True)
    assert not file_place.file.exists()


# An earlier version's copy, and its anchors, whose charges have no parameters


def test_a_copy_of_an_earlier_schema_is_upgraded_on_the_way(nowhere: Place) -> None:
    old = put_old(nowhere)
    earlier = old.twin()
    with old.init() as ledger:
        late = charge(ledger, "late/1/train")
    truth = read_anchors(old.anchors)
    old.restore(earlier)
    with pytest.raises(LedgerRewound):
        old.init()
    assert recover(old).reentered == (OLD_ENTRIES + 1, OLD_ENTRIES + 2)
    with old.open() as ledger:
        assert [entry.kind for entry in ledger.history()[OLD_ENTRIES:]] == ["upgrade", "charge", "recover"]
        assert ledger.history()[:-1] == truth
        assert {c.id: c.state for c in ledger.charges()}[late] is State.BURNED
        ledger.check()


def test_a_copy_of_an_earlier_schema_that_lags_behind_its_own_anchors(nowhere: Place) -> None:
    old = put_old(nowhere)
    ((release,),) = old.execute(f"SELECT release FROM charges WHERE seq = {OLD_ENTRIES}")
    old.execute(
        f"DELETE FROM charges WHERE seq = {OLD_ENTRIES}",
        f"DELETE FROM chain WHERE seq = {OLD_ENTRIES}",
    )
    assert release in recover(old).releases
    with old.open() as ledger:
        assert [entry.kind for entry in ledger.history()[OLD_ENTRIES - 1 :]] == ["charge", "upgrade", "recover"]
        ledger.check()


def test_charges_whose_entries_have_no_parameters_come_back_without_them(nowhere: Place) -> None:
    old = put_old(nowhere)
    kept = {row[0]: row[1] for row in old.execute("SELECT id, parameters_sha256 FROM charges")}
    lose(old)
    Ledger.recover(old.url, old.anchors, rebuild=True)
    with old.open() as ledger:
        ledger.check()
        assert {c.id: dict(c.parameters) for c in ledger.charges()} == {identity: {} for identity in kept}
        assert dict(old.execute("SELECT id, parameters_sha256 FROM charges")) == kept
    old.execute("UPDATE charges SET parameters = '{\"a\":1}'")
    with old.open() as ledger, pytest.raises(LedgerError, match="was changed"):
        ledger.check()


# Anchors that cannot be believed


def _gap(files: list[Path]) -> None:
    files[4].unlink()


def _changed(files: list[Path]) -> None:
    files[4].write_bytes(files[4].read_bytes().replace(b'"at":"2', b'"at":"3'))


def _cut(files: list[Path]) -> None:
    files[4].write_bytes(files[4].read_bytes()[:-9])


def _empty(files: list[Path]) -> None:
    files[4].write_bytes(b"")


def _swapped(files: list[Path]) -> None:
    files[4].write_bytes(files[5].read_bytes())


@pytest.mark.parametrize("damage", [_gap, _changed, _cut, _empty, _swapped], ids=lambda d: d.__name__.strip("_"))
def test_broken_anchors_are_refused_by_number_and_nothing_is_changed(
    file_place: FilePlace, damage: Callable[[list[Path]], None]
) -> None:
    life, _ = lived(file_place, lambda number: number == 8)
    life.restore(0)
    before = file_place.execute("SELECT seq, hash FROM chain ORDER BY seq")
    damage(file_place.anchor_files())
    for act in (Ledger.survey, Ledger.recover):
        with pytest.raises(LedgerRewound, match=r"entry 5 .*bring the anchors back"):
            act(file_place.url, file_place.anchors)
    assert file_place.execute("SELECT seq, hash FROM chain ORDER BY seq") == before


def test_other_anchors_are_refused(template: Place, tmp_path: Path) -> None:
    here = template.copy(tmp_path / "here")
    other = FilePlace(tmp_path / "other")
    other.init().close()
    with pytest.raises(LedgerRewound, match="the same ledger's"):
        Ledger.recover(here.url, other.anchors)
    (other.anchors_folder / "ledger.json").unlink()
    with pytest.raises(LedgerRewound, match="there are no anchors"):
        Ledger.recover(here.url, other.anchors)
    (other.anchors_folder / "ledger.json").write_text("{}")
    with pytest.raises(LedgerRewound, match="not a ledger's claim"):
        Ledger.recover(here.url, other.anchors)


def test_a_copy_whose_tables_were_changed_is_not_recovered_into(file_place: FilePlace) -> None:
    life, truth = lived(file_place, lambda number: number == 8)
    life.restore(0)
    file_place.execute("UPDATE charges SET event = replace(event, '0.3', '0.1')")
    with pytest.raises(LedgerError, match=r"was changed.*--rebuild"):
        recover(file_place)
    assert read_anchors(file_place.anchors) == truth
    require_rewound(file_place)


def test_another_ledgers_limit_holds_after_recovery(file_place: FilePlace) -> None:
    """The whole budget was spent in what is missing: nothing is left of it."""
    life = Life(file_place)
    with file_place.open() as ledger:
        add_population(ledger, epsilon=1.0)
    life.copy()
    with file_place.open() as ledger:
        charge(ledger, "r/1/all", event=PureEvent(1.0))
    life.restore(0)
    recover(file_place)
    with file_place.open() as ledger:
        assert ledger.budget("people").left == 0.0
        with pytest.raises(LedgerError, match="cannot pay"):
            charge(ledger, "r/2/more", event=PureEvent(0.1))
