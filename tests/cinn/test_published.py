"""A published checkpoint is read whole and safely, or refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cadp.cinn.network import check_round_trip
from cadp.cinn.published import import_published, read_state
from cadp.errors import CheckpointRefused
from tests.cinn.oracle import graph

SHAPE = (8, 8, 1)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    network = graph(SHAPE, condition=3, depths=(2, 1), width=4, head_width=5)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def test_a_file_of_the_published_training_is_read(tmp_path: Path, state: State) -> None:
    optimiser = {
        "state": {0: {"step": 3, "exp_avg": torch.zeros(2)}},
        "param_groups": [{"lr": 5e-4, "betas": (0.9, 1)}],
    }
    torch.save({"model": state, "optim": optimiser}, tmp_path / "checkpoint.pt")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "parallel.pt")
    for name in ("checkpoint.pt", "parallel.pt"):
        found = read_state(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_no_code_of_a_file_runs(tmp_path: Path, state: State) -> None:
    mark = tmp_path / "unpickled"
    torch.save({"model": {**state, "trap": Trap(mark)}}, tmp_path / "trap.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Trap(mark), protocol=2))
    for name in ("trap.pt", "raw.pt"):
        with pytest.raises(CheckpointRefused, match="safe reader"):
            read_state(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("data", [b"", b"no checkpoint", b"PK\x03\x04 nor this", b"\x80\x02}q\x00."], ids=repr)
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(CheckpointRefused, match=r"x\.pt"):
        read_state(tmp_path / "x.pt")


@pytest.mark.parametrize("saved", [[1, 2], {"model": {}}, {"model": {"a": 1}}, {"model": 3}, torch.zeros(3)], ids=repr)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(CheckpointRefused, match=r"x\.pt"):
        read_state(tmp_path / "x.pt")


def test_views_that_would_fill_the_memory_are_refused(tmp_path: Path, state: State) -> None:
    torch.save({**state, "module_list.2.perm": torch.zeros(1, dtype=torch.int64).expand(1 << 40)}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 100_000
    with pytest.raises(CheckpointRefused, match="bytes"):
        read_state(tmp_path / "x.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointRefused, match="cannot read"):
            read_state(path)


FIRST, HEAD = "module_list.1", "module_list.9"


def changed(state: State, name: str, change: Callable[[Tensor], Tensor]) -> State:
    return {**state, name: change(state[name])}


def renamed(state: State, old: str, new: str) -> State:
    return {name.replace(old, new): tensor for name, tensor in state.items()}


def without(state: State, part: str) -> State:
    return {name: tensor for name, tensor in state.items() if part not in name}


CHANGES: dict[str, Callable[[State], State]] = {
    "one tensor missing": lambda s: without(s, f"{FIRST}.subnet2.2.bias"),
    "one coupling missing": lambda s: without(s, f"{FIRST}."),
    "one permutation missing": lambda s: without(s, "module_list.2."),
    "no head": lambda s: {n: t for n, t in s.items() if int(n.split(".")[1]) < 9},
    "no downsampling": lambda s: without(s, "downsample_kernel"),
    "one tensor more": lambda s: {**s, "module_list.99.perm": torch.arange(3)},
    "another name": lambda s: {**s, "buffer": torch.zeros(1)},
    "another shape": lambda s: changed(s, f"{FIRST}.subnet1.2.weight", lambda t: t[:, :-1]),
    "another width": lambda s: changed(s, f"{FIRST}.subnet1.0.weight", lambda t: t[:-1]),
    "a flat weight": lambda s: changed(s, f"{FIRST}.subnet1.0.weight", torch.flatten),
    "NaN": lambda s: changed(s, f"{FIRST}.subnet1.0.bias", lambda t: t * float("nan")),
    "half precision": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
    "no permutation": lambda s: changed(s, "module_list.2.perm", torch.zeros_like),
    "an order beyond its end": lambda s: changed(s, "module_list.2.perm", lambda t: t + 1),
    "an order of floats": lambda s: changed(s, "module_list.2.perm", torch.Tensor.float),
    "an order that is a number": lambda s: changed(s, "module_list.2.perm", lambda t: t[0]),
    "a wrong inverse": lambda s: changed(s, "module_list.2.perm_inv", lambda t: t.roll(1)),
    "another kernel": lambda s: changed(s, "module_list.0.downsample_kernel", lambda t: t.flip(0)),
    "a flat kernel": lambda s: changed(s, "module_list.0.downsample_kernel", torch.flatten),
    "no kernel": lambda s: changed(s, "module_list.0.downsample_kernel", lambda t: t[:0]),
    "modules out of order": lambda s: renamed(renamed(s, "module_list.1.", "module_list.77."), "list.2.", "list.1."),
    "one Gaussian half": lambda s: {**s, "mu": torch.zeros(3, 64)},
    "Gaussians of another size": lambda s: {**s, "mu": torch.zeros(3, 9), "log_sig": torch.zeros(3, 9)},
    "one tensor twice": lambda s: {**s, f"module.{FIRST}.subnet1.0.bias": torch.zeros(4)},
    "a prefix without Gaussians": lambda s: {f"inn.{name}": tensor for name, tensor in s.items()},
    "nothing": lambda s: {},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_network_is_refused(state: State, change: Callable[[State], State]) -> None:
    import_published(state, shape=SHAPE)
    with pytest.raises(CheckpointRefused):
        import_published(change(dict(state)), shape=SHAPE)


@pytest.mark.parametrize("shape", [(8, 4, 1), (64, 64, 1), (8, 8, 3), (2, 2, 1), (9, 8, 1)], ids=str)
def test_another_shape_is_refused(state: State, shape: tuple[int, int, int]) -> None:
    with pytest.raises(CheckpointRefused):
        import_published(state, shape=shape)


def test_attributes_are_conditions_of_one_class(state: State) -> None:
    flow = import_published(state, shape=SHAPE, attributes=True)
    assert flow.architecture.conditions.attributes == 3
    assert flow.architecture.classes == 1
    assert check_round_trip(flow) < 1e-4
