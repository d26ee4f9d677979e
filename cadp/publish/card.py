"""`README.md`: the data card, with the YAML head that Hugging Face tools read."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ruamel.yaml import YAML

from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile
from cadp.publish.loading import snippets
from cadp.publish.rows import kinds
from cadp.publish.templating import render

_SIZES = ((10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M"), (10**9, "1B"))


def card(facts: ReleaseFacts, files: Sequence[PublishedFile], key_id: str) -> bytes:
    """The file's bytes."""
    return render(
        "card.md.j2",
        {
            "head": yaml_head(facts, files),
            "facts": facts,
            "snippets": snippets(facts, files),
            "counts": class_counts(files, len(facts.classes)),
            "key_id": key_id,
        },
    )


def class_counts(files: Sequence[PublishedFile], classes: int) -> list[int]:
    """Released labels counted by class, over the Parquet files."""
    counts = [0] * classes
    for file in files:
        if file.path.endswith(".parquet"):
            counts = [total + more for total, more in zip(counts, file.class_counts, strict=True)]
    return counts


def size_category(records: int) -> str:
    """The Hub's word for a data set's size.

    >>> size_category(300), size_category(60_000)
    ('n<1K', '10K<n<100K')
    """
    below = "n<1K"
    for (bound, word), (_, larger) in pairwise(_SIZES):
        if records >= bound:
            below = f"{word}<n<{larger}"
    return below


def _features(facts: ReleaseFacts) -> list[dict[str, object]]:
    if facts.table is not None:
        return [{"name": name, "dtype": kind} for name, kind in kinds(facts.table).items()]
    names = {str(index): name for index, name in enumerate(facts.classes)}
    return [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
        {"name": "key", "dtype": "string"},
    ]


def yaml_head(facts: ReleaseFacts, files: Sequence[PublishedFile]) -> str:
    """License, tags, where the Parquet files are and how large, and the features with their label names."""
    size = sum(file.size for file in files if file.path.endswith(".parquet"))
    head: Mapping[str, object] = {
        "license": facts.license.lower(),
        "pretty_name": facts.title,
        "tags": ["differential-privacy", "synthetic", "cadp", "image" if facts.table is None else "tabular"],
        "task_categories": ["image-classification" if facts.table is None else "tabular-classification"],
        "size_categories": [size_category(facts.records)],
        "configs": [
            {
                "config_name": "default",
                "default": True,
                "data_files": [{"split": "train", "path": "data/*.parquet"}],
            }
        ],
        "dataset_info": {
            "config_name": "default",
            "features": _features(facts),
            # Without sizes `datasets` warns that the card is malformed; those of the files are what is known here.
            "splits": [{"name": "train", "num_bytes": size, "num_examples": facts.records}],
            "download_size": size,
            "dataset_size": size,
        },
    }
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 4096
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(head, out)
    return out.getvalue().strip()
