"""A ledger that lost a part of its past is refused, however it lost it."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger import Charge, Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.ledger.places import SHA, FilePlace, Place, add_population, seal_all

Pay = Callable[..., Charge]


def spend(ledger: Ledger, key: str = "k", epsilon: float = 1.0) -> Charge:
    return ledger.charge("people", release="r/1", key=key, event=PureEvent(epsilon), parameters={})


@pytest.fixture
def spent(place: Place) -> Place:
    """A closed ledger with one charge."""
    with place.open() as ledger:
        add_population(ledger)
        spend(ledger)
    return place


def test_an_older_backup_is_refused(spent: Place) -> None:
    backup = spent.twin()
    with spent.open() as ledger:
        spend(ledger, "later")
    spent.restore(backup)
    with pytest.raises(LedgerRewound, match=r"ends at entry 3, but entry 4 is anchored .* put back the newest copy"):
        spent.open()


@pytest.mark.parametrize("step", ["begin", "void", "publish", "burn", "answer", "finish", "population"])
def test_a_backup_from_before_any_step_is_refused(spent: Place, step: str) -> None:
    with spent.open() as ledger:
        (charge,) = ledger.charges()
        if step in ("finish", "answer", "publish"):
            ledger.begin(charge.id)
            ledger.seal(ledger.lease(charge.id, 0, "me", 60), key="k", sha256=SHA, facts={})
        if step == "publish":
            ledger.finish(charge.id, 1)
        ledger.close()
        backup = spent.twin()
        steps = {
            "begin": lambda: ledger.begin(charge.id),
            "void": lambda: ledger.void(charge.id),
            "publish": lambda: ledger.publish("r/1"),
            "burn": lambda: ledger.burn("r/1", "a test"),
            "answer": lambda: ledger.answer(charge.id, {}),
            "finish": lambda: ledger.finish(charge.id, 1),
            "population": lambda: add_population(ledger, "more"),
        }
        steps[step]()
    spent.restore(backup)
    with pytest.raises(LedgerRewound):
        spent.open()


def test_a_backup_of_now_is_fine(spent: Place) -> None:
    backup = spent.twin()
    spent.restore(backup)
    with spent.open() as ledger:
        spend(ledger, "later")
        ledger.check()


def test_of_two_copies_that_run_one_is_stopped_for_good(spent: Place) -> None:
    copied = spent.twin()
    with spent.open() as first, Ledger.open(copied, spent.anchors) as second:
        spend(first, "same")
        # The same request at the same moment is still another entry.
        with pytest.raises(LedgerRewound, match=r"another entry 4 .charge. than the one anchored"):
            spend(second, "same")
        # It committed, but it is never handed out, and nothing else is.
        for act in (
            lambda: spend(second, "same"),
            lambda: spend(second, "other"),
            lambda: second.begin(first.charges()[0].id),
            second.check,
        ):
            with pytest.raises(LedgerRewound):
                act()
        spend(first, "more")
        first.check()
    with pytest.raises(LedgerRewound):
        Ledger.open(copied, spent.anchors)


def test_two_copies_that_do_exactly_the_same_still_differ(spent: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadp.ledger.chain.utc_now", lambda: "2026-01-01T00:00:00Z")
    copied = spent.twin()
    with spent.open() as first, Ledger.open(copied, spent.anchors) as second:
        (charge,) = first.charges()
        first.begin(charge.id)
        with pytest.raises(LedgerRewound):
            second.begin(charge.id)


def test_once_refused_a_ledger_seals_and_renews_nothing(spent: Place) -> None:
    with spent.open() as ledger:
        charge = ledger.begin(ledger.charges()[0].id)
    copied = spent.twin()
    with spent.open() as original, Ledger.open(copied, spent.anchors) as copy:
        lease = copy.lease(charge.id, 0, "me", 60)
        spend(original, "later")
        with pytest.raises(LedgerRewound):
            spend(copy, "later")
        for act in (
            lambda: copy.seal(lease, key="k", sha256=SHA, facts={}),
            lambda: copy.renew(lease),
            lambda: copy.lease(charge.id, 1, "me", 60),
        ):
            with pytest.raises(LedgerRewound):
                act()
        assert copy.seals(charge.id) == {}


def test_another_process_that_goes_on_meanwhile_is_not_a_rewind(spent: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with spent.open() as here, spent.open() as there:
        charge = there.begin(there.charges()[0].id)
        here.population("people")
        exists, meanwhile = Store.exists, iter(["one", "two"])

        def busy(store: Store, key: str) -> bool:
            for name in meanwhile:
                spend(there, name)
                break
            return exists(store, key)

        monkeypatch.setattr(Store, "exists", busy)
        assert here.lease(charge.id, 0, "me", 60).token == 1
        assert next(meanwhile, None) is None


def test_a_copy_that_other_processes_have_open_is_stopped_too(spent: Place) -> None:
    copied = spent.twin()
    with (
        spent.open() as original,
        Ledger.open(copied, spent.anchors) as one,
        Ledger.open(copied, spent.anchors) as two,
    ):
        spend(original, "a")
        with pytest.raises(LedgerRewound):
            spend(one, "b")
        # `two` has seen nothing wrong yet, and entry 5 is free; but entry 4 of its chain is not the anchored one.
        with pytest.raises(LedgerRewound, match="another entry 4"):
            spend(two, "b")
        with pytest.raises(LedgerRewound):
            spend(two, "c")
        original.check()


def test_a_lagging_copy_gives_no_lease(spent: Place) -> None:
    with spent.open() as ledger:
        charge = ledger.begin(ledger.charges()[0].id)
    copied = spent.twin()
    with spent.open() as ledger, Ledger.open(copied, spent.anchors) as copy:
        spend(ledger, "later")
        with pytest.raises(LedgerRewound, match="entry 5 is anchored"):
            copy.lease(charge.id, 0, "me", 60)
        ledger.lease(charge.id, 0, "me", 60)


def test_a_file_replaced_under_a_running_process_is_noticed(spent: Place) -> None:
    backup = spent.twin()
    ledger = spent.open()
    spend(ledger, "later")
    ledger.close()
    spent.restore(backup)
    with pytest.raises(LedgerRewound, match="another entry 4"):
        spend(ledger, "again")
    ledger.close()


def test_a_chain_that_was_cut_off_is_refused(spent: Place) -> None:
    spent.execute("DELETE FROM charges", "DELETE FROM chain WHERE seq = 3")
    with pytest.raises(LedgerRewound, match="ends at entry 2, but entry 3 is anchored"):
        spent.open()


def test_a_chain_with_a_hole_or_without_an_end_is_refused(spent: Place) -> None:
    spent.execute("DELETE FROM chain WHERE seq = 2")
    with pytest.raises(LedgerRewound, match="has 2 chain entries up to number 3: entries were removed"):
        spent.open()
    spent.execute("DELETE FROM chain")
    with pytest.raises(LedgerRewound, match="empty chain"):
        spent.open()


def test_a_gap_in_the_anchors_hides_no_rewind(spent: Place) -> None:
    """The copy ends at 3; the anchor of 4 is lost, that of 5 is there."""
    backup = spent.twin()
    with spent.open() as ledger:
        spend(ledger, "later")
        spend(ledger, "last")
    spent.restore(backup)
    spent.anchor_files()[3].unlink()
    with pytest.raises(LedgerRewound, match="ends at entry 3, but entry 5 is anchored"):
        spent.open()
    assert len(spent.anchor_files()) == 4


def test_other_objects_beside_the_anchors_are_none(spent: Place) -> None:
    folder = spent.anchor_files()[0].parent
    strange = ("leases/a.1.json", "9", "99.json", "000000099.json", "x.json", "99999999.json.bak", "٠٠٠٠٠٠٩٩.json")
    for name in strange:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    with spent.open() as ledger:
        spend(ledger, "later")
        ledger.check()
    assert Ledger.survey(spent.url, spent.anchors).reentered is None


def test_an_entry_that_was_rewritten_is_refused(spent: Place) -> None:
    spent.execute("UPDATE chain SET entry = replace(entry, 'people', 'others'), hash = 'x' || substr(hash, 2)")
    with pytest.raises(LedgerRewound, match="another entry 3"):
        spent.open()


def test_the_wrong_anchors_are_refused(spent: Place, tmp_path: Path) -> None:
    elsewhere = FilePlace(tmp_path / "elsewhere")
    with pytest.raises(LedgerRewound, match="no anchors at"):
        Ledger.open(spent.url, elsewhere.anchors)
    elsewhere.init().close()
    with pytest.raises(LedgerRewound, match="is not the ledger that the anchors at"):
        Ledger.open(spent.url, elsewhere.anchors)
    # The other way round, with a ledger as young as can be: it has nothing to lose, but the anchors are taken.
    with pytest.raises(LedgerRewound, match="is not the ledger that the anchors at"):
        Ledger.open(elsewhere.url, spent.anchors)


def test_anchors_that_were_wiped_are_refused(spent: Place) -> None:
    for file in spent.anchor_files():
        file.unlink()
    with pytest.raises(LedgerRewound, match="none is anchored"):
        spent.open()


def test_anchors_are_json_with_the_public_event_and_nothing_private(spent: Place) -> None:
    import json

    with spent.open() as ledger:
        seal_all(ledger, ledger.charges()[0])
    values = [json.loads(file.read_bytes()) for file in spent.anchor_files()]
    assert [value["entry"]["kind"] for value in values] == ["ledger", "population", "charge", "begin", "finish"]
    assert values[2]["entry"]["body"]["event"] == PureEvent(1.0).to_json()
    for before, after in pairwise(values):
        assert after["entry"]["prev"] == before["hash"]
    # What was sealed is private until it is published: neither its key nor its digest is anchored.
    assert SHA not in "".join(file.read_text() for file in spent.anchor_files())


@pytest.mark.parametrize(
    ("tamper", "error", "words"),
    [
        ("UPDATE charges SET state = 'VOIDED'", LedgerError, "is VOIDED, the chain says RUNNING"),
        ("UPDATE charges SET release = 'r/2'", LedgerError, "was changed"),
        ("UPDATE charges SET curve = replace(curve, '1000000', '1')", LedgerError, "was changed"),
        ("UPDATE charges SET event = replace(event, '1.0', '0.1')", LedgerError, "was changed"),
        ("UPDATE charges SET parameters = '{\"a\":1}'", LedgerError, "was changed"),
        ("UPDATE accounts SET spent = replace(spent, '1000000', '1')", LedgerError, "does not add up"),
        ("UPDATE populations SET epsilon = 80", LedgerError, "population people was changed"),
        ("UPDATE accounts SET caps = replace(caps, '8000000', '80000000')", LedgerError, "caps of population people"),
        ("DELETE FROM charges WHERE state = 'RUNNING'", LedgerError, "is missing"),
        ("INSERT INTO answers SELECT id, '{}', at, seq FROM charges", LedgerError, "is in no entry"),
        ("UPDATE chain SET entry = replace(entry, 'people', 'others') WHERE seq = 2", LedgerRewound, "entry 2"),
    ],
)
def test_check_finds_every_tampering_that_opening_may_miss(
    spent: Place, tamper: str, error: type[LedgerError], words: str
) -> None:
    with spent.open() as ledger:
        ledger.begin(ledger.charges()[0].id)
        ledger.check()
    spent.execute(tamper)
    with spent.open() as ledger, pytest.raises(error, match=words):
        ledger.check()


def test_check_finds_a_missing_seal_and_a_missing_or_foreign_anchor(spent: Place) -> None:
    with spent.open() as ledger:
        seal_all(ledger, ledger.charges()[0], ranges=2)
        ledger.check()
    whole = spent.twin()
    spent.execute("DELETE FROM seals WHERE range_id = 1")
    with spent.open() as ledger, pytest.raises(LedgerError, match="finished with 2 ranges, 1 have a seal"):
        ledger.check()
    spent.restore(whole)
    files = spent.anchor_files()
    shutil.copy(files[0], files[1])
    with spent.open() as ledger, pytest.raises(LedgerRewound, match=r"entry 2 .* is another entry's"):
        ledger.check()
    files[1].unlink()
    with spent.open() as ledger, pytest.raises(LedgerRewound, match="anchor of entry 2 is missing"):
        ledger.check()
