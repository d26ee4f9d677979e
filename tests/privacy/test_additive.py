"""The additive mechanisms: sensitivity, lattice and noise of the real code path, against what is charged for them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import optimize, signal, stats

from cadp.privacy import noise
from cadp.privacy.accountant import calibrate_gaussian, curve, gaussian_epsilon_exact
from cadp.privacy.additive import Gaussian, Laplace
from cadp.privacy.events import Event, GaussianEvent, PureEvent
from cadp.privacy.lattice import clip_l1, clip_l2, to_lattice
from cadp.privacy.mechanisms import plan_mechanism
from cadp.privacy.pld import pld_epsilon
from cadp.privacy.precision import decimal
from tests.privacy.laws import gaussian_pmf
from tests.privacy.test_mechanisms import latents, plan

Floats = NDArray[np.float64]
VALUES = st.one_of(st.floats(width=64), st.sampled_from([1e38, -1e308, 5e-324, math.nan, math.inf]), st.floats(-9, 9))


def farthest(mechanism: Gaussian | Laplace) -> Floats:
    """Records whose contents are as far apart as any."""
    k, radius = mechanism.content_dims, mechanism.radius
    rng = np.random.default_rng(2)
    far = rng.normal(size=(40, k)) * 1e6
    axis = np.eye(k)[:1] * 1e30
    return np.concatenate([far, -far, axis, -axis, np.full((1, k), radius), np.full((1, k), -radius)])


def lattice_contents(mechanism: Gaussian | Laplace, z: Floats) -> list[list[int]]:
    """What the real code path adds noise to: through `privatize`, noise cut out."""
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
    rows = lattice_contents(mechanism, farthest(mechanism))
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


def discrete_delta(epsilon: float, sigma: float, shift: int, k: int) -> float:
    """The exact δ of discrete Gaussians moved by `shift` steps in each of k coordinates: a sum over their total."""
    reach = int(12 * sigma) + 2
    one = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    law = one / one.sum()
    for _ in range(k - 1):
        law = signal.fftconvolve(law, one / one.sum())
    total = np.arange(len(law)) - (len(law) - 1) // 2
    loss = (k * shift**2 - 2 * shift * total) / (2 * sigma**2)
    return float((law * np.maximum(0.0, -np.expm1(epsilon - loss))).sum())


@pytest.mark.parametrize(("shift", "k"), [(16, 1), (200, 1), (512, 1), (90, 2)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_figure_by_pld_covers_the_lattice(shift: int, k: int, delta: float) -> None:
    # 512 steps are fewer than any plan has. The ledger's figure, by the Rényi curve, holds for every lattice.
    event = GaussianEvent(math.nextafter(math.sqrt(k) * shift / 512, math.inf))
    assert discrete_delta(pld_epsilon([event], delta), 512.0, shift, k) <= delta
    assert discrete_delta(pld_epsilon([event], delta) * 0.99, 512.0, shift, k) > delta
    assert discrete_delta(curve(event).epsilon(delta), 512.0, shift, k) < delta


def test_the_continuous_curve_is_not_the_discrete_one() -> None:
    # Which is why it is never charged: 4 % at σ = 4 steps, .04 % at 64.
    for sigma, low, high in ((4.0, 0.03, 0.1), (64.0, 1e-5, 5e-4)):
        mu = 1 / sigma if sigma > 4 else 2 / sigma
        over = [
            discrete_delta(gaussian_epsilon_exact(mu, delta), sigma, round(mu * sigma), 1) / delta - 1
            for delta in np.geomspace(1e-2, 1e-7, 40)
        ]
        assert low < max(over) < high


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@given(z=hnp.arrays(np.float64, (6, 3), elements=VALUES), step=st.sampled_from([2.0**-9, 0.25, 1.0, 4.0]))
@settings(max_examples=80, deadline=None)
def test_no_two_records_are_farther_apart_than_is_charged(kind: str, z: Floats, step: float) -> None:
    # In whole numbers, for steps from fine to coarser than the ball; and from the centre, which zero-out charges.
    mechanism = Gaussian(3, 1.7, step, 64.0) if kind == "gaussian" else Laplace(3, 2.4, step, 64.0)
    rows = lattice_contents(mechanism, z)
    pair, centre = charged_steps(mechanism.event(), 64), charged_steps(mechanism.zero_out_event(), 64)
    for i, x in enumerate(rows):
        gaps = [([abs(a - b) for a, b in zip(x, y, strict=True)], pair) for y in rows[:i]]
        for gap, most in [*gaps, ([abs(a) for a in x], centre)]:
            assert sum(gap) <= most if kind == "laplace" else sum(g * g for g in gap) <= most**2


@given(st.floats(0.1, 40), st.floats(0.5, 1e6), st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_what_is_charged_is_never_rounded_down(radius: float, width: float, k: int) -> None:
    gaussian, laplace = Gaussian(k, radius, 0.5, width), Laplace(k, radius, 0.5, width)
    for event, share in ((gaussian.event(), 1), (gaussian.zero_out_event(), 2)):
        beyond = share * charged_steps(event, 1) * Fraction(width) - 4 * Fraction(radius)  # than 2C, in steps: √k
        assert beyond > 0
        assert beyond**2 >= k
    for event, share in ((laplace.event(), 1), (laplace.zero_out_event(), 2)):
        assert share * charged_steps(event, 1) * Fraction(width) >= 4 * Fraction(radius) + k


def charged_steps(event: Event, noise_steps: int) -> Fraction:
    """The distance, in lattice steps, that an event pays for."""
    assert isinstance(event, GaussianEvent | PureEvent)
    return decimal(event.mu if isinstance(event, GaussianEvent) else event.epsilon) * noise_steps


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("k", [1, 16, 3000])
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 8.0, 300.0])
def test_the_lattice_costs_less_than_a_thousandth(kind: str, k: int, epsilon: float) -> None:
    mechanism = plan(kind, epsilon, k)
    assert isinstance(mechanism, Gaussian | Laplace)
    assert 2 * mechanism.radius < mechanism._sensitivity() <= 2 * mechanism.radius * (1 + 1 / 1000)
    width = mechanism.sigma if isinstance(mechanism, Gaussian) else mechanism.scale
    assert 1024 <= width <= 2**40


def test_the_smallest_losses_still_have_samplers() -> None:
    mechanism = plan_mechanism("laplace", epsilon=1e-6, delta=0.0, content_dims=100_000)
    assert isinstance(mechanism, Laplace)
    assert mechanism.scale <= 2**40
    assert mechanism.event() == PureEvent(1e-6)
    assert np.isfinite(mechanism.privatize(np.ones((1, 100_000)), np.ones(1, dtype=bool))).all()


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (4.0, 1e-6), (8.0, 1e-9)])
@pytest.mark.parametrize("k", [4, 16])
def test_a_second_librarys_pld_agrees_on_the_planned_gaussian(epsilon: float, delta: float, k: int) -> None:
    # Its sensitivity is spelled out as replace-one's, from the parameters as published: 2C + √k·g.
    values = plan_mechanism("gaussian", epsilon=epsilon, delta=delta, content_dims=k).parameters()
    apart = 2 * float(values["clip_norm"]) + math.sqrt(k) * float(values["lattice_step"])  # type: ignore[arg-type]
    sigma = float(values["sigma"])  # type: ignore[arg-type]
    theirs = oracle.from_gaussian_mechanism(sigma, sensitivity=apart, value_discretization_interval=1e-4)
    known = theirs.get_epsilon_for_delta(delta)
    event = plan_mechanism("gaussian", epsilon=epsilon, delta=delta, content_dims=k).event()
    assert isinstance(event, GaussianEvent)
    assert gaussian_epsilon_exact(event.mu, delta) == pytest.approx(known, rel=1e-3)
    assert pld_epsilon([event], delta) == pytest.approx(known, rel=1e-3)
    assert known < curve(event).epsilon(delta) <= epsilon  # the ledger's figure is the larger one
    halved = oracle.from_gaussian_mechanism(sigma, sensitivity=apart / 2, value_discretization_interval=1e-4)
    assert abs(halved.get_epsilon_for_delta(delta) / known - 1) > 0.3  # what Δ = C would give


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-6), (8.0, 1e-6)])
def test_calibration_round_trips_and_a_second_library_inverts_the_same_curve(epsilon: float, delta: float) -> None:
    mu = calibrate_gaussian(epsilon, delta)
    assert epsilon * (1 - 1e-3) <= curve(GaussianEvent(mu)).epsilon(delta) <= epsilon  # ε → μ → ε, as the ledger pays
    mine = optimize.brentq(lambda m: gaussian_epsilon_exact(m, delta) - epsilon, mu, 2 * mu, xtol=1e-6)
    theirs = oracle.from_gaussian_mechanism(1 / mine, value_discretization_interval=1e-4)
    assert theirs.get_epsilon_for_delta(delta) == pytest.approx(epsilon, rel=1e-3)
