"""Publish against abandon: whoever comes first in the ledger wins, and a burned release never has a signature."""

import pytest

from cadp.errors import CadpError, LedgerError
from cadp.ledger import State
from cadp.publish.sign import load_public, public_path
from cadp.publish.verify import verify
from cadp.release import STEPS, run_step, summary
from cadp.reporter import Silent
from cadp.steps.abandon import abandon_release
from cadp.steps.collect import collect
from cadp.steps.publish import PublishStep, signing_key_path
from tests.command import Command, charges, public_files
from tests.small_release import Place
from tests.steps.conftest import Restore
from tests.steps.moments import at_moment

PUBLISHING = [
    ("before", "put", "claim.json", 1),
    ("after", "put", "claim.json", 1),
    ("before", "put", ".tar", 2),
    ("after", "put", "published/00001", 1),
    ("before", "put", "statement.json", 1),
    ("after", "put", "SHA256SUMS", 1),
    ("before", "publish", "", 1),
    ("after", "publish", "", 1),
    ("before", "put", "manifest.json", 1),
    ("after", "put", "manifest.json", 1),
    ("before", "put", "manifest.dsse", 1),
    ("after", "put", "manifest.dsse", 1),
]
ABANDONING = [
    ("before", "burn", "", 1),
    ("after", "burn", "", 1),
    ("before", "delete", "plan.json", 1),
    ("after", "delete", "raw/facts.json", 1),
    ("after", "delete", "validation/verdict.json", 1),
]


def name(moment: tuple[str, str, str, int]) -> str:
    return "-".join(str(part).strip("./") for part in moment if part)


def check_one_end(place: Place, *, abandoned: bool) -> None:
    """The release is burned without a signature, or published whole; and gc leaves nothing of the burned one public."""
    states = {charge.state for charge in charges(place)}
    envelope = place.public / "manifest.dsse"
    if abandoned:
        assert states == {State.BURNED}
        assert not envelope.exists()
        assert not (place.public / "manifest.json").exists()
        collect(place.settings, days=0)
        assert public_files(place) == []
        with pytest.raises(LedgerError, match="abandoned"):
            place.release()
        assert public_files(place) == []
    else:
        assert states == {State.PUBLISHED}
        place.release()  # completes it, if it is not yet
        verify(str(place.public), [load_public(public_path(signing_key_path(place.settings)))])


@pytest.mark.parametrize("moment", PUBLISHING, ids=name)
def test_abandon_while_publishing(
    restore: Restore, moment: tuple[str, str, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = restore("validate")
    said: list[str] = []

    def abandon() -> None:
        try:
            said.append(abandon_release(place.spec, place.settings, "the race"))
        except LedgerError as error:
            said.append(str(error))

    job = place.job()
    with monkeypatch.context() as patch:
        happened = at_moment(patch, moment, abandon)
        stopped = None
        try:
            run_step(PublishStep(), job, Silent())
        except CadpError as error:
            stopped = error
        assert happened()
    bound = PUBLISHING.index(moment) >= PUBLISHING.index(("after", "publish", "", 1))
    if bound:
        assert stopped is None
        public = moment == PUBLISHING[-1]
        assert said == [said[0]]
        assert ("is published" if public else "is bound to become public: run `cadp publish` to complete it") in said[0]
        assert (place.public / "manifest.dsse").exists()
    else:
        assert stopped is not None
        assert said == ["shapes/1.0.0 is burned: 3 charges stay spent and this version is closed"]
    check_one_end(place, abandoned=not bound)


@pytest.mark.parametrize("moment", ABANDONING, ids=name)
def test_publish_while_abandoning(
    restore: Restore, moment: tuple[str, str, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = restore("validate")
    ended: list[CadpError | None] = []

    def publish() -> None:
        try:
            run_step(PublishStep(), place.job(), Silent())
            ended.append(None)
        except CadpError as error:
            ended.append(error)

    with monkeypatch.context() as patch:
        happened = at_moment(patch, moment, publish)
        first = moment == ABANDONING[0]
        if first:
            with pytest.raises(LedgerError, match=r"is bound to become public: run `cadp publish`"):
                abandon_release(place.spec, place.settings, "the race")
        else:
            assert "is burned" in abandon_release(place.spec, place.settings, "the race")
        assert happened()
    assert (ended[0] is None) == first
    check_one_end(place, abandoned=not first)


def test_what_is_bound_is_completed_by_every_way_of_running_it_again(
    restore: Restore, cadp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that died between the ledger and the manifest leaves nothing to do for the other steps."""

    class Died(Exception):
        pass

    def die() -> None:
        raise Died

    place = restore("validate")
    with monkeypatch.context() as patch:
        at_moment(patch, ("after", "publish", "", 1), die)
        with pytest.raises(Died):
            run_step(PublishStep(), place.job(), Silent())
    made = charges(place)
    assert {charge.state for charge in made} == {State.PUBLISHED}
    assert not (place.public / "manifest.dsse").exists()
    cadp(place, "abandon", place.spec).refused(1, "is bound to become public: run `cadp publish` to complete it")
    job = place.job()
    for step in STEPS[:-1]:
        assert step.prepare(job, Silent()) == []
        step.finish(job, Silent())
    assert [job.charge(part) for part in ("train", "records", "gate")] == made
    assert not collect(place.settings, days=0).found["expired intermediates"]
    with pytest.raises(CadpError, match="not published yet"):
        summary(job)
    done = cadp(place, "publish", place.spec)
    assert done.code == 0, done.err
    assert charges(place) == made
    check_one_end(place, abandoned=False)


def test_abandon_leaves_the_objects_of_another_publisher(restore: Restore, cadp: Command) -> None:
    """The same name and version, claimed by somebody whose ledger is another one: none of its objects is ours."""
    place = restore("validate")
    (place.public / "data").mkdir(parents=True)
    (place.public / "claim.json").write_text('{"release": "shapes/1.0.0"}')
    (place.public / "data" / "train-00000-of-00001.parquet").write_text("theirs")
    theirs = public_files(place)
    cadp(place, "publish", place.spec).refused(1, "is claimed by")
    assert cadp(place, "abandon", place.spec).code == 0
    assert public_files(place) == theirs
    collect(place.settings, days=0)
    assert public_files(place) == theirs
