"""Where private records come from: one small file a format, all behind `Source`.

A source reads inside the private zone and releases nothing. It never drops a record: one that cannot be read is
reported to `rejects` with its reason and still yielded, without an image, so that no public count depends on content.
"""

from dataclasses import replace
from pathlib import Path

from cadp import spec
from cadp.errors import SourceError, SpecError
from cadp.sources import catalogue
from cadp.sources.address import local_folder
from cadp.sources.idx import IdxSource
from cadp.sources.imagefolder import ImageFolderSource
from cadp.sources.source import PublicFacts, Rejects, Shape, Source, SourceFile
from cadp.sources.table import TableSource

__all__ = ["PublicFacts", "Rejects", "Shape", "Source", "SourceFile", "open_source", "public_facts"]


def open_source(declared: spec.Source, *, data_dir: Path) -> Source:
    """Open the source that a spec declares; no record is read yet.

    Args:
        declared: format, address and public facts; the facts of a catalogued dataset may be left out.
        data_dir: where fetched datasets lie.

    Raises:
        SpecError: public facts are missing, or contradict the catalogue.
        SourceError: there is no such folder or dataset.
    """
    known = catalogue.find(declared.url)
    if known is not None:
        if declared.format != known.format:
            raise SpecError(f"source.format of {known.name} is {known.format}, not {declared.format}")
        _agree(declared, known.facts)
        if declared.unit != "record":
            raise SpecError(
                f"{known.name} does not say whose records are whose, so its unit is record, not {declared.unit}; a "
                f"copy of it that does is a folder"
            )
        folder = catalogue.locate(known.name, data_dir)
        etags = {file.name: f"sha256:{file.sha256}" for file in known.files}

        def verify() -> None:
            catalogue.verify(known, folder)

        if declared.table is None:
            return IdxSource(folder, known.facts, etags=etags, verify=verify)
        return TableSource(folder, _of_table(declared, known.facts), known.format, etags=etags, verify=verify)
    facts = _declared_facts(declared)
    folder = local_folder(declared.url)
    if not folder.is_dir():
        raise SourceError(f"no folder {folder}: source.url is a folder or one of: {', '.join(catalogue.names())}")
    if declared.format == "idx":
        return IdxSource(folder, facts)
    if declared.table is not None:
        return TableSource(folder, facts, declared.format, unit_column=declared.unit_column)
    labels_private = declared.labels.kind != "public"
    return ImageFolderSource(folder, facts, unit_pattern=declared.unit_pattern, labels_private=labels_private)


def public_facts(declared: spec.Source) -> PublicFacts:
    """Return what a spec says of its source, and the catalogue knows of it, wherever its files are.

    Raises:
        SpecError: as `open_source`.
    """
    known = catalogue.find(declared.url)
    if known is None:
        return _declared_facts(declared)
    _agree(declared, known.facts)
    return known.facts if declared.table is None else _of_table(declared, known.facts)


def _of_table(declared: spec.Source, facts: PublicFacts) -> PublicFacts:
    """The facts of a catalogued table with the columns and classes that the spec declares: its author's to choose."""
    if declared.table is None or declared.classes is None:
        raise SpecError(f"{declared.url} is a table: source.table and source.classes declare its columns")
    return replace(facts, shape=declared.table.shape, classes=declared.classes, table=declared.table)


def _agree(declared: spec.Source, facts: PublicFacts) -> None:
    of_images = ("shape", "classes")
    for name in ("records", "holdout_records", *(() if declared.tabular else of_images)):
        said, known = getattr(declared, name), getattr(facts, name)
        if said is not None and said != known:
            raise SpecError(f"source.{name} of {declared.url} is {known}, not {said}: correct it or leave it out")


def _declared_facts(declared: spec.Source) -> PublicFacts:
    records, holdout, classes = declared.records, declared.holdout_records, declared.classes
    shape = declared.shape if declared.table is None else declared.table.shape
    if records is None or holdout is None or shape is None or classes is None:
        needed = ("records", "holdout_records", *(("shape",) if shape is None else ()), "classes")
        missing = [name for name in needed if getattr(declared, name) is None]
        raise SpecError(
            f"{declared.url} is not a catalogued dataset ({', '.join(catalogue.names())}), so the spec must declare "
            f"its public facts; missing: {', '.join(f'source.{name}' for name in missing)}"
        )
    return PublicFacts(
        records=records - declared.over_cap,
        holdout_records=holdout,
        shape=shape,
        classes=classes,
        units=declared.units,
        holdout_units=declared.holdout_units,
        over_cap=declared.over_cap,
        table=declared.table,
    )
