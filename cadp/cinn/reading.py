"""Read frozen dataclasses from JSON that nobody vouches for, and write them."""

import math
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from cadp.errors import CheckpointRefused

T = TypeVar("T")

LIMIT_ITEMS = 256
# Metadata of a field that may be missing, and is where it has its default: there is one way to write a value.
OPTIONAL = {"optional": True}


def from_json(cls: type[T], value: object) -> T:
    """Read what `to_json` wrote: exactly the fields of `cls`, each of its declared type.

    An optional field is missing if and only if it has its default. Integers are no booleans, floats are finite, lists
    hold at most `LIMIT_ITEMS`; a range is for `cls` to check.

    Raises:
        CheckpointRefused: a field is missing, unknown or of another type, or `cls` refuses the values.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in fields(typing.cast(Any, cls))]
    missing = _optional(cls)
    if not isinstance(value, Mapping) or not {*names} - {*missing} <= set(value) <= {*names}:
        raise CheckpointRefused(f"{cls.__name__.lower()}: it has exactly the fields {', '.join(names)}")
    read = {name: _read(hints[name], value[name], f"{cls.__name__.lower()} {name}") for name in names if name in value}
    for name in read.keys() & missing.keys():
        if read[name] == missing[name]:
            raise CheckpointRefused(f"{cls.__name__.lower()} {name} {read[name]!r}: left out where it is that")
    return cls(**read)


def to_json(value: object) -> Any:  # noqa: ANN401
    """The fields of a dataclass, JSON-ready: tuples become lists."""
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        missing = _optional(type(value))
        return {k: to_json(v) for k, v in given.items() if k not in missing or v != missing[k]}
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def _optional(cls: Any) -> dict[str, object]:  # noqa: ANN401
    """The optional fields of a dataclass and their defaults."""
    return {field.name: field.default for field in fields(cls) if field.metadata == OPTIONAL}


def _read(hint: Any, value: object, name: str) -> Any:  # noqa: ANN401
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return from_json(typing.cast(type, hint), value)
    if origin is tuple:
        return _read_tuple(arguments, value, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise CheckpointRefused(f"{name} {value!r}: one of {', '.join(arguments)}")
        return value
    if hint is float and type(value) in (int, float) and math.isfinite(typing.cast(float, value)):
        return float(typing.cast(float, value))
    if hint is float or type(value) is not hint:
        raise CheckpointRefused(f"{name} {value!r}: {hint.__name__}")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: object, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > LIMIT_ITEMS:
        raise CheckpointRefused(f"{name}: a list of at most {LIMIT_ITEMS} items")
    wanted = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
    if len(value) != len(wanted):
        raise CheckpointRefused(f"{name} {value!r}: {len(wanted)} items")
    return tuple(_read(argument, item, name) for argument, item in zip(wanted, value, strict=True))
