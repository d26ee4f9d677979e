"""Samplers have exactly the law they claim; near misses are caught by the same tests."""

import ast
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats

import cadp.privacy
from cadp.errors import PrivacyError
from cadp.privacy import noise, strips
from tests.privacy.laws import gaussian_pmf, laplace_pmf, p_value

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 2.5, 7.99, 8.0, 20.0, 100.0])
def test_the_discrete_gaussian_has_its_law(sigma: float) -> None:
    assert p_value(noise.discrete_gaussian(sigma, 200_000), gaussian_pmf(sigma)) > 1e-3


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.3, 16.0, 40.0, 1 / 3])
def test_the_discrete_laplace_has_its_law(scale: float) -> None:
    assert p_value(noise.discrete_laplace(scale, 200_000), laplace_pmf(scale)) > 1e-3


def test_a_rational_scale_is_not_rounded() -> None:
    draws = noise.discrete_laplace(Fraction(10, 3), 200_000)
    assert p_value(draws, laplace_pmf(10 / 3)) > 1e-3


def test_planted_mistakes_are_caught() -> None:
    rng = np.random.default_rng(1)
    rounded = np.rint(rng.normal(0, 0.6, 200_000)).astype(np.int64)  # a continuous normal, rounded
    assert p_value(rounded, gaussian_pmf(0.6)) < 1e-6
    assert p_value(noise.discrete_gaussian(1.05, 200_000), gaussian_pmf(1.0)) < 1e-6  # σ off by 5 %
    assert p_value(noise.discrete_laplace(1.05, 200_000), laplace_pmf(1.0)) < 1e-6
    draws = noise.discrete_laplace(3.0, 200_000)
    doubled = np.concatenate([draws, np.zeros(len(draws) // 50, dtype=np.int64)])  # "−0" not refused
    assert p_value(doubled, laplace_pmf(3.0)) < 1e-6


@pytest.mark.parametrize("sigma", [1e4, 123456.789, 2.0**30, 2.0**40])
def test_wide_gaussians_match_the_normal(sigma: float) -> None:
    draws = noise.discrete_gaussian(sigma, 100_000)
    assert stats.kstest(draws / sigma, "norm").pvalue > 1e-3  # the two laws differ by less than e^(−2π²σ²)
    assert stats.chisquare(np.bincount(np.abs(draws) % 7, minlength=7)).pvalue > 1e-3  # low digits are used


@pytest.mark.parametrize("scale", [1e4, 2.0**30])
def test_wide_laplaces_match_the_exponential(scale: float) -> None:
    draws = noise.discrete_laplace(scale, 100_000)
    assert stats.kstest(draws / scale, "laplace").pvalue > 1e-3


def test_far_tails_have_their_probability() -> None:
    draws = np.abs(noise.discrete_laplace(5.0, 3_000_000))
    for threshold in (40, 50, 60):  # e⁻⁸ … e⁻¹²
        tail = 2 * sum(float(laplace_pmf(5.0)(x)) for x in range(threshold, threshold + 400))
        assert stats.binomtest(int((draws >= threshold).sum()), len(draws), tail).pvalue > 1e-3
    gaussian = np.abs(noise.discrete_gaussian(3.0, 3_000_000))
    tail = 2 * sum(float(gaussian_pmf(3.0)(x)) for x in range(13, 90))
    assert stats.binomtest(int((gaussian >= 13).sum()), len(gaussian), tail).pvalue > 1e-3


def test_opendp_agrees() -> None:
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    theirs = np.array(dp.m.make_gaussian(*space, scale=4.0)([0] * 10_000))
    ours = noise.discrete_gaussian(4.0, 10_000)
    table = [[np.count_nonzero(np.clip(draws, -9, 9) == x) for x in range(-9, 10)] for draws in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-8  # theirs cannot be seeded


@pytest.mark.parametrize(("strip_band", "exp_band"), [(2**57, strips._EXP_BAND), (1, 0.05), (2**57, 0.05)])
def test_ambiguous_draws_keep_the_law(monkeypatch: pytest.MonkeyPatch, strip_band: int, exp_band: float) -> None:
    # Wide bands send a good share of all comparisons to the exact branch; the answers must be those of real arithmetic.
    exact = {"strip": 0, "coin": 0}
    strip, coin = strips._exactly_strip, strips._exactly_below_exp
    monkeypatch.setattr(strips, "_exactly_strip", lambda *a: exact.update(strip=exact["strip"] + 1) or strip(*a))
    monkeypatch.setattr(strips, "_exactly_below_exp", lambda *a: exact.update(coin=exact["coin"] + 1) or coin(*a))
    monkeypatch.setattr(strips, "_STRIP_BAND", strip_band)
    monkeypatch.setattr(strips, "_EXP_BAND", exp_band)
    strips.strips.cache_clear()
    try:
        draws = noise.discrete_gaussian(20.0, 20_000)
        laplace = noise.discrete_laplace(20.0, 20_000)
    finally:
        strips.strips.cache_clear()
    assert (exact["strip"] > 1000) == (strip_band > 1)
    assert (exact["coin"] > 1000) == (exp_band == 0.05)
    assert p_value(draws, gaussian_pmf(20.0)) > 1e-3
    assert p_value(laplace, laplace_pmf(20.0)) > 1e-3


def test_the_exact_branch_draws_further_bits_of_the_same_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    # p = 2⁻⁶⁴·(r + 1/2): the 64-bit prefix r cannot decide, the next bit does.
    p = Fraction(2 * 12345 + 1, 2**65)
    monkeypatch.setattr(strips, "random_bits64", lambda n: np.array([2**63 - 1] * n, dtype=np.uint64))
    assert strips.exactly_below(p, 12345)
    monkeypatch.setattr(strips, "random_bits64", lambda n: np.array([2**63] * n, dtype=np.uint64))
    assert not strips.exactly_below(p, 12345)


def test_float64_exponentials_are_within_the_proved_band() -> None:
    import mpmath

    rng = np.random.default_rng(3)
    gammas = np.concatenate([rng.uniform(0, 3, 2000), rng.uniform(0, 60, 1000), 2.0 ** rng.uniform(-60, 0, 1000)])
    with mpmath.workprec(120):
        for gamma, p in zip(gammas, np.exp(-gammas), strict=True):
            truth = mpmath.exp(-mpmath.mpf(gamma))
            assert abs(mpmath.mpf(float(p)) - truth) <= truth * mpmath.mpf(2) ** -46


def test_coins() -> None:
    for p in (0.5, 0.1, Fraction(1, 3), 0.859092397855483):
        heads = int(noise.bernoulli_exact(p, 100_000).sum())
        assert stats.binomtest(heads, 100_000, float(p)).pvalue > 1e-3
    assert noise.bernoulli_exact(1.0, 50).all()
    assert not noise.bernoulli_exact(0, 50).any()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(PrivacyError):
            noise.bernoulli_exact(wrong, 1)


@pytest.mark.parametrize("size", [0, 1, 7, (3, 5), (1 << 16) + 3])
def test_standard_normals(size: int | tuple[int, ...]) -> None:
    draws = noise.standard_normal(size)
    assert draws.shape == (size if isinstance(size, tuple) else (size,))
    assert np.isfinite(draws).all()
    if draws.size > 1000:
        assert stats.kstest(draws, "norm").pvalue > 1e-3


def test_normal_columns_are_close_to_exact_normals_and_share_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    import mpmath

    words = noise.random_bits64(6 * 400)
    monkeypatch.setattr(noise, "random_bits64", lambda n: words[:n])
    draws = noise.normal_columns(5, 400)
    table = words.reshape(6, 400)
    with mpmath.workprec(150):
        for column in range(400):
            for row in range(3):
                u, v = (mpmath.mpf(int(table[i, column])) / 2**64 for i in (row, row + 3))
                radius = mpmath.sqrt(-2 * mpmath.log(u))
                pair = radius * mpmath.cos(2 * mpmath.pi * v), radius * mpmath.sin(2 * mpmath.pi * v)
                for value, index in zip(pair, (row, row + 3), strict=True):
                    assert index == 5 or abs(value - mpmath.mpf(float(draws[index, column]))) < noise.NORMAL_ERROR
    changed = words.copy().reshape(6, 400)
    changed[:, 17] ^= np.uint64(0xFFFFFFFF)
    monkeypatch.setattr(noise, "random_bits64", lambda n: changed.ravel()[:n])
    moved = np.flatnonzero((noise.normal_columns(5, 400) != draws).any(axis=0))
    assert moved.tolist() == [17]


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), 2.0**41])
def test_impossible_scales_are_refused(wrong: float) -> None:
    with pytest.raises(PrivacyError):
        noise.discrete_gaussian(wrong, 1)
    with pytest.raises(PrivacyError):
        noise.discrete_laplace(wrong, 1)


def test_tiny_scales_draw_zero() -> None:
    assert not noise.discrete_gaussian(5e-324, 100).any()
    assert not noise.discrete_laplace(1e-3, 100).any()


def test_randomness_comes_from_the_operating_system_alone() -> None:
    # A float or seeded generator anywhere in the privacy core would void its proofs: look at every import and call.
    for path in Path(cadp.privacy.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {n.split(".")[0] for n in names} & {"random", "secrets", "torch"}, path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("random", "rvs", "default_rng")), path


def test_a_forked_child_draws_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real source
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, noise.random_bits64(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 64) != noise.random_bits64(4).tobytes()
