"""Where a network runs and how exactly its subnets compute: a public rule of the machine and of the architecture.

*The rule.* The subnets of a convolutional network take nearly all of its time. They compute in bfloat16 where the
device multiplies it fast (a CPU with AVX512-BF16 or AMX, a GPU that knows it) and the round trip on synthetic records
holds; else in float32. Coordinates, couplings and log-dets stay float64, so a round trip loses nothing either way. All
other networks compute in float64: their layers are products that take no time worth saving.

No record is looked at, so which precision is chosen says nothing of any. It changes no guarantee: the clip and the
noise are behind the encoder, and the decoder sees noisy latents alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cadp.cinn import network
from cadp.cinn.architecture import Convolutional
from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow
from cadp.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network that is ready for records.

    Attributes:
        flow: on its device, its subnets in their precision.
        subnets: what they compute in; None for the network's own type.
        round_trip: the largest pixel error on synthetic records, computed as records will be.
    """

    flow: ConditionalFlow
    subnets: torch.dtype | None
    round_trip: float


def prepared(flow: ConditionalFlow, device: str = "cpu") -> Prepared:
    """Put a network on its device and choose the precision of its subnets; see the rule above.

    The caller judges the round trip, which may be NaN: what is returned does not hold it against any limit.

    Raises:
        SettingsError: the device is not there.
    """
    flow.to(device=existing(device), dtype=torch.float64)
    choices: list[torch.dtype | None] = [None]
    if isinstance(flow.architecture, Convolutional):
        flow.in_channels_last()
        choices = [torch.bfloat16, torch.float32] if multiplies_bfloat16(flow.device) else [torch.float32]
    for subnets in choices:
        error = network.check_round_trip(flow.use_compute_dtype(subnets))
        if error <= ROUND_TRIP_LIMIT:
            break
    return Prepared(flow, subnets, error)


def existing(name: str) -> torch.device:
    """Return a device by its name: `cpu`, `cuda` or `cuda:1`.

    Raises:
        SettingsError: it is not there.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs. Next: CADP_DEVICE=cpu, "
            f"or `make setup TORCH=cuda`"
        )
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # An older torch does not tell, and float32 is never wrong.
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
