"""No pair of neighbours moves a released sum further than its noise is made for, through the real code path."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cadp.cinn.architecture import Whitening
from cadp.cinn.fit import contributions, moments
from cadp.cinn.fit.moments import fit_moments, with_noise, with_symmetric_noise
from cadp.cinn.fit.plan import MomentsPlan, Query
from cadp.cinn.network import ConditionalFlow, check_round_trip
from cadp.errors import PrivacyError
from cadp.privacy.noise import discrete_gaussian
from cadp.records import Batch
from cadp.reporter import Silent
from tests.cinn.conftest import counts_of

SHAPE = (8, 8, 1)
CLASSES = 2
Sums = NDArray[np.int64]


def plan_of(records: int = 1) -> MomentsPlan:
    plan = MomentsPlan.calibrate(8.0, 1e-6, SHAPE, CLASSES, units=300, max_records_per_unit=records)
    assert not plan.mixture  # mixtures have their own tests
    # A clip norm that bites: at the rule's own no two pictures are farther apart than √2·R, signed or not.
    return replace(plan, mean=replace(plan.mean, radius=round(31 / 64 * 8 / plan.step)))


def sums_of(batch: Batch, plan: MomentsPlan, outputs: Sequence[Sums] | None = None) -> list[Sums]:
    """The four integer sums before noise; the fit goes on with `outputs`, else with the sums themselves."""
    seen: list[Sums] = []

    def release(sums: Sums, query: Query) -> Sums:
        assert query == plan.queries[len(seen)]
        assert sums.dtype == np.int64
        seen.append(sums.copy())
        return sums if outputs is None else outputs[len(seen) - 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "with_noise", release)
        patch.setattr(moments, "with_symmetric_noise", release)
        fit_moments(lambda: [batch], plan, counts_of(batch, CLASSES), Silent())
    assert len(seen) == 4
    return seen


def squared_norm(sums: Sums) -> int:
    """The squared Euclidean or Frobenius norm, in unlimited integers."""
    return sum(int(value) ** 2 for value in sums.ravel())


def only(batch: Batch, rows: slice) -> Batch:
    """The same labels, but every other record rejected."""
    valid = np.zeros(len(batch), dtype=np.bool_)
    valid[rows] = batch.valid[rows]
    return Batch(batch.images, batch.labels, valid)


def check_neighbours(one: Batch, other: Batch, unit: slice, plan: MomentsPlan, outputs: Sequence[Sums]) -> None:
    """Whatever the earlier outputs: exact integer sums, and a difference within the sensitivity that is charged."""
    left, right = sums_of(one, plan, outputs), sums_of(other, plan, outputs)
    alone, replaced = sums_of(only(one, unit), plan, outputs), sums_of(only(other, unit), plan, outputs)
    for query, a, b, u, v in zip(plan.queries, left, right, alone, replaced, strict=True):
        assert np.array_equal(a - b, u - v), f"{query.name}: a sum is not the sum of its records' integers"
        # The mechanism's σ is multiplier·sensitivity, so the loss it charges is for this much and no more.
        assert squared_norm(a - b) <= query.sensitivity**2, f"{query.name}: beyond the replace-one sensitivity"
        assert squared_norm(u) <= query.zero_out_sensitivity**2, f"{query.name}: beyond the zero-out sensitivity"


def pattern(kind: str, seed: int) -> NDArray[np.uint8]:
    """Images that push a clip or a difference to its limit."""
    image = np.zeros(64, dtype=np.uint8)
    if kind == "white":
        image[:] = 255
    elif kind == "half":
        image[seed % 2 :: 2] = 255
    elif kind == "columns":
        image.reshape(8, 8)[:, (seed % 2) * 4 : (seed % 2) * 4 + 4] = 255
    elif kind == "pixel":
        image[seed % 64] = 255
    elif kind == "random":
        image[:] = np.random.default_rng(seed).integers(0, 256, 64)
    return image.reshape(SHAPE)


images = st.builds(
    pattern, st.sampled_from(["black", "white", "half", "columns", "pixel", "random"]), st.integers(0, 1000)
)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Batch, Batch, int]:
    """Two data sets of seven records that differ in the contents of the first m, one unit's; labels are shared."""
    m = draw(st.integers(1, 3))
    labels = np.array(draw(st.lists(st.integers(0, CLASSES - 1), min_size=7, max_size=7)), dtype=np.int64)
    base = np.stack([draw(images) for _ in range(7)])
    other = base.copy()
    other[:m] = [draw(images) for _ in range(m)]
    ok, also_ok = np.ones(7, dtype=np.bool_), np.ones(7, dtype=np.bool_)
    ok[0], also_ok[0], ok[6] = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    also_ok[6] = ok[6]
    return Batch(base, labels, ok), Batch(other, labels, also_ok), m


