"""WebDataset tars, in and out, as streams; raw shards of records; what is released of a record, as bytes."""

from cadp.shards.raw import read_raw_shard, write_raw_shard
from cadp.shards.tars import TarLimits, read_tar, write_tar
from cadp.shards.values import MOST_PIXELS, decode_png, decode_values, encode_png, encode_values

__all__ = [
    "MOST_PIXELS",
    "TarLimits",
    "decode_png",
    "decode_values",
    "encode_png",
    "encode_values",
    "read_raw_shard",
    "read_tar",
    "write_raw_shard",
    "write_tar",
]
