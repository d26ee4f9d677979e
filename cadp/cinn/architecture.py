"""The public facts that determine a network's layers; everything else about a model is its tensors.

An architecture is one of four kinds. Each says the `shape` of a record, its number `dims` of dimensions, the
`conditions` that layers see, and how many of the first latents are `content`: the part that a mechanism may carry.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from cadp.cinn import reading
from cadp.cinn.layers.blocks import LIMIT_CLASSES, LIMIT_WIDTH, Conditions, Couplings, Scale, refuse
from cadp.errors import CheckpointRefused

__all__ = [
    "Architecture",
    "Conditions",
    "Convolutional",
    "Coupled",
    "Couplings",
    "Dense",
    "Scale",
    "Shape",
    "Whitening",
    "architecture_from_json",
]

Shape = tuple[int, int, int]

LIMIT_DIMS = 1 << 16
LIMIT_SIDE = 1 << 11  # a cosine matrix is square
LIMIT_COMPONENTS = 256
LIMIT_TONES = 256
LIMIT_MIXTURE = 1 << 26  # numbers in the covariances of all classes and components, half a gigabyte of them


@dataclass(frozen=True, slots=True)
class Whitening:
    """DCT, class mean, rotation, class whitening and band scales: a network that is fitted, not trained.

    Attributes:
        shape: `(h, w, c)` of a record.
        classes: number of labels.
        block: `m`; the lowest m×m DCT coefficients of every channel are centred and rotated.
        content: `k`; the principal dimensions that are whitened with a full covariance per class.
        bands: number of radial frequency bands whose variances describe everything else.
        components: Gaussians a class that the whitened dimensions are a mixture of; 0 for one, with no layer for it.
        tones: cells of every channel's tone curve; 0 for none, with no layer for it.
    """

    kind: ClassVar[str] = "whitening"
    shape: Shape
    classes: int
    block: int
    content: int
    bands: int
    # Optional: architectures written before there were mixtures and curves have no such fields.
    components: int = field(default=0, metadata=reading.OPTIONAL)
    tones: int = field(default=0, metadata=reading.OPTIONAL)

    def __post_init__(self) -> None:
        """Check every bound, so that neither a spec nor a hostile checkpoint can ask for absurd tensors."""
        h, w, _ = self.shape
        problems = _image_problems(self.shape)
        if not 1 <= self.classes <= LIMIT_CLASSES:
            problems.append(f"classes {self.classes}: between 1 and {LIMIT_CLASSES}")
        if not 1 <= self.block <= min(h, w):
            problems.append(f"block {self.block}: between 1 and the shorter side {min(h, w)}")
        elif not 1 <= self.content <= self.low_dims:
            problems.append(f"content {self.content}: between 1 and the {self.low_dims} low-frequency dimensions")
        if not 1 <= self.bands <= 256:
            problems.append(f"bands {self.bands}: between 1 and 256")
        if not 0 <= self.tones <= LIMIT_TONES:
            problems.append(f"tones {self.tones}: between 0 and {LIMIT_TONES}")
        if not 0 <= self.components <= LIMIT_COMPONENTS:
            problems.append(f"components {self.components}: between 0 and {LIMIT_COMPONENTS}")
        elif self.classes * self.components * self.content**2 > LIMIT_MIXTURE:
            problems.append(
                f"components {self.components}: so many covariances of {self.content} dimensions for {self.classes} "
                f"classes are more than {LIMIT_MIXTURE:,} numbers"
            )
        refuse("network", problems)

    @property
    def conditions(self) -> Conditions:
        """The label alone."""
        return Conditions(self.classes)

    @property
    def dims(self) -> int:
        """`d = h·w·c`, the dimensions of a record and of its latent."""
        return math.prod(self.shape)

    @property
    def low_dims(self) -> int:
        """`D = m²·c`, the dimensions of the low-frequency block."""
        return self.block * self.block * self.shape[2]

    def to_json(self) -> dict[str, object]:
        """The kind and the fields, JSON-ready."""
        return _tagged(self)


@dataclass(frozen=True, slots=True)
class Coupled:
    """A whitening network whose content latents go on through a stack of dense couplings."""

    kind: ClassVar[str] = "coupled"
    whitening: Whitening
    couplings: Couplings

    def __post_init__(self) -> None:
        """Check what the parts cannot."""
        refuse("network", _split_problems(self.content))

    @property
    def shape(self) -> Shape:
        """`(h, w, c)` of a record."""
        return self.whitening.shape

    @property
    def conditions(self) -> Conditions:
        """The label alone."""
        return self.whitening.conditions

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.whitening.classes

    @property
    def content(self) -> int:
        """`k`, the latents that are coupled."""
        return self.whitening.content

    @property
    def dims(self) -> int:
        """Dimensions of a record and of its latent."""
        return self.whitening.dims

    def to_json(self) -> dict[str, object]:
        """The kind and the fields, JSON-ready."""
        return _tagged(self)


@dataclass(frozen=True, slots=True)
class Dense:
    """Couplings over all columns of a table; every column is in [0, 1] by declared public bounds.

    Attributes:
        features: number of columns.
        conditions: what a row is conditioned on.
        couplings: the stack.
        content: the latents that a mechanism may carry.
        logit: α of the logit that takes (0, 1) to the line before the couplings; 0 for none.
        class_latents: whether every class has a Gaussian of its own, its mean and scales learned.
    """

    kind: ClassVar[str] = "dense"
    features: int
    conditions: Conditions
    couplings: Couplings
    content: int
    logit: float = 0.0
    class_latents: bool = False

    def __post_init__(self) -> None:
        """Check what the parts cannot."""
        problems = _latent_problems(self.features, self.content, self.logit)
        if not 2 <= self.features <= LIMIT_WIDTH:
            problems.append(f"features {self.features}: between 2 and {LIMIT_WIDTH}")
        refuse("network", problems)

    @property
    def shape(self) -> Shape:
        """`(1, 1, d)`: a row is one pixel of d channels."""
        return 1, 1, self.features

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.conditions.classes

    @property
    def dims(self) -> int:
        """Dimensions of a record and of its latent."""
        return self.features

    def to_json(self) -> dict[str, object]:
        """The kind and the fields, JSON-ready."""
        return _tagged(self)


@dataclass(frozen=True, slots=True)
class Convolutional:
    """Convolutional couplings at one or more scales, dense couplings over what is left (Dinh et al. 2017).

    Latents of the last scale come first, so the content is coarse.

    Attributes:
        shape: `(h, w, c)` of a record.
        conditions: what a record is conditioned on, given to every scale.
        scales: from fine to coarse.
        head: dense couplings over what the last scale keeps.
        content: the latents that a mechanism may carry.
        downsampling: `haar` wavelets, or `squares`: each 2×2 square becomes four channels.
        logit: α of the logit that takes 8-bit pixels to the line before all else; 0 takes pixels as they are.
        class_latents: whether every class has a Gaussian of its own, its mean and scales learned.
    """

    kind: ClassVar[str] = "convolutional"
    shape: Shape
    conditions: Conditions
    scales: tuple[Scale, ...]
    head: Couplings
    content: int
    downsampling: Literal["haar", "squares"] = "haar"
    logit: float = 0.0
    class_latents: bool = False

    def __post_init__(self) -> None:
        """Check what the parts cannot."""
        problems = _image_problems(self.shape)
        if not 1 <= len(self.scales) <= 8:
            problems.append(f"{len(self.scales)} scales: between 1 and 8")
        refuse("network", problems)
        h, w, c = self.shape
        for index, scale in enumerate(self.scales):
            if h % 2 or w % 2:
                problems.append(f"scale {index}: {h}×{w} cannot be halved")
                break
            h, w, c = h // 2, w // 2, 4 * c
            if not 0 <= scale.keep < c:
                problems.append(f"scale {index} keeps {scale.keep}: fewer than its {c} channels")
                break
            c = scale.keep or c
        problems += _split_problems(h * w * c)
        problems += _latent_problems(self.dims, self.content, self.logit)
        refuse("network", problems)

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.conditions.classes

    @property
    def dims(self) -> int:
        """Dimensions of a record and of its latent."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, object]:
        """The kind and the fields, JSON-ready."""
        return _tagged(self)