def outputs_for(plan: MomentsPlan, size: float, seed: int) -> list[Sums]:
    """Arbitrary noisy answers, as small or as absurdly large as `size`."""
    architecture = plan.architecture
    rng = np.random.default_rng(seed)
    low, k = architecture.low_dims, architecture.content
    shapes = ((CLASSES, architecture.dims), (low, low), (CLASSES, k, k), (CLASSES, architecture.bands))
    answers = [np.rint(rng.normal(size=shape) * size).astype(np.int64) for shape in shapes]
    return [a + a.swapaxes(-1, -2) if i in (1, 2) else a for i, a in enumerate(answers)]


@settings(max_examples=60, deadline=None)
@given(neighbours(), st.sampled_from([0.0, 1e3, 1e7, 1e14]), st.integers(0, 1000))
def test_replace_one_stays_within_the_sensitivity(pair: tuple[Batch, Batch, int], size: float, seed: int) -> None:
    one, other, m = pair
    plan = plan_of(m)
    check_neighbours(one, other, slice(0, m), plan, outputs_for(plan, size, seed))


def worst_pairs() -> list[tuple[Batch, Batch]]:
    """Pairs with contributions of full norm and inner product zero: the bound √2·m·B is reached."""
    found = []
    labels = np.zeros(3, dtype=np.int64)
    for kind in ("half", "columns"):
        first, second = pattern(kind, 0), pattern(kind, 1)
        rest = [pattern("random", 5), pattern("random", 6)]
        valid = np.ones(3, dtype=np.bool_)
        found.append((Batch(np.stack([first, *rest]), labels, valid), Batch(np.stack([second, *rest]), labels, valid)))
    return found


def test_the_bound_is_tight() -> None:
    """A bound that no pair comes near could hide a missing factor."""
    plan = plan_of()
    outputs = outputs_for(plan, 0.0, 0)
    ratios = np.array(
        [
            [
                math.sqrt(squared_norm(a - b)) / query.sensitivity
                for query, a, b in zip(
                    plan.queries, sums_of(one, plan, outputs), sums_of(other, plan, outputs), strict=True
                )
            ]
            for one, other in worst_pairs()
        ]
    )
    assert ratios.max() <= 1
    assert ratios.max(axis=0)[0] > 0.99
    # Both halves share their mean brightness, so without centring their outer products are 60 degrees apart at most.
    assert ratios.max(axis=0)[1] > 0.8


def test_a_rejected_record_contributes_nothing_whatever_its_pixels() -> None:
    """Also after centring, which would make something even of black pixels."""
    plan = plan_of()
    for kind in ("black", "white", "half", "random"):
        one = Batch(pattern(kind, 3)[None], np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.bool_))
        for size in (0.0, 1e6, 1e12):
            assert not any(sums.any() for sums in sums_of(one, plan, outputs_for(plan, size, 2)))


