"""What is measured: one cell a figure of the report, as plain values that name it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

from cadp.privacy.events import RELATION, ZERO_OUT

DELTA = 1e-5
EPSILONS = (1.0, 3.0, 8.0, 10.0)
# A budget that leaves the model as it would be without noise: what then is missing is the model's form.
NO_NOISE = 1000.0
RELEASE_DIMS = 8
RecipeName = Literal["gate", "plain"]


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained.

    Attributes:
        epsilon: of the training, at `DELTA`.
        relation: the neighbouring relation under which the training costs that.
        mixture: whether the plan's rule may take a mixture.
        couplings: whether couplings are trained behind the moments.
        content: principal dimensions; None for the plan's rule.
        exact: whether ε is the exact one of the Gaussians together, not the ledger's accountant's, which is larger.
    """

    epsilon: float
    relation: str = ZERO_OUT
    mixture: bool = True
    couplings: bool = False
    content: int | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Records released through a trained model.

    Attributes:
        training: of the model.
        mechanism: `resample`, a mechanism of `plan_mechanism`, or `kept`: the content latents as they are, which is
            no mechanism and not private, but says what the best of them could carry.
        epsilon: of a record, for mechanisms that have one.
        dims: content dimensions, for mechanisms that have them.
        recipe: of the classifier.
    """

    kind: ClassVar[str] = "release"

    training: Training
    mechanism: str = "resample"
    epsilon: float = 0.0
    dims: int = 0
    recipe: RecipeName = "gate"


@dataclass(frozen=True, slots=True)
class Originals:
    """The classifier trained on the originals: o/o."""

    kind: ClassVar[str] = "originals"

    recipe: RecipeName = "gate"


@dataclass(frozen=True, slots=True)
class Pixelated:
    """DP-Pix at record-level ε: 4×4 cells, their means with Laplace noise."""

    kind: ClassVar[str] = "dp-pix"

    epsilon: float


@dataclass(frozen=True, slots=True)
class PrivateClassifier:
    """A classifier trained by DP-SGD on the originals: no record is released at all."""

    kind: ClassVar[str] = "dp-sgd"

    epsilon: float
    relation: str = ZERO_OUT


Cell: TypeAlias = Release | Originals | Pixelated | PrivateClassifier
KINDS: dict[str, type[Any]] = {cell.kind: cell for cell in (Release, Originals, Pixelated, PrivateClassifier)}


def to_json(cell: Cell) -> dict[str, Any]:
    """The kind and the fields of a cell."""
    return {"kind": cell.kind, **asdict(cell)}


def from_json(value: dict[str, Any]) -> Cell:
    """Read what `to_json` wrote."""
    kind = KINDS[value["kind"]]
    given = {field.name: value[field.name] for field in fields(kind)}
    if "training" in given:
        given["training"] = Training(**given["training"])
    return kind(**given)  # type: ignore[no-any-return]


def name(cell: Cell) -> str:
    """A short name, for `--only` and the log."""
    match cell:
        case Originals(recipe=recipe):
            return f"originals {recipe}"
        case Pixelated(epsilon=epsilon):
            return f"dp-pix {epsilon:g}"
        case PrivateClassifier(epsilon=epsilon, relation=relation):
            return f"dp-sgd {relation} {epsilon:g}"
        case Release(training=training, mechanism=mechanism, epsilon=epsilon, dims=dims, recipe=recipe):
            parts = [recipe, training.relation, f"{training.epsilon:g}"]
            parts += [] if training.mixture else ["no-mixture"]
            parts += ["couplings"] if training.couplings else []
            parts += [f"content-{training.content}"] if training.content else []
            parts += ["exact"] if training.exact else []
            parts += [mechanism, *([f"{epsilon:g}"] if epsilon else []), *([f"k{dims}"] if dims else [])]
            return " ".join(parts)


def digest(facts: object) -> str:
    """A short digest of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def cells() -> Iterator[Cell]:
    """All cells, the most telling first."""
    yield from (Release(Training(epsilon)) for epsilon in (1.0, 10.0))
    yield Originals()
    four = Training(4.0, RELATION)
    yield from (Release(four, "privunit", epsilon, RELEASE_DIMS) for epsilon in (4.0, 8.0))
    yield Release(four)
    yield from (Release(Training(epsilon, exact=True)) for epsilon in (1.0, 10.0))
    yield from (Release(Training(epsilon, mixture=False)) for epsilon in (1.0, 10.0))
    yield Release(Training(NO_NOISE))
    yield Release(Training(10.0), "kept", dims=RELEASE_DIMS)
    yield from (Release(Training(epsilon, RELATION)) for epsilon in (1.0, 10.0, 8.0, 3.0))
    yield PrivateClassifier(3.0)
    yield Pixelated(8.0)
    yield from (Release(Training(epsilon), recipe="plain") for epsilon in (1.0, 10.0))
    yield Originals("plain")
    yield from (Release(Training(epsilon)) for epsilon in (3.0, 8.0))
    yield Release(Training(12.0, RELATION))
    yield from (Release(Training(epsilon, couplings=True)) for epsilon in (10.0, 1.0))
    yield from (Release(four, "privunit", epsilon, dims) for epsilon in (4.0, 8.0) for dims in (4, 16))
    yield from (Release(four, "gaussian", epsilon, RELEASE_DIMS) for epsilon in (4.0, 8.0))
    yield from (Release(Training(10.0, content=content)) for content in (32, 96))
    yield from (PrivateClassifier(epsilon) for epsilon in EPSILONS if epsilon != 3.0)
    yield from (PrivateClassifier(epsilon, RELATION) for epsilon in EPSILONS)
    yield from (Pixelated(epsilon) for epsilon in (1.0, 3.0, 10.0))
