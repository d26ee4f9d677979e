"""The whole budget against the published releases: what agrees is said, and every disagreement is found."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cadp.errors import LedgerError
from cadp.ledger import Ledger, State
from cadp.ledger.book import Book
from cadp.privacy.events import PureEvent
from cadp.publish.manifest import Manifest, parse
from cadp.steps import accounts
from cadp.steps.accounts import Accounts, verify_accounts
from cadp.steps.budgets import init_budget
from cadp.steps.standing import standings
from cadp.store import Store
from tests.command import Command
from tests.servers.seaweedfs import S3Server
from tests.small_release import Place

RELEASE = "shapes/1.0.0"


@pytest.fixture
def mine(published: Place, tmp_path: Path) -> Place:
    """A published release that this test may break."""
    return published.copy(tmp_path / "mine")


def open_ledger(place: Place) -> Ledger:
    return Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url))


def ledger_file(place: Place) -> Path:
    return Path(place.settings.ledger_url.removeprefix("sqlite:///"))


def lose_ledger(place: Place) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{ledger_file(place)}{suffix}").unlink(missing_ok=True)


def wrong(found: Accounts, about: str) -> list[str]:
    assert not found.hold
    assert {finding.about for finding in found.findings if finding.wrong} == {about}
    return [finding.text for finding in found.findings if finding.wrong]


def test_ledger_and_manifests_agree(published: Place) -> None:
    found = verify_accounts(published.settings)
    assert found.hold
    assert found.findings == ()
    assert found.manifests == (RELEASE,)
    with open_ledger(published) as ledger:
        assert found.checked == ledger.check()
        spent = {name: ledger.budget(name) for name in ("shapes", "shapes.holdout")}
    assert {account.population: account.charged for account in found.accounts} == {
        name: budget.charged for name, budget in spent.items()
    }
    for account in found.accounts:
        assert account.charged == account.published == account.manifests <= account.limit_epsilon
        assert account.limit_epsilon == spent[account.population].epsilon


def test_the_command_prints_the_accounts(published: Place, cadp: Command) -> None:
    done = cadp(published, "budget", "verify")
    assert done.code == 0
    assert "ok" in done.out
    assert "shapes.holdout" in done.out
    said = json.loads(cadp(published, "budget", "verify", "--json").out)
    assert said["ok"] is True
    assert said["findings"] == []
    assert said["manifests"] == [RELEASE]
    assert {row["population"] for row in said["populations"]} == {"shapes", "shapes.holdout"}


def test_a_public_zone_in_s3(published: Place, cadp: Command, seaweedfs: S3Server) -> None:
    url = f"s3://{seaweedfs.bucket()}"
    zone = Store.open(url, seaweedfs.options)
    for path in published.public.rglob("*"):
        if path.is_file():
            zone.put(path.relative_to(published.settings.public_url).as_posix(), path)
    there = {"CADP_PUBLIC": url, **seaweedfs.environment}
    said = json.loads(cadp(published, "budget", "verify", "--json", settings=there).out)
    assert (said["ok"], said["manifests"], said["findings"]) == (True, [RELEASE], [])


def test_what_was_never_charged_is_found(mine: Place, cadp: Command) -> None:
    """Another ledger of the same population, which knows nothing of the release."""
    lose_ledger(mine)
    shutil.rmtree(mine.settings.anchors_url)
    with pytest.raises(LedgerError, match="a fresh ledger would give the same people a second budget"):
        init_budget(mine.spec, mine.settings, epsilon=100.0, delta=1e-6, holdout_epsilon=5.0)
    # Somebody forges the note that stands in the way.
    with Ledger.init(mine.settings.ledger_url, Store.open(mine.settings.anchors_url)) as fresh:
        (mine.settings.secrets_dir / "shapes.ledger").write_text(fresh.identity)
    init_budget(mine.spec, mine.settings, epsilon=100.0, delta=1e-6, holdout_epsilon=5.0)
    texts = wrong(verify_accounts(mine.settings), RELEASE)
    assert texts[0] == "published but not charged: the ledger has no charge of this release"
    assert len([text for text in texts if "which the ledger does not know" in text]) == 3
    cadp(mine, "budget", "verify").refused(4, "the accounts do not hold", "published but not charged")
    done = cadp(mine, "budget", "verify", "--json")
    assert done.code == 4
    assert json.loads(done.out)["ok"] is False


def test_a_burned_release_that_is_public_is_found(mine: Place, cadp: Command) -> None:
    """The anchors lost their end and the ledger was rebuilt from them: it burned what had been published since."""
    files = sorted(Path(mine.settings.anchors_url).glob("*/0*.json"))
    for file in files[-1:]:
        assert json.loads(file.read_bytes())["entry"]["kind"] == "publish"
        file.unlink()
    lose_ledger(mine)
    cadp(mine, "budget", "recover", "--rebuild", "--yes")
    texts = wrong(verify_accounts(mine.settings), RELEASE)
    assert len(texts) == 3
    assert all("is BURNED in the ledger" in text for text in texts)
    assert len(verify_accounts(mine.settings).accounts) == 2
    cadp(mine, "budget", "verify").refused(4, "is BURNED in the ledger")


def test_a_release_that_is_not_here_is_said_and_nothing_is_wrong(mine: Place, cadp: Command) -> None:
    shutil.rmtree(mine.public)
    found = verify_accounts(mine.settings)
    assert found.hold
    (finding,) = found.findings
    assert (finding.about, finding.wrong) == (RELEASE, False)
    assert [account.manifests for account in found.accounts] == [0.0, 0.0]
    assert all(account.published == account.charged > 0 for account in found.accounts)
    done = cadp(mine, "budget", "verify")
    assert done.code == 0
    assert "run `cadp publish`" in done.out


def test_a_manifest_that_was_changed_is_found(mine: Place) -> None:
    path = mine.public / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"records": 1200', b'"records": 1201'))
    (text,) = wrong(verify_accounts(mine.settings), RELEASE)
    assert "is not what" in text


def test_a_manifest_of_an_unknown_key_is_found(mine: Place) -> None:
    for key in mine.settings.keys_dir.glob("*.pub"):
        key.unlink()
    (text,) = wrong(verify_accounts(mine.settings), RELEASE)
    assert "signed by unknown key" in text


def test_a_release_at_anothers_place_is_found(mine: Place) -> None:
    shutil.copytree(mine.public, mine.public.parent / "2.0.0")
    (text,) = wrong(verify_accounts(mine.settings), "shapes/2.0.0")
    assert text == f"this is {RELEASE}, published at another's place"


def test_a_tampered_table_and_a_rewound_ledger_are_found(mine: Place, cadp: Command) -> None:
    import sqlite3

    before = ledger_file(mine).read_bytes()
    with sqlite3.connect(ledger_file(mine)) as connection:
        connection.execute("UPDATE accounts SET revision = revision, spent = replace(spent, '00', '01')")
        connection.execute("UPDATE charges SET state = 'SEALED' WHERE key LIKE '%train'")
    connection.close()
    texts = wrong(verify_accounts(mine.settings), "ledger")
    assert any("the chain says PUBLISHED" in text for text in texts)
    assert any("does not add up" in text for text in texts)
    cadp(mine, "budget", "verify").refused(4, "the chain says PUBLISHED", "does not add up")
    ledger_file(mine).write_bytes(before)
    with sqlite3.connect(ledger_file(mine)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM chain WHERE seq = (SELECT max(seq) FROM chain)")
    connection.close()
    (text,) = wrong(verify_accounts(mine.settings), "ledger")
    assert "cadp budget recover" in text


def test_recovery_at_the_command_line(mine: Place, cadp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(mine) as ledger:
        copied = ledger.history()[-1].seq
    before = {file: file.read_bytes() for file in ledger_file(mine).parent.glob("ledger.db*")}
    assert "Nothing to recover" in cadp(mine, "budget", "recover").out
    with open_ledger(mine) as ledger:
        late = ledger.charge("shapes", release="late/1", key="late/1/train", event=PureEvent(0.5), parameters={})
    lose_ledger(mine)
    for file, data in before.items():
        file.write_bytes(data)
    cadp(mine, "budget", "verify").refused(4, "cadp budget recover")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    asked = cadp(mine, "budget", "recover")
    assert asked.code == 1
    assert f"Entries {copied + 1} to {copied + 1} come back" in asked.out
    assert "Burned: late/1" in asked.out
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    done = cadp(mine, "budget", "recover")
    assert done.code == 0
    assert f"entry {copied + 2} says so" in done.out
    with open_ledger(mine) as ledger:
        assert [c.state for c in ledger.charges(release="late/1")] == [State.BURNED]
        assert ledger.charges()[-1].id == late.id
        assert standings(ledger)["late/1"].closed is not None
    assert cadp(mine, "budget", "verify").code == 0
    cadp(mine, "budget", "recover", "--rebuild").refused(1, "there is a ledger")


def test_no_ledger_is_a_wrong_setting(place: Place, cadp: Command) -> None:
    cadp(place, "budget", "verify").refused(2, "there is no ledger")


# Each way in which a manifest and the ledger can disagree


def _unknown(book: Book, charge: str) -> None:
    del book.charges[charge]


def _of_another_release(book: Book, charge: str) -> None:
    paid = book.charges[charge]
    paid.body = {**paid.body, "release": "other/1"}


def _burned(book: Book, charge: str) -> None:
    book.charges[charge].state = State.BURNED


def _of_another_population(book: Book, charge: str) -> None:
    paid = book.charges[charge]
    paid.body = {**paid.body, "population": "others"}


def _of_another_event(book: Book, charge: str) -> None:
    paid = book.charges[charge]
    paid.body = {**paid.body, "event": PureEvent(0.01).to_json()}


def _unstated(book: Book, charge: str) -> None:
    book.charges["f" * 16] = replace(book.charges[charge])


def _of_another_limit(book: Book, charge: str) -> None:
    owed = book.populations[book.charges[charge].population]
    owed.body = {**owed.body, "epsilon": 7.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_unknown, "which the ledger does not know"),
        (_of_another_release, "which paid for other/1"),
        (_burned, "is BURNED in the ledger"),
        (_of_another_population, "was paid by others"),
        (_of_another_event, "is not the one that charge"),
        (_unstated, "is not in its statement"),
        (_of_another_limit, "another limit of population shapes"),
    ],
    ids=["unknown", "release", "burned", "population", "event", "unstated", "limit"],
)
def test_each_disagreement(published: Place, change: Callable[[Book, str], None], words: str) -> None:
    manifest: Manifest = parse((published.public / "manifest.json").read_bytes())
    with open_ledger(published) as ledger:
        book = Book(ledger.history())
    assert list(accounts._differences(manifest, book)) == []
    change(book, next(i for i, paid in book.charges.items() if paid.population == "shapes"))
    (text,) = accounts._differences(manifest, book)
    assert words in text
