"""The fit with private labels: noisy class counts take the place of the true ones, everywhere and at a charge."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.fit import moments
from cadp.cinn.fit.estimate import class_sizes
from cadp.cinn.fit.moments import fit_moments
from cadp.cinn.fit.plan import MomentsPlan, Query
from cadp.cinn.network import check_round_trip
from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.records import Batch
from cadp.reporter import Silent
from tests.cinn.conftest import counts_of

SHAPE = (8, 8, 1)
CLASSES = 3
Sums = NDArray[np.int64]


def plan_of(records: int = 1, units: int = 500) -> MomentsPlan:
    return MomentsPlan.calibrate(
        8.0, 1e-6, SHAPE, CLASSES, units=units, max_records_per_unit=records, private_labels=True
    )


def run(batch: Batch, plan: MomentsPlan, answers: Sequence[Sums] | None) -> tuple[dict[str, Any], dict[str, Sums]]:
    """The fitted tensors and the sums before noise, where the noisy answers are given (or are the sums themselves)."""
    seen: dict[str, Sums] = {}

    def release(sums: Sums, query: Query) -> Sums:
        seen[query.name] = sums.copy()
        return sums if answers is None else answers[len(seen) - 1].reshape(sums.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "with_noise", release)
        patch.setattr(moments, "with_symmetric_noise", release)
        flow = fit_moments(lambda: [batch], plan, None, Silent(), records=len(batch))
    assert [*seen] == [query.name for query in plan.queries]
    return {name: tensor.numpy().copy() for name, tensor in flow.state_dict().items()}, seen


def answers_for(plan: MomentsPlan, seed: int, records: int) -> list[Sums]:
    """Arbitrary noisy answers; those of the counts are near `records`."""
    a = plan.architecture
    rng = np.random.default_rng(seed)
    shapes = ((CLASSES, a.dims), (a.low_dims, a.low_dims), (CLASSES, a.content, a.content), (CLASSES, a.bands))
    made = [np.rint(rng.normal(size=shape) * 1e5).astype(np.int64) for shape in shapes]
    for i in (1, 2):
        made[i] = made[i] + made[i].swapaxes(-1, -2)
    return [rng.integers(0, records, (CLASSES, 1)), *made]


def norm(sums: Sums) -> float:
    return math.sqrt(sum(int(value) ** 2 for value in sums.ravel()))


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Batch, Batch, int]:
    """Nine records, of which the first m are one unit's: contents and labels differ, and which can be read."""
    m = draw(st.integers(1, 3))
    pixels = st.binary(min_size=64, max_size=64).map(lambda data: np.frombuffer(data, np.uint8).reshape(SHAPE))
    one = np.stack([draw(pixels) for _ in range(9)])
    other = one.copy()
    other[:m] = [draw(pixels) for _ in range(m)]
    labels = np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=9, max_size=9)), dtype=np.int64)
    moved = labels.copy()
    moved[:m] = draw(st.lists(st.integers(0, CLASSES - 1), min_size=m, max_size=m))
    valid, also = np.ones(9, dtype=np.bool_), np.ones(9, dtype=np.bool_)
    valid[0], also[0] = draw(st.booleans()), draw(st.booleans())
    return Batch(one, labels, valid), Batch(other, moved, also), m


@settings(max_examples=60, deadline=None)
@given(neighbours(), st.integers(0, 1000))
def test_neighbours_that_differ_in_labels_stay_within_the_sensitivity(
    pair: tuple[Batch, Batch, int], seed: int
) -> None:
    one, other, m = pair
    plan = plan_of(m)
    answers = answers_for(plan, seed, 200)
    (tensors, left), (also, right) = run(one, plan, answers), run(other, plan, answers)
    for query in plan.queries:
        assert norm(left[query.name] - right[query.name]) <= query.sensitivity, query.name
    # All that the fit learns are the noisy answers: given them, the network is the same to the last bit.
    for name, tensor in tensors.items():
        assert tensor.tobytes() == also[name].tobytes(), name


def test_the_counts_bound_is_reached_where_a_whole_unit_changes_class() -> None:
    for m in (1, 3):
        plan = plan_of(m)
        assert plan.counts is not None
        images, valid = np.zeros((5, *SHAPE), dtype=np.uint8), np.ones(5, dtype=np.bool_)
        ones = Batch(images, np.array([0] * m + [2] * (5 - m)), valid)
        others = Batch(images, np.array([1] * m + [2] * (5 - m)), valid)
        moved = norm(run(ones, plan, None)[1]["class counts"] - run(others, plan, None)[1]["class counts"])
        assert moved == pytest.approx(math.sqrt(2) * m)
        assert moved <= plan.counts.sensitivity <= moved * (1 + 1e-9)
        # One that changes class and one that cannot be read any more are 1 apart, and noise is made for √2.
        assert plan.counts.sigma == plan.counts.noise_multiplier * plan.counts.sensitivity


