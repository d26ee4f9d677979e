"""`model.yaml`: a network to be trained by maximum likelihood on data that its author declares public.

name: drawings
provenance: drawn by the authors, released under CC0 with this repository
source: {format: idx, url: drawings, unit: record, why: nobody is behind a drawing, labels: public, …}
architecture: {like: release.yaml}     # what that release plans; or {multi_scale: true}, or {kind: convolutional, …}
fraction: 1.0                          # of the units, by a hash of their ids
recipe: {epochs: 50, batch: 128}
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cadp.errors import SpecError
from cadp.spec import Source, Words


class Recipe(BaseModel):
    """See `cadp.cinn.public_training.PublicRecipe`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=50, ge=1, le=10_000)
    batch: int = Field(default=128, ge=1, le=65_536)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    warm_up: int = Field(default=100, ge=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=5, ge=1)
    gradient_norm: float = Field(default=10.0, gt=0)
    low_precision: bool = Field(default=False, description="bfloat16 subnets; coordinates and weights stay float32")
    seed: int = 0


class PublicModel(BaseModel):
    """One training on public data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")
    provenance: Words = Field(min_length=8, description="where the data comes from and why it is public, in words")
    source: Source
    architecture: dict[str, Any] = Field(description="like, multi_scale, or an architecture with its kind")
    fraction: float = Field(default=1.0, gt=0, le=1, description="of the units, by a hash of their ids; public")
    recipe: Recipe = Recipe()


def load_public_model(path: Path) -> PublicModel:
    """Read and check a `model.yaml`.

    Raises:
        SpecError: it cannot be read, is not YAML, or breaks a rule; the message lists every problem.
    """
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return PublicModel.model_validate(tree)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SpecError("\n".join(lines)) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
