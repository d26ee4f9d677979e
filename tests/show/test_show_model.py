"""`cadp model`: what it tells of a model, and what it brings in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cadp.cinn.checkpoint import save_checkpoint
from cadp.privacy.accountant import RELATION, GaussianEvent
from cadp.settings import Settings
from cadp.store import Store
from tests.cinn.conftest import one_thread, random_flow  # noqa: F401  (a fixture of every test here)
from tests.cinn.oracle import graph
from tests.command import Command
from tests.small_release import Place

SHAPE = (8, 8, 1)


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    """A place with nothing in it."""
    return Place(tmp_path, tmp_path / "release.yaml", Settings.load({"CADP_HOME": str(tmp_path / "home")}))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    network = graph(SHAPE, condition=3, depths=(1, 1), width=4, head_width=4)
    torch.save({"model": network.state_dict()}, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def trained(place: Place) -> str:
    privacy = {"relation": RELATION, "population": "visitors", "event": GaussianEvent(0.5).to_json()}
    store = Store.open(place.settings.private_url).child("models")
    return save_checkpoint(store, random_flow((4, 4, 1)), privacy, {"torch": "2.13"}, spec="ab" * 32)


def test_a_trained_model_for_people(bare: Place, cadp: Command) -> None:
    digest = trained(bare)
    done = cadp(bare, "model", "inspect", digest)
    assert done.code == 0, done.err
    for words in ("whitening, 4×4×1", "float64", "bits/dim", "at δ 1e-05", "paid by visitors", "torch 2.13"):
        assert words in done.out
    assert digest in done.out
    assert "ab" * 32 in done.out


def test_a_trained_model_as_json_by_digest_and_by_path(bare: Place, cadp: Command) -> None:
    digest = trained(bare)
    told = json.loads(cadp(bare, "model", "inspect", digest, "--json").out)
    assert told["digest"] == digest
    assert told["architecture"]["kind"] == "whitening"
    assert told["parameters"] == 3 * 9 + 81 + 3 * 16 + 3 * 4 + 3 * 12
    assert told["privacy"]["population"] == "visitors"
    assert told["privacy"]["event"] == GaussianEvent(0.5).to_json()
    assert 2 < float(told["privacy"]["epsilon"]) < 3
    assert told["round_trip_error"] < 1e-9
    assert told["bits_per_dimension"]["data"] is None
    path = Path(bare.settings.private_url) / "models" / f"{digest}.json"
    assert json.loads(cadp(bare, "model", "inspect", path, "--json").out) == told


def test_a_release_s_own_model(published: Place, cadp: Command) -> None:
    """What training left there: paid by its population, made for its spec, by these libraries."""
    job = published.job()
    charge = job.find_charge("train")
    assert charge is not None
    seal = job.ledger.seal_of(charge.id, 0)
    assert seal is not None
    told = json.loads(cadp(published, "model", "inspect", seal.key, "--json").out)
    assert told["privacy"]["population"] == "shapes"
    assert told["privacy"]["event"] == charge.event.to_json()
    assert told["spec_digest"] == job.spec.digest()
    assert told["versions"] == job.plan.versions
    assert told["versions"]["torch"] == torch.__version__


def test_bits_on_data_are_better_where_the_data_is_the_model_s(bare: Place, cadp: Command) -> None:
    digest, flow, labels = trained(bare), random_flow((4, 4, 1)), np.arange(60) % 3
    own = flow.decode_images(np.random.default_rng(0).normal(size=(60, 16)), labels)
    other = np.random.default_rng(0).integers(0, 256, own.shape).astype(np.uint8)
    bits = []
    for name, images in (("own", own), ("other", other)):
        np.savez(bare.folder / f"{name}.npz", images=images, labels=labels)
        done = cadp(bare, "model", "inspect", digest, "--data", f"{name}.npz", "--json")
        bits.append(json.loads(done.out)["bits_per_dimension"]["data"])
    assert bits[0] < bits[1]
    assert "on the data" in cadp(bare, "model", "inspect", digest, "--data", "own.npz").out


def test_data_that_does_not_fit_is_a_wrong_usage(bare: Place, cadp: Command) -> None:
    digest = trained(bare)
    np.savez(bare.folder / "shape.npz", images=np.zeros((3, 5, 5, 1), dtype=np.uint8), labels=np.zeros(3, dtype=int))
    np.savez(bare.folder / "labels.npz", images=np.zeros((3, 4, 4, 1), dtype=np.uint8), labels=np.full(3, 3))
    np.savez(bare.folder / "none.npz", images=np.zeros((3, 4, 4, 1), dtype=np.uint8))
    (bare.folder / "broken.npz").write_bytes(b"PK\x03\x04")
    np.save(bare.folder / "array.npy", np.zeros(3))
    for name in ("shape.npz", "labels.npz", "none.npz", "broken.npz", "array.npy", "absent.npz"):
        cadp(bare, "model", "inspect", digest, "--data", name).refused(2, name)


def test_import_then_inspect(bare: Place, foreign: Path, cadp: Command) -> None:
    done = cadp(bare, "model", "import", foreign, "--shape", "8x8x1", "--json")
    assert done.code == 0, done.err
    digest = json.loads(done.out)["digest"]
    assert cadp(bare, "model", "import", foreign, "--shape", "8x8x1").out.strip() == digest  # the same bytes again
    told = json.loads(cadp(bare, "model", "inspect", digest, "--json").out)
    assert told["privacy"] is None
    assert "checkpoint.pt" in told["origin"]["words"]
    assert told["architecture"]["scales"][0]["couplings"]["coupling"] == "glow"
    assert "only where a spec declares it public" in cadp(bare, "model", "inspect", digest).out
    gin = cadp(bare, "model", "import", foreign, "--shape", "8x8x1", "--gin", "--clamp", "1.2").out.strip()
    couplings = json.loads(cadp(bare, "model", "inspect", gin, "--json").out)["architecture"]["head"]
    assert (couplings["coupling"], couplings["clamp"]) == ("gin", 1.2)


def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(bare: Place, foreign: Path, cadp: Command) -> None:
    (bare.folder / "x.pt").write_bytes(b"no checkpoint")
    cadp(bare, "model", "import", "x.pt").refused(1, "x.pt", "safe reader")
    cadp(bare, "model", "import", "absent.pt").refused(1, "absent.pt", "No such file")
    cadp(bare, "model", "import", foreign).refused(1, "28×28×1", "another shape")
    cadp(bare, "model", "import", foreign, "--shape", "8x8").refused(2, "28x28x1")
    cadp(bare, "model", "import", foreign, "--shape", "8x8x1", "--clamp", "-1").refused(1, "clamp")
    assert not bare.settings.home.exists()


def test_a_model_that_is_not_there_is_one_line(bare: Place, cadp: Command) -> None:
    cadp(bare, "model", "inspect", "f" * 64).refused(1, "no checkpoint object")
    cadp(bare, "model", "inspect", "deadbeef").refused(1, "64 hex digits")
    cadp(bare, "model", "inspect", bare.folder / ("f" * 64 + ".json")).refused(1, "no checkpoint object")
