"""One source, one budget: whatever it is called, whoever asks at the same time, whichever ledger is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cadp.errors import CadpError, LedgerError, SettingsError, SourceError, SpecError
from cadp.ledger import Ledger, Population
from cadp.secret import bound_ledger, load_secret
from cadp.settings import Settings
from cadp.sources import catalogue
from cadp.steps.budgets import has_budget, init_budget
from cadp.steps.job import Job, population_secret, source_macs
from cadp.store import Store
from tests.command import Command
from tests.small_release import Place, build

# Makes a budget for every line of places that it is sent.
RACER = """
import json, sys
from pathlib import Path
from cadp.errors import CadpError
from cadp.settings import Settings
from cadp.steps.budgets import init_budget
print("ready", flush=True)
for line in sys.stdin:
    spec, environ = json.loads(line)
    try:
        init_budget(Path(spec), Settings.load(environ), epsilon=10, delta=1e-6, holdout_epsilon=1)
        print("made", flush=True)
    except CadpError as error:
        print(type(error).__name__, " ".join(str(error).split()), flush=True)
"""
ROUNDS = 12


def init(spec: Path, settings: Settings, *, epsilon: float = 100.0, delta: float = 1e-6) -> tuple[Population, ...]:
    return init_budget(spec, settings, epsilon=epsilon, delta=delta, holdout_epsilon=5.0)


def named(place: Place, population: str, **changes: str) -> Path:
    """Another spec of the same source, with another population; `changes` are of its lines."""
    text = place.spec.read_text().replace("population: shapes", f"population: {population}")
    for key, value in changes.items():
        text = "\n".join(f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in text.splitlines())
    path = place.folder / f"{population}.yaml"
    path.write_text(text)
    return path


def elsewhere(place: Place) -> Settings:
    """The same place with another ledger and its own anchors."""
    other = place.folder / "other"
    return replace(place.settings, ledger_url=f"sqlite:///{other}/ledger.db", anchors_url=str(other / "anchors"))


def populations(settings: Settings) -> list[str]:
    with Ledger.open(settings.ledger_url, Store.open(settings.anchors_url)) as ledger:
        return [population.name for population in ledger.populations()]


def untouched(settings: Settings) -> bool:
    """Nothing lies in the home."""
    return not settings.home.exists()


# Two at once


@pytest.fixture
def racers() -> Iterator[tuple[subprocess.Popen[str], ...]]:
    with ExitStack() as stack:
        command = [sys.executable, "-c", RACER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        made = tuple(stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2))  # type: ignore[call-overload]
        for racer in made:
            stack.callback(racer.kill)
        for racer in made:
            assert racer.stdout.readline() == "ready\n"
        yield made


def race(racers: tuple[subprocess.Popen[str], ...], tasks: list[tuple[Path, dict[str, str]]]) -> list[str]:
    for racer, (spec, environ) in zip(racers, tasks, strict=True):
        assert racer.stdin is not None
        racer.stdin.write(json.dumps([str(spec), environ]) + "\n")
        racer.stdin.flush()
    return [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]


@pytest.mark.parametrize("secrets", ["one folder", "two folders"])
def test_two_names_at_once_make_one_budget(
    place: Place, racers: tuple[subprocess.Popen[str], ...], secrets: str
) -> None:
    """Two processes of one machine, and two machines, each with its own secrets, of one ledger."""
    specs = [named(place, "first"), named(place, "second")]
    for number in range(ROUNDS):
        home = place.folder / f"home{number}"
        environs = [{"CADP_HOME": str(home)} for _ in specs]
        if secrets == "two folders":
            environs = [{"CADP_HOME": str(home), "CADP_SECRETS": str(home / name)} for name in ("one", "two")]
        said = race(racers, list(zip(specs, environs, strict=True)))
        assert said.count("made") == 1, said
        (refused,) = [line for line in said if line != "made"]
        words = "already" if secrets == "one folder" else "no other population can be made without the secret of"
        assert words in refused
        won = "first" if said[0] == "made" else "second"
        assert populations(Settings.load(environs[0])) == [won, f"{won}.holdout"]


def test_one_name_at_once_is_one_budget(place: Place, racers: tuple[subprocess.Popen[str], ...]) -> None:
    for number in range(4):
        environ = {"CADP_HOME": str(place.folder / f"home{number}")}
        spec = named(place, "first")
        assert [line.split()[0] for line in race(racers, [(spec, environ)] * 2)] == ["made", "made"]
        assert populations(Settings.load(environ)) == ["first", "first.holdout"]


def test_two_ledgers_at_once_share_no_secrets(place: Place, racers: tuple[subprocess.Popen[str], ...]) -> None:
    for number in range(6):
        secrets = str(place.folder / f"secrets{number}")
        homes = [place.folder / f"home{number}-{i}" for i in range(2)]
        environs = [{"CADP_HOME": str(home), "CADP_SECRETS": secrets} for home in homes]
        tasks = list(zip([named(place, "first"), named(place, "second")], environs, strict=True))
        said = race(racers, tasks)
        assert said.count("made") == 1, said
        assert any("a fresh ledger would give" in line for line in said)


# One source, however it is called


@pytest.fixture
def dataset(place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small catalogued dataset, which lies in the data folder."""
    name = "fashion-mnist"
    folder = place.settings.data_dir / name
    folder.parent.mkdir(parents=True)
    (place.folder / "source").rename(folder)
    (place.folder / "source").symlink_to(folder)
    known = catalogue.get(name)
    facts = replace(known.facts, records=1200, holdout_records=300, shape=(12, 12, 1), classes=("disc", "bar", "cross"))
    monkeypatch.setattr(catalogue, "_DATASETS", (replace(known, facts=facts, debian_folder=place.folder / "debian"),))
    return name


