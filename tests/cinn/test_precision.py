"""Which precision a network runs in: a public rule, checked by the round trip, and the same records whatever it is."""

import numpy as np
import pytest
import torch

from cadp.cinn import network, precision
from cadp.cinn.architecture import Architecture, Convolutional
from cadp.cinn.network import ROUND_TRIP_LIMIT
from cadp.cinn.precision import existing, multiplies_bfloat16, prepared
from cadp.errors import SettingsError
from tests.cinn.architectures import ARCHITECTURES, perturbed_flow

IMAGES = next(value for value in ARCHITECTURES.values() if isinstance(value, Convolutional))


def fast(patch: pytest.MonkeyPatch, yes: bool) -> None:
    patch.setattr(precision, "multiplies_bfloat16", lambda device: yes)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("bfloat16", [True, False], ids=["fast bfloat16", "none"])
def test_the_rule(architecture: Architecture, bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, bfloat16)
    ready = prepared(perturbed_flow(architecture).float())
    convolves = isinstance(architecture, Convolutional)
    assert ready.subnets == ((torch.bfloat16 if bfloat16 else torch.float32) if convolves else None)
    assert ready.flow.dtype == torch.float64
    assert ready.round_trip < 1e-9  # coordinates are float64, whatever subnets are


def test_a_round_trip_that_does_not_hold_is_tried_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, True)
    asked: list[torch.dtype | None] = []

    def check(flow: network.ConditionalFlow) -> float:
        asked.append(next(m.compute_dtype for m in flow.modules() if isinstance(m, network.Subnet)))
        return float("nan") if asked[-1] is torch.bfloat16 else ROUND_TRIP_LIMIT

    monkeypatch.setattr(network, "check_round_trip", check)
    ready = prepared(perturbed_flow(IMAGES))
    assert asked == [torch.bfloat16, torch.float32]
    assert (ready.subnets, ready.round_trip) == (torch.float32, ROUND_TRIP_LIMIT)


def test_one_that_never_holds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, True)
    monkeypatch.setattr(network, "check_round_trip", lambda flow: float("nan"))
    assert np.isnan(prepared(perturbed_flow(IMAGES)).round_trip)


@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "float32"])
def test_records_come_back_and_rows_are_their_own(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, bfloat16)
    flow = prepared(perturbed_flow(IMAGES)).flow
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (8, *IMAGES.shape), dtype=np.uint8), np.arange(8) % IMAGES.classes
    z = flow.encode_images(images, labels)
    assert np.array_equal(flow.decode_images(z, labels), images)
    others = images.copy()
    others[1:] = 255 - others[1:]
    assert np.array_equal(flow.encode_images(others, labels)[0], z[0])


def test_devices() -> None:
    assert existing("cpu").type == "cpu"
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(SettingsError, match=f"device {missing}: .* Next: CADP_DEVICE=cpu"):
        existing(missing)


def test_what_this_machine_says_is_what_torch_says() -> None:
    flags = torch.cpu.get_capabilities()
    assert multiplies_bfloat16(torch.device("cpu")) == bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
