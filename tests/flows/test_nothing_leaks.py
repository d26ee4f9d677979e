"""Nothing private reaches what others see: public files, the terminal, and all that Prefect keeps.

Recognisable values are planted (names of files, figures, secrets, a lost record) and a release is run through Prefect;
then everything that is public, however packed, is searched for them and for digests of every private file.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cadp.release import STEPS, run_step
from cadp.reporter import Silent
from cadp.steps.shard import FACTS_KEY
from tests.needles import Needles
from tests.servers.prefect import ROOT, PrefectServer
from tests.small_release import CLASSES, SIDE, Place, at, pictures, write_spec

TRAIN, HOLDOUT, BROKEN = 600, 150, 3
REJECTED, COUNTS = 918273645546, (918273645001, 918273645002, 918273645003)
WARD = "ward7-lovelace"


@dataclass(frozen=True)
class Seen:
    """Everything that somebody other than the operator could see of one release.

    Attributes:
        place: the release.
        haystack: name → bytes.
        needles: what must not be in it.
    """

    place: Place
    haystack: dict[str, bytes]
    needles: Needles


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, prefect: PrefectServer) -> Seen:
    place = at(tmp_path_factory.mktemp("leaks"))
    needles = Needles()
    write_source(place, needles)
    place.open_budget()
    run_step(STEPS[0], place.job(), Silent())
    plant_figures(place)
    zones = {"CADP_PRIVATE": place.settings.private_url, "CADP_PUBLIC": place.settings.public_url}
    ledger = {"CADP_LEDGER": place.settings.ledger_url, "CADP_ANCHORS": place.settings.anchors_url}
    keys = {"CADP_KEYS": str(place.settings.keys_dir), "CADP_SECRETS": str(place.settings.secrets_dir)}
    ran = subprocess.run(
        [sys.executable, "-m", "flows", "release", str(place.spec)],
        cwd=ROOT,
        env=prefect.environment | zones | ledger | keys,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    haystack = {"stdout": ran.stdout, "stderr": ran.stderr, **dict(prefect_keeps(prefect))}
    public = Path(place.settings.public_url)
    haystack |= {str(path.relative_to(public)): path.read_bytes() for path in public.rglob("*") if path.is_file()}
    add_private_files(place, needles)
    return Seen(place, haystack, needles)


def write_source(place: Place, needles: Needles) -> None:
    """Class folders with names that tell, a few pictures that cannot be read, and labels that are not public."""
    generator = np.random.default_rng(7)
    (place.folder / "user").mkdir()
    for split, count in (("train", TRAIN), ("test", HOLDOUT)):
        images, labels = pictures(generator, count)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = place.folder / "source" / split / CLASSES[label] / f"{WARD}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            if number % 25 == 0:
                needles.add_digests(f"picture {path.name}", path.read_bytes())
                needles.add_digests(f"pixels of {path.name}", image.tobytes())
    broken = place.folder / "source" / "train" / CLASSES[0]
    for path in sorted(broken.iterdir())[:BROKEN]:
        path.write_bytes(b"no picture at all: " + secrets.token_bytes(40))
        needles.add_digests("a picture that is none", path.read_bytes())
    write_spec(place.spec, place.folder / "source", records=TRAIN, holdout=HOLDOUT, floor=0.0)
    text = place.spec.read_text()
    for old, new in (
        ("format: idx", "format: imagefolder"),
        ("labels: public", "labels: {randomized-response: {epsilon: 3}}\n  max_rejects: 0.5"),
        (f"shape: [{SIDE}, {SIDE}, 1]", f"shape: [{SIDE}, {SIDE}, 1]"),
        ("epsilon: 40,", "epsilon: 60,"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    place.spec.write_text(text)
    needles.add_text("a file's name", WARD)


def plant_figures(place: Place) -> None:
    """Put figures into what sharding counted that cannot be there by chance."""
    path = place.private / FACTS_KEY
    facts = json.loads(path.read_text())
    assert facts["train"]["rejected"] == BROKEN
    for split in facts.values():
        split["rejected"], split["class_counts"] = REJECTED, list(COUNTS)
    path.write_text(json.dumps(facts))


def add_private_files(place: Place, needles: Needles) -> None:
    """Every file outside the public zone: its digests; of secrets and keys, the bytes themselves too."""
    for name, figure in (("rejects", REJECTED), *((f"class {i}", count) for i, count in enumerate(COUNTS))):
        needles.add_text(f"true {name}", str(figure))
        needles.add_text(f"true {name}, with commas", f"{figure:,}")
    home = place.settings.home
    for path in sorted(home.rglob("*")):
        # A model is an output of a charged mechanism, named by its digest; expectations are published as they are.
        known = path.is_relative_to(home / "public") or {"models", "expectations"} & set(path.parts)
        if path.is_file() and not known:
            if path.suffix != ".pub":
                needles.add_digests(str(path.relative_to(home)), path.read_bytes())
            if path.is_relative_to(place.settings.secrets_dir) and path.suffix == ".key":
                needles.add_secret("the population's secret", path.read_bytes())
    for split, count in (("train", TRAIN), ("test", HOLDOUT)):
        files = sorted((place.folder / "source" / split).rglob("*.png"))
        assert len(files) == count
        needles.add_text(f"an etag of {split}", f"{files[0].stat().st_mtime_ns:x}")


def prefect_keeps(prefect: PrefectServer) -> Iterator[tuple[str, bytes]]:
    """Yield all runs, artifacts and log lines that the server gives to whoever asks."""
    for what in ("flow_runs", "task_runs", "artifacts", "logs", "flow_run_states"):
        if what == "flow_run_states":
            for run in prefect.ask("flow_runs/filter", {}):
                yield what, json.dumps(prefect.ask(f"flow_run_states/?flow_run_id={run['id']}")).encode()
            continue
        offset = 0
        while page := prefect.ask(f"{what}/filter", {"limit": 200, "offset": offset}):
            yield f"{what} from {offset}", text_of(page)
            offset += len(page)


def text_of(page: list[Any]) -> bytes:
    return json.dumps(page, ensure_ascii=False).encode()


def test_something_was_looked_at(seen: Seen) -> None:
    looked = "\n".join(seen.haystack)
    for name in ("stdout", "logs from 0", "artifacts from 0", "manifest.dsse", "index.html", ".parquet", ".tar"):
        assert name in looked, name
    assert b"privatize" in seen.haystack["logs from 0"]
    assert len(seen.needles.digests) > 500


def test_nothing_private_is_in_it(seen: Seen) -> None:
    assert seen.needles.found_in(seen.haystack.items()) == []


@pytest.mark.parametrize("planted", ["log", "artifact", "document"])
def test_it_would_have_been_found(planted: str, seen: Seen) -> None:
    secret = next(seen.place.settings.secrets_dir.glob("*.key")).read_bytes()
    leak = {
        "log": f"rejected {REJECTED}".encode(),
        "artifact": json.dumps([{"data": f"sorted {WARD}-3.png"}]).encode(),
        "document": f'{{"plan": "{secret.hex()}"}}'.encode(),
    }
    assert len(seen.needles.found_in([(planted, leak[planted])])) >= 1