@pytest.mark.parametrize("order", ["name first", "path first"])
def test_a_dataset_and_its_folder_are_one_source(place: Place, dataset: str, order: str) -> None:
    urls = [dataset, f"{place.settings.data_dir}/{dataset}"]
    first, second = urls if order == "name first" else urls[::-1]
    (made, _) = init(named(place, "shapes", url=first), place.settings)
    with pytest.raises(LedgerError, match="is the source of population shapes already"):
        init(named(place, "another", url=second), place.settings)
    assert init(named(place, "shapes", url=second), place.settings)[0] == made
    assert Job.open(named(place, "shapes", url=second), place.settings).spec.population == "shapes"


def test_the_package_s_folder_is_the_dataset_too(place: Place, dataset: str) -> None:
    init(named(place, "shapes", url=dataset), place.settings)
    (place.folder / "source").rename(place.folder / "debian")
    with pytest.raises(LedgerError, match="is the source of population shapes already"):
        init(named(place, "another", url=f"file://localhost{place.folder}/debian/"), place.settings)


def test_a_dataset_that_an_earlier_version_bound_by_its_path_goes_on(
    place: Place, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(place.settings.data_dir / dataset)
    with monkeypatch.context() as earlier:
        earlier.setattr("cadp.steps.job.addresses", lambda url, _: (str(Path(url).resolve()),))
        (made, _) = init(named(place, "shapes", url=folder), place.settings)
    for url in (folder, dataset):
        assert init(named(place, "shapes", url=url), place.settings)[0] == made
        with pytest.raises(LedgerError, match="is the source of population shapes already"):
            init(named(place, "another", url=url), place.settings)
    secret = load_secret(place.settings.secrets_dir, "shapes")
    spec = Job.open(named(place, "shapes", url=dataset), place.settings).spec
    assert source_macs(secret, spec, place.settings.data_dir)[0] != made.source_hmac


@pytest.mark.parametrize("url", ["{}", "{}/", "/{}", "file://{}", "file://localhost{}", "FILE://{}", "file:///{}"])
def test_a_folder_is_one_source(place: Place, url: str) -> None:
    place.open_budget()
    with pytest.raises(LedgerError, match="is the source of population shapes already"):
        init(named(place, "another", url=url.format(place.folder / "source")), place.settings)


# A source that is not there


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/no/such/folder", "no folder /no/such/folder"),
        ("file://source", "is no folder of this machine"),
        ("file://relative/source", "is no folder of this machine"),
        ("file:///a%20folder", "is no folder of this machine"),
        ("s3://bucket/source", "is no folder of this machine"),
        (".", "train"),
    ],
    ids=["folder", "file-host", "file-relative", "file-escaped", "s3", "empty"],
)
def test_what_cannot_be_opened_is_never_bound(place: Place, url: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        init(named(place, "shapes", url=url), place.settings)
    assert untouched(place.settings)


def test_a_dataset_that_was_not_fetched_is_never_bound(place: Place, dataset: str) -> None:
    for file in (place.settings.data_dir / dataset).iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="make data"):
        init(named(place, "shapes", url=dataset), place.settings)
    assert not place.settings.secrets_dir.exists()


