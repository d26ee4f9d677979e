"""The tables and the comparisons behind a draw, against real arithmetic of hundreds of bits, into the far tails."""

from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from cadp.privacy import noise, strips
from cadp.privacy.strips import Strips
from tests.privacy.laws import gaussian_pmf, laplace_pmf, p_value

GAUSSIANS = [0.3, 1.0, 7.9, 16.0, 4096.5, 2.0**40]
LAPLACES = [0.2, 1.0, 15.9, 16.0, 4096.5, 2.0**40]
LAWS = [("gaussian", s) for s in GAUSSIANS] + [("laplace", b) for b in LAPLACES]
BITS = 900


def parameters(kind: str, scale: float) -> tuple[Fraction, Fraction, int]:
    exact = Fraction(scale)
    log_width = max(0, int(np.floor(np.log2(max(scale, 8.0) / 8))))
    return (
        (1 / (2 * exact * exact), Fraction(0), log_width) if kind == "gaussian" else (Fraction(0), 1 / exact, log_width)
    )


def cumulative(kind: str, scale: float, log_width: int, strips_: int) -> list[mpmath.mpf]:
    """P(strip <= v) for v = 0 … by another way than the code's: closed form, or a theta sum far beyond the last."""
    width = mpmath.mpf(2) ** log_width
    if kind == "laplace":
        return [-mpmath.expm1(-(v + 1) * width / mpmath.mpf(scale)) for v in range(strips_)]
    nome = mpmath.exp(-((width / mpmath.mpf(scale)) ** 2) / 2)
    total = (mpmath.jtheta(3, 0, nome) + 1) / 2  # Σ nome^(v²) over v ≥ 0
    sums, running = [], mpmath.mpf(0)
    for v in range(strips_):
        running += nome ** (v * v)
        sums.append(running / total)
    return sums


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    with mpmath.workprec(BITS):
        yield


@pytest.mark.parametrize(("kind", "scale"), LAWS)
@pytest.mark.parametrize("bits", [64, 320])
def test_thresholds_are_within_one_unit_of_the_truth_in_every_strip(kind: str, scale: float, bits: int) -> None:
    a, b, log_width = parameters(kind, scale)
    stored = strips._cumulative(a, b, log_width, bits)
    truth = cumulative(kind, scale, log_width, len(stored))
    assert all(abs(t - mpmath.ldexp(f, bits)) <= 1 for t, f in zip(stored, truth, strict=True))
    assert 1 - truth[-1] < mpmath.mpf(2) ** (1 - bits)  # they go on to where nothing is left
    if bits == 64:
        law = strips.strips(a, b, log_width)
        assert law.thresholds.tolist() == [t for t in stored if t < 2**64 - 2] + [2**64 - 2]


@pytest.mark.parametrize(("kind", "scale"), [law for law in LAWS if law[1] >= 16])
def test_strip_offset_and_coin_make_the_law_far_into_its_tails(
    kind: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # P(m) ∝ P(strip)·exp(−γ), with γ as the code hands it to the exact branch: it must be exp(−φ(m)), out to e^−480.
    a, b, log_width = parameters(kind, scale)
    law, gammas = strips.strips(a, b, log_width), list[Fraction]()
    monkeypatch.setattr(strips, "_EXP_BAND", 2.0)  # every coin is left to the exact branch
    monkeypatch.setattr(strips, "_exactly_below_exp", lambda gamma, *_: gammas.append(gamma) or True)
    reach = (31 if kind == "gaussian" else 480) * int(scale)
    magnitudes = np.unique(np.concatenate([np.arange(5), np.linspace(5, reach, 60).astype(np.int64)]))
    base = magnitudes >> log_width << log_width
    strips.below_exp(law, base, magnitudes - base, np.zeros(len(magnitudes), dtype=np.uint64), 20)
    ends = cumulative(kind, scale, log_width, int(magnitudes[-1] >> log_width) + 1)
    masses = [end - before for end, before in zip(ends, [mpmath.mpf(0), *ends[:-1]], strict=True)]
    for m, gamma in zip(magnitudes.tolist(), gammas, strict=True):
        made = masses[m >> log_width] / masses[0] * mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator)
        phi = m * (a * m + b)
        assert abs(made / mpmath.exp(-mpmath.mpf(phi.numerator) / phi.denominator) - 1) < mpmath.mpf(2) ** -150


