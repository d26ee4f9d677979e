"""A worker whose range was taken over: it can neither seal nor publish, and what it wrote is deleted unread."""

import hashlib
from pathlib import Path

import pytest

from cadp.errors import CadpError, SealConflict
from cadp.reporter import Silent
from cadp.steps.privatize import PrivatizeStep
from cadp.steps.publish import PublishStep
from cadp.steps.train import TrainStep
from cadp.store import Store
from tests.steps.conftest import Restore
from tests.steps.moments import at_moment


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("stage", "step", "part"),
    [("train", PrivatizeStep(), "records"), ("shard", TrainStep(), "train")],
    ids=["privatize", "train"],
)
def test_a_zombie_cannot_seal_and_its_objects_go_unread(
    restore: Restore,
    stage: str,
    step: PrivatizeStep | TrainStep,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = restore(stage)
    zombie, heir = place.job(), place.job()
    assert 0 in step.prepare(zombie, Silent())
    charge = zombie.charge(part)
    by_zombie: list[str] = []
    read: list[str] = []
    before = {key for store in (zombie.private, zombie.models) for key, _ in store.list()}

    def take_over() -> None:
        """The heir does the same range from its lease to its seal, while the zombie is about to seal."""
        written = {key for store in (zombie.private, zombie.models) for key, _ in store.list()} - before
        by_zombie.extend(written)
        step.run(heir, 0, Silent())
        for name in ("get", "read", "open_read"):
            _watch(monkeypatch, name, read)

    happened = at_moment(monkeypatch, ("before", "seal", "0", 1), take_over)
    with pytest.raises(SealConflict):
        step.run(zombie, 0, Silent())
    assert happened()
    assert len(by_zombie) == (3 if part == "train" else 2)  # a model has how records return from it beside it
    seal = heir.ledger.seal_of(charge.id, 0)
    assert seal is not None
    left = {key for store in (zombie.private, zombie.models) for key, _ in store.list()}
    assert not left & set(by_zombie)
    assert any(key.startswith(seal.key) for key in left)
    # A model's record says which tensors to delete; the zombie's records and tensors are not opened.
    assert [key for key in read if key in by_zombie and not key.endswith(".json")] == []
    assert zombie.ledger.tokens(charge.id)[0] == 2


def _watch(patch: pytest.MonkeyPatch, name: str, read: list[str]) -> None:
    original = getattr(Store, name)

    def watched(self: Store, key: str, *rest: int) -> object:
        read.append(key)
        return original(self, key, *rest)

    patch.setattr(Store, name, watched)


def test_a_zombie_publisher_changes_nothing(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stood still before any of its puts, while another finished the release, goes on: not a byte changes."""
    place = restore("validate")
    whole: list[dict[str, str]] = []

    def finish() -> None:
        place.release()
        whole.append(tree(place.public))

    with monkeypatch.context() as patch:
        happened = at_moment(patch, ("before", "put", "published/00002", 1), finish)
        step, job = PublishStep(), place.job()
        for index in step.prepare(job, Silent()):
            step.run(job, index, Silent())
        step.finish(job, Silent())
        assert happened()
    assert tree(place.public) == whole[0]
    assert "manifest.dsse" in whole[0]


def test_a_zombies_runs_are_never_published(restore: Restore) -> None:
    """Readers resolve through the seals: a run that a zombie puts after its range was taken over is nobody's."""
    place = restore("privatize")
    job = place.job()
    charge = job.find_charge("records")
    assert charge is not None
    stray = f"sealed/00000.{job.ledger.tokens(charge.id)[0]}-{'0' * 8}.run"
    job.private.put(stray, b"never to be read")
    place.release()
    sealed = {seal.key for seal in job.ledger.seals(charge.id).values()}
    assert stray not in sealed
    with pytest.raises(CadpError):
        job.ledger.seal(
            job.ledger.lease(charge.id, 0, "zombie", 60), key=stray, sha256="0" * 64, facts={"records": 300}
        )
