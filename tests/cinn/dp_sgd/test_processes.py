"""DP-SGD in two processes: the bits of one, and no planted flaw goes unseen. All cases share one pair of processes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from cadp.cinn.dp_sgd import processes as sharing
from cadp.cinn.dp_sgd import training as sgd
from cadp.cinn.dp_sgd.handing_over import hand_over, take_over
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.processes import Processes, Sums, owner
from cadp.cinn.dp_sgd.sample import slots_of
from cadp.cinn.dp_sgd.training import Training, assist, train_couplings
from cadp.cinn.dp_sgd.unit_records import UnitRecords
from cadp.errors import PrivacyError
from cadp.privacy.noise import discrete_gaussian
from cadp.privacy.seeded import seeded
from cadp.reporter import Silent
from cadp.steps.processes import Meeting, run_together
from tests.cinn.dp_sgd.checks import UNITS, plan_of, some_flow, some_records

Patch = pytest.MonkeyPatch
SEED = 7
COLUMNS = ("content", "labels", "valid", "starts")


@dataclass(frozen=True)
class Case:
    """What is trained, and the flaw that is planted in each of the two processes."""

    plan: SgdPlan
    plant: Callable[[Patch, int], None] = lambda patch, rank: None
    other_units: bool = False


def every_process_adds_noise(patch: Patch, rank: int) -> None:
    honest = sgd._sums_of

    def noisy(*arguments: Any) -> Sums:
        found = honest(*arguments)
        sigma = arguments[2].sigma
        return replace(found, layers=[layer + discrete_gaussian(sigma, layer.shape) for layer in found.layers])

    if rank:
        patch.setattr(sgd, "_sums_of", noisy)


def each_adds_its_part_of_the_noise(patch: Patch, rank: int) -> None:
    """σ/√2 from each: the variance is right, the law is not a discrete Gaussian."""
    patch.setattr(sgd, "discrete_gaussian", lambda sigma, size: discrete_gaussian(sigma / 2**0.5, size))
    honest = sgd._sums_of

    def noisy(*arguments: Any) -> Sums:
        found = honest(*arguments)
        sigma = arguments[2].sigma / 2**0.5
        return replace(found, layers=[layer + discrete_gaussian(sigma, layer.shape) for layer in found.layers])

    if rank:
        patch.setattr(sgd, "_sums_of", noisy)


def sums_of_floats(patch: Patch, rank: int) -> None:
    honest = distributed.reduce

    def reduce(tensor: torch.Tensor, to: int) -> None:
        rounded = tensor.to(torch.float32)
        honest(rounded, to)
        # The counts behind the sums are small and stay exact.
        tensor[:-4] = rounded[:-4].to(tensor.dtype)
        kept = tensor[-4:].clone()
        honest(kept, to)
        tensor[-4:] = kept

    patch.setattr(sharing.distributed, "reduce", reduce)


def coins_of_its_own(patch: Patch, rank: int) -> None:
    """The other process takes whom it likes into the places that it was given."""
    honest = Processes.dealt

    def dealt(self: Processes, stack: Any) -> Any:
        drawn = honest(self, stack)
        return drawn if drawn is None else (drawn + 2 * 128) % (8 * UNITS)  # another block of its own

    patch.setattr(Processes, "dealt", dealt)


def the_same_units_twice(patch: Patch, rank: int) -> None:
    patch.setattr(Processes, "own", lambda self, drawn: np.ones(len(drawn), dtype=np.bool_))


def the_first_share_for_both(patch: Patch, rank: int) -> None:
    patch.setattr(Processes, "own", lambda self, drawn: drawn // 128 % self.size == 0)


def a_unit_left_out(patch: Patch, rank: int) -> None:
    honest = Processes.own

    def own(self: Processes, drawn: Any) -> Any:
        mine = honest(self, drawn)
        mine[np.flatnonzero(mine)[-1]] &= rank == 0
        return mine

    patch.setattr(Processes, "own", own)


def zeros_of_a_broken_process(patch: Patch, rank: int) -> None:
    """It failed, and goes on as if there had been nobody in its share."""
    honest = sgd._sums_of

    def broken(*arguments: Any) -> Sums:
        found = honest(*arguments)
        return Sums([np.zeros_like(layer) for layer in found.layers], 0.0, 0, 0)

    if rank:
        patch.setattr(sgd, "_sums_of", broken)


def weights_of_its_own(patch: Patch, rank: int) -> None:
    """It keeps the weights that it began with, as one would that saw no noise, or noise of its own."""
    patch.setattr(sharing, "vector_to_parameters", lambda weights, parameters: None)


def weights_that_drift(patch: Patch, rank: int) -> None:
    honest = sharing.vector_to_parameters
    patch.setattr(
        sharing, "vector_to_parameters", lambda weights, parameters: honest(weights * (1 + 2**-22), parameters)
    )


PLAN = plan_of(rate=0.75, steps=4)
SAME = {
    "one record": Case(PLAN),
    "several records": Case(plan_of(3, rate=0.75, steps=4)),
    "hardly anybody": Case(plan_of(rate=2.0**-9, steps=4)),
}
ENDED = {
    "the same units twice": Case(PLAN, the_same_units_twice),
    "the first share for both": Case(PLAN, the_first_share_for_both),
    "a unit left out": Case(PLAN, a_unit_left_out),
    "zeros of a broken process": Case(PLAN, zeros_of_a_broken_process),
    "weights of its own": Case(PLAN, weights_of_its_own),
    "weights that drift": Case(PLAN, weights_that_drift),
    "other units": Case(PLAN, other_units=True),
}
OTHER_BITS = {
    "every process adds noise": Case(PLAN, every_process_adds_noise),
    "each adds its part of the noise": Case(PLAN, each_adds_its_part_of_the_noise),
    "sums of floats": Case(PLAN, sums_of_floats),
    "coins of its own": Case(PLAN, coins_of_its_own),
}
CASES = {**SAME, **ENDED, **OTHER_BITS}


def many(records: int) -> UnitRecords:
    """Units enough for several blocks of both processes: eight copies of the usual ones."""
    few = some_records(records)
    sizes = np.tile(np.diff(few.starts), 8)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return UnitRecords(np.tile(few.content, (8, 1)), np.tile(few.labels, 8), np.tile(few.valid, 8), starts)


def steps_of(case: Case, processes: Processes | None) -> tuple[list[str], int]:
    """Train with fixed coins and noise; return the bits that every step left, and how often noise was drawn."""
    left: list[str] = []
    drawn: list[float] = []
    plan = replace(case.plan, units=8 * case.plan.units)
    noise = sgd.discrete_gaussian

    def watched(sigma: float, size: tuple[int, ...]) -> Any:
        drawn.append(sigma)
        return noise(sigma, size)

    def after(state: Training) -> None:
        vectors = (state.weights, state.first, state.second, state.average)
        left.append(b"".join(vector.numpy().tobytes() for vector in vectors).hex())

    with pytest.MonkeyPatch.context() as patch, seeded(SEED):
        patch.setattr(sgd, "discrete_gaussian", watched)
        train_couplings(some_flow(), many(plan.records), plan, Silent(), after_step=after, processes=processes)
    return left, len(drawn)


def nothing(*arguments: object) -> Any:
    raise AssertionError("only the first process draws coins and noise")


@contextmanager
def planted(case: Case, rank: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.setattr(sgd, "poisson_sample", nothing)
            patch.setattr(sgd, "discrete_gaussian", nothing)
        case.plant(patch, rank)
        yield


def work(rank: int, size: int, folder: Path) -> None:
    """Every case, one after another, in this process and the other."""
    torch.set_num_threads(1)
    Meeting.in_folder(folder).join(rank, size)
    found = {}
    for name, case in CASES.items():
        plan, records = replace(case.plan, units=8 * case.plan.units), many(case.plan.records)
        if case.other_units and rank:
            records = replace(records, labels=(records.labels + 1) % 3)
        processes = Processes(plan, records)
        if rank:
            with planted(case, rank):
                assist(some_flow(), records, plan, processes)
            continue
        alone, draws = steps_of(case, None)
        error = None
        with planted(case, rank):
            try:
                together, drawn = steps_of(case, processes)
            except PrivacyError as refused:
                together, drawn, error = [], 0, str(refused)
                processes.dismiss()
        found[name] = {"same": together == alone, "steps": len(alone), "draws": (drawn, draws), "error": error}
    if rank == 0:
        hand_over(PLAN, many(3), 1)
        (folder / "found.json").write_text(json.dumps(found))
    else:
        plan, records = take_over(folder)
        np.savez(folder / "handed.npz", **{name: getattr(records, name) for name in COLUMNS})
        (folder / "plan").write_text(repr(plan))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left what they found."""
    folder = tmp_path_factory.mktemp("pair")
    run_together(work, folder, 2, ready="")
    return folder


