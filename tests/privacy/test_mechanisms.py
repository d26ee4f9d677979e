"""Every mechanism: what it costs, what it carries, and that a row's output depends on that row alone."""

import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy.accountant import curve
from cadp.privacy.additive import Gaussian
from cadp.privacy.events import RELATION, ZERO_OUT
from cadp.privacy.mechanisms import Mechanism, Resample, plan_mechanism
from tests.privacy.injected import fixed_noise, rows_that_depend_on_others

DELTA = 1e-6
KINDS = ("privunit", "gaussian", "laplace", "resample")
Floats = NDArray[np.float64]


def plan(kind: str, epsilon: float = 8.0, k: int = 4) -> Mechanism:
    return plan_mechanism(kind, epsilon=epsilon, delta=DELTA, content_dims=k)


def latents(n: int, d: int) -> tuple[Floats, NDArray[np.bool_]]:
    return np.random.default_rng(11).normal(size=(n, d)), np.ones(n, dtype=bool)


def cosines(a: Floats, b: Floats) -> Floats:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)  # on a lattice an output can be all zero


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
    ("k", "epsilon", "cosine", "records"),
    [
        (4, 4.0, 0.686, 60_000),
        (4, 8.0, 0.930, 12_000),
        (8, 4.0, 0.512, 60_000),
        (8, 8.0, 0.792, 12_000),
        (16, 8.0, 0.619, 12_000),
    ],
)
def test_privunit_carries_what_the_theory_says(k: int, epsilon: float, cosine: float, records: int) -> None:
    mechanism = plan("privunit", epsilon, k)
    assert mechanism.expected_cosine() == pytest.approx(cosine, abs=1e-3)
    z, valid = latents(records, k)
    assert cosines(z, mechanism.privatize(z, valid)).mean() == pytest.approx(cosine, rel=0.01)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("k", [1, 2, 8, 16])
@pytest.mark.parametrize("epsilon", [8.0, 40.0])
def test_additive_mechanisms_carry_what_they_say(kind: str, epsilon: float, k: int) -> None:
    mechanism = plan(kind, epsilon, k)
    z, valid = latents(100_000, k)
    assert cosines(z, mechanism.privatize(z, valid)).mean() == pytest.approx(mechanism.expected_cosine(), rel=0.02)


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
