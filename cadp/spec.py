"""`release.yaml` as frozen models: public values only.

A spec holds nothing secret and nothing learned from the data, so it may be printed, published and put in a form.
Every problem of a file is reported at once, each with its line. Numbers are YAML 1.2's: `1e-5` is a number.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cadp.columns import Table
from cadp.errors import SpecError

_NAME = r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
Epsilon = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Delta = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


# The statement's figures are recomputed from its events: a loss claimed in free text, or a promise that differential
# privacy does not make, would stand beside them unchecked.
_CLAIM = re.compile(r"epsilon\s*=|delta\s*=|ε\s*=|δ\s*=|e\^|anonym", re.IGNORECASE)


def _no_claim(text: str) -> str:
    if found := _CLAIM.search(text):
        raise ValueError(f"free text may not claim a loss or more than is promised, as {found.group()!r} does")
    return text


Words = Annotated[str, AfterValidator(_no_claim)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Attribute(_Frozen):
    """A yes-or-no attribute of the label, answered on its own."""

    name: Words = Field(min_length=1, max_length=100, description="of the attribute; public")
    classes: tuple[str, ...] = Field(min_length=1, description="the classes that have it")
    share: float = Field(default=1.0, gt=0, le=1e6, description="of the labels' epsilon, beside the others' shares")


class RandomizedLabels(_Frozen):
    """Labels by randomized response: over the classes, or on each attribute where classes are combinations of some."""

    epsilon: float = Field(ge=1e-6, le=1000, description="loss of one record's label, beside that of its contents")
    attributes: tuple[Attribute, ...] | None = Field(
        default=None, min_length=1, max_length=10, description="every combination of them is one of the classes"
    )


class ResampledLabels(_Frozen):
    """Labels drawn anew; no label is released."""

    weights: tuple[Annotated[float, Field(ge=0, le=1e9)], ...] = Field(
        min_length=2, description="a public weight for each class, in the order of the classes"
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(self.weights):
            raise ValueError("at least one weight must be above 0")
        return self


class Labels(_Frozen):
    """What becomes of labels: `public`, `{randomized-response: {epsilon: …}}` or `{resample: {weights: […]}}`."""

    randomized_response: RandomizedLabels | None = Field(default=None, alias="randomized-response")
    resample: ResampledLabels | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if value == "public":
            return {}
        if isinstance(value, Mapping) and len(value) != 1:
            raise ValueError("name one of randomized-response and resample, or say public")
        if not isinstance(value, Mapping | Labels):
            text = "labels are public, {randomized-response: {epsilon: …}} or {resample: {weights: […]}}"
            raise ValueError(text)  # noqa: TRY004  (pydantic collects only these)
        return value

    @model_validator(mode="after")
    def _stated(self) -> Self:
        if self.model_fields_set and self.kind == "public":
            raise ValueError("name one of randomized-response and resample with its settings, or say public")
        return self

    @model_serializer(mode="plain")
    def _write(self) -> str | dict[str, Any]:
        if self.randomized_response is not None:
            return {"randomized-response": self.randomized_response.model_dump(mode="json", exclude_none=True)}
        return "public" if self.resample is None else {"resample": self.resample.model_dump(mode="json")}

    @property
    def kind(self) -> Literal["public", "randomized-response", "resample"]:
        """The name of what is done."""
        if self.randomized_response is not None:
            return "randomized-response"
        return "public" if self.resample is None else "resample"


TABLES = ("csv", "parquet")
_OF_TABLES = ("table", "unit_column")


class Source(_Frozen):
    """Where the private records are and what is public about them."""

    format: Literal["idx", "imagefolder", "csv", "parquet"] = Field(description="how the records are stored")
    url: str = Field(min_length=1, description="a folder, or the name of a dataset that cadp knows")
    unit: str = Field(
        pattern=r"^[a-z]([a-z-]{0,30}[a-z])?$",
        description="who is protected: `record` when every record is another person's, else `patient`, `household`, …",
    )
    why: Words = Field(min_length=8, description="why that is the unit, in words; printed in the statement")
    unit_pattern: str | None = Field(
        default=None,
        max_length=100,
        description="a regular expression for a whole file name; its one group is the unit's id",
    )
    unit_column: str | None = Field(
        default=None, min_length=1, max_length=100, description="of a table, its column of unit ids; never released"
    )
    table: Table | None = Field(default=None, description="what the columns of a table are; public")
    max_records_per_unit: int = Field(default=1, ge=1, le=10_000, description="the most of a unit's records to use")
    labels: Labels = Field(description="public labels are published as they are; class counts leak exactly then")
    records: int | None = Field(default=None, ge=1, description="how many records the source holds; public")
    shape: tuple[int, int, int] | None = Field(default=None, description="height, width, channels; public")
    classes: tuple[Words, ...] | None = Field(default=None, min_length=2, description="label names; public")
    holdout_records: int | None = Field(default=None, ge=1, description="records of the declared holdout split")
    units: int | None = Field(default=None, ge=1, description="units behind the records; public")
    holdout_units: int | None = Field(default=None, ge=1, description="units of the holdout split; public")
    over_cap: int = Field(
        default=0, ge=0, description="how many of the records are over their unit's cap and left out; public"
    )
    max_rejects: float = Field(default=0.001, ge=0, le=1, description="share of unreadable records that stops a run")

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if self.shape is not None:
            height, width, channels = self.shape
            if not (1 <= height <= 128 and 1 <= width <= 128 and channels in (1, 3)):
                raise ValueError(f"shape {list(self.shape)} is not supported: up to 128 × 128, 1 or 3 channels")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        return self

    @model_validator(mode="after")
    def _table_is_declared(self) -> Self:
        if not self.tabular:
            if self.table is not None:
                raise ValueError(f"table is for formats {' and '.join(TABLES)}, not {self.format}")
            return self
        if self.table is None or self.classes is None:
            raise ValueError(f"a source of format {self.format} needs table and classes: its columns are public")
        if self.shape is not None:
            raise ValueError("the shape of a table follows from its columns: leave shape out")
        for text in self.table.texts():
            _no_claim(text)
        if stray := [name for name in self.classes if name != name.strip() or len(name) > 100]:
            raise ValueError(f"class {stray[0]!r}: cells are read without spaces around them, and up to 100 characters")
        label = self.table.label
        if label.edges is not None and len(label.edges) != len(self.classes) + 1:
            raise ValueError(
                f"{len(self.classes)} classes have {len(self.classes) + 1} edges: table.label.edges are "
                f"{len(label.edges)}"
            )
        if self.unit_column in self.table.source_columns:
            raise ValueError(f"unit_column {self.unit_column} names units: it may not be a released column as well")
        return self

    @model_validator(mode="after")
    def _unit_is_known(self) -> Self:
        if self.unit == "record":
            names = ("unit_pattern", "unit_column", "max_records_per_unit", "units", "holdout_units", "over_cap")
            fields = type(self).model_fields
            if stray := [name for name in names if getattr(self, name) != fields[name].default]:
                raise ValueError(f"of unit record, every record is a unit: leave out {', '.join(stray)}")
            return self
        if self.records is not None and self.over_cap >= self.records:
            raise ValueError(f"over_cap {self.over_cap} leaves nothing of {self.records} records")
        if self.tabular:
            if self.unit_column is None or self.units is None or self.holdout_units is None:
                raise ValueError(f"a table by {self.unit} needs unit_column, units and holdout_units")
            if self.unit_pattern is not None:
                raise ValueError("unit_pattern is for names of files: a table has unit_column")
            return self
        if self.format != "imagefolder":
            raise ValueError(f"a source of format {self.format} does not say whose records are whose: unit is record")
        if self.unit_column is not None:
            raise ValueError("unit_column is for tables: files have unit_pattern")
        if self.unit_pattern is None or self.units is None or self.holdout_units is None:
            raise ValueError(f"a source by {self.unit} needs unit_pattern, units and holdout_units")
        try:
            groups = re.compile(self.unit_pattern).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"unit_pattern is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"unit_pattern has {groups} groups: one, in parentheses, is the unit's id")
        return self

    @model_serializer(mode="wrap")
    def _write(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is of tables alone, where it is not said: specs of images keep their digest."""
        told: dict[str, Any] = fields(self)
        return {name: value for name, value in told.items() if value is not None or name not in _OF_TABLES}

    @property
    def tabular(self) -> bool:
        """Whether the records are rows of a table."""
        return self.format in TABLES

    @property
    def unit_text(self) -> str:
        """The unit as a population's budget names it: another way to tell units apart is another unit."""
        if self.unit_column is not None:
            return f"{self.unit} by column {self.unit_column}"
        return self.unit if self.unit_pattern is None else f"{self.unit} by {self.unit_pattern}"


