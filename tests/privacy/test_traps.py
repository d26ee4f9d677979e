"""Traps that others fell into: each is shown to be one, and shown not to be ours.

Those of databases are in tests/ledger/test_races.py, where weaker isolation is planted on both kinds and must fail:
`test_with_weaker_isolation_the_race_fails_on_a_file` and `…_on_a_server`. Float noise, a clip of one radius and records
that depend on their neighbours are planted in tests/privacy/test_mechanisms.py, too. A model trained without noise has
no privacy record: tests/cinn/test_checkpoint.py refuses it. Labels in clear have to be declared: tests/test_spec.py. No
record is dropped to fill a batch: tests/test_release.py counts them by class.
"""

import ast
import importlib
import math
import sys
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation, UnsupportedEventError
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant

from cadp.errors import PrivacyError
from cadp.privacy import noise
from cadp.privacy.accountant import calibrate_gaussian, curve, gaussian_epsilon_exact
from cadp.privacy.events import ZERO_OUT, ComposedEvent, Event, GaussianEvent, PureEvent, SampledGaussianEvent
from cadp.privacy.lattice import clip_l2, to_lattice
from cadp.privacy.legacy import Legacy
from cadp.privacy.mechanisms import plan_mechanism
from cadp.privacy.pld import pld_epsilon

PACKAGE = Path(__file__).resolve().parents[2] / "cadp"
REPLACE_ONE = NeighboringRelation.REPLACE_ONE


def gaussian_delta(mu: float, epsilon: float) -> float:
    with mpmath.workdps(30):
        return float(mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu))


def test_counts_of_composed_responses_are_not_ignored() -> None:
    # noise_parameter 1/2 on two values tells the truth with probability 3/4: ε = ln 3, fifty times.
    theirs = PLDAccountant(REPLACE_ONE)
    theirs.compose(dp_event.SelfComposedDpEvent(dp_event.RandomizedResponseDpEvent(0.5, 2), 50))
    assert theirs.get_epsilon(1e-6) < 1.1  # the trap: as if there were one

    k = np.arange(51)
    mass = np.array([math.comb(50, i) * 3.0**i / 4.0**50 for i in k])
    losses = (2 * k - 50) * math.log(3)

    def delta(epsilon: float) -> float:
        return float(np.sum(mass * np.maximum(0.0, -np.expm1(epsilon - losses))))

    for claimed in (pld_epsilon([PureEvent(math.log(3), 50)], 1e-6), curve(PureEvent(math.log(3), 50)).epsilon(1e-6)):
        assert claimed > 45
        assert delta(claimed) <= 1e-6
    assert delta(theirs.get_epsilon(1e-6)) > 0.99


def test_replace_one_means_twice_the_clip_norm_everywhere() -> None:
    # A sum of vectors of norm <= 1, noise 10, fifty times. Replacing one vector moves the sum by 2.
    found = {}
    for accountant in (PLDAccountant(REPLACE_ONE), RdpAccountant(neighboring_relation=REPLACE_ONE)):
        accountant.compose(dp_event.GaussianDpEvent(10.0), 50)
        found[type(accountant)] = accountant.get_epsilon(1e-6)
    exact = gaussian_epsilon_exact(2 / 10 * math.sqrt(50), 1e-6)
    assert found[PLDAccountant] == pytest.approx(exact, rel=1e-3)
    assert found[RdpAccountant] < exact / 2  # the trap: below what is true

    # An event of ours has no clip norm of which one could forget the 2: μ is the whole distance over σ.
    event = GaussianEvent(2 / 10, 50)
    assert exact <= pld_epsilon([event], 1e-6) <= curve(event).epsilon(1e-6)
    # The sampled one has, and doubles it: at rate 1 it is that Gaussian.
    assert curve(SampledGaussianEvent(1.0, 10.0, 50)) == curve(event)
    assert pld_epsilon([SampledGaussianEvent(1.0, 10.0, 50)], 1e-6) == pytest.approx(exact, rel=1e-3)
    halved = SampledGaussianEvent(1.0, 10.0, 50, relation=ZERO_OUT)
    assert pld_epsilon([halved], 1e-6) < exact / 2  # what one clip norm would give, and only zero-out is called


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_two_points_of_a_ball_are_a_diameter_apart(kind: str) -> None:
    plan = plan_mechanism(kind, epsilon=2.0, delta=1e-6, content_dims=1)
    parameters = plan.parameters()
    opposite = clip_l2(np.array([[1e9], [-1e9]]), parameters["clip_norm"])
    steps = to_lattice(opposite, parameters["lattice_step"])
    apart = float(steps[0, 0] - steps[1, 0]) * parameters["lattice_step"]
    assert apart > 1.99 * parameters["clip_norm"]  # so Δ = C would be wrong
    assert apart <= parameters["sensitivity"]
    event = plan.event()
    size = event.mu if isinstance(event, GaussianEvent) else event.epsilon
    assert size >= apart / parameters["sigma" if kind == "gaussian" else "scale"]


