"""How fast noise is drawn and records are privatized, on one core."""

import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from cadp.privacy import noise
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from tests.benchmarks.figures import Figure

VALUES = 2_000_000
SECONDS = 2.0


def samplers() -> list[Figure]:
    """Values a second of each exact sampler, at the noise that the mechanisms use."""
    draws: dict[str, Callable[[], object]] = {
        "discrete Laplace, scale 4096": lambda: noise.discrete_laplace(Fraction(4096), (VALUES,)),
        "discrete Gaussian, sigma 4096": lambda: noise.discrete_gaussian(Fraction(4096), (VALUES,)),
        "standard normal (prior)": lambda: noise.standard_normal((VALUES,)),
    }
    return [Figure(name, _rate(draw, VALUES) / 1e6, "M values/core-s", 10) for name, draw in draws.items()]


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