@settings(max_examples=30, deadline=None)
@given(neighbours(), st.lists(images, min_size=7, max_size=7), st.sampled_from([0.0, 1e6, 1e14]))
def test_what_a_unit_adds_does_not_depend_on_the_other_records(
    pair: tuple[Batch, Batch, int], others: list[NDArray[np.uint8]], size: float
) -> None:
    """Exchanging every other record moves no integer of this unit's difference."""
    one, other, m = pair
    plan = plan_of(m)
    outputs = outputs_for(plan, size, 4)

    def among_others(batch: Batch) -> Batch:
        return Batch(np.stack([*batch.images[:m], *others[m:]]), batch.labels, batch.valid)

    before = zip(sums_of(one, plan, outputs), sums_of(other, plan, outputs), strict=True)
    after = zip(sums_of(among_others(one), plan, outputs), sums_of(among_others(other), plan, outputs), strict=True)
    for (a, b), (c, d) in zip(before, after, strict=True):
        assert np.array_equal(a - b, c - d)


def test_pixels_that_could_be_negative_are_refused() -> None:
    """Two opposite vectors are 2·R apart, not √2·R: the sensitivity needs pixels that are not negative."""
    plan = plan_of()
    for dtype in (np.int8, np.int16, np.float64):
        batch = Batch(np.full((1, *SHAPE), -1, dtype=dtype), np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.bool_))
        with pytest.raises(PrivacyError, match="uint8"):
            sums_of(batch, plan)


