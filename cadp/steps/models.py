"""The objects of a content-addressed model, without loading it."""

import json

from cadp.errors import ObjectMissing
from cadp.store import Store


def model_objects(models: Store, digest: str) -> tuple[str, ...]:
    """Return the keys of a model, its record first: whoever finds the record finds its tensors."""
    record = f"{digest}.json"
    tensors = read_record(models, record).get("tensors")
    sha256 = tensors.get("sha256") if isinstance(tensors, dict) else None
    return (record, f"{sha256}.safetensors") if sha256 else (record,)


def read_record(models: Store, key: str) -> dict[str, object]:
    """Return a model's record; empty if there is none, or if it is no model's."""
    try:
        record = json.loads(models.get(key))
    except (ObjectMissing, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
