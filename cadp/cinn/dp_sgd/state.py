"""The state of an unfinished training as bytes: private safetensors, never unpickled, checked before it is believed."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cadp.cinn.dp_sgd.plan import SgdPlan
from cadp.cinn.dp_sgd.start import stack_of
from cadp.cinn.dp_sgd.training import Training
from cadp.cinn.network import ConditionalFlow
from cadp.errors import CheckpointRefused

_VECTORS = ("weights", "first", "second", "average")
_COUPLINGS = "couplings."


def state_bytes(flow: ConditionalFlow, training: Training) -> bytes:
    """Everything that the next step depends on: the fitted whitening, the optimizer's vectors and the step."""
    tensors = {f"flow/{name}": tensor.contiguous() for name, tensor in _fitted(flow).items()}
    tensors |= {f"sgd/{name}": getattr(training, name).contiguous() for name in _VECTORS}
    return save({**tensors, "sgd/step": torch.tensor([training.step])})


def read_state(data: bytes, plan: SgdPlan) -> tuple[ConditionalFlow, Training]:
    """Read what `state_bytes` wrote under the same plan.

    Raises:
        CheckpointRefused: it is no state, or one of another plan.
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CheckpointRefused(f"a saved training of {len(data)} bytes is no safetensors file: {error}") from error
    flow = ConditionalFlow(plan.architecture)
    expected = {f"flow/{name}": _form(tensor) for name, tensor in _fitted(flow).items()}
    size = sum(parameter.numel() for parameter in stack_of(flow).parameters())
    expected |= {f"sgd/{name}": (torch.float32, (size,)) for name in _VECTORS}
    expected["sgd/step"] = (torch.int64, (1,))
    found = {name: _form(tensor) for name, tensor in tensors.items()}
    broken = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    broken += sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    step = -1 if broken else int(tensors["sgd/step"])
    if broken or not 0 <= step <= plan.steps:
        raise CheckpointRefused(f"a saved training is not of this plan: step {step}, {', '.join(broken) or 'all else'}")
    fitted = {name.removeprefix("flow/"): tensor for name, tensor in tensors.items() if name.startswith("flow/")}
    flow.load_state_dict(fitted, strict=False)
    weights, first, second, average = (tensors[f"sgd/{name}"] for name in _VECTORS)
    return flow, Training(step, weights, first, second, average, [])


def _fitted(flow: ConditionalFlow) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in flow.state_dict().items() if not name.startswith(_COUPLINGS)}


def _form(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)