class Spend(_Frozen):
    """The most that this release may take from its population's budget (replace-one)."""

    epsilon: Epsilon
    delta: Delta
    why_delta: Words | None = Field(default=None, description="in words, when delta is above 1 / (10 · units)")


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not said, so that a setting that came later changes no digest of a spec without it."""
    return {name: value for name, value in fields.items() if value is not None}


class Couplings(_Frozen):
    """Train couplings behind the fitted layers by DP-SGD; `couplings: true` takes every setting as it stands here."""

    fraction: float = Field(default=1.0, gt=0, le=1, description="of the units that are read, by a keyed hash; public")
    start: str | None = Field(default=None, description="public model whose couplings it starts from: digest or path")
    public: Words | None = Field(default=None, min_length=8, description="why that model is public, in words")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return {} if value is True else value

    @model_validator(mode="after")
    def _declared(self) -> Self:
        if (self.start is None) != (self.public is None):
            raise ValueError("start names a public model, public says why it is: both or neither")
        return self

    @model_serializer(mode="wrap")
    def _write(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(fields(self))


class Train(_Frozen):
    """Train the model with differential privacy on the units being released."""

    epsilon: Epsilon
    couplings: Couplings | None = Field(default=None, description="`true`, or settings; left out, moments alone")

    @model_validator(mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("couplings") is False:
            return {**value, "couplings": None}
        return value


class Model(_Frozen):
    """Where the conditional invertible network comes from: `{train: …}`, `{load: …}` or `{load: …, public: why}`."""

    train: Train | None = None
    load: str | None = Field(default=None, description="digest of a model in the private zone, or path of its .json")
    public: Words | None = Field(default=None, min_length=8, description="why a loaded model is public, in words")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.train is None) == (self.load is None):
            raise ValueError("name one of train and load")
        if self.public is not None and self.load is None:
            raise ValueError("public is said of a model that is loaded")
        return self

    @model_serializer(mode="wrap")
    def _write(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _given(fields(self))


class Mechanism(_Frozen):
    """What happens to each record's latent."""

    kind: Literal["privunit", "gaussian", "laplace", "resample", "legacy"]
    epsilon: float = Field(default=0.0, ge=0, le=1000)
    content_dims: int = Field(default=8, ge=2, le=4096)

    @model_validator(mode="after")
    def _epsilon_fits_kind(self) -> Self:
        if self.kind == "resample" and self.epsilon != 0:
            raise ValueError("resample does not use the record's latent: leave epsilon out")
        if self.kind != "resample" and self.epsilon <= 0:
            raise ValueError(f"{self.kind} needs an epsilon above 0")
        return self