@pytest.fixture(scope="module")
def found(pair: Path) -> dict[str, Any]:
    return dict(json.loads((pair / "found.json").read_text()))


@pytest.mark.parametrize("case", SAME)
def test_two_processes_leave_the_bits_of_one_and_draw_noise_once(case: str, found: dict[str, Any]) -> None:
    seen = found[case]
    assert seen["error"] is None
    assert seen["same"]
    assert seen["steps"] == SAME[case].plan.steps + 1
    assert seen["draws"][0] == seen["draws"][1] > 0


@pytest.mark.parametrize("case", ENDED)
def test_a_flaw_that_the_others_can_see_ends_the_training(case: str, found: dict[str, Any]) -> None:
    assert found[case]["error"] is not None
    assert "training ends" in found[case]["error"]
    assert not any(character.isdigit() for character in found[case]["error"].replace("process 1 of 2", ""))


@pytest.mark.parametrize("case", OTHER_BITS)
def test_a_flaw_in_the_law_leaves_other_bits(case: str, found: dict[str, Any]) -> None:
    assert found[case]["error"] is None
    assert not found[case]["same"]


def test_another_host_gets_the_plan_and_the_content_of_its_own_units_alone(pair: Path) -> None:
    assert (pair / "plan").read_text() == repr(PLAN)
    records, handed = many(3), np.load(pair / "handed.npz")
    for name in COLUMNS[1:]:
        assert np.array_equal(handed[name], getattr(records, name))
    units = np.repeat(np.arange(records.units), np.diff(records.starts))
    own = owner(units, PLAN, 2) == 1
    assert 0 < own.sum() < len(own)
    assert np.array_equal(handed["content"][own], records.content[own])
    assert not handed["content"][~own].any()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("records", [1, 3, 200])
def test_whose_a_unit_is_follows_from_its_number_and_keeps_its_slot(size: int, records: int) -> None:
    plan, draw = plan_of(records), np.random.default_rng(size)
    everyone = owner(np.arange(10_000), plan, size)
    assert set(everyone) == set(range(size))
    assert np.bincount(everyone).max() - np.bincount(everyone).min() <= slots_of(records)
    # Whoever else is drawn: the same process, and there the same slot.
    for _ in range(3):
        drawn = np.sort(draw.choice(10_000, 500, replace=False))
        assert np.array_equal(owner(drawn, plan, size), everyone[drawn])
