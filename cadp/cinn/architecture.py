"""The public facts that determine a network's layers; everything else about a model is its tensors."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cadp.errors import CheckpointRefused

Shape = tuple[int, int, int]

LIMIT_DIMS = 1 << 16
LIMIT_CLASSES = 1 << 12


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a `ConditionalFlow` is made of.

    Attributes:
        kind: the family of layers, always `whitening`: DCT, class mean, rotation, class whitening and band scales.
        shape: `(h, w, c)` of a record.
        classes: number of labels.
        block: `m`; the lowest m×m DCT coefficients of every channel are centred and rotated.
        content: `k`; the principal dimensions that are whitened with a full covariance per class.
        bands: number of radial frequency bands whose variances describe everything else.
    """

    kind: str
    shape: Shape
    classes: int
    block: int
    content: int
    bands: int

    def __post_init__(self) -> None:
        """Check every bound, so that neither a spec nor a hostile checkpoint can ask for absurd tensors."""
        h, w, c = self.shape
        problems = []
        if self.kind != "whitening":
            problems.append(f"kind {self.kind!r}: only 'whitening' is known")
        if min(h, w, c) < 1 or h * w * c > LIMIT_DIMS:
            problems.append(f"shape {self.shape}: between 1 and {LIMIT_DIMS} pixels in all")
        if not 1 <= self.classes <= LIMIT_CLASSES:
            problems.append(f"classes {self.classes}: between 1 and {LIMIT_CLASSES}")
        if not 1 <= self.block <= min(h, w):
            problems.append(f"block {self.block}: between 1 and the shorter side {min(h, w)}")
        elif not 1 <= self.content <= self.low_dims:
            problems.append(f"content {self.content}: between 1 and the {self.low_dims} low-frequency dimensions")
        if not 1 <= self.bands <= 256:
            problems.append(f"bands {self.bands}: between 1 and 256")
        if problems:
            raise CheckpointRefused("no such network: " + "; ".join(problems))

    @property
    def dims(self) -> int:
        """`d = h·w·c`, the dimensions of a record and of its latent."""
        return math.prod(self.shape)

    @property
    def low_dims(self) -> int:
        """`D = m²·c`, the dimensions of the low-frequency block."""
        return self.block * self.block * self.shape[2]

    def to_json(self) -> dict[str, object]:
        """The fields, JSON-ready."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: object) -> "Architecture":
        """Read what `to_json` wrote.

        Raises:
            CheckpointRefused: a field is missing, unknown, of another type or out of bounds.
        """
        names = ("kind", "shape", "classes", "block", "content", "bands")
        if not isinstance(value, Mapping) or set(value) != set(names):
            raise CheckpointRefused(f"an architecture has exactly the fields {', '.join(names)}")
        shape = value["shape"]
        numbers = [value[name] for name in names[2:]]
        if not isinstance(shape, list) or len(shape) != 3:
            raise CheckpointRefused(f"architecture shape {shape!r}: three integers")
        if any(type(number) is not int for number in (*shape, *numbers)):
            raise CheckpointRefused("an architecture's sizes are integers")
        return cls(value["kind"], (shape[0], shape[1], shape[2]), *numbers)
