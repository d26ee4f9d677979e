"""The audit of DP-SGD's step: silent about the real one, and not about any planted flaw."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from cadp.cinn.dp_sgd import contributions, sample, training
from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.privacy.audit.descended import StepAudit
from cadp.privacy.audit.run import run_audit
from cadp.privacy.audit.stepped import Check, step_checks
from cadp.privacy.noise import bernoulli_exact, discrete_gaussian
from cadp.steps.audited_sgd import single_step, step_path

pytestmark = pytest.mark.usefixtures("one_thread")

DELTA = 1e-6


@cache
def small(records: int = 1) -> SgdPlan:
    return single_step(DELTA, 1.0, records)


def checks(plan: SgdPlan, private: bool = False) -> dict[str, Check]:
    return {check.name: check for check in step_checks(step_path(plan, private))}


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("records", [1, 3])
def test_the_step_as_it_is_passes_and_its_pairs_are_far_apart(records: int, private: bool) -> None:
    found = checks(small(records), private)
    assert [check for check in found.values() if not check.held] == []
    assert found["sgd-distance"].loss > 1.4  # type: ignore[operator]
    assert "100.0% of the clip norm" in found["sgd-sums"].detail


def no_clip(patch: pytest.MonkeyPatch) -> None:
    """The clip factor is forgotten, and the check with it."""
    patch.setattr(contributions, "_inside", lambda grams, errors, plan: np.ones(len(grams[0]), dtype=np.bool_))
    honest = contributions._rounded
    patch.setattr(
        contributions,
        "_rounded",
        lambda errors, scale, plan: honest(errors, np.minimum(np.ones_like(scale), 2.0), plan),
    )


def clip_at_twice_the_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SgdPlan, "clip_norm", property(lambda self: 2 * self.radius * self.step))
    patch.setattr(contributions, "_inside", lambda grams, errors, plan: np.ones(len(grams[0]), dtype=np.bool_))


def batch_norm_clip(patch: pytest.MonkeyPatch) -> None:
    """One factor for everybody: the longest gradient of the batch makes the others shorter."""
    honest = contributions._rounded
    patch.setattr(
        contributions, "_rounded", lambda errors, scale, plan: honest(errors, np.full_like(scale, scale.min()), plan)
    )


def noise_by_the_batch(patch: pytest.MonkeyPatch) -> None:
    """The noise is divided by the batch before it is added, and once more with the sum."""
    patch.setattr(training, "discrete_gaussian", lambda sigma, size: discrete_gaussian(sigma, size) // 3)


def narrower_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "discrete_gaussian", lambda sigma, size: discrete_gaussian(sigma / 3, size))


def noise_once(patch: pytest.MonkeyPatch) -> None:
    drawn: dict[Any, Any] = {}
    patch.setattr(
        training, "discrete_gaussian", lambda sigma, size: drawn.setdefault(size, discrete_gaussian(sigma, size))
    )


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "discrete_gaussian", lambda sigma, size: np.zeros(size, dtype=np.int64))


def float_noise(patch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    patch.setattr(training, "discrete_gaussian", lambda sigma, size: draw.normal(0, float(sigma), size))


def divided_by_the_sample(patch: pytest.MonkeyPatch) -> None:
    """Divided by what was drawn, which is as secret as the coins."""
    honest, mean = training.poisson_sample, training.noisy_mean
    last = [1]

    def poisson(rate: float, units: int) -> Any:
        drawn = honest(rate, units)
        last[0] = max(1, len(drawn)) + 17
        return drawn

    patch.setattr(training, "poisson_sample", poisson)
    patch.setattr(training, "noisy_mean", lambda sums, plan: mean(sums, plan) / last[0])


def drawn_more_often(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "poisson_sample", lambda rate, n: np.flatnonzero(sample.bernoulli_exact(2 * rate, n)))


def a_shuffled_batch(patch: pytest.MonkeyPatch) -> None:
    """Not Poisson: a batch of fixed size, charged as if each unit had its own coin."""
    patch.setattr(training, "poisson_sample", lambda rate, n: np.arange(round(rate * n)))


def records_apart(patch: pytest.MonkeyPatch) -> None:
    """A coin that is not its unit's: whoever was not drawn comes with the next."""
    patch.setattr(
        training,
        "poisson_sample",
        lambda rate, n: np.flatnonzero(np.roll(sample.bernoulli_exact(rate, n), 1) | sample.bernoulli_exact(rate, n)),
    )


