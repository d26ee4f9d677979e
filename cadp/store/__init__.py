"""One door to storage: a prefix of a local directory or of an S3 bucket, with one contract for both.

Objects are immutable: a put succeeds once, an equal put again is done already, an unequal one is refused. An object is
visible whole or not at all. There is no rename, no append and no lock.
"""

from cadp.store.backend import Right
from cadp.store.door import Store, StoredObject
from cadp.store.keys import check_key

__all__ = ["Right", "Store", "StoredObject", "check_key"]
