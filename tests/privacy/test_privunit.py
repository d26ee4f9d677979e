"""PrivUnit: the cap's mass is within its proved bound, the coin is exact, and the loss covers what the code does."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy import noise, privunit
from cadp.privacy.lattice import to_sphere
from cadp.privacy.privunit import PrivUnit

CASES = [(2, 1.0), (3, 4.0), (4, 8.0), (8, 4.0), (16, 8.0), (64, 8.0)]


def share(k: int, gamma: float) -> float:
    with mpmath.workprec(128):
        return float(privunit._share(mpmath.mp, k, gamma))


def eta(k: int, gamma: float) -> float:
    with mpmath.workprec(128):
        return float(privunit._mass_error(mpmath.mp, k, gamma))


@pytest.mark.parametrize(("k", "gamma"), [(2, 0.0), (2, 0.7), (3, 0.9), (4, 0.5), (16, 0.6), (64, 0.3), (5, -0.4)])
def test_the_share_of_a_cap_is_the_integral_of_its_density(k: int, gamma: float) -> None:
    with mpmath.workdps(30):
        angle = mpmath.quad(lambda t: mpmath.sin(t) ** (k - 2), [0, mpmath.acos(gamma)])
        whole = mpmath.quad(lambda t: mpmath.sin(t) ** (k - 2), [0, mpmath.pi])
    assert share(k, gamma) == pytest.approx(float(angle / whole), rel=1e-12)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("k", "epsilon"), CASES)
def test_the_implemented_caps_mass_is_its_share(k: int, epsilon: float) -> None:
    mechanism = PrivUnit.plan(epsilon, k)
    q, bound = share(k, mechanism.gamma), eta(k, mechanism.gamma)
    assert 0 < bound < 1e-6
    assert bound < q / 1000
    n = 200_000
    for record in (np.eye(1, k), np.ones((1, k)), np.array([[1e-300, 1.0] + [0.0] * (k - 2)])):
        x = noise.normal_columns(k, n).reshape(k, 1, n)
        hits = int(mechanism._in_cap(x, to_sphere(record)).sum())
        assert stats.binomtest(hits, n, q).pvalue > 1e-3


@pytest.mark.usefixtures("seeded")
def test_the_coupling_behind_eta_holds_draw_by_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same words give exact normals in 150 bits; draws whose side of the cap differs must lie in the charged strip.
    k, n = 3, 300
    mechanism = PrivUnit.plan(4.0, k)
    words = noise.random_bits64(4 * 304)
    monkeypatch.setattr(noise, "random_bits64", lambda m: words[:m])
    x = noise.normal_columns(k, n)
    z = to_sphere(np.array([[0.3, -2.0, 0.9]]))
    implemented = mechanism._in_cap(x.reshape(k, 1, n), z)[0]
    table = words.reshape(4, 304)
    with mpmath.workprec(150):
        unit = [mpmath.mpf(v) for v in (0.3, -2.0, 0.9)]
        length = mpmath.sqrt(sum(v * v for v in unit))
        for i in range(n):
            u, v = ([mpmath.mpf(int(table[row, i])) / 2**64 for row in pair] for pair in ((0, 1), (2, 3)))
            radius = [mpmath.sqrt(-2 * mpmath.log(value)) for value in u]
            exact = [radius[j] * mpmath.cos(2 * mpmath.pi * v[j]) for j in (0, 1)]
            exact.append(radius[0] * mpmath.sin(2 * mpmath.pi * v[0]))
            norm = mpmath.sqrt(sum(value * value for value in exact))
            margin = sum(a * b for a, b in zip(exact, unit, strict=True)) / length / norm - mechanism.gamma
            strip = 2 * mpmath.sqrt(k) * noise.NORMAL_ERROR / norm + (8 * k + 32) * mpmath.mpf(2) ** -53
            assert abs(margin) <= strip or implemented[i] == (margin >= 0)


def wrong_sides(test: PrivUnit, k: int, gamma: float) -> tuple[int, int]:
    """Of proposals at the very edge of hostile records' caps: how many real arithmetic decides, how many are wrong.

    Decided are those beyond the share of the strip T that is arithmetic's, (8k + 32)·2⁻⁵³.
    """
    rng = np.random.default_rng(k)
    records = np.concatenate([np.eye(1, k) * 1e308, np.full((1, k), 5e-324), rng.normal(size=(4, k)) * 1e-200])
    z, unit = to_sphere(records), (8 * k + 32) * 2.0**-53
    decided = wrong = 0
    for row in z:
        w = rng.normal(size=(48, k))
        w -= np.outer(w @ row, row)
        t = gamma + unit * np.resize([-40, -9, -3, -1, 0, 1, 3, 9, 40], 48)
        x = t[:, None] * row + np.sqrt(1 - t * t)[:, None] * to_sphere(w)
        x *= rng.chisquare(k, size=(48, 1)) ** 0.5
        inside = test._in_cap(np.ascontiguousarray(x.T)[:, None, :], row[None])[0]
        with mpmath.workprec(400):
            length = mpmath.sqrt(mpmath.fsum(mpmath.mpf(v) ** 2 for v in row.tolist()))
            for point, said in zip(x.tolist(), inside.tolist(), strict=True):
                dot = mpmath.fsum(mpmath.mpf(a) * b for a, b in zip(point, row.tolist(), strict=True)) / length
                margin = dot / mpmath.sqrt(mpmath.fsum(mpmath.mpf(a) ** 2 for a in point)) - gamma
                if abs(margin) > unit:
                    decided += 1
                    wrong += said != (margin >= 0)
    return decided, wrong


@pytest.mark.parametrize(("k", "gamma"), [(2, 0.7), (3, 0.0), (4, 0.9), (16, 0.6), (64, 0.3)])
def test_arithmetic_at_the_caps_edge_is_within_its_share_of_eta(k: int, gamma: float) -> None:
    decided, wrong = wrong_sides(PrivUnit(k, gamma, 0.75), k, gamma)
    assert decided > 150
    assert wrong == 0
    # The mutant: a threshold that is a millionth of a millionth off.
    assert wrong_sides(PrivUnit(k, gamma + 1e-12, 0.75), k, gamma)[1] > 20


def test_a_proposals_bits_do_not_tell_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else an output could tell how many proposals were refused, which depends on the record: there is no pure ε then.
    for k, n in ((2, 1), (3, 7), (4, 16), (5, 33), (8, 1021)):
        half, whole = (k + 1) // 2, -(-n // 16) * 16
        one = noise.random_bits64(2 * half).reshape(2 * half, 1)
        monkeypatch.setattr(
            noise, "random_bits64", lambda _, one=one, whole=whole: np.repeat(one, whole, axis=1).ravel()
        )
        draws = noise.normal_columns(k, n)
        monkeypatch.undo()
        assert draws.shape == (k, n)
        assert all(column.tobytes() == draws[:, 0].tobytes() for column in draws.T)


@pytest.mark.usefixtures("seeded")
def test_the_coin_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    mechanism = PrivUnit.plan(4.0, 8)
    coin = Fraction(mechanism.p)
    assert (coin * 2**53).denominator == 1
    threshold = int(coin * 2**64)  # p is a binary fraction: exactly `threshold` of the 2^64 words are heads
    words = np.array([threshold - 1, threshold, 0, 2**64 - 1], dtype=np.uint64)
    thrown, real = list[float](), noise.bernoulli_exact
    with monkeypatch.context() as patch:
        patch.setattr(noise, "bernoulli_exact", lambda p, size: thrown.append(p) or real(p, size))
        mechanism.privatize(np.ones((3, 8)), np.ones(3, dtype=bool))
    assert thrown == [mechanism.p]  # what is charged is what is thrown
    monkeypatch.setattr(noise, "random_bits64", lambda _: words)
    assert noise.bernoulli_exact(mechanism.p, 4).tolist() == [True, False, True, False]


@pytest.mark.usefixtures("seeded")
def test_outputs_lie_in_the_cap_as_often_as_the_coin_says() -> None:
    mechanism = PrivUnit.plan(4.0, 8)
    z = np.random.default_rng(4).normal(size=(20_000, 8))
    out = mechanism.privatize(z, np.ones(len(z), dtype=bool))
    cosine = (to_sphere(out) * to_sphere(z)).sum(axis=1)
    assert stats.binomtest(int((cosine >= mechanism.gamma).sum()), len(z), mechanism.p).pvalue > 1e-3
    assert stats.kstest((out**2).sum(axis=1), "chi2", (8,)).pvalue > 1e-3
    # Off the cap too the direction is that of a uniform one, given its side: compare with plain rejection.
    uniform = to_sphere(np.random.default_rng(6).normal(size=(100_000, 8)))[:, 0]
    for side in (cosine >= mechanism.gamma, cosine < mechanism.gamma):
        reference = uniform[(uniform >= mechanism.gamma) == (cosine[side][0] >= mechanism.gamma)]
        assert stats.ks_2samp(cosine[side], reference).pvalue > 1e-3


@pytest.mark.parametrize(("k", "epsilon"), [*CASES, (2, 1e-3), (8, 0.1), (300, 2.0), (8, 30.0), (4, 45.0)])
def test_the_loss_covers_the_worst_densities_and_is_nearly_what_was_asked(k: int, epsilon: float) -> None:
    mechanism = PrivUnit.plan(epsilon, k)
    p, q, bound = Fraction(mechanism.p), Fraction(share(k, mechanism.gamma)), Fraction(eta(k, mechanism.gamma))
    densities = [
        side for mass in (q - bound, q + bound) for side in (p / mass, (1 - p) / (1 - mass))
    ]  # records whose caps came out lightest and heaviest
    with mpmath.workprec(120):
        ratio = max(densities) / min(densities)
        worst = mpmath.log(mpmath.mpf(ratio.numerator) / ratio.denominator)
        # The pair of extremes is charged in full: (q - η) inside against (1 - q + η) outside.
        assert worst - 1e-12 <= mechanism.event().epsilon <= epsilon
    assert mechanism.event().epsilon > epsilon * (1 - 1e-3) or epsilon > 40
    assert mechanism.zero_out_event().epsilon == mechanism.event().epsilon


def test_a_coin_without_eta_would_be_undercharged() -> None:
    mechanism = PrivUnit.plan(4.0, 4)
    p, q = mechanism.p, share(4, mechanism.gamma)
    assert math.log(p / (1 - p) * (1 - q) / q) < mechanism.event().epsilon - 1e-8  # η is charged
    one_up = PrivUnit(4, mechanism.gamma, math.nextafter(mechanism.p + 2**-50, 1))
    assert one_up.event().epsilon > 4.0  # p is the largest that fits, to within a few units of the last place


def sought(mechanism: PrivUnit, n: int, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Which directions a batch of n records makes proposals for, round by round."""
    rounds, real = list[set[int]](), privunit._proposals

    def watch(rows: np.ndarray, count: int, k: int) -> np.ndarray:
        rounds.append(set(rows.tolist()))
        return real(rows, count, k)

    with monkeypatch.context() as patch:
        patch.setattr(privunit, "_proposals", watch)
        out = mechanism.privatize(np.ones((n, mechanism.content_dims)), np.ones(n, dtype=bool))
    assert out.shape == (n, mechanism.content_dims)
    return rounds


