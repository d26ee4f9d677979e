"""A checkpoint is what was saved, in full and with its privacy record, or it is refused."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from cadp.cinn.checkpoint import Origin, load_checkpoint, read_checkpoint, save_checkpoint, save_public
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused
from cadp.privacy.accountant import RELATION, GaussianEvent, PureEvent
from cadp.privacy.events import ZERO_OUT
from cadp.store import Store
from tests.cinn.conftest import random_flow

PRIVACY: dict[str, object] = {
    "relation": RELATION,
    "population": "visitors",
    "event": GaussianEvent(0.5).to_json(),
}
VERSIONS = {"torch": torch.__version__}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "models"))


@pytest.fixture
def flow() -> ConditionalFlow:
    return random_flow((6, 5, 2))


@pytest.fixture
def saved(store: Store, flow: ConditionalFlow) -> str:
    return save_checkpoint(store, flow, PRIVACY, VERSIONS)


def record_of(store: Store, digest: str) -> dict[str, Any]:
    return dict(json.loads(store.get(f"{digest}.json")))


def put_record(store: Store, record: object) -> str:
    """A record that is consistent with its own digest, whatever it says: what an insider could write."""
    data = json.dumps(record).encode()
    digest = hashlib.sha256(data).hexdigest()
    store.put(f"{digest}.json", data)
    return digest


def put_tensors(store: Store, record: dict[str, Any], data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(f"{sha256}.safetensors", data)
    return put_record(store, {**record, "tensors": {"sha256": sha256, "size": len(data)}})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip_to_the_bit(store: Store, flow: ConditionalFlow, dtype: torch.dtype) -> None:
    flow = flow.to(dtype)
    digest = save_checkpoint(store, flow, PRIVACY, VERSIONS)
    again, privacy = load_checkpoint(store, digest)
    assert privacy == PRIVACY
    assert again.architecture == flow.architecture
    assert again.dtype == dtype
    for (name, a), (other, b) in zip(flow.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 2)).astype(np.uint8)
    labels = np.arange(9) % 3
    assert np.array_equal(flow.encode_images(images, labels), again.encode_images(images, labels))
    z = np.random.default_rng(1).normal(size=(9, 60))
    assert np.array_equal(flow.decode_images(z, labels), again.decode_images(z, labels))


def test_names_are_digests_of_contents_and_saving_twice_is_saving_once(
    store: Store, flow: ConditionalFlow, saved: str
) -> None:
    assert save_checkpoint(store, flow, PRIVACY, VERSIONS) == saved
    keys = [key for key, _ in store.list()]
    assert len(keys) == 2
    for key in keys:
        assert hashlib.sha256(store.get(key)).hexdigest() == key.split(".")[0]
    with torch.no_grad():
        flow.shift.mean[0, 0] += 1e-12
    assert save_checkpoint(store, flow, PRIVACY, VERSIONS) != saved


def test_every_single_altered_byte_is_noticed(tmp_path: Path, store: Store, saved: str) -> None:
    for path in sorted((tmp_path / "models").glob("*.*")):
        good = path.read_bytes()
        rng = np.random.default_rng(0)
        places = {0, 7, 8, len(good) - 1, *rng.integers(0, len(good), 30).tolist()}
        for bad in (*(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in places), good[:-1], good + b"\n", b""):
            path.chmod(0o600)
            path.write_bytes(bad)
            with pytest.raises(CheckpointRefused, match="altered"):
                load_checkpoint(store, saved)
        path.write_bytes(good)
    load_checkpoint(store, saved)


@pytest.mark.parametrize("digest", ["", "f" * 64, "F" * 64, "../" + "f" * 61, "latest", "f" * 63, "f" * 64 + "\n"])
def test_a_wrong_digest_is_refused(store: Store, saved: str, digest: str) -> None:
    assert digest != saved
    with pytest.raises(CheckpointRefused):
        load_checkpoint(store, digest)


def test_missing_tensors_are_refused(tmp_path: Path, store: Store, saved: str) -> None:
    for path in (tmp_path / "models").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointRefused, match="no checkpoint object"):
        load_checkpoint(store, saved)


BAD_PRIVACY: list[tuple[str, object]] = [
    ("none", None),
    ("empty", {}),
    ("no event", {key: value for key, value in PRIVACY.items() if key != "event"}),
    ("no population", {key: value for key, value in PRIVACY.items() if key != "population"}),
    ("no relation", {key: value for key, value in PRIVACY.items() if key != "relation"}),
    ("nobody's", {**PRIVACY, "population": ""}),
    ("other relation", {**PRIVACY, "relation": "add-or-remove-one"}),
    ("zero-out event", {**PRIVACY, "event": GaussianEvent(0.5, relation=ZERO_OUT).to_json()}),
    ("zero-out relation", {**PRIVACY, "relation": ZERO_OUT}),
    ("event in words", {**PRIVACY, "event": "gaussian"}),
    ("negative loss", {**PRIVACY, "event": {**PureEvent(1.0).to_json(), "epsilon": -1.0}}),
    ("unknown mechanism", {**PRIVACY, "event": {**PureEvent(1.0).to_json(), "kind": "os.system"}}),
]


@pytest.mark.parametrize("privacy", [value for _, value in BAD_PRIVACY], ids=[name for name, _ in BAD_PRIVACY])
def test_without_a_sound_privacy_record_a_model_is_neither_saved_nor_loaded(
    store: Store, flow: ConditionalFlow, saved: str, privacy: Any
) -> None:
    with pytest.raises(CheckpointRefused, match=r"privacy record|event"):
        save_checkpoint(store, flow, privacy, VERSIONS)
    assert len(store.list()) == 2  # what `saved` left
    digest = put_record(store, {**record_of(store, saved), "privacy": privacy})
    with pytest.raises(CheckpointRefused, match=r"privacy record|event"):
        load_checkpoint(store, digest)


def test_the_population_that_paid_cannot_be_exchanged_under_the_same_digest(store: Store, saved: str) -> None:
    """Another record is another digest: a ledger's seal names the digest, so the seal would not match."""
    record = record_of(store, saved)
    other = put_record(store, {**record, "privacy": {**record["privacy"], "population": "others"}})
    assert other != saved
    assert load_checkpoint(store, saved)[1]["population"] == "visitors"


