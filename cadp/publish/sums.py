"""`SHA256SUMS`: what plain `sha256sum -c SHA256SUMS` checks, without this program."""

from collections.abc import Iterable, Mapping

from cadp.publish.layout import AFTER_SUMS


def sums(digests: Mapping[str, str]) -> bytes:
    r"""One line a file, `digest  path`, sorted by path; the files that are written later are left out.

    >>> sums({"b": "22", "a": "11", "manifest.json": "33"}).decode()
    '11  a\n22  b\n'
    """
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests) if path not in AFTER_SUMS).encode()


def unprintable(paths: Iterable[str]) -> list[str]:
    """Paths that `sha256sum` would have to escape; a release has none."""
    return [path for path in paths if not path.isprintable() or "\\" in path]
