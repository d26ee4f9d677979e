"""Fetching with real servers and a real package: a local HTTP server, and apt reading a local repository."""

import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cadp.errors import SourceError
from cadp.sources import PublicFacts, catalogue, fetch
from cadp.sources.catalogue import PinnedFile, PublicDataset

CONTENT = {"a.gz": b"pictures" * 1000, "b.gz": b"labels" * 10}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *line: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the right files, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(gzip.compress(content))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PublicDataset]:
    """Put a tiny dataset into the catalogue; apt knows no package of it unless a test adds one."""
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\nAcquire::Languages "none";\n'
    )
    (tmp_path / "sources.list").write_text("")
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))

    def make(*addresses: str) -> PublicDataset:
        dataset = PublicDataset(
            name="tiny",
            format="idx",
            facts=PublicFacts(1, 1, (1, 1, 1), ("a", "b")),
            license="MIT",
            description="tiny",
            homepage="tiny",
            files=tuple(PinnedFile(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in CONTENT.items()),
            debian_package="dataset-tiny-for-tests",
            debian_folder=Path("/nonexistent/datasets/tiny"),
            addresses=addresses,
        )
        monkeypatch.setattr(catalogue, "_DATASETS", (dataset,))
        return dataset

    return make


def run(tmp_path: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return fetch.fetch("tiny", tmp_path / "data", said.append), said


def test_from_an_address_and_the_second_time_from_disk(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset]
) -> None:
    known("http://127.0.0.1:1/", served[1])
    folder, said = run(tmp_path)
    assert folder == tmp_path / "data" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["a.gz", "b.gz"]
    assert len(said) == 3
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]  # nothing half-done stays
    assert run(tmp_path) == (folder, [])


def test_content_that_is_not_pinned_never_appears(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset]
) -> None:
    known(served[1])
    for wrong in (gzip.compress(b"labels" * 9 + b"Labels"), gzip.compress(os.urandom(100)) * 2, b""):
        (served[0] / "b.gz").write_bytes(wrong)
        with pytest.raises(SourceError, match="cannot fetch tiny") as caught:
            run(tmp_path)
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "data").iterdir()) == []


def test_a_damaged_copy_is_replaced(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset]
) -> None:
    dataset = known(served[1])
    folder, _ = run(tmp_path)
    (folder / "a.gz").write_bytes(b"damaged")
    assert run(tmp_path)[0] == folder
    catalogue.verify(dataset, folder)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]


def test_where_debian_puts_it_nothing_is_fetched(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = replace(known(), debian_folder=served[0])
    monkeypatch.setattr(catalogue, "_DATASETS", (dataset,))
    assert run(tmp_path) == (served[0], [])
    assert not (tmp_path / "data").exists()


def publish_package(dataset: PublicDataset, tmp_path: Path, content: dict[str, bytes]) -> None:
    """Build a real package of the dataset and a flat repository that apt reads."""
    tree, repository = tmp_path / "tree", tmp_path / "repository"
    folder = tree / str(dataset.debian_folder).lstrip("/")
    folder.mkdir(parents=True)
    (tree / "DEBIAN").mkdir()
    repository.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(gzip.compress(data))
    control = (
        f"Package: {dataset.debian_package}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n"
    )
    (tree / "DEBIAN" / "control").write_text(control)
    package = repository / "tiny.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, package], check=True, capture_output=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    (repository / "Packages").write_text(
        f"{control}Filename: ./tiny.deb\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")


def test_from_the_debian_package_without_root(tmp_path: Path, known: Callable[..., PublicDataset]) -> None:
    dataset = known()
    if shutil.which("apt-get") is None:  # then this way must say so, and leave the others to be tried
        with pytest.raises(SourceError, match="no apt-get"):
            run(tmp_path)
        return
    publish_package(dataset, tmp_path, CONTENT)
    folder, said = run(tmp_path)
    catalogue.verify(dataset, folder)
    assert said == ["fetching tiny from the Debian package dataset-tiny-for-tests"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny"]


def test_a_package_with_other_content_is_refused(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset]
) -> None:
    dataset = known(served[1])
    if shutil.which("apt-get") is not None:
        publish_package(dataset, tmp_path, {**CONTENT, "b.gz": b"other"})
    folder, said = run(tmp_path)  # the next way is taken
    catalogue.verify(dataset, folder)
    assert len(said) == 2


def test_the_command_prints_the_folder_or_one_line(
    tmp_path: Path,
    served: tuple[Path, str],
    known: Callable[..., PublicDataset],
    capsys: pytest.CaptureFixture[str],
) -> None:
    known("http://127.0.0.1:1/")
    assert fetch.main(["tiny", str(tmp_path / "data")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith("error: cannot fetch tiny (")
    assert "connect this machine, or put its files" in told.err
    known(served[1])
    assert fetch.main(["tiny", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'data' / 'tiny'}\n"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, known: Callable[..., PublicDataset], capsys: pytest.CaptureFixture[str], below: str
) -> None:
    """A file stands where the folder should be: nobody may write there, root included."""
    known()
    (tmp_path / "data").write_text("")
    assert fetch.main(["tiny", str(tmp_path / "data" / below)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot keep tiny in")
    assert "may write" in line


def test_nothing_is_read_from_or_written_to_a_home(
    tmp_path: Path, served: tuple[Path, str], known: Callable[..., PublicDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    known(served[1])
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    run(tmp_path)
    assert list(home.iterdir()) == []
    monkeypatch.setenv("HOME", "/nonexistent")
    shutil.rmtree(tmp_path / "data")
    run(tmp_path)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cadp.sources.fetch", "nothing", "x"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "fashion-mnist" in done.stderr
