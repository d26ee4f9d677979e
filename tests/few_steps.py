"""The gate's classifier makes 600 gradient steps of a small release: here 100, which tell three shapes apart as well.

A test that is marked `audits` runs a release as it is; `tests/utility/test_classifier.py` tests the recipe itself.
"""

from functools import partial

import pytest

from cadp.steps import validate

STEPS = 100


@pytest.fixture(autouse=True)
def _few_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("audits") is None:
        monkeypatch.setattr(validate, "train", partial(validate.train, least_steps=STEPS))