RECORDS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("a list", lambda record: [record]),
    ("another schema", lambda record: {**record, "schema": 1}),
    ("no schema", lambda record: {k: v for k, v in record.items() if k != "schema"}),
    ("an extra field", lambda record: {**record, "pickle": "x"}),
    ("no privacy", lambda record: {k: v for k, v in record.items() if k != "privacy"}),
    ("no architecture", lambda record: {k: v for k, v in record.items() if k != "architecture"}),
    ("tensors in words", lambda record: {**record, "tensors": "here"}),
    ("tensors elsewhere", lambda record: {**record, "tensors": {"sha256": "../../etc/passwd", "size": 1}}),
    ("another network", lambda record: {**record, "architecture": {**record["architecture"], "content": 5}}),
    ("no such kind", lambda record: {**record, "architecture": {**record["architecture"], "kind": "glow"}}),
    (
        "tensors nobody has",
        lambda record: {**record, "architecture": {**record["architecture"], "shape": [256, 256, 1], "block": 256}},
    ),
    ("a privacy record taken away", lambda record: {**record, "privacy": None}),
    ("an origin besides", lambda record: {**record, "origin": {"words": "x", "population": None}}),
    ("an absurd network", lambda record: {**record, "architecture": {**record["architecture"], "classes": 1 << 40}}),
]


@pytest.mark.parametrize("change", [change for _, change in RECORDS], ids=[name for name, _ in RECORDS])
def test_a_record_that_is_consistent_but_wrong_is_refused(
    store: Store, saved: str, change: Callable[[dict[str, Any]], object]
) -> None:
    digest = put_record(store, change(record_of(store, saved)))
    with pytest.raises(CheckpointRefused):
        load_checkpoint(store, digest)


def test_a_model_without_a_privacy_record_loads_only_where_a_spec_declares_it_public(
    store: Store, flow: ConditionalFlow
) -> None:
    digest = save_public(store, flow, Origin("imported from x.pt"), VERSIONS)
    with pytest.raises(CheckpointRefused, match=r"no privacy record \(imported from x.pt\).*declares it public"):
        load_checkpoint(store, digest)
    again, privacy = load_checkpoint(store, digest, public_for="visitors")
    assert privacy == {}
    assert all(torch.equal(a, b) for a, b in zip(flow.buffers(), again.buffers(), strict=True))


def test_one_that_was_trained_without_dp_on_the_released_people_never_loads(
    store: Store, flow: ConditionalFlow
) -> None:
    digest = save_public(store, flow, Origin("maximum likelihood", population="visitors"), VERSIONS)
    with pytest.raises(CheckpointRefused, match="without DP on visitors"):
        load_checkpoint(store, digest, public_for="visitors")
    load_checkpoint(store, digest, public_for="others")


def test_a_privacy_record_holds_whatever_a_spec_declares(store: Store, saved: str) -> None:
    assert load_checkpoint(store, saved, public_for="others")[1] == PRIVACY