def test_one_relation_for_every_event() -> None:
    laplace, response = dp_event.LaplaceDpEvent(1.0), dp_event.RandomizedResponseDpEvent(0.5, 2)
    with pytest.raises(UnsupportedEventError):
        PLDAccountant(REPLACE_ONE).compose(laplace)
    with pytest.raises(UnsupportedEventError):
        PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE).compose(response)
    ours = [PureEvent(1.0), PureEvent(math.log(3)), GaussianEvent(0.1), SampledGaussianEvent(0.1, 2.0)]
    assert pld_epsilon(ours, 1e-6) < curve(ComposedEvent(tuple(ours))).epsilon(1e-6) < 6
    with pytest.raises(PrivacyError, match="zero-out"):
        pld_epsilon([*ours, PureEvent(1.0, relation=ZERO_OUT)], 1e-6)


def test_pure_losses_are_finite_without_delta() -> None:
    theirs = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    theirs.compose(dp_event.LaplaceDpEvent(1.0))
    assert theirs.get_epsilon(0.0) == math.inf  # the trap: it is 1
    assert pld_epsilon([PureEvent(1.0)], 0.0) == curve(PureEvent(1.0)).epsilon(0.0) == 1.0
    assert pld_epsilon([PureEvent(1.0, 100)], 0.0) == curve(PureEvent(1.0, 100)).epsilon(0.0) == 100.0
    assert pld_epsilon([PureEvent(1.0), GaussianEvent(1e-3)], 0.0) == math.inf  # and this one is not


@pytest.mark.parametrize("delta", [1e-5, 1e-6])
def test_the_classical_gaussian_formula_is_not_used(delta: float) -> None:
    epsilon = 10.0
    classical = epsilon / math.sqrt(2 * math.log(1.25 / delta))  # μ of σ = Δ·√(2 ln(1.25/δ))/ε, proved for ε < 1
    assert gaussian_delta(classical, epsilon) > 1.3 * delta  # the trap: too little noise
    ours = calibrate_gaussian(epsilon, delta)
    assert ours < 0.95 * classical
    assert gaussian_delta(ours, epsilon) <= delta
    plan = plan_mechanism("gaussian", epsilon=epsilon, delta=delta, content_dims=4)
    assert gaussian_delta(plan.event().mu, epsilon) <= delta


def test_losses_are_never_summed_as_pairs() -> None:
    # ε's of pairs add up to seven times what curves do, and each pair spends a share of δ.
    alone = curve(GaussianEvent(0.1)).epsilon(1e-6 / 50)
    assert 50 * alone > 6 * curve(GaussianEvent(0.1, 50)).epsilon(1e-6)


def test_a_stored_event_is_data_and_imports_nothing() -> None:
    # `DpEvent.from_named_tuple` imports the module that the data names.
    for kind in ("antigravity.Event", "os.system", "dp_accounting.dp_event.GaussianDpEvent", "__main__.GaussianEvent"):
        with pytest.raises(PrivacyError, match="not an event"):
            Event.from_json({**GaussianEvent(1.0).to_json(), "kind": kind, "module_name": "antigravity"})
    assert "antigravity" not in sys.modules
    source = Path(importlib.import_module("cadp.privacy.events").__file__).read_text()
    assert not {"importlib", "__import__", "eval", "exec", "pickle"} & {
        node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)
    }


def test_a_clip_of_the_whole_batch_lets_others_move_a_record() -> None:
    rows = np.array([[3.0, 4.0], [0.6, 0.8]])
    neighbour = np.array([[3.0, 4.0], [60.0, 80.0]])

    def batch_wide(batch: np.ndarray) -> np.ndarray:
        return batch * min(1.0, 1.0 / np.linalg.norm(batch))

    moved = np.abs(batch_wide(rows)[0] - batch_wide(neighbour)[0]).max()
    assert moved > 0.4  # the trap: record 0 tells about record 1
    assert np.array_equal(clip_l2(rows, 1.0)[0], clip_l2(neighbour, 1.0)[0])
    # Not only the batch's largest: one extreme record moves each of the others.
    crowd = np.tile([[0.01, 0.0]], (1000, 1))
    other = np.concatenate(([[1e6, 0.0]], crowd[1:]))
    assert np.any(batch_wide(crowd) != batch_wide(other), axis=1).sum() == 1000
    assert np.any(clip_l2(crowd, 1.0) != clip_l2(other, 1.0), axis=1).sum() == 1


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "privunit"])
def test_less_epsilon_is_more_noise(kind: str) -> None:
    # The trap: noise of one scale whatever ε is asked for, so that a smaller ε is a label.
    assert {Legacy.plan(epsilon, 4).scale for epsilon in (0.1, 1.0, 8.0)} == {0.5}
    plans = [plan_mechanism(kind, epsilon=epsilon, delta=1e-6, content_dims=4) for epsilon in (0.1, 1.0, 8.0)]
    carried = [plan.expected_cosine() for plan in plans]
    assert carried[0] < 0.3 * carried[1] < 0.3 * carried[2]
    losses = [curve(plan.event()).epsilon(1e-6) for plan in plans]
    assert losses == pytest.approx([0.1, 1.0, 8.0], rel=0.01)


