"""What architectures are made of: their conditions, stacks of couplings, and scales. Public facts, checked."""

from dataclasses import dataclass
from typing import Literal

from cadp.errors import CheckpointRefused

LIMIT_CLASSES = 1 << 12
LIMIT_WIDTH = 1 << 12
LIMIT_BLOCKS = 64
LIMIT_CLAMP = 8.0


def refuse(what: str, problems: list[str]) -> None:
    """Refuse what has problems, with all of them.

    Raises:
        CheckpointRefused: there is one or more.
    """
    if problems:
        raise CheckpointRefused(f"no such {what}: " + "; ".join(problems))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a record is conditioned on: one of some classes, any of some attributes, and bounded numbers.

    Attributes:
        classes: number of labels, one-hot; a single class is no information and gets no column.
        attributes: number of yes-or-no attributes, multi-hot.
        bounds: the public lower and upper bound of every number, which is clipped to them and mapped to [-1, 1].
    """

    classes: int
    attributes: int = 0
    bounds: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check every bound."""
        problems = []
        if not 1 <= self.classes <= LIMIT_CLASSES:
            problems.append(f"classes {self.classes}: between 1 and {LIMIT_CLASSES}")
        if not 0 <= self.attributes <= LIMIT_CLASSES:
            problems.append(f"attributes {self.attributes}: between 0 and {LIMIT_CLASSES}")
        problems += [f"bounds {low} to {high}: rising" for low, high in self.bounds if not low < high]
        refuse("conditions", problems)

    @property
    def width(self) -> int:
        """Columns of the vector that subnets see."""
        return (self.classes if self.classes > 1 else 0) + self.attributes + len(self.bounds)


@dataclass(frozen=True, slots=True)
class Couplings:
    """A stack of coupling blocks, a fixed or learned mixing of the coordinates after each.

    Attributes:
        blocks: how many; none is a stack that does nothing.
        width: hidden units, or channels, of every subnet.
        hidden: hidden layers of every subnet.
        coupling: `glow` scales and shifts (Kingma and Dhariwal 2018), `gin` keeps the volume (Sorrenson et al. 2020).
        clamp: a block scales a coordinate by at most e^±clamp.
        mixing: `permutation` (fixed and public), `orthogonal` (learned), or `stored`, a fixed permutation that is kept
            with the tensors because it was drawn elsewhere.
    """

    blocks: int
    width: int
    hidden: int = 2
    coupling: Literal["glow", "gin"] = "glow"
    clamp: float = 1.5
    mixing: Literal["permutation", "orthogonal", "stored"] = "permutation"

    def __post_init__(self) -> None:
        """Check every bound."""
        problems = []
        if not 0 <= self.blocks <= LIMIT_BLOCKS:
            problems.append(f"blocks {self.blocks}: between 0 and {LIMIT_BLOCKS}")
        if not 1 <= self.width <= LIMIT_WIDTH:
            problems.append(f"width {self.width}: between 1 and {LIMIT_WIDTH}")
        if not 1 <= self.hidden <= 8:
            problems.append(f"hidden {self.hidden}: between 1 and 8 layers")
        if not 0 < self.clamp <= LIMIT_CLAMP:
            problems.append(f"clamp {self.clamp}: positive and at most {LIMIT_CLAMP}")
        refuse("couplings", problems)


@dataclass(frozen=True, slots=True)
class Scale:
    """One scale of a convolutional network: half the resolution of the one before, then couplings, then a split.

    Attributes:
        couplings: over the channels, with 3×3 convolutions.
        keep: channels that go on to the next scale; the others are latents already. 0 keeps all.
    """

    couplings: Couplings
    keep: int = 0
