"""The network that an audit sends its records through: of the planned architecture, with weights that are public."""

from typing import TYPE_CHECKING

from cadp.errors import CheckpointRefused

if TYPE_CHECKING:
    from cadp.cinn.architecture import Coupled, Whitening
    from cadp.cinn.network import ConditionalFlow

_MIXED = 0.5  # deviations between the centres of a class
_COUPLED = 0.02  # of the weights that a fresh stack has at zero


def synthetic_flow(architecture: "Whitening | Coupled") -> "ConditionalFlow":
    """Return a network with public random weights, as a training might leave it: no record was ever near it.

    Class means are grey with a little of everything, the rotation is any, the standard deviations fall from 2 % of
    √d, the rest is faint noise: so contents reach far beyond a clip, and the decoder hardly saturates. Classes are
    mixtures, and couplings couple, where the plan has them.

    Raises:
        CheckpointRefused: it does not invert, so these are weights that no release would use.
    """
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.architecture import Whitening  # noqa: PLC0415
    from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip  # noqa: PLC0415

    flow = ConditionalFlow(architecture)
    draw = torch.Generator().manual_seed(7)
    whitening = architecture if isinstance(architecture, Whitening) else architecture.whitening
    classes, k, low, d = whitening.classes, whitening.content, whitening.low_dims, whitening.dims

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    with torch.no_grad():
        labels = torch.arange(classes)
        grey = torch.full((classes, d), 0.5, dtype=torch.float64)
        means = flow.cosine(grey, flow.condition(labels))[0][:, :low]
        flow.shift.mean.copy_(means + 0.1 * normal(classes, low))
        flow.rotation.weight.copy_(torch.linalg.qr(normal(low, low)).Q)
        spread = 0.02 * d**0.5 * (1 + torch.arange(k, dtype=torch.float64)) ** -0.5
        flow.whitening.log_diagonal.copy_(spread.log() + 0.1 * normal(classes, k))
        flow.whitening.lower.copy_((0.1 * spread[:, None] * normal(classes, k, k) / k**0.5).tril(-1))
        flow.scale.log_scale.copy_(-3.5 + 0.2 * normal(*flow.scale.log_scale.shape))
        if whitening.components:
            flow.mixture.centre.copy_(_MIXED * normal(*flow.mixture.centre.shape))
            flow.mixture.weight.copy_(0.5 * normal(*flow.mixture.weight.shape))
        for parameter in flow.parameters():
            parameter.add_(_COUPLED * normal(*parameter.shape))
    error = check_round_trip(flow)
    if not error <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(f"the audit's synthetic network does not invert: round-trip error {error:.1e}")
    return flow
