"""`legacy` runs on public data into the private zone, stamped, and goes no further; on other data it does not begin."""

import dataclasses
import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from cadp.errors import CadpError, PrivacyError, SpecError
from cadp.ledger import State
from cadp.privacy.legacy import NO_GUARANTEE
from cadp.release import STEPS, run_release, run_step
from cadp.reporter import Silent
from cadp.show import plan_view
from cadp.sources import catalogue
from cadp.sources.source import PublicFacts
from cadp.steps.collect import collect
from cadp.steps.disclosure import privacy_statement, publication_context
from cadp.steps.reproduce import REPRODUCED
from tests.command import Command, charges, public_files
from tests.small_release import CLASSES, HOLDOUT, RECORDS, SIDE, Place

NAME = "public-shapes"


class Listening(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, kind: str, message: str) -> None:
        self.events.append((kind, message))


def write_legacy(place: Place, url: str) -> None:
    place.write_spec(url=url)
    text = place.spec.read_text()
    asked = "{kind: privunit, epsilon: 8, content_dims: 4}"
    assert asked in text
    place.spec.write_text(text.replace(asked, "{kind: legacy, epsilon: 1}"))


@pytest.fixture
def public(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place's source as a dataset that cadp knows, with pinned contents."""
    folder = place.settings.data_dir / NAME
    folder.parent.mkdir(parents=True, exist_ok=True)
    (place.folder / "source").rename(folder)
    known = dataclasses.replace(
        catalogue.get("fashion-mnist"),
        name=NAME,
        facts=PublicFacts(RECORDS, HOLDOUT, (SIDE, SIDE, 1), CLASSES),
        files=tuple(pinned(path) for path in sorted(folder.iterdir())),
        debian_folder=Path("/nonexistent"),
    )
    monkeypatch.setattr(catalogue, "_DATASETS", (known,))
    write_legacy(place, NAME)
    place.open_budget()
    return place


def pinned(path: Path) -> catalogue.PinnedFile:
    data = gzip.decompress(path.read_bytes())
    return catalogue.PinnedFile(path.name, len(data), hashlib.sha256(data).hexdigest())


def kept(place: Place) -> Sequence[str]:
    return sorted(str(path.relative_to(place.private)) for path in place.private.glob("reproduction/*"))


def test_a_release_stops_with_its_records_in_the_private_zone(public: Place) -> None:
    heard = Listening()
    for _ in range(2):  # the second finds everything done, and stops at the same place
        with pytest.raises(PrivacyError, match=NO_GUARANTEE):
            run_release(public.job(), heard)
        assert len(kept(public)) == 8
        assert all(REPRODUCED.fullmatch(name) for name in kept(public))
        assert public_files(public) == []
        assert [(charge.key, charge.state) for charge in charges(public)] == [("shapes/1.0.0/train", State.SEALED)]
    assert [text for kind, text in heard.events if kind == "stamp"][2] == f"privatize: {NO_GUARANTEE}"


@pytest.mark.parametrize("name", ["validate", "publish"])
def test_the_later_steps_refuse_it(name: str, public: Place) -> None:
    job = public.job()
    step = next(step for step in STEPS if step.name == name)
    for method in (lambda: step.prepare(job, Silent()), lambda: run_step(step, job, Silent())):
        with pytest.raises(PrivacyError, match="cannot be published"):
            method()
    assert public_files(public) == []


def test_neither_its_records_nor_its_statement_can_be_had(public: Place) -> None:
    job = public.job()
    with pytest.raises(PrivacyError, match=NO_GUARANTEE):
        job.charge("records")
    run_step(STEPS[0], job, Silent())
    with pytest.raises(CadpError):
        privacy_statement(job, publication_context(job))
    assert charges(public) == []


def test_the_plan_is_stamped(public: Place) -> None:
    view = plan_view(public.spec, public.settings)
    rows = {row["step"]: row for row in view.rows}
    assert rows["privatize"]["ε"] == NO_GUARANTEE
    assert rows["publish"]["mechanism"] == f"refused: {NO_GUARANTEE}"
    assert view.lines[0].startswith(NO_GUARANTEE)
    assert view.plan.to_json()["mechanism"]["guarantee"] == NO_GUARANTEE


def test_garbage_collection_knows_its_records(public: Place) -> None:
    with pytest.raises(PrivacyError):
        run_release(public.job(), Silent())
    collected = collect(public.settings, days=0)
    assert collected.unknown == []
    assert len(kept(public)) == 8


def test_abandoning_it_leaves_nothing(public: Place, cadp: Command) -> None:
    with pytest.raises(PrivacyError):
        run_release(public.job(), Silent())
    assert cadp(public, "abandon", public.spec).code == 0
    assert not list(public.private.rglob("*.run*"))
    assert [charge.state for charge in charges(public)] == [State.BURNED]


def test_it_never_sees_other_data(place: Place, cadp: Command) -> None:
    write_legacy(place, str(place.folder / "source"))
    with pytest.raises(SpecError, match="NO GUARANTEE"):
        place.open_budget()
        place.job()
    cadp(place, "plan", place.spec).refused(2, "public datasets that cadp knows")
    cadp(place, "release", place.spec).refused(2, "public datasets that cadp knows")
    assert not place.private.exists()


def test_data_in_a_public_datasets_place_is_found_out(public: Place) -> None:
    path = public.settings.data_dir / NAME / "train-images-idx3-ubyte.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(CadpError, match="not the pinned file"):
        run_release(public.job(), Silent())
    assert kept(public) == []
    assert charges(public) == []
