"""Charges and leases as the steps see them: what was taken back does not count, what is sealed is not waited for."""

import pytest

from cadp.errors import LedgerError
from cadp.ledger import Ledger, State
from cadp.reporter import Silent
from cadp.steps.privatize import PrivatizeStep
from tests.small_release import Place
from tests.steps.conftest import Restore


def test_a_charge_that_was_taken_back_does_not_count(place: Place) -> None:
    place.open_budget()
    job = place.job()
    part = job.part("train")
    parameters = {"plan": job.plan_digest, "part": "train"}
    taken_back = job.ledger.charge(
        part.population, release=job.spec.release, key="shapes/1.0.0/train", event=part.event, parameters=parameters
    )
    assert job.find_charge("train") == taken_back
    job.ledger.void(taken_back.id)
    assert job.find_charge("train") is None
    made = job.charge("train")
    assert made.id != taken_back.id
    found = job.find_charge("train")
    assert found is not None
    assert (found.id, found.state) == (made.id, State.RUNNING)


def test_a_charge_that_was_taken_back_does_not_hide_that_the_budget_is_too_small(place: Place) -> None:
    """All that is ahead is asked for before the first charge, also if the first was charged once and taken back."""
    place.open_budget(epsilon=35.0)
    job = place.job()
    part = job.part("train")
    parameters = {"plan": job.plan_digest, "part": "train"}
    taken_back = job.ledger.charge(
        part.population, release=job.spec.release, key="shapes/1.0.0/train", event=part.event, parameters=parameters
    )
    job.ledger.void(taken_back.id)
    with pytest.raises(LedgerError, match=r"train\+records"):
        job.charge("train")


def test_a_sealed_range_has_no_lease_and_asks_for_no_other_seals(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = restore("train").job()
    step = PrivatizeStep()
    assert step.prepare(job, Silent()) == [0, 1, 2, 3]
    step.run(job, 1, Silent())
    charge = job.charge("records")

    def refuse(*_: object) -> None:
        raise AssertionError("every range asks for all seals")

    monkeypatch.setattr(Ledger, "seals", refuse)
    assert job.lease(charge, 1, Silent()) is None
    step.run(job, 1, Silent())
    step.run(job, 2, Silent())
    assert job.ledger.seal_of(charge.id, 2) is not None


def test_a_sealed_range_of_a_finished_charge_has_no_lease_and_one_beyond_is_refused(restore: Restore) -> None:
    job = restore("privatize").job()
    charge = job.charge("records")
    assert job.lease(charge, 3, Silent()) is None
    with pytest.raises(LedgerError, match="SEALED"):
        job.lease(charge, 4, Silent())
