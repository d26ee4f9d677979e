"""The address of a source: one set of files has one, however a spec writes it, or it could be given two budgets."""

from pathlib import Path

from cadp.errors import SourceError
from cadp.sources import catalogue


def local_folder(url: str) -> Path:
    """Return the folder that `source.url` names: a path, or `file:///path`.

    Raises:
        SourceError: it is an address of another kind, or of another machine.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    host, slash, path = rest.partition("/")
    if scheme.lower() != "file" or not slash or host.lower() not in ("", "localhost") or set(rest) & set("%?#"):
        raise SourceError(
            f"source.url {url} is no folder of this machine: write its path (in a file:///… address no %, ? or #)"
        )
    return Path("/" + path.lstrip("/"))


def addresses(url: str, data_dir: Path) -> tuple[str, ...]:
    """Return what a source's files are called: its address today, then what earlier versions called the same files.

    A catalogued dataset is its name, whether the spec says the name or one of the folders where it may lie.

    Raises:
        SourceError: `url` is no name and no folder's address.
    """
    path = "" if catalogue.find(url) else str(local_folder(url).resolve())
    for name in catalogue.names():
        folders = tuple(str(folder.resolve()) for folder in catalogue.folders(catalogue.get(name), data_dir))
        if url == name or path in folders:
            return (name, *folders)
    return (path,)
