"""Which file system a path lies on, as far as the kernel tells: SQLite's locks hold on a machine's own disks alone."""

import os
from pathlib import Path

_TABLE = Path("/proc/self/mounts")
# fmt: off
_NETWORK = frozenset((
    "9p", "acfs", "afp", "afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
    "vboxsf", "webdav",
))
_NETWORK_FUSE = frozenset((
    "blobfuse", "blobfuse2", "ceph-fuse", "davfs2", "gcsfuse", "geesefs", "glusterfs", "goofys", "juicefs",
    "mount-s3", "rclone", "s3fs", "smbnetfs", "sshfs",
))
# fmt: on


def network_file_system(path: Path, table: Path = _TABLE) -> str | None:
    """Return the kind of network file system that `path` lies on or would be made on; None if it is local or unknown.

    A system that keeps no table of mounts (macOS, Windows) tells nothing.
    """
    try:
        mounts = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return None
    real = os.path.realpath(path)
    # The longest mount point above the path holds it; of two at one point, the later one.
    found, kind = "", ""
    for mount in mounts:
        point = _unescape(mount[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, mount[2]
    plain, _, fuse = kind.partition(".")
    return kind if plain in _NETWORK or (plain == "fuse" and fuse in _NETWORK_FUSE) else None


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
