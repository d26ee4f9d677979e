"""Every mechanism: what it costs, what it carries, and that a row's output depends on that row alone."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.accountant import curve
from cadp.privacy.additive import Gaussian, Laplace
from cadp.privacy.events import RELATION, ZERO_OUT, PureEvent
from cadp.privacy.lattice import clip_l1, clip_l2, to_lattice
from cadp.privacy.mechanisms import Mechanism, Resample, plan_mechanism
from cadp.privacy.precision import decimal
from tests.privacy.injected import fixed_noise, rows_that_depend_on_others
from tests.privacy.laws import gaussian_pmf

DELTA = 1e-6
KINDS = ("privunit", "gaussian", "laplace", "resample")
Floats = NDArray[np.float64]


def plan(kind: str, epsilon: float = 8.0, k: int = 4) -> Mechanism:
    return plan_mechanism(kind, epsilon=epsilon, delta=DELTA, content_dims=k)


def latents(n: int, d: int) -> tuple[Floats, NDArray[np.bool_]]:
    return np.random.default_rng(11).normal(size=(n, d)), np.ones(n, dtype=bool)


def cosines(a: Floats, b: Floats) -> Floats:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("k", [2, 4, 17])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 7.123456789])
def test_a_plan_costs_what_was_asked_and_hardly_less(kind: str, k: int, epsilon: float) -> None:
    mechanism = plan(kind, epsilon, k)
    spent = curve(mechanism.event()).epsilon(DELTA)
    assert epsilon * 0.999 - 2e-6 <= spent <= epsilon
    beside = mechanism.zero_out_event()
    assert mechanism.event().relation == RELATION
    assert beside.relation == ZERO_OUT
    assert curve(beside).epsilon(DELTA) <= spent
    assert json.loads(json.dumps(mechanism.parameters()))["content_dims"] == k
    assert isinstance(mechanism, Mechanism)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("k", "epsilon", "cosine"),
    [(4, 4.0, 0.686), (4, 8.0, 0.930), (8, 4.0, 0.512), (8, 8.0, 0.792), (16, 8.0, 0.619)],
)
def test_privunit_carries_what_the_theory_says(k: int, epsilon: float, cosine: float) -> None:
    mechanism = plan("privunit", epsilon, k)
    assert mechanism.expected_cosine() == pytest.approx(cosine, abs=1e-3)
    z, valid = latents(6000, k)
    assert cosines(z, mechanism.privatize(z, valid)).mean() == pytest.approx(cosine, rel=0.02)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("epsilon", [8.0, 40.0])
def test_additive_mechanisms_carry_roughly_what_they_say(kind: str, epsilon: float) -> None:
    mechanism = plan(kind, epsilon, 8)
    z, valid = latents(20_000, 8)
    assert cosines(z, mechanism.privatize(z, valid)).mean() == pytest.approx(mechanism.expected_cosine(), rel=0.06)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_on_the_models_prior(kind: str) -> None:
    z, valid = latents(8000, 7)
    out = plan(kind).privatize(z, valid)
    assert out.shape == (8000, 7)
    assert out.dtype == np.float64
    assert np.abs(out.mean(axis=0)).max() < 0.05
    assert np.abs(out.std(axis=0) - 1).max() < 0.04
    assert np.abs(np.corrcoef(out.T) - np.eye(7)).max() < 0.05
    exact = range(7) if kind in ("privunit", "resample") else range(4, 7)  # additive noise is not normal everywhere
    assert min(stats.kstest(out[:, j], "norm").pvalue for j in exact) > 1e-3
    assert np.abs(cosines(z[:, 4:], out[:, 4:]).mean()) < 0.05  # what is not content is not carried


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [4, 5])
def test_a_row_depends_on_itself_alone(kind: str, k: int) -> None:
    assert rows_that_depend_on_others(plan(kind, 4.0, k).privatize, k + 3) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_content_is_read(kind: str) -> None:
    z, valid = latents(9, 7)
    other = z.copy()
    other[:, 4:] = np.nan
    mechanism = plan(kind)
    with fixed_noise(1):
        expected = mechanism.privatize(z, valid)
    with fixed_noise(1):
        assert mechanism.privatize(other, valid).tobytes() == expected.tobytes()


class BatchClip(Gaussian):
    """The published flaw: one matrix norm over the batch."""

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        clean = np.clip(np.nan_to_num(z * valid[:, None]), -1e100, 1e100)
        clean[:, : self.content_dims] *= self.radius / max(np.linalg.norm(clean[:, : self.content_dims]), self.radius)
        return super().privatize(clean, valid)


class NeighbourLeak(Gaussian):
    """A row takes a trace of the row before it."""

    def privatize(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        return super().privatize(z + 1e-3 * np.roll(np.nan_to_num(z), 1, axis=0), valid)


@pytest.mark.parametrize("mutant", [BatchClip, NeighbourLeak])
def test_planted_dependence_on_neighbours_is_caught(mutant: type[Gaussian]) -> None:
    honest = plan("gaussian")
    assert rows_that_depend_on_others(mutant(*dataclasses.astuple(honest)).privatize, 7) > 0


HOSTILE = np.array(
    [[0.0] * 4, [np.nan] * 4, [np.inf, 1, 1, 1], [1e38] * 4, [1e308] * 4, [-1e308, 1e308, 1, 0], [5e-324] * 4]
)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_rows_come_out_like_any_other(kind: str) -> None:
    out = plan(kind).privatize(HOSTILE, np.ones(len(HOSTILE), dtype=bool))
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 30


@pytest.mark.parametrize("kind", KINDS)
def test_zero_nan_and_refused_rows_have_one_law(kind: str) -> None:
    zero, whole = np.zeros((5, 6)), np.ones(5, dtype=bool)
    spoilt = zero.copy()
    spoilt[2, 1] = np.nan
    refused = np.random.default_rng(0).normal(size=(5, 6))
    mechanism = plan(kind)
    outs = []
    for z, valid in ((zero, whole), (spoilt, whole), (refused, ~whole)):
        with fixed_noise(3):
            outs.append(mechanism.privatize(z, valid))
    assert outs[0].tobytes() == outs[1].tobytes() == outs[2].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_and_wrong_shapes(kind: str) -> None:
    mechanism = plan(kind)
    assert mechanism.privatize(np.zeros((0, 6)), np.zeros(0, dtype=bool)).shape == (0, 6)
    for z, valid in ((np.zeros((3, 6)), np.ones(2, dtype=bool)), (np.zeros(6), np.ones(6, dtype=bool))):
        with pytest.raises(PrivacyError):
            mechanism.privatize(z, valid)
    if kind != "resample":
        with pytest.raises(PrivacyError):
            mechanism.privatize(np.zeros((3, 3)), np.ones(3, dtype=bool))


def lattice_contents(mechanism: Gaussian | Laplace) -> list[list[int]]:
    """What the real code path adds noise to, for the farthest pairs of records: through `privatize`, noise cut out."""
    k, radius = mechanism.content_dims, mechanism.radius
    rng = np.random.default_rng(2)
    far = rng.normal(size=(40, k)) * 1e6
    axis = np.eye(k)[:1] * 1e30
    z = np.concatenate([far, -far, axis, -axis, np.full((1, k), radius), np.full((1, k), -radius)])
    seen: list[list[int]] = []

    def keep(lattice: Floats, shape: tuple[int, ...]) -> Floats:
        units = lattice / (mechanism.step * mechanism._scale())
        assert np.abs(units - np.rint(units)).max() < 1e-9
        seen.extend(np.rint(units).astype(int).tolist())
        return lattice

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cadp.privacy.additive.with_prior", keep)
        patch.setattr(noise, "discrete_gaussian", lambda _, size: np.zeros(size, dtype=np.int64))
        patch.setattr(noise, "discrete_laplace", lambda _, size: np.zeros(size, dtype=np.int64))
        mechanism.privatize(z, np.ones(len(z), dtype=bool))
    return seen


def worst_pair(mechanism: Gaussian | Laplace) -> float:
    """The largest loss parameter (μ of a Gaussian, ε of a Laplace) over all pairs, exactly up to one root."""
    rows = lattice_contents(mechanism)
    pairs = [[a - b for a, b in zip(x, y, strict=True)] for x in rows for y in rows]
    if isinstance(mechanism, Laplace):
        return float(max(Fraction(sum(map(abs, gap))) / Fraction(mechanism.scale) for gap in pairs))
    return math.sqrt(max(sum(g * g for g in gap) for gap in pairs)) / mechanism.sigma


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("epsilon", [0.5, 4.0, 8.0])
def test_the_worst_pair_loses_what_is_charged(k: int, epsilon: float) -> None:
    gaussian, laplace = plan("gaussian", epsilon, k), plan("laplace", epsilon, k)
    assert 0.99 * gaussian.event().mu < worst_pair(gaussian) <= gaussian.event().mu
    assert 0.99 * laplace.event().epsilon < worst_pair(laplace) <= laplace.event().epsilon


def test_a_sensitivity_of_one_radius_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # The mutant Δ = C: two points of a ball are 2C apart.
    for name in ("_distance_l1", "_distance_l2"):
        real = getattr(__import__("cadp.privacy.additive", fromlist=[name]), name)
        monkeypatch.setattr(f"cadp.privacy.additive.{name}", lambda *a, real=real: real(*a) / 2)
    for mechanism in (plan("gaussian"), plan("laplace")):
        size = mechanism.event()
        charged = size.epsilon if isinstance(size, PureEvent) else size.mu
        assert worst_pair(mechanism) > 1.9 * charged


def test_a_coarse_lattice_is_charged_for_its_rounding() -> None:
    # With g of the size of C rounding dominates: rows just above and below half a step move apart by a whole step.
    coarse = Gaussian(content_dims=9, radius=3.5, step=1.0, sigma=4.0)
    x = to_lattice(clip_l2(np.full((1, 9), 0.5000001), coarse.radius), 1.0)
    y = to_lattice(clip_l2(np.full((1, 9), -0.5000001), coarse.radius), 1.0)
    gap = float(np.linalg.norm(x - y))
    assert gap == 6.0  # while the contents themselves are 3.0000006 apart
    bound = 2 * coarse.radius + 3 * coarse.step
    assert coarse.event().mu == pytest.approx(bound / 4)
    assert decimal(coarse.event().mu) >= Fraction(bound) / 4
    pure = Laplace(content_dims=9, radius=4.6, step=1.0, scale=4.0)
    ends = to_lattice(clip_l1(np.array([[0.511] * 9, [-0.511] * 9]), pure.radius), 1.0)
    assert np.abs(ends[0] - ends[1]).sum() > 2 * pure.radius * 0.999 * 1.9  # without k·g it would be undercharged
    assert np.abs(ends[0] - ends[1]).sum() / 4 <= pure.event().epsilon


def off_the_lattice(mechanism: Gaussian | Laplace) -> float:
    """How far, in steps, outputs of the real code path lie from the lattice at most."""
    z, valid = latents(2000, 4)
    units = mechanism.privatize(z, valid) / (mechanism.step * mechanism._scale())
    return float(np.abs(units - np.rint(units)).max())


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_outputs_lie_on_the_lattice_and_float_noise_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Float noise reveals the record by its low bits, which no test of its law would see.
    mechanism = plan(kind)
    assert off_the_lattice(mechanism) < 1e-8
    rng = np.random.default_rng(1)
    monkeypatch.setattr(noise, "discrete_gaussian", lambda sigma, size: rng.normal(0, float(sigma), size))
    monkeypatch.setattr(noise, "discrete_laplace", lambda scale, size: rng.laplace(0, float(scale), size))
    assert off_the_lattice(mechanism) > 0.4


@pytest.mark.usefixtures("seeded")
def test_noise_has_the_planned_scale() -> None:
    zero, valid = np.zeros((20_000, 3)), np.ones(20_000, dtype=bool)
    for mechanism, law, scale in (
        (plan("gaussian", 8.0, 3), "norm", "sigma"),
        (plan("laplace", 8.0, 3), "laplace", "scale"),
    ):
        units = mechanism.privatize(zero, valid) / (mechanism.step * mechanism._scale())
        assert stats.kstest(units.ravel() / getattr(mechanism, scale), law).pvalue > 1e-3


def test_the_exact_loss_of_a_worst_pair_is_within_epsilon() -> None:
    # Not a bound but the hockey-stick divergence itself, summed over the discrete law, one coordinate carrying all.
    mechanism = Gaussian(content_dims=1, radius=1.0, step=0.25, sigma=8.0)
    gap = 2 * int(to_lattice(clip_l2(np.array([[9.0]]), 1.0), 0.25)[0, 0])
    assert gap == 8
    epsilon = curve(mechanism.event()).epsilon(1e-5)
    law = gaussian_pmf(8.0)
    density = {x: float(law(x)) for x in range(-120, 121)}
    delta = sum(
        max(0.0, p - math.exp(epsilon) * density.get(x - gap, 0.0)) for x, p in density.items() if x - gap >= -120
    )
    assert delta <= 1e-5


def test_resample_costs_nothing_and_reads_nothing() -> None:
    assert curve(Resample().event()).epsilon(0.0) == 0
    assert Resample().expected_cosine() == 0
    assert Resample().zero_out_event().relation == ZERO_OUT


@pytest.mark.parametrize("kind", KINDS[:3])
def test_impossible_plans_are_refused(kind: str) -> None:
    for epsilon in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(PrivacyError):
            plan(kind, epsilon)
    for k in (0, -1, 2.0, True):
        with pytest.raises(PrivacyError):
            plan(kind, 4.0, k)
    with pytest.raises(PrivacyError, match="unknown"):
        plan("wishful")
    with pytest.raises(PrivacyError, match="privunit"):
        plan_mechanism("gaussian", epsilon=4.0, delta=0.0, content_dims=4)
