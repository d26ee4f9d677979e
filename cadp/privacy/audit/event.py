"""The charged event, recomputed from a mechanism's published parameters by other formulas than the mechanism's own."""

import math

from cadp.errors import PrivacyError
from cadp.privacy.audit.verdict import Check
from cadp.privacy.events import RELATION, ComposedEvent, Event, GaussianEvent, PureEvent
from cadp.privacy.mechanisms import Mechanism
from cadp.privacy.precision import reals

# Parameters are printed as floats, each within half an ulp of what ran.
_ROUNDING = 1 + 1e-12


def event_check(mechanism: Mechanism) -> Check:
    """Compare the charged event with the loss of the parameters as published: clip 2C and rounding, over the noise."""
    event = mechanism.event()
    charged, due = _size(event), _due(mechanism)
    held = event.relation == RELATION and due <= charged * _ROUNDING
    return Check("event", held, f"parameters cost {due:.6g}, the event charges {charged:.6g}", due, charged)


def cap_share(content_dims: int, gamma: float) -> float:
    """Return the share of the sphere in k dimensions with ⟨u, z⟩ >= gamma, by integrating sin^{k−2} over the angle."""
    with reals(128) as real:
        edge = real.acos(real.mpf(gamma))

        def density(angle: object) -> object:
            return real.sin(angle) ** (content_dims - 2)

        return float(real.quad(density, [0, edge]) / (2 * real.quad(density, [0, real.pi / 2])))


def privunit_loss(p: float, q: float, eta: float) -> float:
    """Return ln(p/(1 − p)·(1 − q + η)/(q − η)), the pure loss of PrivUnit with a coin p and a cap's share q."""
    if not (0 < p < 1 and 0 <= eta < q < 1):
        return math.inf
    return math.log(p / (1 - p)) + math.log((1 - q + eta) / (q - eta))


def _size(event: Event) -> float:
    """ε of a pure event, μ of a Gaussian one, 0 of the empty composition."""
    if isinstance(event, PureEvent):
        return event.epsilon * event.count
    if isinstance(event, GaussianEvent):
        return event.mu * math.sqrt(event.count)
    if isinstance(event, ComposedEvent) and not event.events:
        return 0.0
    raise PrivacyError(f"the audit cannot recompute a {event.kind} event of one record")


def _due(mechanism: Mechanism) -> float:
    told = mechanism.parameters()
    k = mechanism.content_dims

    def number(name: str) -> float:
        value = told.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PrivacyError(f"{mechanism.kind} does not publish its {name}: {value!r}")
        return float(value)

    if mechanism.kind == "gaussian":
        return (2 * number("clip_norm") + math.sqrt(k) * number("lattice_step")) / number("sigma")
    if mechanism.kind == "laplace":
        return (2 * number("clip_norm") + k * number("lattice_step")) / number("scale")
    if mechanism.kind == "privunit":
        return privunit_loss(number("p"), cap_share(k, number("gamma")), number("eta"))
    if mechanism.kind == "resample":
        return 0.0
    raise PrivacyError(f"the audit does not know what {mechanism.kind} costs")
