"""Large images and large batches go through the network in parts that bound its memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cadp.cinn import network
from cadp.cinn.architecture import Conditions, Convolutional, Couplings, Scale
from cadp.cinn.network import LIMIT_ACTIVATION, check_round_trip, records_at_once
from cadp.cinn.published import published_mnist
from tests.cinn.architectures import ARCHITECTURES, perturbed_flow

LARGE = Convolutional(
    (128, 128, 3),
    Conditions(2),
    tuple(Scale(Couplings(1, 32), keep=keep) for keep in (6, 12, 24)),
    Couplings(1, 64),
    content=64,
    logit=0.02,
)
PRIVATIZE = """
import resource
import numpy as np
import torch
from tests.cinn.architectures import perturbed_flow
from tests.cinn.test_memory import LARGE

torch.set_num_threads(1)
flow = perturbed_flow(LARGE).float()
pixels, labels = np.zeros((96, 128, 128, 3), dtype=np.uint8), np.arange(96) % 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert flow.decode_images(flow.encode_images(pixels, labels), labels).shape == pixels.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_at_128_by_128_does_not_grow_with_the_batch_but_by_its_latents() -> None:
    """96 records at once would hold 50 MB in every activation, and a dozen of coordinates of 19 MB."""
    command = [sys.executable, "-c", PRIVATIZE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    latents = 96 * LARGE.dims * 8
    assert int(done.stdout) * 1024 < latents + 10 * LIMIT_ACTIVATION


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_no_activation_is_larger_than_the_limit(itemsize: int) -> None:
    for architecture in (LARGE, published_mnist(), *ARCHITECTURES.values()):
        rows = records_at_once(architecture, itemsize)
        assert rows >= 1
        assert rows * itemsize * architecture.dims <= LIMIT_ACTIVATION
    assert records_at_once(published_mnist(), itemsize) == LIMIT_ACTIVATION // (itemsize * 14 * 14 * 128)
    assert records_at_once(LARGE, itemsize) == LIMIT_ACTIVATION // (itemsize * 64 * 64 * 32)


@pytest.mark.parametrize("rows", [0, 1, 3, 8], ids=lambda rows: f"{rows} records")
def test_parts_are_what_they_would_be_alone(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = perturbed_flow(next(value for value in ARCHITECTURES.values() if isinstance(value, Convolutional)))
    monkeypatch.setattr(network, "LIMIT_ACTIVATION", LIMIT_ACTIVATION // records_at_once(flow.architecture, 8) * 3)
    assert records_at_once(flow.architecture, 8) == 3
    pixels = np.random.default_rng(0).integers(0, 256, (rows, *flow.architecture.shape), dtype=np.uint8)
    labels = np.arange(rows) % flow.architecture.classes
    latents = flow.encode_images(pixels, labels)
    assert latents.shape == (rows, flow.architecture.dims)
    for start in range(0, rows, 3):
        part = slice(start, start + 3)
        assert np.array_equal(flow.encode_images(pixels[part], labels[part]), latents[part])
    assert np.array_equal(flow.decode_images(latents, labels), pixels)


def test_a_large_image_comes_back() -> None:
    assert check_round_trip(perturbed_flow(LARGE).float(), images=4) < 1e-4


def test_weights_that_were_made_in_inference_mode_are_cast_too() -> None:
    architecture = next(value for value in ARCHITECTURES.values() if isinstance(value, Convolutional))
    with torch.inference_mode():
        inside = perturbed_flow(architecture).use_compute_dtype(torch.bfloat16)
        before = check_round_trip(inside)
    assert before == check_round_trip(perturbed_flow(architecture).use_compute_dtype(torch.bfloat16))
