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
from tests.privacy.laws import discrete_laplace_cdf, gaussian_pmf, laplace_pmf, p_value, wide_p_value

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 2.5, 7.99, 8.0, 20.0, 100.0])
def test_the_discrete_gaussian_has_its_law(sigma: float) -> None:
    assert p_value(noise.discrete_gaussian(sigma, 200_000), gaussian_pmf(sigma)) > 1e-3


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.3, 16.0, 40.0, 1 / 3])
def test_the_discrete_laplace_has_its_law(scale: float) -> None:
    assert p_value(noise.discrete_laplace(scale, 200_000), laplace_pmf(scale)) > 1e-3


MANY = 10_000_000


@pytest.mark.parametrize("scale", [0.6, 3.3, 20.0])
def test_ten_million_draws_have_their_law(scale: float) -> None:
    assert p_value(noise.discrete_gaussian(scale, MANY), gaussian_pmf(scale)) > 1e-3
    assert p_value(noise.discrete_laplace(scale, MANY), laplace_pmf(scale)) > 1e-3


def test_ten_million_wide_draws_have_their_law() -> None:
    # The cells are not those of the strips. Of the discrete Gaussian the normal's cells are right to 1/(24·σ²).
    scale = 4321.5
    gaussian, laplace = noise.discrete_gaussian(scale, MANY), noise.discrete_laplace(scale, MANY)
    assert wide_p_value(gaussian, scale, stats.norm(scale=scale).cdf) > 1e-3
    assert wide_p_value(laplace, scale, discrete_laplace_cdf(scale)) > 1e-3
    # So many draws see a scale that is 5 in 1,000 off.
    assert wide_p_value(gaussian, scale, stats.norm(scale=1.005 * scale).cdf) < 1e-6
    assert wide_p_value(laplace, scale, discrete_laplace_cdf(1.005 * scale)) < 1e-6


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


@pytest.mark.parametrize("scale", [0.7, 4.0, 40.0])
def test_opendp_agrees(scale: float) -> None:
    dp.enable_features("contrib")
    values, n = dp.vector_domain(dp.atom_domain(T=int)), 20_000
    pairs = (
        (dp.m.make_gaussian(values, dp.l2_distance(T=float), scale=scale), noise.discrete_gaussian),
        (dp.m.make_laplace(values, dp.l1_distance(T=int), scale=scale), noise.discrete_laplace),
    )
    for theirs, ours in pairs:
        draws = np.array(theirs([0] * n)), ours(scale, n), ours(scale * 1.15, n)
        cell = max(1, round(scale / 4))
        tables = [np.bincount(np.clip(x // cell, -10, 10) + 10, minlength=21) for x in draws]
        used = (tables[0] + tables[1]) > 20
        # Theirs cannot be seeded, so the bound is one that chance does not reach.
        assert stats.chi2_contingency(np.array(tables[:2])[:, used]).pvalue > 1e-8
        assert stats.chi2_contingency(np.array(tables[::2])[:, used]).pvalue < 1e-8


@pytest.mark.parametrize("scale", [16.0, 4096.5, 2.0**40])
def test_sign_offset_and_coin_share_no_bit(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # They come out of one word: put together again they must give it, or two of them would not be independent.
    seen: dict[str, np.ndarray] = {}
    drawn = list[np.ndarray]()

    def bits(n: int) -> np.ndarray:
        drawn.append(np.frombuffer(os.urandom(8 * n), dtype=np.uint64))
        return drawn[-1]

    def coin(law: strips.Strips, base: np.ndarray, offset: np.ndarray, prefix: np.ndarray, left: int) -> np.ndarray:
        assert left == 63 - law.log_width >= 26
        seen.update(base=base, offset=offset, prefix=prefix, width=np.uint64(law.log_width))
        return np.ones(len(base), dtype=bool)

    monkeypatch.setattr(noise, "random_bits64", bits)
    monkeypatch.setattr(noise, "below_exp", coin)
    signed = noise.discrete_gaussian(scale, 4000)
    assert len(drawn) == 2  # the strip has a word of its own
    high, low = seen["prefix"] << (seen["width"] + np.uint64(1)), seen["offset"].astype(np.uint64) << np.uint64(1)
    sign, magnitude = drawn[1] & np.uint64(1), seen["base"] + seen["offset"]
    assert (high | low | sign == drawn[1]).all()
    expected = np.where(sign == 1, -magnitude, magnitude)[(sign == 0) | (magnitude > 0)]
    assert (signed == expected[: len(signed)]).all()


def test_coins() -> None:
    for p in (0.5, 0.1, Fraction(1, 3), 0.859092397855483):
        heads = int(noise.bernoulli_exact(p, 100_000).sum())
        assert stats.binomtest(heads, 100_000, float(p)).pvalue > 1e-3
    assert noise.bernoulli_exact(1.0, 50).all()
    assert not noise.bernoulli_exact(0, 50).any()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(PrivacyError):
            noise.bernoulli_exact(wrong, 1)


def test_a_coin_that_64_bits_do_not_decide_is_decided_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    third, edge = Fraction(1, 3), (1 << 64) // 3  # 1/3 = edge/2⁶⁴ + (1/3)/2⁶⁴
    monkeypatch.setattr(noise, "random_bits64", lambda n: np.full(n, edge, dtype=np.uint64))
    for word, heads in ((0, True), (edge - 1, True), (edge + 1, False), (2**64 - 1, False)):
        monkeypatch.setattr(strips, "random_bits64", lambda n, word=word: np.full(n, word, dtype=np.uint64))
        assert noise.bernoulli_exact(third, 2).tolist() == [heads, heads]


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


FLOATS = {"random", "rvs", "default_rng", "rand", "randn", "randint", "randperm", "bernoulli", "poisson", "normal_"}
PACKAGE = Path(cadp.privacy.__file__).parents[1]
# Wherever a private value meets noise, or chance decides about a private record.
PRIVATE = [
    *sorted(PACKAGE.glob("privacy/*.py")),
    *(PACKAGE / f"cinn/dp_sgd/{name}.py" for name in ("training", "contributions", "gradients", "sample")),
    *(
        PACKAGE / path
        for path in ("cinn/fit/moments.py", "cinn/fit/contributions.py", "utility/gate.py", "steps/privatize.py")
    ),
]


def other_randomness(source: str) -> set[str]:
    """What a module takes from a generator that is not the operating system's, by its imports and calls."""
    found = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in ("random", "secrets")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("random", "secrets"):
            found.add(node.module or "")
        if isinstance(node, ast.Attribute) and node.attr in FLOATS:
            found.add(node.attr)
    return found


def test_randomness_comes_from_the_operating_system_alone() -> None:
    # A float or seeded generator anywhere on a private path would void its proofs: look at every import and call.
    for path in PRIVATE:
        assert not other_randomness(path.read_text()), path
        if path.parent.name == "privacy":
            assert "import torch" not in path.read_text(), path
    for planted in ("import random", "from secrets import randbits", "x = np.random.normal(0, 1, 5)", "torch.randn(3)"):
        assert other_randomness(planted)


def test_a_forked_child_draws_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real source
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, noise.random_bits64(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 64) != noise.random_bits64(4).tobytes()
