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

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# What Parquet, SQL, JSON and Croissant all take for a name as it is.
Name = Annotated[str, Field(pattern=r"^\w([\w -]{0,62}\w)?$")]


def _quoted(level: object) -> object:
    if isinstance(level, bool | int | float):
        raise ValueError(f"level {level} is a number or a truth value: a level is text, put it in quotes")  # noqa: TRY004
    if isinstance(level, str) and level != level.strip():
        raise ValueError(f"level {level!r} begins or ends with a space, and cells are read without those")
    return level


Level = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$"), BeforeValidator(_quoted)]
Finite = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]

KEY = "key"
"""The released records' own column; a table has none of this name."""
LIMIT_WIDTH = 1024  # the fit's covariance is square
LIMIT_LEVELS = 255  # trees of scikit-learn take no more
LIMIT_DIGITS = 9
_DIGITS = 4  # at least, of a number's range, where a spec names no decimals


def plain(number: float) -> str:
    """A declared number as its author would write it: `f"{number:g}"` would make 1.23457e+06 of 1,234,567.

    >>> plain(1234567.0), plain(0.1), plain(220.0)
    ('1234567', '0.1', '220')
    """
    return f"{number:.15g}"


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
    levels: tuple[Level, ...] | None = Field(
        default=None, min_length=2, max_length=LIMIT_LEVELS, description="of a category"
    )
    scale: Literal["linear", "log"] = Field(default="linear", description="log where ratios matter; bounds above 0")
    decimals: int | None = Field(
        default=None, ge=0, le=LIMIT_DIGITS, description="of a released number; 0 makes it an integer"
    )

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
            raise ValueError(
                f"bounds of column {self.name} are [least, largest]: {plain(low)} is not below {plain(high)}"
            )
        if self.scale == "log" and low <= 0:
            raise ValueError(f"column {self.name} has scale log: its least bound {plain(low)} must be above 0")
        least, largest = round(low, self.digits), round(high, self.digits)
        if largest <= least or (self.scale == "log" and least <= 0):
            raise ValueError(
                f"column {self.name} of bounds {self.words} needs more decimals than {self.digits}, of which there are "
                f"up to {LIMIT_DIGITS}, or another unit of measurement: released numbers would all be "
                f"{plain(least) if largest <= least else 'as low as 0, which has no logarithm'}"
            )
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
        return min(LIMIT_DIGITS, max(0, _DIGITS - math.floor(math.log10(size))))

    @property
    def released_interval(self) -> tuple[float, float]:
        """The bounds of a released number: rounding may take it out of the declared ones by less than one digit."""
        low, high = self.interval
        return min(low, round(low, self.digits)), max(high, round(high, self.digits))

    @property
    def words(self) -> str:
        """The declared bounds, or levels, for people."""
        if self.levels is not None:
            return " · ".join(self.levels)
        low, high = self.interval
        return f"{plain(low)} to {plain(high)}" + (", log scale" if self.scale == "log" else "")

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
            raise ValueError(f"edges of {self.column} must rise: {', '.join(map(plain, self.edges))}")
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