@pytest.mark.usefixtures("seeded")
def test_no_batch_takes_the_time_of_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    mechanism = PrivUnit.plan(8.0, 8)
    assert sought(mechanism, 0, monkeypatch) == []
    for n in (1, 2, 63):
        rounds = sought(mechanism, n, monkeypatch)
        assert rounds[0] == set(range(64))
        # The others, sought in the cap, go on when a record that is outside by its coin has been found at once.
        assert any(max(rows) >= n for rows in rounds[1:])
    assert len(sought(mechanism, 700, monkeypatch)[0]) == 512
    monkeypatch.setattr(privunit, "_FEWEST", 1)  # the mutant: a batch of one record is one record's time
    assert all(rows == {0} for rows in sought(mechanism, 1, monkeypatch))


def test_the_plan_is_the_best_of_its_kind() -> None:
    chosen = PrivUnit.plan(4.0, 8).expected_cosine()
    for q in (0.02, 0.05, 0.15, 0.3, 0.5):
        gamma = privunit._threshold(8, q)
        other = PrivUnit(8, gamma, privunit._coin(8, gamma, Fraction(4)))
        assert other.expected_cosine() <= chosen + 1e-9


@given(st.integers(2, 64), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_mean_cosine_is_an_integral(k: int, gamma: float) -> None:
    t = np.linspace(0, math.acos(gamma), 4001)
    whole = np.linspace(0, math.pi, 8001)
    norm = np.trapezoid(np.sin(whole) ** (k - 2), whole)
    q = np.trapezoid(np.sin(t) ** (k - 2), t) / norm
    first = np.trapezoid(np.cos(t) * np.sin(t) ** (k - 2), t) / norm
    if q > 1e-6:
        exact = (0.8 / q - 0.2 / (1 - q)) * first
        assert privunit._mean_cosine(k, gamma, share(k, gamma), 0.8) == pytest.approx(exact, rel=1e-3)


def test_impossible_parameters_are_refused() -> None:
    for k, gamma, p in ((1, 0.5, 0.9), (4, 1.0, 0.9), (4, -0.1, 0.9), (4, 0.5, 1.0), (4, 0.5, 0.4), (4, math.nan, 0.9)):
        with pytest.raises(PrivacyError):
            PrivUnit(k, gamma, p)
    with pytest.raises(PrivacyError, match="too small"):
        PrivUnit(64, 0.99, 0.9).event()
    for epsilon, k in ((1e-5, 4), (4.0, 1)):
        with pytest.raises(PrivacyError):
            PrivUnit.plan(epsilon, k)