class Validate(_Frozen):
    """The charged gate on the accuracy of a classifier trained on released records."""

    classifier: Literal["cnn", "linear", "boosting"] = Field(
        default="cnn", description="cnn for images; linear (logistic regression) or boosting (of trees) for tables"
    )
    holdout: Literal["test"] = Field(description="the source's declared split that the classifier is scored on")
    epsilon: Epsilon
    accuracy_at_least: float = Field(ge=0, le=1)


class Publish(_Frozen):
    """What the release contains."""

    formats: tuple[Literal["webdataset", "parquet"], ...] = ("webdataset", "parquet")
    title: Words | None = None
    description: Words | None = None
    publisher: Words = "unnamed publisher"
    citation: Words | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if set(self.formats) != {"webdataset", "parquet"}:
            raise ValueError("formats must be [webdataset, parquet]: a release carries both")
        return self


class Run(_Frozen):
    """How to run; nothing here changes what is released, so it is outside the digest."""

    range_records: int = Field(default=6000, ge=1, description="records in one unit of work, retry and sealing")
    workers: int | None = Field(default=None, ge=1, le=256, description="threads; the number of cores if left out")
    batch: int = Field(default=1024, ge=1, le=65536)
    processes: int = Field(default=1, ge=1, le=256, description="that share the training of couplings")
    audit_trials: int = Field(default=750, ge=40, le=10**6, description="of the release's own audit, if none had more")


