"""Where each file of a release lies, below the release's prefix."""

import re

CLAIM = "claim.json"
CARD = "README.md"
PAGE = "index.html"
CROISSANT = "croissant.json"
STATEMENT = "statement.json"
AUDIT = "audit.json"
EXPECTATIONS = "expectations/"
SHARD_INDEX = "shards/index.json"
SUMS = "SHA256SUMS"
MANIFEST = "manifest.json"
ENVELOPE = "manifest.dsse"

# What SHA256SUMS leaves out: itself, and the two files that are written after it because they cover it.
AFTER_SUMS = (SUMS, MANIFEST, ENVELOPE)

_DATA = re.compile(r"data/train-\d{5,}-of-\d{5,}\.parquet|shards/train-\d{6,}\.tar")


def parquet_path(index: int, of: int) -> str:
    """The Parquet file of interval `index`: the name pattern that Hugging Face readers know."""
    return f"data/train-{index:05d}-of-{of:05d}.parquet"


def shard_path(index: int) -> str:
    """The WebDataset tar of interval `index`."""
    return f"shards/train-{index:06d}.tar"


def is_known(path: str) -> bool:
    """Whether a release has a file of this path."""
    documents = {CLAIM, CARD, PAGE, CROISSANT, STATEMENT, AUDIT, SHARD_INDEX, *AFTER_SUMS}
    return path in documents or path.startswith(EXPECTATIONS) or _DATA.fullmatch(path) is not None