def sees_true_counts(self: Any, *arguments: Any) -> None:
    """Mistake: the fit goes on with counts of its own."""
    fit_means(self, *arguments)
    self.counts = sum(np.bincount(batch.labels, minlength=CLASSES) for batch in self.batches())


def forgets_the_noise(noisy: Sums, noise: float, total: int) -> Sums:
    """Mistake: noise is added to counts that nobody uses."""
    del noisy
    return class_sizes(TRUE[0], noise, total)


fit_means = moments._Fit._fit_means
TRUE: list[Sums] = []


@pytest.mark.parametrize("mutant", ["as it is", "true counts", "no noise"])
def test_true_counts_that_reach_the_network_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "true counts":
        monkeypatch.setattr(moments._Fit, "_fit_means", sees_true_counts)
    plan, n = plan_of(), 600  # of so many, three classes are told apart from their noise
    rng = np.random.default_rng(3)
    images, valid = rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), np.ones(n, dtype=np.bool_)
    answers = [np.array([300, 200, 100]), *answers_for(plan, 5, 200)[1:]]
    fits = []
    for labels in (np.arange(n) % 3, np.arange(n) % 2):
        TRUE[:] = [np.bincount(labels, minlength=CLASSES)]
        if mutant == "no noise":
            monkeypatch.setattr(moments, "class_sizes", forgets_the_noise)
        fits.append(run(Batch(images, labels, valid), plan, answers)[0])
    same = all(fits[0][name].tobytes() == fits[1][name].tobytes() for name in fits[0])
    assert same == (mutant == "as it is")


def test_true_counts_are_refused_where_labels_are_private_and_asked_for_where_they_are_not(digits: Batch) -> None:
    counts = counts_of(digits, 10)
    plans = [
        MomentsPlan.calibrate(4.0, 1e-6, SHAPE, 10, units=len(digits), private_labels=private)
        for private in (False, True)
    ]
    for plan, given_counts, records in ((plans[1], counts, None), (plans[0], None, 1797), (plans[1], counts, 1797)):
        with pytest.raises(PrivacyError, match="number of records alone"):
            fit_moments(lambda: [digits], plan, given_counts, Silent(), records=records)
    with pytest.raises(PrivacyError, match="1797 records, the public number is 1796"):
        fit_moments(lambda: [digits], plans[1], None, Silent(), records=1796)


@pytest.mark.parametrize("epsilon", [0.5, 4.0, 30.0])
def test_counts_are_in_the_charge_and_cost_little(epsilon: float) -> None:
    plans = [
        MomentsPlan.calibrate(epsilon, 1e-6, SHAPE, CLASSES, units=5000, private_labels=private)
        for private in (False, True)
    ]
    public, private = plans
    assert public.counts is None
    assert private.counts is not None
    assert len(private.event().to_json()["events"]) == len(public.event().to_json()["events"]) + 1  # type: ignore[arg-type]
    assert curve(private.event()).epsilon(1e-6) <= epsilon
    assert private.mean.noise_multiplier == pytest.approx(public.mean.noise_multiplier, rel=0.01)
    assert private.mean.noise_multiplier > public.mean.noise_multiplier
    row = private.parameters()["queries"][0]  # type: ignore[index]
    assert (row["name"], row["clip_norm"]) == ("class counts", 1.0)
    assert row["sensitivity"] == pytest.approx(math.sqrt(2))


def test_sizes_of_classes_make_up_the_public_total() -> None:
    assert class_sizes(np.array([4100, 1900, 3]), 10.0, 6000).tolist() == [4100, 1900, 0]
    assert class_sizes(np.array([-50, 29, 12]), 10.0, 60).tolist() == [20, 20, 20]
    assert class_sizes(np.array([900, 1100, -40]), 10.0, 4000).tolist() == [1800, 2200, 0]


def test_digits_with_private_labels_give_a_sound_network(digits: Batch) -> None:
    plan = MomentsPlan.calibrate(8.0, 1e-6, SHAPE, 10, units=len(digits), private_labels=True)
    flow = fit_moments(lambda: [digits], plan, None, Silent(), records=len(digits))
    assert check_round_trip(flow) < 1e-6