# Limits


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"epsilon": 1e-7}, "at least 1e-06 .* not ε = 1e-07 / 5.0"),
        ({"epsilon": 1e6}, "below 1,000,000"),
        ({"epsilon": float("nan")}, "not ε = nan"),
        ({"delta": 0.0}, "δ between 0 and 1"),
        ({"epsilon": 0.05, "delta": 1e-300}, r"nothing could ever be trained under ε = 0\.05 at δ = 1e-300"),
    ],
    ids=["epsilon-below-a-micro-nat", "epsilon-too-large", "epsilon-nan", "delta-0", "delta-too-small"],
)
def test_a_limit_that_allows_nothing_is_refused(place: Place, limits: dict[str, float], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        init(place.spec, place.settings, **limits)
    assert untouched(place.settings)


def test_the_least_limit_can_be_shown(place: Place, cadp: Command) -> None:
    limits = ("--epsilon", 1e-6, "--holdout-epsilon", 1e-6, "--delta", 0.5)
    assert cadp(place, "budget", "init", place.spec, *limits).code == 0
    assert "0.000001" in cadp(place, "budget", "show").out
    cadp(place, "budget", "init", named(place, "tiny"), "--epsilon", 1e-7, "--delta", 0.5).refused(2, "1e-07")


# Another ledger


@pytest.mark.parametrize("population", ["shapes", "renamed"])
@pytest.mark.parametrize("note", ["noted", "lost"])
def test_a_fresh_ledger_for_known_secrets_is_refused_and_not_made(place: Place, population: str, note: str) -> None:
    place.open_budget()
    if note == "lost":
        (place.settings.secrets_dir / "shapes.ledger").unlink()
    fresh = elsewhere(place)
    before = sorted(path.name for path in place.settings.secrets_dir.iterdir())
    spec = named(place, population)
    with pytest.raises(LedgerError, match="a fresh ledger would give the same people a second budget"):
        init(spec, fresh)
    assert not (place.folder / "other" / "ledger.db").exists()
    # Nor one that was made before it found these secrets.
    Ledger.init(fresh.ledger_url, Store.open(fresh.anchors_url)).close()
    with pytest.raises(LedgerError, match="a fresh ledger would give the same people a second budget"):
        init(spec, fresh)
    assert sorted(path.name for path in place.settings.secrets_dir.iterdir()) == before
    assert place.job().spec.population == "shapes"


@pytest.mark.parametrize("look", [lambda p: p.job(), lambda p: has_budget(p.spec, p.settings)], ids=["job", "has"])
def test_a_lost_note_is_written_again_by_the_ledger_that_knows(place: Place, look: Callable[[Place], object]) -> None:
    place.open_budget()
    note = place.settings.secrets_dir / "shapes.ledger"
    before = note.read_text()
    note.unlink()
    assert look(place)
    assert note.read_text() == before
    note.write_text("f" * 32)
    with pytest.raises(LedgerError, match="kept by ledger f+"):
        look(place)


def test_looking_at_a_plan_checks_the_note_and_writes_none(place: Place) -> None:
    place.open_budget()
    job = place.job()
    note = place.settings.secrets_dir / "shapes.ledger"
    note.unlink()
    population_secret(job.ledger, place.settings, job.spec)
    assert not note.exists()
    note.write_text("f" * 32)
    with pytest.raises(LedgerError, match="kept by ledger f+"):
        population_secret(job.ledger, place.settings, job.spec)


@pytest.mark.parametrize("moment", ["bind_ledger", "make_secret", "source_macs"])
def test_an_init_that_died_is_finished_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(f"cadp.steps.budgets.{moment}", killed)
        init(place.spec, place.settings)
    assert (place.settings.secrets_dir / "shapes.key").exists() == (moment == "source_macs")
    assert populations(place.settings) == []
    assert init(place.spec, place.settings)[0].name == "shapes"
    with Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as ledger:
        assert bound_ledger(place.settings.secrets_dir, "shapes") == ledger.identity


# Secrets that are lost or another's


@pytest.mark.parametrize("wrong", ["lost", "another"])
def test_without_a_secret_nobody_can_tell_whether_a_source_is_known(place: Place, tmp_path: Path, wrong: str) -> None:
    place.open_budget()
    key = place.settings.secrets_dir / "shapes.key"
    kept = key.read_bytes()
    key.write_bytes(os.urandom(32)) if wrong == "another" else key.unlink()
    for spec in (named(place, "renamed"), named(build(tmp_path / "second"), "others")):
        with pytest.raises(SettingsError, match=r"without the secret of population shapes.*Then run this again"):
            init(spec, place.settings)
    assert populations(place.settings) == ["shapes", "shapes.holdout"]
    assert not list(place.settings.secrets_dir.glob("renamed.*"))
    key.write_bytes(kept)
    with pytest.raises(LedgerError, match="is the source of population shapes already"):
        init(named(place, "renamed"), place.settings)
    init(named(build(tmp_path / "third"), "others"), place.settings)
    # Who is there already needs no other's secret.
    key.unlink()
    assert init(tmp_path / "third" / "others.yaml", place.settings)[0].name == "others"


def test_a_lost_secret_is_not_made_anew(place: Place) -> None:
    place.open_budget()
    (place.settings.secrets_dir / "shapes.key").unlink()
    for call in (init, has_budget):
        with pytest.raises(CadpError, match="must be restored from backup if lost"):
            call(place.spec, place.settings)
    assert not (place.settings.secrets_dir / "shapes.key").exists()
