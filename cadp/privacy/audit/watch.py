"""Watching the samplers: copies of every draw that a mechanism makes, for the audit of synthetic records.

Nothing is replaced: the draws are still the operating system's. With the noise known, what it was added to can be read
off an output to the last bit, and so can the law that the noise was drawn from: no statistical test can do either. Only
the thread that watches is watched.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.privacy import noise, privunit

_SAMPLERS = (
    (noise, "discrete_gaussian"),
    (noise, "discrete_laplace"),
    (noise, "bernoulli_exact"),
    (noise, "standard_normal"),
    (noise, "normal_columns"),
    (privunit, "_proposals"),
)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Draw:
    """One call of a sampler.

    Attributes:
        sampler: its name.
        parameter: its first argument: σ, scale, probability, the size, or the rows that proposals are for.
        values: a copy of what it returned.
    """

    sampler: str
    parameter: Any
    values: NDArray[Any]


@contextmanager
def watched() -> Iterator[list[Draw]]:
    """Collect the draws of this thread while the context is open, in order; a sampler's inner draws are not listed."""
    draws: list[Draw] = []
    thread, depth = threading.get_ident(), 0

    def tapped(name: str, sampler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever the sampler takes and returns)
            nonlocal depth
            if threading.get_ident() != thread:
                return sampler(*args, **kwargs)
            depth += 1
            try:
                values = sampler(*args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                parameter = args[0] if args else next(iter(kwargs.values()), None)
                kept = np.array(parameter) if isinstance(parameter, np.ndarray) else parameter
                draws.append(Draw(name, kept, np.array(values)))
            return values

        return call

    with _one_at_a_time:
        originals = [(module, name, getattr(module, name)) for module, name in _SAMPLERS]
        try:
            for module, name, sampler in originals:
                setattr(module, name, tapped(name, sampler))
            yield draws
        finally:
            for module, name, sampler in originals:
                setattr(module, name, sampler)
