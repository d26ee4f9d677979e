"""The lines of code with which a reader opens and checks a release: the same in the card and on the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile
from cadp.publish.layout import shard_path


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code for one tool.

    Attributes:
        tool: its name.
        language: `python` or `sh`.
        code: the lines, for the folder that `<name>/<version>` lies in.
    """

    tool: str
    language: str
    code: str


_DATASETS = """\
from datasets import load_dataset

train = load_dataset("RELEASE", split="train")
print(train[0]["image"], train.features["label"].int2str(train[0]["label"]))"""

_WEBDATASET = """\
import webdataset as wds

shards = "RELEASE/SHARDS"
train = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png", "cls")
image, label = next(iter(train))
print(image, label)"""

_DUCKDB = """\
import duckdb

print(duckdb.sql("SELECT label, count(*) FROM 'RELEASE/data/*.parquet' GROUP BY label"))"""

_POLARS = """\
import polars

train = polars.read_parquet("RELEASE/data/*.parquet")
print(train["label"].value_counts())"""

_CROISSANT = """\
import mlcroissant

release = mlcroissant.Dataset("RELEASE/croissant.json")
print(next(iter(release.records("records"))))"""

_TABLE = {
    _DATASETS: """\
from datasets import load_dataset

train = load_dataset("RELEASE", split="train")
print(train[0])""",
    _WEBDATASET: """\
import webdataset as wds

shards = "RELEASE/SHARDS"
train = wds.WebDataset(shards, shardshuffle=False).decode().to_tuple("json", "cls")
row, label = next(iter(train))
print(row, label)""",
    _DUCKDB: """\
import duckdb

print(duckdb.sql("SELECT \\"LABEL\\", count(*) FROM 'RELEASE/data/*.parquet' GROUP BY ALL"))""",
    _POLARS: """\
import polars

train = polars.read_parquet("RELEASE/data/*.parquet")
print(train["LABEL"].value_counts())""",
}
"""What is loaded otherwise where the records are rows of a table."""

_SUMS = "(cd RELEASE && sha256sum --quiet -c SHA256SUMS)"

_OPENSSL = """\
python3 - RELEASE <<'EOF'
import base64, json, sys
envelope = json.load(open(sys.argv[1] + "/manifest.dsse"))
payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
open("pae", "wb").write(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
open("sig", "wb").write(base64.b64decode(envelope["signatures"][0]["sig"]))
digest = json.loads(payload)["subject"][0]["digest"]["sha256"]
open("manifest.sha256", "w").write(f"{digest}  {sys.argv[1]}/manifest.json\\n")
EOF
openssl pkeyutl -verify -pubin -inkey publisher.pub -rawin -in pae -sigfile sig
sha256sum --quiet -c manifest.sha256"""

_SNIPPETS = (
    Snippet("Hugging Face datasets", "python", _DATASETS),
    Snippet("WebDataset and PyTorch", "python", _WEBDATASET),
    Snippet("DuckDB", "python", _DUCKDB),
    Snippet("Polars", "python", _POLARS),
    Snippet("Croissant", "python", _CROISSANT),
    Snippet("Check every byte and the signature", "sh", "cadp verify RELEASE"),
    Snippet("Check the files without cadp", "sh", _SUMS),
    Snippet("Check the signature without cadp", "sh", _OPENSSL),
)


def snippets(facts: ReleaseFacts, files: Sequence[PublishedFile]) -> list[Snippet]:
    """How to load and check the release with common tools, from the folder that `<name>/<version>` lies in."""
    shards = brace_pattern(sum(file.path.endswith(".tar") for file in files))
    return [Snippet(each.tool, each.language, _filled(each.code, facts, shards)) for each in _SNIPPETS]


def _filled(code: str, facts: ReleaseFacts, shards: str) -> str:
    if facts.table is not None:
        code = _TABLE.get(code, code).replace("LABEL", facts.table.label.column)
    return code.replace("RELEASE", facts.release).replace("SHARDS", shards)


def brace_pattern(shards: int) -> str:
    """The tars of a release with so many, as one pattern that WebDataset expands.

    >>> brace_pattern(10)
    'shards/train-{000000..000009}.tar'
    """
    if shards < 2:
        return shard_path(0)
    stem, _, _ = shard_path(0).partition("000000")
    return f"{stem}{{{0:06d}..{shards - 1:06d}}}.tar"
