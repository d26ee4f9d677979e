"""Small networks with random, well-conditioned tensors, and small public data."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from cadp.cinn.architecture import Whitening
from cadp.cinn.network import ConditionalFlow
from cadp.records import Batch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, and the same public random numbers in every run."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_flow(shape: tuple[int, int, int], *, classes: int = 3, block: int = 3, content: int = 4) -> ConditionalFlow:
    """A flow as a fit leaves it, then perturbed everywhere, the rotation included."""
    flow = ConditionalFlow(Whitening(shape, classes, block, content, bands=5))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in flow.state_dict().values():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.add_(noise, alpha=0.2 / tensor.shape[-1] ** 0.5)
        noise = torch.randn(flow.rotation.weight.shape, generator=generator, dtype=torch.float64)
        flow.rotation.weight.copy_(torch.linalg.qr(noise).Q + 0.05 * noise / len(noise) ** 0.5)
        flow.scale.log_scale -= 2.0
    return flow


@pytest.fixture(scope="session")
def digits() -> Batch:
    """The 1,797 public digits of scikit-learn as 8×8×1 records."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) / 16 * 255).astype(np.uint8)
    return Batch(pixels, labels.astype(np.int64), np.ones(len(labels), dtype=np.bool_))


def counts_of(batch: Batch, classes: int) -> NDArray[np.int64]:
    return np.bincount(batch.labels, minlength=classes).astype(np.int64)
