"""`shards/index.json`, the shard index that `wids` and indexed WebDataset readers open."""

from collections.abc import Sequence

from cadp.publish.canonical import pretty
from cadp.publish.facts import ReleaseFacts
from cadp.publish.interval import PublishedFile

KIND = "wids-shard-index-v1"


def shard_index(facts: ReleaseFacts, shards: Sequence[PublishedFile]) -> bytes:
    """The index of `shards`, with URLs relative to itself, their counts and sizes."""
    return pretty(
        {
            "__kind__": KIND,
            "wids_version": 1,
            "name": facts.release,
            "shardlist": [
                {
                    "url": shard.path.rpartition("/")[2],
                    "nsamples": shard.records,
                    "filesize": shard.size,
                    "md5sum": shard.md5,
                }
                for shard in shards
            ],
        }
    )