class ReleaseSpec(_Frozen):
    """One release, as its author declares it."""

    name: str = Field(pattern=_NAME, description="of the dataset; part of the release's address")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="of the release; immutable once published")
    license: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$", description="SPDX identifier")
    population: str = Field(pattern=_NAME, description="whose budget; its limit lives in the ledger alone")
    source: Source
    spend: Spend
    model: Model
    mechanism: Mechanism
    validate_: Validate = Field(alias="validate")
    publish: Publish = Publish()
    run: Run = Run()

    @model_validator(mode="after")
    def _classifier_fits(self) -> Self:
        if self.source.tabular == (self.validate_.classifier == "cnn"):
            raise ValueError(
                f"validate.classifier {self.validate_.classifier} does not fit source.format {self.source.format}: "
                f"images have cnn, tables linear or boosting"
            )
        if self.source.tabular and self.mechanism.kind == "legacy":
            raise ValueError("mechanism legacy reproduces the published code on images: a table has another mechanism")
        return self

    @property
    def release(self) -> str:
        """The release's address below a zone: `name/version`."""
        return f"{self.name}/{self.version}"

    def digest(self) -> str:
        """SHA-256 (hex) of everything but `run`, in canonical JSON."""
        public = self.model_dump(mode="json", by_alias=True, exclude={"run"})
        return hashlib.sha256(canonical_json(public)).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def load_spec(path: str | Path) -> ReleaseSpec:
    """Read and check a `release.yaml`.

    Raises:
        SpecError: the file is missing, is not YAML, or breaks a rule; the message lists every problem with its line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the spec {path}: {getattr(error, 'strerror', None) or error}") from error
    return parse_spec(text, name=str(path))


def parse_spec(text: str, *, name: str = "release.yaml") -> ReleaseSpec:
    """Check the text of a spec; `name` stands before each problem.

    Raises:
        SpecError: as `load_spec`.
    """
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecError(f"{name}:{line}: not YAML: {error.problem or error.context}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{name}:1: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, CommentedMap):
        raise SpecError(f"{name}:1: a spec is a mapping of name, version, source, …")
    try:
        return ReleaseSpec.model_validate(_plain(tree))
    except ValidationError as error:
        problems = [_problem(tree, name, e["loc"], e["msg"], e["type"]) for e in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(problems))) from error


def _plain(node: object) -> Any:  # noqa: ANN401  (whatever YAML holds)
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _problem(tree: CommentedMap, name: str, loc: tuple[int | str, ...], message: str, kind: str) -> str:
    line, field = _line(tree, loc), ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        message = "no such setting"
    elif kind == "missing":
        message = "is missing"
    return f"{name}:{line}: {field or 'spec'}: {message.removeprefix('Value error, ')}"


def _line(tree: CommentedMap, loc: tuple[int | str, ...]) -> int:
    node: object = tree
    line = tree.lc.line
    for part in loc:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0]
            node = node[part]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
            node = node[part]
        else:
            break
    return int(line) + 1
