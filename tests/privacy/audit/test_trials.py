"""The statistical layers on cheap mechanisms of known loss: rarely wrong about a true claim, loud about a false one."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy.audit.attack import Features, guesses
from cadp.privacy.audit.trials import Sample, measure
from cadp.privacy.audit.verdict import Audit, Check, Claim, Setting

Bits = NDArray[np.bool_]


def randomized_response(epsilon: float, generator: np.random.Generator) -> Sample:
    """Says the bit with probability e^ε/(1 + e^ε): the mechanism that attains its ε at every output."""

    def sample(second: Bits) -> Features:
        kept = generator.random(len(second)) < 1 / (1 + math.exp(-epsilon))
        said = np.where(kept, second, ~second).astype(np.float64)
        return Features(np.stack([said, generator.normal(size=len(second))], axis=1), np.zeros((len(second), 0)))

    return sample


def laplace(epsilon: float, generator: np.random.Generator) -> Sample:
    def sample(second: Bits) -> Features:
        values = np.where(second, 1.0, -1.0) + generator.laplace(0, 2 / epsilon, len(second))
        return Features(values[:, None], np.zeros((len(second), 0)))

    return sample


def gaussian(mu: float, generator: np.random.Generator) -> Sample:
    def sample(second: Bits) -> Features:
        return Features((second * mu + generator.normal(size=len(second)))[:, None], np.zeros((len(second), 0)))

    return sample


def refutations(sample: Sample, claim: Claim, *, repetitions: int, trials: int, alpha: float) -> NDArray[np.int64]:
    """How often each layer says more than is true."""
    wrong = np.zeros(2, dtype=np.int64)
    for _ in range(repetitions):
        wrong += [m.lower_bound > claim.epsilon for m in measure(sample, claim, trials, alpha)]
    return wrong


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("law", [randomized_response, laplace], ids=["response", "laplace"])
def test_a_true_claim_is_refuted_at_most_as_often_as_stated(law: object) -> None:
    alpha, repetitions, epsilon = 0.1, 80, 1.0
    sample = law(epsilon, np.random.default_rng(3))  # type: ignore[operator]
    wrong = refutations(sample, Claim(epsilon, 0.0), repetitions=repetitions, trials=120, alpha=alpha)
    # The test itself fails by chance less than once in 10,000 seeds, if the layers keep their word.
    assert (wrong <= stats.binom.isf(1e-4, repetitions, alpha)).all(), wrong


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("claimed", [0.5, 1.0])
@pytest.mark.parametrize("law", [randomized_response, laplace], ids=["response", "laplace"])
def test_twice_the_loss_is_refuted_at_small_epsilon(law: object, claimed: float) -> None:
    sample = law(2 * claimed, np.random.default_rng(4))  # type: ignore[operator]
    black_box, one_run = measure(sample, Claim(claimed, 0.0), 5000, 0.01 / 8)
    assert claimed < black_box.lower_bound < 2 * claimed
    assert claimed < one_run.lower_bound < 2 * claimed
    assert black_box.lower_bound < black_box.ceiling
    assert one_run.lower_bound < one_run.ceiling


@pytest.mark.usefixtures("seeded")
def test_delta_is_taken_from_the_hits() -> None:
    generator = np.random.default_rng(5)
    with_delta = measure(gaussian(1.0, generator), Claim(1.0, 0.05), 3000, 0.01)
    pure = measure(gaussian(1.0, np.random.default_rng(5)), Claim(1.0, 0.0), 3000, 0.01)
    assert with_delta[0].lower_bound < pure[0].lower_bound
    assert with_delta[1].lower_bound < pure[1].lower_bound


@pytest.mark.usefixtures("seeded")
def test_nothing_is_found_where_there_is_nothing() -> None:
    black_box, one_run = measure(laplace(1e-9, np.random.default_rng(6)), Claim(0.0, 0.0), 1000, 0.001)
    assert black_box.lower_bound == one_run.lower_bound == 0


def test_too_few_trials_are_refused() -> None:
    with pytest.raises(PrivacyError, match="at least 40"):
        measure(laplace(1.0, np.random.default_rng(0)), Claim(1.0, 0.0), 39, 0.1)


def test_guesses_are_the_extremes() -> None:
    which, said = guesses(np.array([3.0, -5.0, 0.0, 9.0, -1.0]), 3)
    assert dict(zip(which.tolist(), said.tolist(), strict=True)) == {1: False, 0: True, 3: True}


@pytest.mark.usefixtures("seeded")
def test_the_verdict_never_says_more_than_not_refuted() -> None:
    claim = Claim(1.0, 0.0)
    measures = measure(laplace(1.0, np.random.default_rng(8)), claim, 400, 0.001)
    held = Setting("laplace", {}, claim, True, (Check("event", True, ""),), measures)
    audit = Audit(0.99, 400, (held,))
    assert audit.verdict == "not refuted at 400 trials"
    told = audit.to_json()
    assert told["schema"] == 1
    assert told["refuted"] is False
    assert "verified" not in str(told)
    for broken in (
        Setting("laplace", {}, Claim(0.01, 0.0), True, (), measures),
        Setting("laplace", {}, claim, True, (Check("event", False, "costs more"),), measures),
    ):
        refuted = Audit(0.99, 400, (broken,))
        assert refuted.verdict == "refuted"
        assert len(refuted.problems()) >= 1
