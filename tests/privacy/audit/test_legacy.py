"""The audit refutes `legacy` in every layer, each by itself."""

import numpy as np
import pytest

from cadp.cinn.fit.plan import MomentsPlan
from cadp.privacy.audit.exact_legacy import legacy_checks, legacy_pair
from cadp.privacy.audit.path import CodePath
from cadp.privacy.audit.run import audit
from cadp.privacy.legacy import Legacy
from cadp.steps.audit import code_path
from cadp.steps.audited_flow import synthetic_flow

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 12


@pytest.fixture(scope="module")
def path() -> CodePath:
    plan = MomentsPlan.calibrate(8.0, 1e-6, shape=(SIDE, SIDE, 1), classes=3, units=1200)
    return code_path(synthetic_flow(plan.architecture))


@pytest.mark.parametrize("nominal", [0.2, 1.0, 8.0])
def test_every_layer_refutes_it(nominal: float, path: CodePath) -> None:
    mechanism = Legacy.plan(nominal, SIDE * SIDE)
    found = audit(path, mechanism, (), delta=1e-6)
    (setting,) = found.settings
    assert found.refuted
    assert setting.claim.epsilon == nominal
    held = {check.name: check.held for check in setting.checks}
    assert [held[name] for name in ("event", "distance", "independence")] == [False] * 3
    assert all(held[name] for name in held if name.startswith("path"))  # the code around it is not to blame
    if nominal <= 1:  # 120 trials cannot show more than 3
        assert all(measure.lower_bound > nominal for measure in setting.measures)


def test_the_losses_are_those_of_the_law(path: CodePath) -> None:
    mechanism = Legacy.plan(1.0, SIDE * SIDE)
    checks = {check.name: check for check in legacy_checks(path, mechanism, legacy_pair(path, mechanism))}
    assert checks["event"].loss == mechanism.worst_case == 2 * SIDE * SIDE
    assert checks["distance"].loss is not None
    assert 0.2 * mechanism.worst_case < checks["distance"].loss <= mechanism.worst_case * (1 + 1e-9)


def test_a_record_wise_clip_would_be_seen(monkeypatch: pytest.MonkeyPatch, path: CodePath) -> None:
    """The checks measure the code: with the clip that a promise needs, two of the three would hold."""

    def per_record(self: Legacy, z: np.ndarray, valid: np.ndarray) -> np.ndarray:
        norm = np.abs(z).sum(axis=1, keepdims=True)
        return honest(self, z / np.maximum(norm, 1e-300) * self.sensitivity / (2 * len(z)), valid)

    mechanism, honest = Legacy.plan(1.0, SIDE * SIDE), Legacy.privatize
    pair = legacy_pair(path, mechanism)
    monkeypatch.setattr(Legacy, "privatize", per_record)
    held = {check.name: check.held for check in legacy_checks(path, mechanism, pair)}
    assert held == {"event": False, "distance": True, "independence": True}
