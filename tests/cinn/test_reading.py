"""Architectures are read strictly: what a hostile checkpoint could say is refused before anything is built."""

import copy
import json
import math
from typing import Any

import pytest

from cadp.cinn.architecture import Architecture, Conditions, Couplings, architecture_from_json
from cadp.errors import CheckpointRefused
from tests.cinn.architectures import ARCHITECTURES

every = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of every value within JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: object) -> Any:
    tree = copy.deepcopy({"root": value})
    at: Any = tree
    for key in ("root", *path)[:-1]:
        at = at[key]
    at[("root", *path)[-1]] = new
    return tree["root"]


@every
def test_what_is_written_is_read(architecture: Architecture) -> None:
    told = architecture.to_json()
    assert architecture_from_json(json.loads(json.dumps(told))) == architecture == architecture_from_json(told)
    assert told["kind"] == architecture.kind


@every
def test_a_value_of_another_type_is_refused_anywhere(architecture: Architecture) -> None:
    told = architecture.to_json()
    for path in places(told):
        for new in (None, "x", True, [], {}, -1, 1 << 80, float("nan"), float("inf"), [[[]]], {"kind": "dense"}):
            try:
                found = architecture_from_json(replaced(told, path, new))
            except CheckpointRefused:
                continue
            assert not (isinstance(new, float) and not math.isfinite(new)), path
            # What is left are values that are allowed there, such as no bounds, or no zero for a truth.
            assert found.to_json() == replaced(told, path, new), path


@every
def test_a_field_missing_or_unknown_is_refused_anywhere(architecture: Architecture) -> None:
    told = architecture.to_json()
    for path in places(told):
        inner = told
        for key in path:
            inner = inner[key]  # type: ignore[assignment]
        if isinstance(inner, dict):
            with pytest.raises(CheckpointRefused):
                architecture_from_json(replaced(told, path, {**inner, "extra": 1}))
            for name in inner.keys() - {"components", "tones"}:  # without one of them, another network
                with pytest.raises(CheckpointRefused):
                    architecture_from_json(replaced(told, path, {k: v for k, v in inner.items() if k != name}))


GLOW = {"blocks": 1, "width": 4, "hidden": 1, "coupling": "glow", "clamp": 1.5, "mixing": "permutation"}
DENSE = {
    "kind": "dense",
    "features": 4,
    "conditions": {"classes": 2, "attributes": 0, "bounds": []},
    "couplings": GLOW,
    "content": 2,
    "logit": 0,
    "class_latents": False,
}
CONVOLUTIONAL = {
    "kind": "convolutional",
    "shape": [8, 8, 1],
    "conditions": {"classes": 2, "attributes": 0, "bounds": []},
    "scales": [{"couplings": GLOW, "keep": 2}],
    "head": GLOW,
    "content": 2,
    "downsampling": "haar",
    "logit": 0.05,
    "class_latents": False,
}
WHITENING = {"kind": "whitening", "shape": [8, 8, 1], "classes": 2, "block": 1, "content": 1, "bands": 1}
BAD: dict[str, tuple[dict[str, Any], tuple[Any, ...], object]] = {
    "no features": (DENSE, ("features",), 1),
    "too many features": (DENSE, ("features",), 1 << 20),
    "content beyond the features": (DENSE, ("content",), 5),
    "too many classes": (DENSE, ("conditions", "classes"), 1 << 20),
    "no class": (DENSE, ("conditions", "classes"), 0),
    "attributes below none": (DENSE, ("conditions", "attributes"), -1),
    "bounds that fall": (DENSE, ("conditions", "bounds"), [[1, 0]]),
    "bounds without an end": (DENSE, ("conditions", "bounds"), [[0, float("inf")]]),
    "bounds that are equal": (DENSE, ("conditions", "bounds"), [[1, 1]]),
    "half a bound": (DENSE, ("conditions", "bounds"), [[1]]),
    "more bounds than columns": (DENSE, ("conditions", "bounds"), [[0, 1]] * 1000),
    "too many blocks": (DENSE, ("couplings", "blocks"), 65),
    "too wide": (DENSE, ("couplings", "width"), 1 << 13),
    "no width": (DENSE, ("couplings", "width"), 0),
    "too deep": (DENSE, ("couplings", "hidden"), 9),
    "another coupling": (DENSE, ("couplings", "coupling"), "nice"),
    "another mixing": (DENSE, ("couplings", "mixing"), "none"),
    "no clamp": (DENSE, ("couplings", "clamp"), 0),
    "a clamp too large": (DENSE, ("couplings", "clamp"), 9),
    "a logit too steep": (DENSE, ("logit",), 1e-9),
    "a logit below none": (DENSE, ("logit",), -0.1),
    "a logit that is no map": (DENSE, ("logit",), 0.5),
    "an odd side": (CONVOLUTIONAL, ("shape",), [6, 9, 1]),
    "a row of pixels": (WHITENING, ("shape",), [1 << 16, 1, 1]),
    "a column of pixels": (WHITENING, ("shape",), [1, 1 << 16, 1]),
    "too large": (CONVOLUTIONAL, ("shape",), [512, 512, 3]),
    "no scale": (CONVOLUTIONAL, ("scales",), []),
    "more scales than pixels": (CONVOLUTIONAL, ("scales",), [{"couplings": GLOW, "keep": 0}] * 4),
    "keeps all and more": (CONVOLUTIONAL, ("scales", 0, "keep"), 4),
    "keeps less than none": (CONVOLUTIONAL, ("scales", 0, "keep"), -1),
    "another downsampling": (CONVOLUTIONAL, ("downsampling",), "mean"),
}


@pytest.mark.parametrize(("good", "path", "value"), BAD.values(), ids=BAD.keys())
def test_what_no_network_has_is_refused(good: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    architecture_from_json(good)
    with pytest.raises(CheckpointRefused):
        architecture_from_json(replaced(good, path, value))


@pytest.mark.parametrize("value", [None, [], "dense", {"kind": "glow"}, {"kind": ["dense"]}, {"kind": None}], ids=repr)
def test_what_names_no_kind_is_refused(value: object) -> None:
    with pytest.raises(CheckpointRefused, match="kind"):
        architecture_from_json(value)


def test_every_problem_of_a_part_is_told() -> None:
    with pytest.raises(CheckpointRefused, match=r"blocks.*width.*hidden.*clamp"):
        Couplings(-1, 0, 0, clamp=0)
    with pytest.raises(CheckpointRefused, match=r"classes.*attributes.*bounds"):
        Conditions(0, -1, ((1.0, 0.0),))