Architecture: TypeAlias = Whitening | Coupled | Dense | Convolutional
_KINDS: Mapping[str, type[Architecture]] = {cls.kind: cls for cls in (Whitening, Coupled, Dense, Convolutional)}


def architecture_from_json(value: object) -> Architecture:
    """Read what `to_json` wrote.

    Raises:
        CheckpointRefused: the kind is unknown, or a field is missing, unknown, of another type or out of bounds.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str) or kind not in _KINDS:
        raise CheckpointRefused(f"architecture kind {kind!r}: one of {', '.join(_KINDS)}")
    return reading.from_json(_KINDS[kind], {name: item for name, item in value.items() if name != "kind"})


def _tagged(architecture: Any) -> dict[str, object]:  # noqa: ANN401
    return {"kind": architecture.kind, **reading.to_json(architecture)}


def _image_problems(shape: Shape) -> list[str]:
    if min(shape) < 1 or math.prod(shape) > LIMIT_DIMS or max(shape[:2]) > LIMIT_SIDE:
        return [f"shape {shape}: between 1 and {LIMIT_DIMS} pixels in all, no side longer than {LIMIT_SIDE}"]
    return []


def _split_problems(dims: int) -> list[str]:
    return [] if dims >= 2 else [f"couplings over {dims} dimension: at least 2"]


def _latent_problems(dims: int, content: int, logit: float) -> list[str]:
    problems = [] if 1 <= content <= dims else [f"content {content}: between 1 and the {dims} dimensions"]
    if logit and not 1e-6 <= logit <= 0.25:
        problems.append(f"logit {logit}: 0 for none, or between 1e-06 and 0.25")
    return problems
