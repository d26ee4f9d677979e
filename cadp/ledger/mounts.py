"""Which file system a path lies on, as far as the kernel tells.

SQLite's locks hold on a machine's own disks alone, and what lies in memory is gone when the machine restarts.
"""

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
_MEMORY = frozenset(("tmpfs", "ramfs", "rootfs"))


def network_file_system(path: Path, table: Path = _TABLE) -> str | None:
    """Return the kind of network file system that `path` lies on or would be made on; None if it is local or unknown.

    A system that keeps no table of mounts (macOS, Windows) tells nothing.
    """
    kind = _file_system(path, table)
    plain, _, fuse = kind.partition(".")
    return kind if plain in _NETWORK or (plain == "fuse" and fuse in _NETWORK_FUSE) else None


def memory_file_system(path: Path, table: Path = _TABLE) -> str | None:
    """Return the kind of file system in memory that `path` lies on or would be made on; None if it is another."""
    kind = _file_system(path, table)
    return kind if kind in _MEMORY else None


def _file_system(path: Path, table: Path) -> str:
    """Return the kind of file system that holds a path; empty where the system keeps no table of mounts."""
    try:
        mounts = [line.split() for line in table.read_text().splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(path)
    # The longest mount point above the path holds it; of two at one point, the later one.
    found, kind = "", ""
    for mount in mounts:
        point = _unescape(mount[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, mount[2]
    return kind


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