def test_a_delta_of_one_is_no_privacy() -> None:
    # The trap: at δ = 1 every mechanism is private, at any ε.
    assert gaussian_delta(1e3, 0.0) <= 1
    for use in (
        lambda: plan_mechanism("gaussian", epsilon=1.0, delta=1.0, content_dims=4),
        lambda: curve(GaussianEvent(1e3)).epsilon(1.0),
        lambda: calibrate_gaussian(1.0, 1.0),
        lambda: pld_epsilon([GaussianEvent(1e3)], 1.0),
        lambda: gaussian_epsilon_exact(1e3, 1.0),
    ):
        with pytest.raises(PrivacyError, match="delta is 1"):
            use()


def test_a_figure_of_the_originals_beside_a_release_tells_of_one() -> None:
    # The trap: the distance from what was released to the closest original, printed as it is. With the target among
    # the originals it is one number, without it another, however noisy the release: the loss is infinite.
    rng = np.random.default_rng(3)
    released, others, target = rng.normal(size=(5, 8)), rng.normal(size=(50, 8)) + 9, rng.normal(size=8)

    def closest(originals: np.ndarray) -> float:
        return float(np.linalg.norm(released[:, None] - originals, axis=2).min())

    assert closest(np.vstack([others, target])) != closest(np.vstack([others, target + 9]))
    # Ours: what writes the public documents, and what scores released records, cannot open an original.
    rooms = ("cadp.sources", "cadp.steps", "cadp.cinn", "cadp.ledger")
    for room in ("publish", "utility"):
        modules = [ast.parse(path.read_text()) for path in sorted((PACKAGE / room).rglob("*.py"))]
        named = {
            name
            for module in modules
            for node in ast.walk(module)
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
        assert len(modules) > 3
        assert not [name for name in named if name.startswith(rooms)]


def test_a_sampling_rate_is_what_the_sampler_does() -> None:
    # One over the number of batches is right only if batches are drawn by Poisson coins of that rate: a loader whose
    # own sampler draws a tenth of 1,000 units each time, listed as 100 batches, would be charged at a tenth of its q.
    charged, true = SampledGaussianEvent(1 / 100, 1.5, 100), SampledGaussianEvent(1 / 10, 1.5, 100)
    assert 4 * pld_epsilon([charged], 1e-5) < pld_epsilon([true], 1e-5)
    # So an event names the rate itself, and a run that stopped early is charged for what it took.
    assert set(true.to_json()) == {"schema", "kind", "relation", "sampling_rate", "noise_multiplier", "steps"}


def test_sampling_does_not_take_over_the_add_remove_figure() -> None:
    # q = .04, σ = 1.5, 400 steps, δ = 1e-5: 2.64 is quoted, and is not a replace-one loss.
    replace = pld_epsilon([SampledGaussianEvent(0.04, 1.5, 400)], 1e-5)
    quoted = pld_epsilon([SampledGaussianEvent(0.04, 1.5, 400, relation=ZERO_OUT)], 1e-5)
    assert replace > 1.8 * quoted


def test_float_noise_is_capped_and_ours_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # The trap: -b·ln(u) of a float32 uniform cannot exceed 24·ln 2 = 16.6 b, so an output beyond it proves a record.
    assert -math.log(float(np.float32(2.0**-24))) == pytest.approx(16.64, abs=0.01)

    class Far:
        """A source whose first word is all ones, which the sampler takes for its far tail."""

        reads = 0

        def urandom(self, count: int) -> bytes:
            self.reads += 1
            return b"\xff" * count if self.reads == 1 else np.random.default_rng(self.reads).bytes(count)

    monkeypatch.setattr("cadp.privacy.bits.os", Far())
    assert np.abs(noise.discrete_laplace(Fraction(64), (16,))).max() > 40 * 64


@pytest.mark.parametrize("package", ["privacy", "cinn", "utility"])
def test_no_float_sampler_stands_in_a_private_path(package: str) -> None:
    # What is drawn with a generator is public: adversarial records of the audit, training on released records, and what
    # a model, which is charged, says of itself.
    public = {"privacy/audit", "utility/classifier.py", "cinn/likelihood.py"}
    forbidden = ("torch.distributions", "random.normal", "random.laplace", "np.random", "torch.randn", "torch.normal")
    seen = 0
    for path in sorted((PACKAGE / package).rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(tuple(public)):
            continue
        seen += 1
        used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not [use for use in used if use.startswith(forbidden)], name
    assert seen > 3
