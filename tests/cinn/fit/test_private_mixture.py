"""The queries of a mixture move by no more than is charged, through the real fit; what it learns are its answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.architecture import Whitening
from cadp.cinn.fit import contributions, lloyd, moments
from cadp.cinn.fit.moments import fit_moments
from cadp.cinn.fit.plan import MomentsPlan, Query
from cadp.cinn.network import check_round_trip
from cadp.records import Batch
from cadp.reporter import Silent
from tests.cinn.conftest import counts_of

SHAPE, CLASSES, COMPONENTS, CONTENT = (8, 8, 1), 2, 3, 6
NETWORK = Whitening(SHAPE, CLASSES, 8, CONTENT, 4, components=COMPONENTS)
Sums = NDArray[np.int64]
Images = NDArray[np.uint8]


def plan_of(records: int = 1, *, private_labels: bool = False) -> MomentsPlan:
    # So little noise that few records show: sensitivities do not know of it. And a clip norm that bites.
    plan = MomentsPlan.split(300.0, NETWORK, 500, records, private_labels=private_labels)
    return replace(plan, mixture=tuple(replace(q, radius=q.radius // 2, count=q.count // 2) for q in plan.mixture))


def run(batch: Batch, plan: MomentsPlan, answers: Sequence[Sums] | None) -> tuple[dict[str, Any], list[Sums]]:
    """The fitted tensors and the sums before noise; the fit goes on with `answers`, else with the sums themselves."""
    seen: list[Sums] = []

    def release(sums: Sums, query: Query) -> Sums:
        assert query == plan.queries[len(seen)]
        assert sums.dtype == np.int64
        seen.append(sums.copy())
        return sums if answers is None else answers[len(seen) - 1].reshape(sums.shape)

    private = plan.counts is not None
    counts = None if private else counts_of(batch, CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "with_noise", release)
        patch.setattr(moments, "with_symmetric_noise", release)
        flow = fit_moments(lambda: [batch], plan, counts, Silent(), records=len(batch) if private else None)
    assert len(seen) == len(plan.queries)
    return {name: tensor.numpy().copy() for name, tensor in flow.state_dict().items()}, seen


def background(n: int = 60) -> Batch:
    """Records that make every direction vary, alike in both classes."""
    images = np.random.default_rng(1).integers(96, 160, (n, *SHAPE), dtype=np.uint8)
    return Batch(images, np.arange(n) % CLASSES, np.ones(n, dtype=np.bool_))


def with_unit(pictures: Images, labels: Sequence[int], valid: Sequence[bool] | None = None) -> Batch:
    """One unit's records before everybody else's."""
    rest = background()
    return Batch(
        np.concatenate([pictures, rest.images]),
        np.concatenate([np.array(labels, dtype=np.int64), rest.labels]),
        np.concatenate([np.array(valid or [True] * len(labels), dtype=np.bool_), rest.valid]),
    )


def answers_of(plan: MomentsPlan, unit: int, *, alike: bool) -> list[Sums]:
    """Answers that a fit could get; with `alike` the components of a class are, and all records go to the first."""
    grey = with_unit(np.full((unit, *SHAPE), 128, dtype=np.uint8), [0] * unit)
    answers = run(grey, plan, None)[1]
    if alike:
        for query, answer in zip(plan.queries, answers, strict=True):
            if query in plan.mixture:
                answer[:] = 0
                answer[..., -1] = 100 * query.count
    return answers


def norm(sums: Sums) -> float:
    return math.sqrt(sum(int(value) ** 2 for value in sums.ravel()))


def check(one: Batch, other: Batch, plan: MomentsPlan, answers: Sequence[Sums]) -> list[float]:
    """Compare neighbours; returns how much of each mixture query's sensitivity they reach."""
    (tensors, left), (also, right) = run(one, plan, answers), run(other, plan, answers)
    reached = []
    for query, a, b in zip(plan.queries, left, right, strict=True):
        assert norm(a - b) <= query.sensitivity, f"{query.name}: beyond the replace-one sensitivity"
        if query in plan.mixture:
            reached.append(norm(a - b) / query.sensitivity)
    # All that the fit learns are the noisy answers: given them, the network is the same to the last bit.
    for name, tensor in tensors.items():
        assert tensor.tobytes() == also[name].tobytes(), name
    return reached


pixels = st.one_of(
    st.binary(min_size=64, max_size=64).map(lambda data: np.frombuffer(data, np.uint8).reshape(SHAPE)),
    st.sampled_from([0, 255]).map(lambda value: np.full(SHAPE, value, dtype=np.uint8)),
)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 3), st.booleans(), st.booleans())
def test_neighbours_stay_within_the_sensitivity(data: st.DataObject, m: int, alike: bool, private: bool) -> None:
    plan = plan_of(m, private_labels=private)
    labels = data.draw(st.lists(st.integers(0, 1), min_size=m, max_size=m))
    others = data.draw(st.lists(st.integers(0, 1), min_size=m, max_size=m)) if private else labels
    one, other = (np.stack([data.draw(pixels) for _ in range(m)]) for _ in range(2))
    valid = data.draw(st.lists(st.booleans(), min_size=m, max_size=m))
    answers = answers_of(plan, m, alike=alike)
    check(with_unit(one, labels), with_unit(other, others, valid), plan, answers)
    for query, a, b in zip(
        plan.queries,
        run(with_unit(one, labels), plan, answers)[1],
        run(with_unit(one, labels, [False] * m), plan, answers)[1],
        strict=True,
    ):
        assert norm(a - b) <= query.zero_out_sensitivity, f"{query.name}: beyond the zero-out sensitivity"