def coins_once(patch: pytest.MonkeyPatch) -> None:
    """Coins are thrown for every step, and those of the first say who is drawn in all of them."""
    honest, kept = training.private_sums, dict[int, Any]()

    def private_sums(stack: Any, records: Any, plan: SgdPlan, *rest: Any) -> Any:
        drawn = training.poisson_sample(plan.sampling_rate, records.units)
        first = kept.setdefault(id(records), (records, drawn))[1]
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(training, "poisson_sample", lambda rate, units: first)
            return honest(stack, records, plan, *rest)

    patch.setattr(training, "private_sums", private_sums)


def the_sum_leaks(patch: pytest.MonkeyPatch) -> None:
    """The optimizer looks at the sum behind its noise."""
    mean, update = training.noisy_mean, training._update
    seen: list[Any] = []
    sums_of = training.private_sums

    def private_sums(*arguments: Any) -> Any:
        found = sums_of(*arguments)
        seen[:] = [float(sum(abs(layer).sum() for layer in found[0]))]
        return found

    patch.setattr(training, "private_sums", private_sums)
    patch.setattr(training, "_update", lambda state, g, plan: update(state, g + 1e-9 * seen[0], plan))
    assert mean is training.noisy_mean


def charged_for_less(patch: pytest.MonkeyPatch) -> None:
    honest = SgdPlan._event
    patch.setattr(
        SgdPlan, "_event", lambda self, relation, steps: honest(replace(self, sigma=2 * self.sigma), relation, steps)
    )


MUTANTS: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    no_clip,
    clip_at_twice_the_norm,
    batch_norm_clip,
    noise_by_the_batch,
    narrower_noise,
    noise_once,
    no_noise,
    float_noise,
    divided_by_the_sample,
    drawn_more_often,
    a_shuffled_batch,
    records_apart,
    coins_once,
    the_sum_leaks,
    charged_for_less,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_flaw_is_refuted(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(small(), steps=2)  # a plan of its own: nothing of it is cached
    mutant(monkeypatch)
    assert [check for check in checks(plan).values() if not check.held]


def audited(plan: SgdPlan, trials: int) -> Any:
    path = step_path(plan)
    subject = StepAudit(path, path, DELTA)
    return run_audit((subject,), trials=trials).settings[0]


def test_the_trials_do_not_refute_the_real_step_and_tell_what_they_could_have() -> None:
    found = audited(small(), 250)
    assert found.problems() == []
    (measure,) = found.measures
    assert found.claim.epsilon <= 1
    assert measure.lower_bound <= 1 < measure.ceiling


def test_the_trials_alone_refute_a_canary_that_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise off by the batch's factor, charged as planned: what exact checks would see is kept from them."""
    plan = small()
    monkeypatch.setattr("cadp.privacy.audit.descended.step_checks", lambda path: ())
    monkeypatch.setattr(training, "discrete_gaussian", lambda sigma, size: discrete_gaussian(sigma, size) // 200)
    found = audited(plan, 600)
    assert any("black box" in problem for problem in found.problems())


def test_coins_are_watched_and_not_replaced() -> None:
    path = step_path(small())
    contents = next(iter(path.pairs.values()))[0]
    thrown = [tuple(path.take(contents, None, None).coins[0].values.tolist()) for _ in range(12)]
    assert len(set(thrown)) > 1
    assert sample.bernoulli_exact is bernoulli_exact
    assert training.discrete_gaussian is discrete_gaussian
