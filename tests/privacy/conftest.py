"""Fixtures of the privacy tests: a repeatable source of bits, so that a statistical test never fails by chance."""

from types import SimpleNamespace

import numpy as np
import pytest

from cadp.privacy import bits


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feed the samplers from a fixed generator, of this test alone: `cadp.privacy.seeded` would stamp the process."""
    monkeypatch.setattr(bits, "os", SimpleNamespace(urandom=np.random.default_rng(7).bytes))