def opposite(m: int) -> tuple[Images, Images]:
    """Records on two sides of the mean, both far outside the clip."""
    wave = np.indices(SHAPE)[1] % 2
    return tuple(np.repeat((255 * one).astype(np.uint8)[None], m, axis=0) for one in (wave, 1 - wave))  # type: ignore[return-value]


def attack(m: int = 1) -> list[float]:
    plan, pictures = plan_of(m), opposite(m)
    pair = [with_unit(picture, [0] * m) for picture in pictures]
    reached = [check(pair[0], pair[1], plan, answers_of(plan, m, alike=alike)) for alike in (True, False)]
    return [max(both) for both in zip(*reached, strict=True)]


@pytest.mark.parametrize("m", [1, 3])
def test_opposite_records_in_one_component_reach_twice_the_radius(m: int) -> None:
    """So √2·R would be too little, which it is not for any other query."""
    reached = attack(m)
    assert reached[1] > 0.99
    assert reached[2] > 0.99
    query = plan_of(m).mixture[0]
    assert query.sensitivity == pytest.approx(2 * m * query.radius, rel=1e-3)


def test_one_record_alone_reaches_the_zero_out_sensitivity() -> None:
    plan = plan_of()
    answers = answers_of(plan, 1, alike=True)
    picture = opposite(1)[0]
    there, gone = (run(with_unit(picture, [0], [valid]), plan, answers)[1] for valid in (True, False))
    for query, a, b in zip(plan.mixture, there[-4:-1], gone[-4:-1], strict=True):
        assert 0.99 * query.zero_out_sensitivity < norm(a - b) <= query.zero_out_sensitivity
        assert query.zero_out_sensitivity == pytest.approx(math.hypot(query.radius, query.count))


def halved(patch: pytest.MonkeyPatch) -> None:
    true = Query.sensitivity
    patch.setattr(Query, "sensitivity", property(lambda q: true.fget(q) / (2 if q.count else 1)))


def as_if_not_negative(patch: pytest.MonkeyPatch) -> None:
    """√2·√(R² + w²), which holds for two components but not within one."""
    true = Query.sensitivity
    patch.setattr(
        Query,
        "sensitivity",
        property(lambda q: math.sqrt(2) * q.records * math.hypot(q.radius, q.count) if q.count else true.fget(q)),
    )


def unclipped(patch: pytest.MonkeyPatch) -> None:
    kept, radius = contributions.lattice_rows, plan_of().mixture[0].radius

    def lattice_rows(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
        return np.trunc(rows / step) if bound == radius else kept(rows, bound, step)

    patch.setattr(contributions, "lattice_rows", lattice_rows)


def m_forgotten(patch: pytest.MonkeyPatch) -> None:
    true = Query.sensitivity
    patch.setattr(Query, "sensitivity", property(lambda q: true.fget(q) / (q.records if q.count else 1)))


def centres_of_the_true_sums(patch: pytest.MonkeyPatch) -> None:
    """The assignment looks at what has no noise."""
    true, seen = contributions.class_sums, []

    def class_sums(*arguments: Any) -> Any:
        seen.append(true(*arguments))
        return seen[-1]

    patch.setattr(contributions, "class_sums", class_sums)
    real = lloyd.noisy_centres
    patch.setattr(lloyd, "noisy_centres", lambda a, q, s: real(a + 0 * a + seen[-1].reshape(a.shape) // 1000, q, s))


@pytest.mark.parametrize("mistake", [halved, as_if_not_negative, unclipped, m_forgotten, centres_of_the_true_sums])
def test_planted_mistakes_are_caught(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        attack(2)


def test_without_components_nothing_is_asked_and_the_noise_is_as_it_was() -> None:
    plan, plain = plan_of(), MomentsPlan.split(300.0, replace(NETWORK, components=0), 500, 1)
    assert plain.mixture == ()
    assert len(plain.queries) == 4
    assert [query.name for query in plan.queries][4:] == ["mixture 1", "mixture 2", "mixture 3", "mixture covariances"]
    assert plan.mean.noise_multiplier > plain.mean.noise_multiplier
    for one in (plan, plain):
        total = sum(query.event().mu ** 2 for query in one.queries)
        assert total == pytest.approx(300.0**2)


def two_heaps(n: int = 4000) -> Batch:
    """One class that is two heaps with nothing between, and one that is not."""
    rng = np.random.default_rng(4)
    images = rng.normal(128, 12, (n, *SHAPE))
    images[: n // 2, :, :4] += rng.choice([-70, 70], n // 2)[:, None, None, None]
    labels = np.repeat([0, 1], n // 2)
    return Batch(np.clip(images, 0, 255).astype(np.uint8), labels, np.ones(n, dtype=np.bool_))


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
def test_a_class_of_two_heaps_is_drawn_as_two_heaps(private: bool) -> None:
    batch = two_heaps()
    network = replace(NETWORK, content=2, components=8)
    flatness = []
    for architecture in (network, replace(network, components=0)):
        plan = MomentsPlan.split(20.0, architecture, len(batch), 1, private_labels=private)
        counts = None if private else counts_of(batch, CLASSES)
        flow = fit_moments(lambda: [batch], plan, counts, Silent(), records=len(batch) if private else None)
        assert check_round_trip(flow) < 1e-9
        z = np.random.default_rng(0).normal(size=(600, 64))
        drawn = flow.decode_images(z, np.zeros(600, dtype=np.int64)).astype(np.float64)
        left = drawn[:, :, :4].mean(axis=(1, 2, 3))
        flatness.append(float(((left - left.mean()) ** 4).mean() / left.var() ** 2))
    # 1 for two points, 3 for one Gaussian.
    assert flatness[0] < 2 < 2.5 < flatness[1]
