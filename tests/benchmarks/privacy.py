"""How fast noise is drawn and records are privatized, on one core."""

import os
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from cadp.privacy import noise
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.records import Batch
from cadp.steps.privatize import privatize_batch
from tests.benchmarks.figures import Figure
from tests.cinn.conftest import random_flow

VALUES = 2_000_000
SECONDS = 2.0
SCALES = (4, 64, 4096, 1 << 20)
BATCH, SHAPE, CONTENT = 1024, (28, 28, 1), 16


def samplers() -> list[Figure]:
    """Values a second of each exact sampler, from narrow noise to wide, and what share of privatization noise takes."""
    draws: dict[str, Callable[[], object]] = {}
    for scale in SCALES:
        draws[f"discrete Laplace, scale {scale:,}"] = lambda b=Fraction(scale): noise.discrete_laplace(b, (VALUES,))
        draws[f"discrete Gaussian, sigma {scale:,}"] = lambda s=Fraction(scale): noise.discrete_gaussian(s, (VALUES,))
    draws["standard normal (prior)"] = lambda: noise.standard_normal((VALUES,))
    load = f"load average {os.getloadavg()[0]:.1f}"
    rates = [Figure(name, _rate(draw, VALUES) / 1e6, "M values/core-s", 10, note=load) for name, draw in draws.items()]
    return rates + shares()


def shares() -> list[Figure]:
    """The share of each part in a record's privatization (encode, mechanism, decode, PNG; 28×28), in CPU time."""
    flow = random_flow(SHAPE, classes=10, block=12, content=CONTENT)
    pixels = np.random.default_rng(1).integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8)
    batch = Batch(pixels, np.arange(BATCH) % 10, np.ones(BATCH, dtype=np.bool_))
    codes, figures = flow.encode_images(batch.images, batch.labels), []
    for kind, sampler in (
        ("gaussian", noise.discrete_gaussian),
        ("laplace", noise.discrete_laplace),
        ("privunit", None),
    ):
        made = plan_mechanism(kind, epsilon=8.0, delta=1e-6, content_dims=CONTENT)  # type: ignore[arg-type]
        whole = _rate(lambda made=made: privatize_batch(flow, made, batch), BATCH)
        if sampler is not None:
            drawn = _rate(lambda sampler=sampler: sampler(Fraction(4096), (BATCH, CONTENT)), BATCH)
            figures.append(
                Figure(f"{kind} noise, k = {CONTENT}", 100 * whole / drawn, "% of privatization", 5, most=True)
            )
        own = _rate(lambda made=made: made.privatize(codes, batch.valid), BATCH)
        note = f"{whole:,.0f} records/core-s in all"
        figures.append(Figure(f"{kind} and the prior's draws", 100 * whole / own, "% of privatization", note=note))
    return figures


def mechanisms() -> list[Figure]:
    """Records a second of each mechanism, 64 latents, and the cosine that PrivUnit keeps beside its theory."""
    latents = np.random.default_rng(0).standard_normal((4096, 64))
    valid = np.ones(len(latents), dtype=np.bool_)
    figures = []
    for kind, epsilon, dims, target in (
        ("privunit", 8.0, 16, 2000.0),
        ("privunit", 4.0, 8, None),
        ("gaussian", 8.0, 16, None),
        ("laplace", 8.0, 16, None),
        ("resample", 0.0, 1, None),
    ):
        made = plan_mechanism(kind, epsilon=epsilon, delta=1e-6, content_dims=dims)  # type: ignore[arg-type]
        rate = _rate(lambda made=made: made.privatize(latents, valid), len(latents))
        figures.append(Figure(f"{kind}, ε = {epsilon:g}, k = {dims}", rate, "records/core-s", target))
    for dims, epsilon, theory in ((4, 4.0, 0.686), (4, 8.0, 0.930), (8, 8.0, 0.792), (16, 8.0, 0.619)):
        made = plan_mechanism("privunit", epsilon=epsilon, delta=0.0, content_dims=dims)
        off = abs(_cosine(made, latents, valid) / theory - 1)
        figures.append(
            Figure(f"privunit's cosine off {theory} (k = {dims}, ε = {epsilon:g})", 100 * off, "%", 1, most=True)
        )
    return figures


def _cosine(made: Mechanism, latents: np.ndarray, valid: np.ndarray) -> float:
    cosines = []
    for _ in range(8):
        z, out = latents[:, : made.content_dims], made.privatize(latents, valid)[:, : made.content_dims]
        cosines.append((z * out).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(out, axis=1))
    return float(np.mean(cosines))


def _rate(work: Callable[[], object], items: int) -> float:
    """Items a second of one core's own time, whatever else the machine does."""
    work()
    began, done = time.process_time(), 0
    while time.process_time() - began < SECONDS:
        work()
        done += items
    return done / (time.process_time() - began)
