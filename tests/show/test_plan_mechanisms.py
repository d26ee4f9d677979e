"""`cadp plan` says, of every mechanism, the noise, the cosine that it leaves and both losses, as they will run."""

import json
import re

import pytest

from cadp.privacy.accountant import curve
from cadp.privacy.mechanisms import plan_mechanism
from cadp.show import plan_view
from tests.small_release import Place

DELTA = 1e-6
KINDS = ("privunit", "gaussian", "laplace", "resample")


def said(place: Place, kind: str) -> tuple[str, dict[str, object]]:
    """The line of the plan that is about the mechanism, and the plan as a script gets it."""
    text = place.spec.read_text()
    chosen = "kind: resample" if kind == "resample" else f"kind: {kind}, epsilon: 8, content_dims: 4"
    place.spec.write_text(re.sub(r"mechanism: \{.*\}", f"mechanism: {{{chosen}}}", text))
    view = plan_view(place.spec, place.settings)
    (line,) = (line for line in view.lines if line.startswith("Mechanism "))
    assert line in json.loads(json.dumps(view.to_json()))["notes"]
    return line, dict(view.plan.mechanism.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_noise_cosine_and_both_losses_are_said(place: Place, kind: str) -> None:
    line, values = said(place, kind)
    mechanism = plan_mechanism(kind, epsilon=8.0, delta=DELTA, content_dims=4)  # type: ignore[arg-type]
    assert values == mechanism.parameters()
    shown = {
        "privunit": ("share {q:.4g} of the sphere", "probability {p:.4g}"),
        "gaussian": ("L2 ball of radius {clip_norm:.4g}", "σ = {sigma:.4g}"),
        "laplace": ("L1 ball of radius {clip_norm:.4g}", "scale b = {scale:.4g}"),
        "resample": ("{noise}",),
    }[kind]
    assert line.startswith(f"Mechanism {kind}: ")
    for part in shown:
        assert part.format(**values) in line
    assert f"expected cosine {mechanism.expected_cosine():.3f} " in line
    losses = re.search(
        r"loses at most ε = (\S+?)( at δ = 1e-06)? replace-one, ε = (\S+?)( at δ = 1e-06)? zero-out", line
    )
    assert losses is not None
    replace_one, zero_out = float(losses[1]), float(losses[3])
    assert replace_one == pytest.approx(curve(mechanism.event()).epsilon(DELTA), rel=1e-3)
    assert zero_out == pytest.approx(curve(mechanism.zero_out_event()).epsilon(DELTA), rel=1e-3)
    assert (losses[2] is not None) == (kind == "gaussian")  # the others are pure
    assert replace_one == (0 if kind == "resample" else pytest.approx(8, rel=1e-3))
    assert zero_out < 5 if kind in ("gaussian", "laplace") else zero_out == replace_one
