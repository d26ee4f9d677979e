"""Public datasets known by name: the facts that a plan needs before it reads anything, and their pinned contents."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from cadp.errors import SourceError
from cadp.sources.source import PublicFacts


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A gzip file and the SHA-256 of its *content*: packers differ in the gzip header, the data do not.

    Attributes:
        name: its file name.
        size: bytes of content.
        sha256: of the content, hex.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PublicDataset:
    """What is public about a catalogued dataset.

    Attributes:
        format: source format.
        facts: counts, shape and label names.
        license: SPDX identifier.
        description: one sentence.
        homepage: where it is documented.
        files: with pinned contents.
        addresses: official folders to fetch the files from.
        debian_package: name of the package that holds it, if one does.
        debian_folder: where that package puts it.
        scikit_learn: the loader of `sklearn.datasets` that holds it, if one does.
    """

    name: str
    format: str
    facts: PublicFacts
    license: str
    description: str
    homepage: str
    files: tuple[PinnedFile, ...]
    addresses: tuple[str, ...] = ()
    debian_package: str | None = None
    debian_folder: Path | None = None
    scikit_learn: str | None = None


_BY_ITS_COLUMNS = (1, 1, 0)  # of a table: which columns there are, and the classes, is for a spec to declare

_DATASETS = (
    PublicDataset(
        name="fashion-mnist",
        format="idx",
        facts=PublicFacts(
            records=60_000,
            holdout_records=10_000,
            classes=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            shape=(28, 28, 1),
            class_counts=(6_000,) * 10,
        ),
        license="MIT",
        description="Pictures of Zalando's articles in ten classes, 28×28 pixels, grey.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        files=(
            PinnedFile(
                "t10k-images-idx3-ubyte.gz",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            PinnedFile(
                "t10k-labels-idx1-ubyte.gz",
                10_008,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            PinnedFile(
                "train-images-idx3-ubyte.gz",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            PinnedFile(
                "train-labels-idx1-ubyte.gz",
                60_008,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
        ),
        debian_package="dataset-fashion-mnist",
        debian_folder=Path("/usr/share/datasets/fashion-mnist"),
        addresses=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
    PublicDataset(
        name="breast-cancer",
        format="csv",
        facts=PublicFacts(records=469, holdout_records=100, classes=(), shape=_BY_ITS_COLUMNS),
        license="CC-BY-4.0",
        description="Thirty measures of cell nuclei in each of 569 fine-needle aspirates, and the diagnosis.",
        homepage="https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic",
        files=(
            PinnedFile("test.csv.gz", 22_249, "6971df9acfc3b032fa4dafc869f6d3426239f16a0dfe47deb631be82a72c94c9"),
            PinnedFile("train.csv.gz", 102_111, "167342264676c1ae794b2176410b6c9c58a3fd97e8c71537590d576dee006835"),
        ),
        scikit_learn="load_breast_cancer",
    ),
    PublicDataset(
        name="diabetes",
        format="csv",
        facts=PublicFacts(records=343, holdout_records=99, classes=(), shape=_BY_ITS_COLUMNS),
        license="BSD-3-Clause",
        description="Age, sex, body mass index, blood pressure and six serum measures of 442 patients, and how far "
        "their diabetes had gone a year later.",
        homepage="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        files=(
            PinnedFile("test.csv.gz", 4_181, "0022cec1843fb09c1ac0eeab892dbf7fcb4ec029371dfc9ebd2e37a9fb53d12f"),
            PinnedFile("train.csv.gz", 14_370, "c3ff4096369392deab6f1090612383ac337a5f0eda257e22fe8a0fe6da9431ea"),
        ),
        scikit_learn="load_diabetes",
    ),
)


def names() -> list[str]:
    """The names that `source.url` may have."""
    return [dataset.name for dataset in _DATASETS]


def find(name: str) -> PublicDataset | None:
    """The facts of a catalogued dataset, or None for any other url."""
    return next((dataset for dataset in _DATASETS if dataset.name == name), None)


def get(name: str) -> PublicDataset:
    """The facts of a catalogued dataset.

    Raises:
        SourceError: there is none of this name.
    """
    dataset = find(name)
    if dataset is None:
        raise SourceError(f"no catalogued dataset {name!r}; there are: {', '.join(names())}")
    return dataset


def locate(name: str, data_dir: Path) -> Path:
    """The folder with a dataset's files: `<data_dir>/<name>`, else where Debian's package puts it.

    Contents are for `verify`, which runs before the first record is read: a plan reads none.

    Raises:
        SourceError: it is in neither.
    """
    dataset = get(name)
    for folder in folders(dataset, data_dir):
        if all((folder / file.name).is_file() for file in dataset.files):
            return folder
    if dataset.debian_package is None:
        raise SourceError(f"{name} is not in {data_dir / name}: run `make data`")
    raise SourceError(
        f"{name} is neither in {data_dir / name} nor in {dataset.debian_folder}: run `make data`, "
        f"or `apt install {dataset.debian_package}`"
    )


def folders(dataset: PublicDataset, data_dir: Path) -> tuple[Path, ...]:
    """The folders where a dataset may lie, the first choice first."""
    own = data_dir / dataset.name
    return (own,) if dataset.debian_folder is None else (own, dataset.debian_folder)


def verify(dataset: PublicDataset, folder: Path) -> None:
    """Check every file's content against its pin, reading at most one byte more than the pinned size.

    Raises:
        SourceError: naming the first file that is missing or differs.
    """
    for file in dataset.files:
        digest, left = hashlib.sha256(), file.size + 1
        try:
            with gzip.open(folder / file.name) as stream:
                while left > 0 and (block := stream.read(min(left, 1 << 20))):
                    digest.update(block)
                    left -= len(block)
        except (EOFError, OSError, zlib.error) as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
            raise SourceError(f"{folder / file.name} is {reason}: remove {folder} and run `make data`") from error
        if digest.hexdigest() != file.sha256:
            raise SourceError(f"{folder / file.name} is not the pinned file: remove {folder} and run `make data`")