def wrong_strips(law: Strips, kind: str, scale: float) -> int:
    """How many of the uniforms nearest to a threshold, or to a cell of the guide, get another strip than the truth."""
    truth = cumulative(kind, scale, law.log_width, len(law.thresholds) + 4)
    edges = [int(t) for t in law.thresholds] + [cell << 52 for cell in range(1, 4096, 37)]
    prefixes = sorted({r for t in edges for r in range(t - 3, t + 4) if 0 <= r < 2**64 - 1})
    wrong = 0
    with pytest.MonkeyPatch.context() as patch:
        for word in (0, 2**64 - 1):
            patch.setattr(strips, "random_bits64", lambda n, word=word: np.full(n, word, dtype=np.uint64))
            found = strips.strip_of(law, np.array(prefixes, dtype=np.uint64))
            for r, v in zip(prefixes, found.tolist(), strict=True):
                u = (mpmath.mpf(r) + (0 if word == 0 else 1 - mpmath.mpf(2) ** -400)) / 2**64  # what r.www… begins
                in_table = v < len(truth)
                wrong += not ((v == 0 or truth[v - 1] <= u) and u < truth[v]) if in_table else truth[-1] > u
    return wrong


@pytest.mark.parametrize(
    ("kind", "scale"), [("gaussian", 1.0), ("gaussian", 4096.5), ("laplace", 1.0), ("laplace", 40.0)]
)
def test_uniforms_at_the_thresholds_get_their_strip(kind: str, scale: float) -> None:
    law = strips.strips(*parameters(kind, scale))
    assert wrong_strips(law, kind, scale) == 0


def test_a_table_that_is_a_few_units_off_is_caught() -> None:
    law = strips.strips(*parameters("laplace", 40.0))
    off = Strips(law.a, law.b, law.log_width, law.thresholds - np.uint64(3), law.guide)
    assert wrong_strips(off, "laplace", 40.0) > 50


def wrong_coins(bits: int) -> int:
    """How many of the uniforms nearest to exp(−γ) get another answer than the truth."""
    law = strips.strips(*parameters("gaussian", 4096.5))
    base = np.repeat(np.arange(0, 9 * 4096, 1024, dtype=np.int64) >> law.log_width << law.log_width, 9)
    offset = np.tile(np.array([1, 2, 3, 64, 65, 100, 200, 254, 255], dtype=np.int64), len(base) // 9)
    exact = [int(w) * (law.a * int(2 * m + w) + law.b) for m, w in zip(base, offset, strict=True)]
    heads = [mpmath.exp(-mpmath.mpf(g.numerator) / g.denominator) for g in exact]
    wrong = 0
    with pytest.MonkeyPatch.context() as patch:
        for step in range(-3, 4):
            r = [min(max(int(mpmath.floor(mpmath.ldexp(p, bits))) + step, 0), 2**bits - 1) for p in heads]
            for word in (0, 2**64 - 1):
                patch.setattr(strips, "random_bits64", lambda n, word=word: np.full(n, word, dtype=np.uint64))
                found = strips.below_exp(law, base, offset, np.array(r, dtype=np.uint64), bits)
                rest = 0 if word == 0 else 1 - mpmath.mpf(2) ** -400
                truth = [mpmath.ldexp(prefix + rest, -bits) < p for prefix, p in zip(r, heads, strict=True)]
                wrong += int((found != np.array(truth)).sum())
    return wrong


@pytest.mark.parametrize("bits", [26, 43, 54, 62])
def test_coins_at_the_edge_fall_as_in_real_arithmetic(bits: int) -> None:
    assert wrong_coins(bits) == 0


def test_a_coin_that_trusts_float64_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_EXP_BAND", -1.0)
    assert min(wrong_coins(26), wrong_coins(54), wrong_coins(62)) > 100


@pytest.mark.usefixtures("seeded")
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
    rng = np.random.default_rng(3)
    gammas = np.concatenate([rng.uniform(0, 3, 2000), rng.uniform(0, 60, 1000), 2.0 ** rng.uniform(-60, 0, 1000)])
    with mpmath.workprec(120):
        for gamma, p in zip(gammas, np.exp(-gammas), strict=True):
            truth = mpmath.exp(-mpmath.mpf(gamma))
            assert abs(mpmath.mpf(float(p)) - truth) <= truth * mpmath.mpf(2) ** -46
