"""The columns of a table as a spec declares them: names, bounds and levels, all public and none taken from the data.

    table:
      label: {column: diagnosis}                 # its values are source.classes; or with edges, a number in intervals
      outside: clamp                             # or reject: what becomes of a number beyond its bounds
      columns:
        - {name: mean radius, bounds: [5, 30], decimals: 2}
        - {name: mean area, bounds: [100, 3000], scale: log, decimals: 0}
        - {name: stage, levels: [I, II, III, IV]}

Columns that a spec does not declare are never read.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What Parquet, SQL, JSON and Croissant all take for a name as it is.
Name = Annotated[str, Field(pattern=r"^\w([\w -]{0,62}\w)?$")]
Level = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
Finite = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]

KEY = "key"
"""The released records' own column; a table has none of this name."""
LIMIT_WIDTH = 1024  # the fit's covariance is square
_DIGITS = 4  # at least, of a number's range, where a spec names no decimals


def slug(name: str) -> str:
    """A column's name where there may be no spaces; two names of a table have two, in upper or lower case.

    >>> slug("Mean radius")
    'mean_radius'
    """
    return name.lower().replace(" ", "_").replace("-", "_")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Column(_Frozen):
    """A column that is released: a number within bounds, or one of some levels."""

    name: Name = Field(description="as in the source and in the release; public")
    bounds: tuple[Finite, Finite] | None = Field(default=None, description="of a number, the least and the largest")
    levels: tuple[Level, ...] | None = Field(default=None, min_length=2, max_length=256, description="of a category")
    scale: Literal["linear", "log"] = Field(default="linear", description="log where ratios matter; bounds above 0")
    decimals: int | None = Field(default=None, ge=0, le=9, description="of a released number; 0 makes it an integer")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.bounds is None) == (self.levels is None):
            raise ValueError(
                f"column {self.name} needs bounds, [least, largest], if it is a number, or levels if it is a category: "
                f"one of the two, from what is public, never from the data"
            )
        if self.levels is not None:
            if self.scale != "linear" or self.decimals is not None:
                raise ValueError(f"column {self.name} is a category: scale and decimals are of numbers")
            if len(set(self.levels)) != len(self.levels):
                raise ValueError(f"levels of column {self.name} repeat")
            return self
        low, high = self.interval
        if not low < high:
            raise ValueError(f"bounds of column {self.name} are [least, largest]: {low:g} is not below {high:g}")
        if self.scale == "log" and low <= 0:
            raise ValueError(f"column {self.name} has scale log: its least bound {low:g} must be above 0")
        if self.decimals is not None and round(high, self.decimals) - round(low, self.decimals) <= 0:
            raise ValueError(f"column {self.name} of bounds {low:g} to {high:g} needs more decimals: {self.decimals}")
        return self

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of a number; of a category, of its entries."""
        return (0.0, 1.0) if self.bounds is None else self.bounds

    @property
    def width(self) -> int:
        """Entries of a row's vector that this column takes: 1, or one a level but the first."""
        return 1 if self.levels is None else len(self.levels) - 1

    @property
    def digits(self) -> int:
        """Decimals of a released number: as declared, or enough for a ten-thousandth of its range or least value."""
        if self.decimals is not None:
            return self.decimals
        low, high = self.interval
        size = low if self.scale == "log" else high - low
        return min(9, max(0, _DIGITS - math.floor(math.log10(size))))

    @property
    def released_interval(self) -> tuple[float, float]:
        """The bounds of a released number: rounding may take it out of the declared ones by less than one digit."""
        low, high = self.interval
        return min(low, round(low, self.digits)), max(high, round(high, self.digits))

    @property
    def kind(self) -> Literal["integer", "number", "category"]:
        """What a reader of the release finds in it."""
        if self.levels is not None:
            return "category"
        return "integer" if self.decimals == 0 else "number"


class Label(_Frozen):
    """The column that tells a row's class; it is released under its own name."""

    column: Name = Field(description="of the source; its values are the names in source.classes")
    edges: tuple[Finite, ...] | None = Field(
        default=None,
        min_length=3,
        max_length=257,
        description="of a number: class i is from edge i, included, to edge i + 1; the last one has both ends",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.edges is not None and list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"edges of {self.column} must rise: {', '.join(f'{edge:g}' for edge in self.edges)}")
        return self


class Table(_Frozen):
    """What a row is made of, and how it becomes a vector; a function of public declarations alone."""

    columns: tuple[Column, ...] = Field(min_length=1, max_length=LIMIT_WIDTH, description="in the order of release")
    label: Label
    outside: Literal["clamp", "reject"] = Field(
        description="a number beyond its bounds is moved to the nearer one, or its row is rejected"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [column.name for column in self.columns]
        seen = set[str]()
        for name in (*names, self.label.column, KEY):
            if slug(name) in seen:
                raise ValueError(
                    f"two columns are named {name}, whatever the case: names differ, the label is no column beside "
                    f"itself, and {KEY} is the released records' own"
                )
            seen.add(slug(name))
        if not 2 <= self.width <= LIMIT_WIDTH:
            raise ValueError(f"columns take {self.width} entries in all: between 2 and {LIMIT_WIDTH}")
        return self

    @property
    def width(self) -> int:
        """d, the entries of a row's vector."""
        return sum(column.width for column in self.columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(1, 1, d)`: to the network a row is a picture of one pixel with d channels."""
        return 1, 1, self.width

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns that are read of a source, the label's last."""
        return (*(column.name for column in self.columns), self.label.column)

    def texts(self) -> tuple[str, ...]:
        """Every name that a release shows."""
        return (*self.source_columns, *(level for column in self.columns for level in column.levels or ()))
