"""Watching the samplers: copies of every draw that a mechanism makes, for the audit of synthetic records.

While draws are `watched` they are still the operating system's. With the noise known, what it was added to can be read
off an output to the last bit, and so can the law that the noise was drawn from: no statistical test can do either. Only
the thread that watches is watched.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadp.errors import PrivacyError
from cadp.privacy import noise, privunit

_SAMPLERS = (
    (noise, "discrete_gaussian"),
    (noise, "discrete_laplace"),
    (noise, "bernoulli_exact"),
    (noise, "standard_normal"),
    (noise, "normal_columns"),
    (noise, "uniform_below"),
    (privunit, "_proposals"),
)
_one_at_a_time = threading.RLock()

Place = tuple[ModuleType, str]
"""A module and the name by which it calls a sampler."""

Feed = Callable[[Any, Any], NDArray[Any]]


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
def watched(*places: Place) -> Iterator[list[Draw]]:
    """Collect the draws of this thread while the context is open, in order; a sampler's inner draws are not listed.

    Args:
        places: where else a sampler is called from: modules that hold one under a name of their own.
    """
    draws: list[Draw] = []
    depth = [0]

    def tapped(name: str, sampler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever the sampler takes and returns)
            depth[0] += 1
            try:
                values = sampler(*args, **kwargs)
            finally:
                depth[0] -= 1
            if depth[0] == 0:
                draws.append(Draw(name, _first(args, kwargs), np.array(values)))
            return values

        return call

    with replaced((*_SAMPLERS, *places), tapped):
        yield draws


@contextmanager
def fed(feeds: Mapping[str, Feed], *places: Place) -> Iterator[list[Draw]]:
    """Replace samplers of `cadp.privacy.noise` in this thread; list who asked, with which parameter.

    Args:
        feeds: by the sampler's name, what it returns instead: (parameter, size) → values.
        places: where else they are called from; see `watched`.
    """
    asked: list[Draw] = []

    def feeding(name: str, sampler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            parameter, size = (*args, *kwargs.values())
            values = feeds[name](parameter, size)
            if values.shape != ((size,) if isinstance(size, int) else size):
                raise PrivacyError(f"{size} values of {name} were asked for, {len(values)} were due")
            asked.append(Draw(name, parameter, values))
            return asked[-1].values.copy()

        return call

    with replaced((*((noise, name) for name in feeds), *places), feeding):
        yield asked


@contextmanager
def replaced(places: tuple[Place, ...], by: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Put `by(name, what is there)` in each place, for this thread alone."""
    thread = threading.get_ident()

    def mine(name: str, sampler: Callable[..., Any]) -> Callable[..., Any]:
        replaced = by(name, sampler)

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            return (replaced if threading.get_ident() == thread else sampler)(*args, **kwargs)

        return call

    with _one_at_a_time:
        originals = [(module, name, getattr(module, name)) for module, name in places]
        try:
            for module, name, sampler in originals:
                setattr(module, name, mine(name, sampler))
            yield
        finally:
            for module, name, sampler in originals:
                setattr(module, name, sampler)


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    parameter = args[0] if args else next(iter(kwargs.values()), None)
    return np.array(parameter) if isinstance(parameter, np.ndarray) else parameter
