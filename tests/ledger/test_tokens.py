"""A ledger that forgot leases and seals, which are no entries of the chain, gives no token or seal a second time."""

from pathlib import Path

import pytest

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger import Lease, Ledger
from cadp.ledger.tokens import newest_tokens
from cadp.privacy.accountant import PureEvent
from tests.ledger.places import SHA, Place, add_population


@pytest.fixture
def charge(place: Place) -> str:
    """A running charge of a closed ledger."""
    with place.open() as ledger:
        add_population(ledger)
        made = ledger.charge("people", release="r/1", key="k", event=PureEvent(0.5), parameters={})
        return ledger.begin(made.id).id


def seal(ledger: Ledger, lease: Lease) -> object:
    return ledger.seal(lease, key=f"{lease.range_id}.{lease.token}", sha256=SHA, facts={})


def token_files(place: Place) -> list[str]:
    return sorted(file.name for file in place.anchors_folder.glob("*/leases/*/*.json"))


def test_every_token_is_put_before_it_is_handed_out(place: Place, charge: str) -> None:
    with place.open() as ledger:
        for owner, index in (("a", 0), ("a", 0), ("a", 7)):
            ledger.lease(charge, index, owner, 60)
        assert token_files(place) == ["00000000.000001.json", "00000000.000002.json", "00000007.000001.json"]
        assert newest_tokens(key for key, _ in ledger._chain.anchors.list()) == {(charge, 0): 2, (charge, 7): 1}
        ledger.check()


def test_a_copy_from_before_the_seals_draws_nothing_again(place: Place, charge: str) -> None:
    before = place.twin()
    with place.open() as ledger:
        for index in range(2):
            seal(ledger, ledger.lease(charge, index, "worker", 60))
    place.restore(before)
    # No entry of the chain is missing, so it opens; but what it would draw again was drawn.
    with place.open() as ledger:
        with pytest.raises(LedgerRewound, match=r"forgot token 1 of range 0 .*older copy was restored.*budget recover"):
            ledger.lease(charge, 0, "worker", 60)
        with pytest.raises(LedgerRewound):
            ledger.lease(charge, 5, "worker", 60)


def test_a_fenced_worker_does_not_seal_in_a_copy_that_forgot_the_fence(place: Place, charge: str) -> None:
    with place.open() as ledger:
        zombie = ledger.lease(charge, 0, "zombie", 0.001)
    before = place.twin()
    with place.open() as ledger:
        seal(ledger, ledger.lease(charge, 0, "heir", 60))
    place.restore(before)
    with place.open() as ledger:
        with pytest.raises(LedgerRewound, match="forgot token 2 of range 0"):
            seal(ledger, zombie)
        assert ledger.seals(charge) == {}


def test_the_check_finds_forgotten_leases(place: Place, charge: str) -> None:
    before = place.twin()
    with place.open() as ledger:
        seal(ledger, ledger.lease(charge, 3, "worker", 60))
        ledger.check()
    place.restore(before)
    with place.open() as ledger, pytest.raises(LedgerError, match=f"range 3 of charge {charge}"):
        ledger.check()


def test_recovery_burns_what_forgot_its_leases(place: Place, charge: str) -> None:
    before = place.twin()
    with place.open() as ledger:
        seal(ledger, ledger.lease(charge, 0, "worker", 60))
    place.restore(before)
    done = Ledger.recover(place.url, place.anchors)
    assert done.releases == ("r/1",)
    with place.open() as ledger:
        assert [str(found.state) for found in ledger.charges()] == ["BURNED"]
        assert ledger.budget("people").charged == 0.5
        with pytest.raises(LedgerError):
            ledger.lease(charge, 0, "worker", 60)
        ledger.check()
    again = Ledger.recover(place.url, place.anchors)
    assert again.entry is None or again.entry == done.entry


def test_tokens_hold_nothing_private(place: Place, charge: str) -> None:
    with place.open() as ledger:
        seal(ledger, ledger.lease(charge, 0, "worker", 60))
    (file,) = place.anchors_folder.glob("*/leases/*/*.json")
    assert SHA not in file.read_text()
    assert Path(file).read_text().startswith('{"nonce":"')
