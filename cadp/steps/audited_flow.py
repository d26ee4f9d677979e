"""The network that an audit sends its records through: of the planned architecture, with weights that are public."""

from typing import TYPE_CHECKING

from cadp.errors import CheckpointRefused

if TYPE_CHECKING:
    import torch

    from cadp.cinn.architecture import Architecture, Whitening
    from cadp.cinn.network import ConditionalFlow

_MIXED = 0.5  # deviations between the centres of a class
_COUPLED = 0.02  # of the weights that a fresh stack has at zero


def synthetic_flow(architecture: "Architecture") -> "ConditionalFlow":
    """Return a network with public random weights, as a training might leave it: no record was ever near it.

    Where it whitens, class means are grey with a little of everything, the rotation is any, the standard deviations
    fall from 2 % of √d, the rest is faint noise: so contents reach far beyond a clip, and the decoder hardly saturates.
    Classes are mixtures, and couplings couple, where the plan has them.

    Raises:
        CheckpointRefused: it does not invert, so these are weights that no release would use.
    """
    import torch  # noqa: PLC0415  (torch only where a step runs)

    from cadp.cinn.architecture import Coupled, Whitening  # noqa: PLC0415
    from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow  # noqa: PLC0415
    from cadp.cinn.precision import prepared  # noqa: PLC0415

    flow = ConditionalFlow(architecture)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        if isinstance(architecture, Whitening | Coupled):
            _whiten(flow, architecture if isinstance(architecture, Whitening) else architecture.whitening, draw)
        for parameter in flow.parameters():
            parameter.add_(_COUPLED * _normal(draw, *parameter.shape))
    ready = prepared(flow)  # in the precision that records are computed in here
    if not (error := ready.round_trip) <= ROUND_TRIP_LIMIT:
        raise CheckpointRefused(f"the audit's synthetic network does not invert: round-trip error {error:.1e}")
    return ready.flow


def _whiten(flow: "ConditionalFlow", whitening: "Whitening", draw: "torch.Generator") -> None:
    import torch  # noqa: PLC0415

    classes, k, low, d = whitening.classes, whitening.content, whitening.low_dims, whitening.dims
    labels = torch.arange(classes)
    grey = torch.full((classes, d), 0.5, dtype=torch.float64)
    means = flow.cosine(grey, flow.condition(labels))[0][:, :low]
    flow.shift.mean.copy_(means + 0.1 * _normal(draw, classes, low))
    flow.rotation.weight.copy_(torch.linalg.qr(_normal(draw, low, low)).Q)
    spread = 0.02 * d**0.5 * (1 + torch.arange(k, dtype=torch.float64)) ** -0.5
    flow.whitening.log_diagonal.copy_(spread.log() + 0.1 * _normal(draw, classes, k))
    flow.whitening.lower.copy_((0.1 * spread[:, None] * _normal(draw, classes, k, k) / k**0.5).tril(-1))
    flow.scale.log_scale.copy_(-3.5 + 0.2 * _normal(draw, *flow.scale.log_scale.shape))
    if whitening.components:
        flow.mixture.centre.copy_(_MIXED * _normal(draw, *flow.mixture.centre.shape))
        flow.mixture.weight.copy_(0.5 * _normal(draw, *flow.mixture.weight.shape))


def _normal(draw: "torch.Generator", *size: int) -> "torch.Tensor":
    import torch  # noqa: PLC0415

    return torch.randn(*size, generator=draw, dtype=torch.float64)
