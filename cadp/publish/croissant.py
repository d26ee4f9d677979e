"""`croissant.json`: the release described in Croissant 1.1, so that `mlcroissant` and dataset search read it.

Source: the MLCommons Croissant format 1.1 and its RAI vocabulary 1.0.
"""

from collections.abc import Mapping, Sequence

from cadp.columns import Column, Table, slug
from cadp.publish.canonical import pretty
from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile
from cadp.publish.layout import PAGE, STATEMENT
from cadp.store import StoredObject

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_MIME = {".parquet": "application/x-parquet", ".tar": "application/x-tar", ".json": "application/json"}
_TYPES = {"number": "sc:Float", "integer": "sc:Integer", "category": "sc:Text"}
_TERMS = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform containedIn"
)
_CONTEXT: dict[str, object] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}


def croissant(facts: ReleaseFacts, files: Sequence[PublishedFile], statement: StoredObject) -> bytes:
    """The file's bytes, for the released `files` (Parquet and tars) and the privacy statement."""
    body = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": facts.name,
        "version": facts.version,
        "description": facts.description,
        "license": f"https://spdx.org/licenses/{facts.license}.html",
        "url": facts.url or PAGE,
        "citeAs": facts.cited,
        "creator": {"@type": "sc:Organization", "name": facts.publisher, "url": facts.url or PAGE},
        "publisher": {"@type": "sc:Organization", "name": facts.publisher, "url": facts.url or PAGE},
        "datePublished": facts.date,
        "isLiveDataset": False,
        "prov:wasDerivedFrom": {"@type": "prov:Entity", "description": facts.source_note},
        **responsible_use(facts),
        "distribution": [
            *(_file_object(file.path, file.size, file.sha256) for file in files),
            _file_object(STATEMENT, statement.size, statement.sha256),
            {
                "@type": "cr:FileSet",
                "@id": "parquet",
                "name": "parquet",
                "description": "The Parquet files, each of which is a FileObject above with its digest.",
                "encodingFormat": _MIME[".parquet"],
                "includes": "data/*.parquet",
            },
        ],
        "recordSet": [_classes(facts.classes), _records(facts)],
    }
    return pretty(body)


def responsible_use(facts: ReleaseFacts) -> Mapping[str, object]:
    """The RAI fields: what is personal in the release, what it cannot be used for, and its biases."""
    return {
        "rai:personalSensitiveInformation": [
            "The originals may describe people; this release holds noised records made from them. "
            f"The whole privacy statement is {STATEMENT}. In short: {' '.join(facts.statement_lines)}"
        ],
        "rai:dataLimitations": [
            "Every record is drawn through a differentially private model and mechanism: fine detail, rare variations "
            "and small groups are lost or distorted. Do not draw conclusions about one record or one person.",
            _utility(facts),
        ],
        "rai:dataBiases": [
            "The biases of the original data remain, and differential privacy weighs on small groups most: "
            "check your task on each class before you rely on it.",
        ],
        "rai:dataManipulationProtocol": [
            "Content-Aware Differential Privacy: a conditional invertible network maps each record to a latent code, "
            "calibrated noise enters the code, and the inverse gives a record of the released label."
        ],
        "rai:dataReleaseMaintenancePlan": [
            "A published version never changes; a fix is a new version. Each release of the same originals spends "
            "privacy budget, which the statement adds up."
        ],
        "rai:dataCollection": [facts.source_note or "See the description."],
    }


def _utility(facts: ReleaseFacts) -> str:
    gate = facts.accuracy
    if gate is None:
        return "No accuracy was measured on original data."
    return (
        f"A classifier trained on this release reached {gate['accuracy']:.3f} accuracy (noisy; "
        f"{gate['confidence']:.0%} interval {gate['low']:.3f} to {gate['high']:.3f}) "
        f"on {gate['n']:,} held-out originals."
    )


def _file_object(path: str, size: int, sha256: str) -> dict[str, object]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path.rpartition("/")[2],
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": _MIME["." + path.rpartition(".")[2]],
        "sha256": sha256,
    }


def _classes(classes: Sequence[str]) -> dict[str, object]:
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The label names, by class index.",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/label"},
        "field": [
            _field("classes/label", "The class index.", "sc:Integer"),
            _field("classes/name", "The class's name.", "sc:Text"),
        ],
        "data": [{"classes/label": index, "classes/name": name} for index, name in enumerate(classes)],
    }


def _records(facts: ReleaseFacts) -> dict[str, object]:
    return _images(facts) if facts.table is None else _rows(facts, facts.table)


def _rows(facts: ReleaseFacts, table: Table) -> dict[str, object]:
    columns = [_field(f"records/{slug(c.name)}", _described(c), _TYPES[c.kind], c.name) for c in table.columns]
    label = table.label.column
    classes = f"The released class, one of: {', '.join(facts.classes)}."
    return {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "description": f"{facts.records:,} released rows in a uniformly random order.",
        "key": {"@id": "records/key"},
        "field": [
            _field("records/key", "A random 128-bit id in hex; it says nothing of the original.", "sc:Text", "key"),
            *columns,
            _field(f"records/{slug(label)}", classes, "sc:Text", label),
        ],
    }


def _described(column: Column) -> str:
    if column.levels is not None:
        return f"A category: {column.words}."
    return f"A number, {column.words}: bounds that were declared beforehand."


def _images(facts: ReleaseFacts) -> dict[str, object]:
    height, width, channels = facts.shape
    kind = "greyscale" if channels == 1 else "RGB"
    names = ", ".join(f"{name} ({index})" for index, name in enumerate(facts.classes))
    return {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "description": f"{facts.records:,} released records in a uniformly random order.",
        "key": {"@id": "records/key"},
        "field": [
            _field("records/key", "A random 128-bit id in hex; it says nothing of the original.", "sc:Text", "key"),
            _field(
                "records/image", f"A {width}×{height} {kind} PNG.", "sc:ImageObject", "image", {"jsonPath": "bytes"}
            ),
            _field("records/label", f"The released class index: {names}.", "sc:Integer", "label"),
        ],
    }


def _field(
    identity: str, description: str, kind: str, column: str | None = None, transform: Mapping[str, str] | None = None
) -> dict[str, object]:
    field: dict[str, object] = {
        "@type": "cr:Field",
        "@id": identity,
        "name": identity.rpartition("/")[2],
        "description": description,
        "dataType": kind,
    }
    if column is not None:
        source: dict[str, object] = {"fileSet": {"@id": "parquet"}, "extract": {"column": column}}
        if transform is not None:
            source["transform"] = dict(transform)
        field["source"] = source
    return field
