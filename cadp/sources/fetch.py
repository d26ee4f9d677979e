"""Bring a catalogued dataset to this machine, without root: `python -m cadp.sources.fetch NAME DIR`.

In order: already in DIR; where Debian's package puts it; of an installed scikit-learn; Debian's package unpacked; the
dataset's official addresses.
Whatever the way, its content must match the pins, and the folder appears under its name only when it is complete.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cadp.errors import CadpError, SourceError
from cadp.sources import catalogue
from cadp.sources.catalogue import PublicDataset
from cadp.sources.scikit_learn import write_splits

_SECONDS = 30


def fetch(name: str, data_dir: Path, say: Callable[[str], None]) -> Path:
    """The folder of a verified dataset, fetched into `data_dir` if need be. `say` hears what is being tried.

    Raises:
        SourceError: it cannot be had from anywhere (the message holds each way's failure), or `data_dir` not written.
    """
    dataset = catalogue.get(name)
    try:
        return _fetch(dataset, data_dir, say)
    except OSError as error:
        raise SourceError(f"cannot keep {name} in {data_dir} ({error}): name a folder that you may write to") from error


def _fetch(dataset: PublicDataset, data_dir: Path, say: Callable[[str], None]) -> Path:
    name, target = dataset.name, data_dir / dataset.name
    failures = []
    for folder in catalogue.folders(dataset, data_dir):
        if folder.is_dir():
            try:
                catalogue.verify(dataset, folder)
            except SourceError as error:
                failures.append(str(error))
            else:
                return folder
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=data_dir) as scratch:
        ways: list[tuple[str, Callable[[Path], None]]] = []
        if (loader := dataset.scikit_learn) is not None:
            ways.append((f"scikit-learn's {loader}", lambda into: write_splits(name, loader, into)))
        if (package := dataset.debian_package) is not None:
            ways.append((f"the Debian package {package}", lambda into: _from_package(dataset, Path(scratch), into)))
        ways.extend((where, partial(_from_address, dataset, where)) for where in dataset.addresses)
        for number, (title, way) in enumerate(ways):
            into = Path(scratch) / f"way-{number}"
            into.mkdir()
            say(f"fetching {name} from {title}")
            try:
                way(into)
                catalogue.verify(dataset, into)
            except (SourceError, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
                failures.append(f"{title}: {' '.join(str(error).split())}")
                continue
            return _place(dataset, into, target, Path(scratch))
    raise SourceError(
        f"cannot fetch {name} ({'; '.join(failures)}): connect this machine, or put its files into {target}"
    )


def _place(dataset: PublicDataset, complete: Path, target: Path, scratch: Path) -> Path:
    """Rename the complete folder to its name; a damaged one that stood there is removed with the scratch folder."""
    complete.chmod(0o755)
    if target.exists():
        target.rename(scratch / "replaced")
    try:
        complete.rename(target)
    except OSError:
        catalogue.verify(dataset, target)  # another fetch was quicker
    return target


def _from_package(dataset: PublicDataset, scratch: Path, into: Path) -> None:
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise SourceError("no apt-get on this machine")
    work = scratch / "apt"
    for folder in ("download", "lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    # An ordinary user may not write apt's own lists, and an image's lists are often empty or old: keep private ones.
    private = [f"-oDir::State::Lists={work / 'lists'}", f"-oDir::Cache={work / 'cache'}"]
    common = [apt, "-q", "-oAPT::Sandbox::User=root", "-oAcquire::Retries=1", f"-oAcquire::http::Timeout={_SECONDS}"]
    _run([*common, *private, "update"], work, check=False)  # a broken third-party list need not matter
    _run([*common, *private, "download", str(dataset.debian_package)], work / "download")
    package = next((work / "download").glob("*.deb"))
    archive = work / "content.tar"
    with archive.open("wb") as stream:
        subprocess.run([dpkg, "--fsys-tarfile", os.fspath(package)], stdout=stream, check=True, timeout=300)  # noqa: S603
    inside = str(dataset.debian_folder).lstrip("/")
    with tarfile.open(archive) as members:
        for file in dataset.files:
            content = members.extractfile(f"./{inside}/{file.name}")
            if content is None:
                raise SourceError(f"{file.name} is not a regular file in {package.name}")
            with (into / file.name).open("wb") as out:
                shutil.copyfileobj(content, out)


def _run(command: list[str], folder: Path, *, check: bool = True) -> None:
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if check and done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise SourceError(lines[0].removeprefix("E: ") if lines else f"apt-get failed with {done.returncode}")


def _from_address(dataset: PublicDataset, address: str, into: Path) -> None:
    for file in dataset.files:
        with urllib.request.urlopen(address + file.name, timeout=_SECONDS) as answer:  # noqa: S310
            data = answer.read(file.size + 1)
        if len(data) > file.size:
            raise SourceError(f"{file.name} is larger than its content should be")
        (into / file.name).write_bytes(data)


def main(arguments: list[str] | None = None) -> int:
    """Run as a command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cadp.sources.fetch", description="Fetch a catalogued dataset.")
    parser.add_argument("name", choices=catalogue.names())
    parser.add_argument("folder", type=Path, help="where datasets are kept")
    options = parser.parse_args(arguments)
    try:
        folder = fetch(options.name, options.folder, lambda line: print(line, file=sys.stderr))  # noqa: T201
    except CadpError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(folder)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