def mutant_unclipped(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
    """Lattice without the clip."""
    del bound
    return np.trunc(np.nan_to_num(rows) / step)


def mutant_float_sum(
    steps: NDArray[np.float64], labels: NDArray[np.int64], classes: int, bound: int
) -> NDArray[np.int64]:
    """The classic fault: a running sum in float32, where small addends are lost by large ones."""
    del bound
    total = np.full((classes, steps.shape[1]), 2.0**25, dtype=np.float32)
    for row, label in zip(steps.astype(np.float32), labels, strict=True):
        total[label] += row
    return (total - np.float32(2.0**25)).astype(np.int64)


def mutant_rejected_counts(self: object, vectors: object, valid: object, query: Query) -> NDArray[np.float64]:
    """Rejected records contribute what centring made of them."""
    del valid
    return contributions.lattice_rows(vectors.numpy(), query.radius, self.plan.step)  # type: ignore[attr-defined]


def planted(patch: pytest.MonkeyPatch, name: str) -> None:
    if name == "sensitivity R":
        patch.setattr(Query, "sensitivity", property(lambda q: float(q.records * q.bound)))
    elif name == "sensitivity R on outer products":
        true = Query.sensitivity
        patch.setattr(
            Query,
            "sensitivity",
            property(lambda q: true.fget(q) if q.power == 1 else float(q.records * q.bound)),
        )
    elif name == "m forgotten":
        patch.setattr(Query, "sensitivity", property(lambda q: math.sqrt(2) * q.bound))
    elif name == "clip skipped after centring":
        kept = contributions.lattice_rows
        clipped = plan_of().mean.radius

        def some(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
            return kept(rows, bound, step) if bound == clipped else mutant_unclipped(rows, bound, step)

        patch.setattr(contributions, "lattice_rows", some)
    elif name == "float sum":
        patch.setattr(contributions, "class_sums", mutant_float_sum)
    elif name == "centred before the class sums":
        # Signed vectors have no √2: moving every pixel down by half is all it takes.
        steps = moments._Fit._steps

        def centred(self: moments._Fit, vectors: torch.Tensor, valid: NDArray[np.bool_], query: Query) -> Any:
            return steps(self, vectors - 0.5 if query.power == 1 else vectors, valid, query)

        patch.setattr(moments._Fit, "_steps", centred)
    elif name == "rounded to nearest, unchecked":
        nearest = contributions.lattice_rows

        def rounded(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
            # One step further from zero wherever there is anything: what rounding up does at worst.
            kept = nearest(rows, bound, step)
            return kept + np.sign(kept)

        patch.setattr(contributions, "lattice_rows", rounded)
    elif name == "a record sees its batch":
        alone = contributions.lattice_rows

        def batch_norm(rows: NDArray[np.float64], bound: int, step: float) -> NDArray[np.float64]:
            return alone(rows / max(float(np.linalg.norm(rows)), 1e-9), bound, step)

        patch.setattr(contributions, "lattice_rows", batch_norm)
    elif name == "rejected records count":
        patch.setattr(moments._Fit, "_steps", mutant_rejected_counts)


MUTANTS = [
    "sensitivity R",
    "sensitivity R on outer products",
    "m forgotten",
    "clip skipped after centring",
    "float sum",
    "centred before the class sums",
    "rounded to nearest, unchecked",
    "a record sees its batch",
    "rejected records count",
]


def attack(m: int = 1) -> None:
    """Try the worst pairs under several earlier outputs."""
    plan = plan_of(m)
    for pair in worst_pairs():
        one, other = (
            Batch(
                np.stack([*[b.images[0]] * m, *b.images[1:]]), np.zeros(m + 2, dtype=np.int64), np.ones(m + 2, np.bool_)
            )
            for b in pair
        )
        for size in (0.0, 1e3, 1e6, 1e9):
            check_neighbours(one, other, slice(0, m), plan, outputs_for(plan, size, 1))


def test_the_attack_finds_nothing_in_the_real_code() -> None:
    attack(1)
    attack(2)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_check_catches_planted_mistakes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    planted(monkeypatch, name)
    with pytest.raises(AssertionError, match=r"sensitivity|not the sum"):
        attack(2 if name == "m forgotten" else 1)


def sigmas(shape: tuple[int, ...], query: Query, release: Callable[[Sums, Query], Sums]) -> NDArray[np.float64]:
    """The standard deviation of the noise on every entry, by letting the noise show its σ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "discrete_gaussian", lambda sigma, size: np.full(size, math.floor(sigma)))
        return release(np.zeros(shape, dtype=np.int64), query).astype(np.float64)


@settings(max_examples=30, deadline=None)
@given(neighbours(), st.integers(0, 1000))
def test_released_entries_with_their_noise_cost_what_is_charged(pair: tuple[Batch, Batch, int], seed: int) -> None:
    """Σ (difference / σ)² over the entries that are released, the upper triangle for matrices, is at most μ²."""
    one, other, m = pair
    plan = plan_of(m)
    outputs = outputs_for(plan, 1e6, seed)
    releases = (with_noise, with_symmetric_noise, with_symmetric_noise, with_noise)
    for query, release, a, b in zip(
        plan.queries, releases, sums_of(one, plan, outputs), sums_of(other, plan, outputs), strict=True
    ):
        loss = np.square((a - b) / sigmas(a.shape, query, release))
        if release is with_symmetric_noise:
            loss = np.triu(loss)
        # A floored σ is within 1 of the real one, which is above 1e4.
        assert loss.sum() <= query.event().mu ** 2 * (1 + 1e-3)


def test_symmetric_noise_is_symmetric_and_of_the_right_size() -> None:
    query = Query("covariance", 2, 10, 3.0, 1)
    noise = np.stack([with_symmetric_noise(np.zeros((20, 20), dtype=np.int64), query) for _ in range(100)])
    assert np.array_equal(noise, noise.transpose(0, 2, 1))
    upper = noise[:, *np.triu_indices(20, 1)]
    diagonal = noise[:, np.arange(20), np.arange(20)]
    assert upper.std() == pytest.approx(query.sigma / math.sqrt(2), rel=0.03)
    assert diagonal.std() == pytest.approx(query.sigma, rel=0.06)


def test_every_fit_draws_fresh_noise_of_the_planned_size(digits: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MomentsPlan.calibrate(4.0, 1e-6, SHAPE, 10, units=len(digits))
    asked: list[tuple[float, int]] = []

    def spy(sigma: float, size: tuple[int, ...]) -> Sums:
        asked.append((sigma, math.prod(size)))
        return discrete_gaussian(sigma, size)

    monkeypatch.setattr(moments, "discrete_gaussian", spy)
    flows = [fit_moments(lambda: [digits], plan, counts_of(digits, 10), Silent()) for _ in range(2)]
    assert not np.array_equal(flows[0].shift.mean.numpy(), flows[1].shift.mean.numpy())
    low, k = plan.architecture.low_dims, plan.content
    root = math.sqrt(0.5)
    expected = [
        (plan.mean.sigma, 10 * 64),
        (plan.covariance.sigma * root, low * (low - 1) // 2),
        (plan.covariance.sigma, low),
        (plan.class_covariance.sigma * root, 10 * k * (k - 1) // 2),
        (plan.class_covariance.sigma, 10 * k),
        (plan.residual.sigma, 10 * plan.architecture.bands),
    ]
    assert len(asked) == 12
    for (sigma, size), (least, count) in zip(asked, expected * 2, strict=True):
        assert size == count
        assert least <= sigma <= least * (1 + 1e-9)


def test_chunks_and_batches_do_not_change_a_sum(digits: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "with_noise", lambda sums, query: sums)
    monkeypatch.setattr(moments, "with_symmetric_noise", lambda sums, query: sums)
    plan = MomentsPlan.calibrate(4.0, 1e-6, SHAPE, 10, units=len(digits))

    def fit(size: int) -> ConditionalFlow:
        parts = [slice(start, start + size) for start in range(0, len(digits), size)]
        batches = [Batch(digits.images[p], digits.labels[p], digits.valid[p]) for p in parts]
        return fit_moments(lambda: batches, plan, counts_of(digits, 10), Silent())

    whole, parts = fit(len(digits)), fit(100)
    assert np.array_equal(whole.shift.mean.numpy(), parts.shift.mean.numpy())
    assert np.allclose(whole.rotation.weight.numpy(), parts.rotation.weight.numpy(), atol=1e-4)


def test_a_pass_must_hold_the_public_counts(digits: Batch) -> None:
    plan = MomentsPlan.calibrate(4.0, 1e-6, SHAPE, 10, units=len(digits))
    counts = counts_of(digits, 10)
    with pytest.raises(PrivacyError, match="public counts"):
        fit_moments(lambda: [digits, digits], plan, counts, Silent())
    with pytest.raises(PrivacyError, match="class counts"):
        fit_moments(lambda: [digits], plan, counts[:9], Silent())
    with pytest.raises(PrivacyError, match="labels from"):
        fit_moments(lambda: [Batch(digits.images, digits.labels + 1, digits.valid)], plan, counts, Silent())
    with pytest.raises(PrivacyError, match="images of"):
        fit_moments(lambda: [Batch(digits.images[:, :4], digits.labels, digits.valid)], plan, counts, Silent())


def test_sums_that_could_overflow_are_refused(digits: Batch) -> None:
    plan = plan_of()
    with pytest.raises(PrivacyError, match="overflow"):
        fit_moments(list, plan, np.array([1 << 45, 1], dtype=np.int64), Silent())


@pytest.fixture(scope="module")
def fitted(digits: Batch) -> ConditionalFlow:
    """A fit with little noise, to see what it estimates."""
    plan = MomentsPlan.split(100.0, Whitening(SHAPE, 10, 8, 24, 16), len(digits), 1)
    return fit_moments(lambda: [digits], plan, counts_of(digits, 10), Silent())


def test_latents_of_the_records_are_close_to_standard_normal(digits: Batch, fitted: ConditionalFlow) -> None:
    z = fitted.encode_images(digits.images, digits.labels)
    k = fitted.architecture.content
    assert np.abs(z[:, :k].mean(axis=0)).max() < 0.25
    assert 0.5 < np.square(z[:, :k]).mean() < 1.6
    assert 0.3 < np.square(z[:, k:]).mean() < 1.6


def test_content_dimensions_come_first_in_order_of_variance(digits: Batch, fitted: ConditionalFlow) -> None:
    k = fitted.architecture.content
    z = fitted.encode_images(digits.images, digits.labels)
    kept = []
    for count in (8, k, 64):
        part = z.copy()
        part[:, count:] = 0.0
        error = fitted.decode_images(part, digits.labels).astype(np.float64) - digits.images
        kept.append(np.square(error).mean())
    assert kept[0] > 2 * kept[1] > 4 * kept[2]
    shuffled = z.copy()
    shuffled[:, : k - 8] = 0.0
    last = np.square(fitted.decode_images(shuffled, digits.labels).astype(np.float64) - digits.images).mean()
    assert kept[0] < last


def test_samples_teach_a_classifier_the_digits(digits: Batch, fitted: ConditionalFlow) -> None:
    from sklearn.linear_model import LogisticRegression

    latents = np.random.default_rng(0).normal(size=(len(digits), 64))
    samples = fitted.decode_images(latents, digits.labels).reshape(len(digits), -1) / 255
    model = LogisticRegression(max_iter=300).fit(samples, digits.labels)
    assert model.score(digits.images.reshape(len(digits), -1) / 255, digits.labels) > 0.85


@pytest.mark.parametrize(
    ("shape", "classes", "records"),
    [((8, 8, 1), 2, 40), ((28, 28, 1), 10, 200), ((32, 32, 3), 5, 60), ((3, 9, 2), 1, 9), ((1, 1, 1), 1, 1)],
)
def test_small_private_sets_of_any_shape_give_a_finite_invertible_flow(
    shape: tuple[int, int, int], classes: int, records: int
) -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, classes, records))
    batch = Batch(rng.integers(0, 256, (records, *shape)).astype(np.uint8), labels, rng.random(records) > 0.05)
    counts = np.bincount(labels, minlength=classes + 1)  # the last class has no record
    plan = MomentsPlan.calibrate(1.0, 1e-5, shape, classes + 1, units=records)
    flow = fit_moments(lambda: [batch], plan, counts, Silent())
    assert check_round_trip(flow) < 1e-9
    assert np.isfinite(flow.encode_images(batch.images, batch.labels)).all()


def some_digits(digits: Batch, classes: int, count: int, few: int | None = None) -> Batch:
    """The first `count` digits below `classes`, with `few` of class 0 if that is given."""
    rows = np.flatnonzero(digits.labels < classes)[:count]
    if few is not None:
        zeros = rows[digits.labels[rows] == 0]
        rows = np.concatenate([rows[digits.labels[rows] != 0], zeros[:few]])
    return Batch(digits.images[rows], digits.labels[rows], digits.valid[rows])


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 20.0), (3, 20.0), (3, 100.0), (3, 1e4), (3, 1e9)])
def test_two_hundred_tiny_records_suffice_for_a_useful_flow(digits: Batch, classes: int, epsilon: float) -> None:
    from sklearn.linear_model import LogisticRegression

    batch = some_digits(digits, classes, 200)
    plan = MomentsPlan.calibrate(epsilon, 1e-5, SHAPE, classes, units=len(batch))
    flow = fit_moments(lambda: [batch], plan, counts_of(batch, classes), Silent())
    assert check_round_trip(flow) < 1e-9
    labels = np.arange(900) % classes
    latents = np.random.default_rng(0).normal(size=(900, 64))
    samples = flow.decode_images(latents, labels).reshape(900, -1) / 255
    rest = np.flatnonzero(digits.labels < classes)[200:]
    model = LogisticRegression(max_iter=300).fit(samples, labels)
    assert model.score(digits.images[rest].reshape(len(rest), -1) / 255, digits.labels[rest]) > 0.8


@pytest.mark.parametrize("few", [0, 1, 3])
def test_a_class_with_few_or_no_records_looks_like_the_others_not_like_noise(digits: Batch, few: int) -> None:
    batch = some_digits(digits, 3, 400, few)
    plan = MomentsPlan.calibrate(100.0, 1e-5, SHAPE, 3, units=len(batch))
    latents = np.random.default_rng(0).normal(size=(300, 64))
    spread = []
    for _ in range(3):
        flow = fit_moments(lambda: [batch], plan, counts_of(batch, 3), Silent())
        assert check_round_trip(flow) < 1e-9
        spread.append([flow.decode(torch.from_numpy(latents), torch.full((300,), y)).std(dim=0).mean() for y in (0, 1)])
    rare, common = np.median(np.array(spread), axis=0)
    # Noise alone, divided by one record, has several times the deviation of a class of 180.
    assert 0.5 * common < rare < 2 * common