def test_an_origin_beside_a_privacy_record_is_refused_even_for_looking(store: Store, saved: str) -> None:
    origin = {"words": "x", "population": None}
    digest = put_record(store, {**record_of(store, saved), "origin": origin})
    with pytest.raises(CheckpointRefused, match="both"):
        read_checkpoint(store, digest)


ORIGINS: dict[str, object] = {
    "no words": {"words": "", "population": None},
    "words alone": {"words": "x"},
    "more than words": {"words": "x", "population": None, "run": "x"},
    "a population that is none": {"words": "x", "population": ""},
    "a number": {"words": 1, "population": None},
    "a text": "x",
}


@pytest.mark.parametrize("origin", ORIGINS.values(), ids=ORIGINS.keys())
def test_an_origin_that_says_nothing_is_refused(store: Store, saved: str, origin: object) -> None:
    digest = put_record(store, {**record_of(store, saved), "privacy": None, "origin": origin})
    with pytest.raises(CheckpointRefused, match="origin"):
        load_checkpoint(store, digest, public_for="others")


def test_what_asked_for_it_and_what_made_it_are_on_record(store: Store, flow: ConditionalFlow) -> None:
    digest = save_checkpoint(store, flow, PRIVACY, VERSIONS, spec="a" * 64)
    record = read_checkpoint(store, digest)
    assert record["spec"] == "a" * 64
    assert record["versions"] == VERSIONS
    assert record["privacy"] == PRIVACY
    assert record["origin"] is None


def test_bytes_that_are_no_json_are_refused(store: Store) -> None:
    for data in (b"\xff\xfe", b"{", b"[" * 100_000):
        digest = hashlib.sha256(data).hexdigest()
        store.put(f"{digest}.json", data)
        with pytest.raises(CheckpointRefused):
            load_checkpoint(store, digest)


@pytest.mark.parametrize("depth", [480, 100_000])
def test_an_event_nested_without_end_is_refused(store: Store, saved: str, depth: int) -> None:
    record = {**record_of(store, saved), "privacy": {**PRIVACY, "event": "HERE"}}
    opening = '{"schema": 1, "kind": "composed", "relation": "replace-one", "events": ['
    event = opening * depth + json.dumps(PRIVACY["event"]) + "]}" * depth
    data = json.dumps(record).replace('"HERE"', event).encode()
    digest = hashlib.sha256(data).hexdigest()
    store.put(f"{digest}.json", data)
    with pytest.raises(CheckpointRefused, match=r"event|not JSON"):
        load_checkpoint(store, digest)


def with_nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state["shift.mean"][0, 0] = float("nan")
    return state


def without_one(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "shift.mean"}


TENSORS: list[tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]]] = [
    ("NaN", with_nan),
    ("one missing", without_one),
    ("one more", lambda state: {**state, "extra": torch.zeros(1, dtype=torch.float64)}),
    ("another shape", lambda state: {**state, "shift.mean": state["shift.mean"][:1].clone()}),
    ("mixed types", lambda state: {**state, "shift.mean": state["shift.mean"].float()}),
    ("integers", lambda state: {name: tensor.long() for name, tensor in state.items()}),
    ("half precision", lambda state: {name: tensor.half() for name, tensor in state.items()}),
]


@pytest.mark.parametrize("change", [change for _, change in TENSORS], ids=[name for name, _ in TENSORS])
def test_tensors_that_are_consistent_but_wrong_are_refused(
    store: Store, saved: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    record = record_of(store, saved)
    state = load(store.get(f"{record['tensors']['sha256']}.safetensors"))
    digest = put_tensors(store, record, save(change(state)))
    with pytest.raises(CheckpointRefused, match="tensors"):
        load_checkpoint(store, digest)


def test_a_flow_that_is_not_finite_is_not_saved(store: Store, flow: ConditionalFlow) -> None:
    flow.scale.log_scale[0, 0] = float("inf")
    with pytest.raises(CheckpointRefused, match="not finite"):
        save_checkpoint(store, flow, PRIVACY, VERSIONS)
    assert store.list() == []


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_nothing_is_ever_unpickled(tmp_path: Path, store: Store, saved: str, flow: ConditionalFlow) -> None:
    mark = tmp_path / "unpickled"
    torch.save({**flow.state_dict(), "trap": Trap(mark)}, tmp_path / "model.pt")
    record = record_of(store, saved)
    for data in (pickle.dumps(Trap(mark)), (tmp_path / "model.pt").read_bytes()):
        with pytest.raises(CheckpointRefused, match="not safetensors"):
            load_checkpoint(store, put_tensors(store, record, data))
        digest = hashlib.sha256(data).hexdigest()
        store.put(f"{digest}.json", data)
        with pytest.raises(CheckpointRefused):
            load_checkpoint(store, digest)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap works
