"""A small release, made the way a real one is: three intervals of random records, and its documents."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cadp.exchange import interval as key_interval
from cadp.privacy.accountant import curve
from cadp.privacy.events import GaussianEvent, PureEvent
from cadp.privacy.statement import Circumstances, Component, Population, statement, statement_lines
from cadp.publish.claim import claim
from cadp.publish.documents import finish
from cadp.publish.facts import GateFigures, ReleaseFacts
from cadp.publish.interval import PublishedFile, publish_interval
from cadp.publish.sign import Signer, new_key
from cadp.records import Released
from cadp.shards import encode_png
from cadp.store import Store

INTERVALS = 3
CLASSES = ("T-shirt/top", "Trouser", 'Pull"over', "Dress & <b>", "Coat")


def make_records(count: int = 300, shape: tuple[int, int, int] = (28, 28, 1)) -> list[Released]:
    """Records in id order, with a picture that shows its label."""
    random = np.random.default_rng(7)
    ids = sorted(random.bytes(16) for _ in range(count))
    records = []
    for index, identity in enumerate(ids):
        label = int(random.integers(len(CLASSES)))
        image = random.integers(0, 60, shape, dtype=np.uint8)
        image[4 + 3 * label : 8 + 3 * label, 4:24] = 180 + index % 60
        records.append(Released(identity, label, encode_png(image)))
    return records


def make_statement() -> dict[str, object]:
    """A true statement: two parts that the units' population paid, and a gate that the holdout's paid."""
    training, records, gate = GaussianEvent(0.5), PureEvent(4.0), PureEvent(0.1)
    parts = [
        Component("training", "the model that decodes the records", "moments", {}, training, "garments", "c-1"),
        Component("records", "the records", "privunit", {"content_dims": 8}, records, "garments", "c-2"),
        Component("gate", "the accuracy figure", "discrete-laplace", {"n": 10_000}, gate, "garments-holdout", "c-3"),
    ]
    paid = curve(training) + curve(records)
    populations = [
        Population("garments", "record", "each image is another garment", 300, 300, 1, 16.0, 1e-6, paid, paid, 1),
        Population("garments-holdout", "record", "", 10_000, 10_000, 1, 1.0, 1e-6, curve(gate), curve(gate), 1),
    ]
    return statement(
        name="garments",
        version="1.0.0",
        date="2026-01-02",
        components=parts,
        populations=populations,
        circumstances=Circumstances(labels="public", model="dp", versions={"cadp": "0.1.0"}),
    )


def make_facts(**changes: object) -> ReleaseFacts:
    said = make_statement()
    facts = ReleaseFacts(
        name="garments",
        version="1.0.0",
        title="Garments, differentially private",
        description="Pictures of garments in five kinds, released under differential privacy.",
        license="MIT",
        population="garments",
        shape=(28, 28, 1),
        classes=CLASSES,
        records=300,
        statement=said,
        statement_lines=tuple(statement_lines(said)),
        accuracy=GateFigures(
            accuracy=0.8123, low=0.79, high=0.83, confidence=0.95, threshold=0.75, epsilon=0.1, n=10_000, passed=True
        ),
        charges=("c-3", "c-2", "c-1"),
        plan_digest="ab" * 32,
        versions={"numpy": "2.4.6", "cadp": "0.1.0"},
        date="2026-01-02T03:04:05+00:00",
        publisher="Example Consortium",
        url=None,
        expectations={"suite.json": b"{}\n", "data_docs/index.html": b"<!doctype html><title>Checks</title>\n"},
        source_note="Photographs of garments that belong to nobody.",
        citation="",
    )
    return replace(facts, **changes)


def publish_records(
    target: Store, records: list[Released], facts: ReleaseFacts, scratch: Path, of: int = INTERVALS
) -> list[PublishedFile]:
    """Claim, then publish every interval."""
    claim(target, facts.release, facts.plan_digest)
    files = []
    for index in range(of):
        low, high = key_interval(index, of)
        mine = (record for record in records if low <= record.id and (high is None or record.id < high))
        files += publish_interval(target, index, of, mine, facts, scratch=scratch)
    return files


@pytest.fixture(scope="session")
def records() -> list[Released]:
    return make_records()


@pytest.fixture(scope="session")
def facts() -> ReleaseFacts:
    return make_facts()


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return new_key(tmp_path_factory.mktemp("keys") / "publisher")


@pytest.fixture(scope="session")
def publish(
    records: list[Released], facts: ReleaseFacts, signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Store]:
    """Publish the small release below a folder, complete with its signed manifest."""

    def run(folder: Path) -> Store:
        target = Store.open(str(folder / facts.release))
        files = publish_records(target, records, facts, tmp_path_factory.mktemp("scratch"))
        finish(target, files, records, facts, signer)
        return target

    return run


@pytest.fixture(scope="session")
def shelf(publish: Callable[[Path], Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `garments/1.0.0` lies in; tests only read it."""
    folder = tmp_path_factory.mktemp("shelf")
    publish(folder)
    return folder


@pytest.fixture(scope="session")
def release(shelf: Path, facts: ReleaseFacts) -> Path:
    """The release's own folder; tests only read it."""
    return shelf / facts.release


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The environment of a reader without a network, whose caches lie in this test's own folder."""
    return {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_CACHE": str(tmp_path / "hf" / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
