"""Whatever a latent holds, the whole path of a record takes it: encode, clip, noise, decode, clamp, PNG."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import DTypeLike, NDArray

from cadp.cinn.network import ConditionalFlow
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.publish.png import check_plain
from cadp.records import Batch, Released, Values
from cadp.shards import decode_png
from cadp.steps.privatize import privatize_batch
from tests.cinn.conftest import random_flow
from tests.privacy.injected import fixed_noise
from tests.privacy.test_mechanisms import BatchClip, NeighbourLeak

SHAPE, DIMS, CONTENT, ROWS = (4, 4, 1), 16, 4, 5
KINDS = ("privunit", "gaussian", "laplace", "resample")
HOSTILE = (0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -2.2e-308, 1e38, -1e38, 3.5e38, 1e308, -1.7e308, 1e-200)
VALUES = st.one_of(st.sampled_from(HOSTILE), st.floats(width=64), st.floats(-4, 4))
LATENTS = hnp.arrays(np.float64, (ROWS, DIMS), elements=VALUES, fill=st.sampled_from(HOSTILE))
VALID = hnp.arrays(np.bool_, ROWS)
MECHANISMS = {kind: plan_mechanism(kind, epsilon=4.0, delta=1e-6, content_dims=CONTENT) for kind in KINDS}  # type: ignore[arg-type]


def network(log_scale: float = 0.0, dtype: torch.dtype = torch.float64) -> ConditionalFlow:
    """A network whose latents are `e^log_scale` times what they should be: infinite, or nothing, if that is extreme."""
    flow = random_flow(SHAPE, block=2, content=CONTENT)
    with torch.no_grad():
        flow.scale.log_scale += log_scale
    return flow.to(dtype)


class Given(torch.nn.Module):
    """A network that encodes to given latents and decodes as a real one."""

    def __init__(self, latents: NDArray[np.float64], flow: ConditionalFlow) -> None:
        super().__init__()
        self.latents, self.flow = latents, flow

    def encode_images(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        assert len(images) == len(labels)
        return self.latents.copy()

    def decode_images(self, latents: NDArray[np.float64], labels: NDArray[np.int64], kind: DTypeLike) -> Values:
        return self.flow.decode_images(latents, labels, kind)


REAL = network()


def batch(valid: NDArray[np.bool_], images: NDArray[np.uint8] | None = None) -> Batch:
    pixels = np.zeros((ROWS, *SHAPE), dtype=np.uint8) if images is None else images
    return Batch(pixels, np.arange(ROWS) % 3, valid)


def check(released: list[Released]) -> None:
    """As many plain pictures as records, each under its own name and its own label."""
    assert [record.label for record in released] == [row % 3 for row in range(ROWS)]
    assert len({record.id for record in released}) == ROWS
    for record in released:
        check_plain(record.data, SHAPE)
        assert decode_png(record.data, SHAPE).shape == SHAPE


@pytest.mark.parametrize("kind", KINDS)
@given(latents=LATENTS, valid=VALID)
@settings(max_examples=40, deadline=None)
def test_any_latent_comes_out_as_a_picture(kind: str, latents: NDArray[np.float64], valid: NDArray[np.bool_]) -> None:
    check(privatize_batch(Given(latents, REAL), MECHANISMS[kind], batch(valid)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("log_scale", [-800.0, -90.0, 90.0, 800.0])
def test_any_network_gives_pictures(kind: str, dtype: torch.dtype, log_scale: float) -> None:
    # Latents of 1e38 and beyond, denormals, all zeros, infinities, and their NaN, made by the network itself.
    images = np.random.default_rng(3).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)
    images[0], images[1] = 0, 255
    check(privatize_batch(network(log_scale, dtype), MECHANISMS[kind], batch(np.ones(ROWS, dtype=bool), images)))


def moved(mechanism: Mechanism, latents: NDArray[np.float64], valid: NDArray[np.bool_], row: int) -> bool:
    """Whether a record's picture changes with the other records of its batch, for the same noise."""
    with fixed_noise(1):
        first = privatize_batch(Given(latents, REAL), mechanism, batch(valid))  # type: ignore[arg-type]
    others = np.arange(ROWS) != row
    calm, taken = np.where(others[:, None], 0.5, latents), valid | others
    with fixed_noise(1):
        second = privatize_batch(Given(calm, REAL), mechanism, batch(taken))  # type: ignore[arg-type]
    return first[row].data != second[row].data


@pytest.mark.parametrize("kind", KINDS)
@given(latents=LATENTS, valid=VALID, row=st.integers(0, ROWS - 1))
@settings(max_examples=25, deadline=None)
def test_no_neighbour_changes_a_picture(
    kind: str, latents: NDArray[np.float64], valid: NDArray[np.bool_], row: int
) -> None:
    assert not moved(MECHANISMS[kind], latents, valid, row)


@pytest.mark.parametrize("mutant", [BatchClip, NeighbourLeak])
def test_a_neighbour_that_does_is_caught(mutant: type) -> None:
    latents = np.random.default_rng(8).normal(size=(ROWS, DIMS))
    latents[:-1] = 1e38
    spoilt = mutant(*dataclasses.astuple(MECHANISMS["gaussian"]))
    assert moved(spoilt, latents, np.ones(ROWS, dtype=bool), ROWS - 1)


@pytest.mark.parametrize("kind", KINDS)
@given(latents=LATENTS, bad=st.sampled_from([np.nan, np.inf, -np.inf]), column=st.integers(0, CONTENT - 1))
@settings(max_examples=15, deadline=None)
def test_refused_broken_and_zero_records_give_one_picture(
    kind: str, latents: NDArray[np.float64], bad: float, column: int
) -> None:
    broken, zero = latents.copy(), latents.copy()
    broken[:, column], zero[:, :CONTENT] = bad, 0.0
    whole, pictures = np.ones(ROWS, dtype=bool), set()
    for codes, valid in ((latents, ~whole), (broken, whole), (zero, whole)):
        with fixed_noise(2):
            released = privatize_batch(Given(codes, REAL), MECHANISMS[kind], batch(valid))  # type: ignore[arg-type]
        pictures.add(tuple(record.data for record in released))
    assert len(pictures) == 1
