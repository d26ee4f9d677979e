"""A measured figure and the target that it is held against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        what: what was measured.
        value: how much.
        unit: of what.
        target: at least (or, with `most`, at most) this much; None if there is no target.
        most: whether the target is an upper bound.
        note: what it should be read with.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        if self.target is None:
            return True
        return self.value <= self.target if self.most else self.value >= self.target
