"""The population's secret: made once, whole, for its owner alone; and keys that tell nothing of each other."""

import hmac
import os
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from cadp.errors import LedgerError, SettingsError
from cadp.secret import (
    PopulationSecret,
    bind_ledger,
    bound_ledger,
    load_secret,
    locked,
    make_secret,
    note_ledger,
    refuse_second_ledger,
    require_noted,
)


def test_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret = make_secret(tmp_path, "people")
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.name == "people.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == secret.root
    assert len(secret.root) == 32
    assert make_secret(tmp_path, "people") == secret == load_secret(tmp_path, "people")
    assert make_secret(tmp_path, "others") != secret


def test_a_race_has_one_winner(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: make_secret(tmp_path, "people").root, range(64)))
    assert len(set(made)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["people.key"]


def test_a_crash_leaves_no_half_made_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match="No space left"):
        make_secret(tmp_path, "people")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="budget init"):
        load_secret(tmp_path, "people")
    (tmp_path / "people.key").write_bytes(b"x" * 31)
    with pytest.raises(SettingsError, match="31 bytes, not 32"):
        make_secret(tmp_path, "people")
    with pytest.raises(SettingsError, match="cannot write"):
        make_secret(tmp_path / "nowhere", "people")


def test_keys_are_apart() -> None:
    secret, other = PopulationSecret(b"a" * 32), PopulationSecret(b"b" * 32)
    keys = {s.key(purpose) for s in (secret, other) for purpose in ("shard", "gate", "plan")}
    assert len(keys) == 6
    assert secret.mac("plan", b"m") != secret.mac("source", b"m")
    assert secret.fingerprint() != other.fingerprint()


def test_key_is_rfc_5869() -> None:
    # Extract under a key of zeros, then one block of expand, written out.
    secret = PopulationSecret(bytes(range(32)))
    extracted = hmac.digest(bytes(32), secret.root, sha256)
    assert secret.key("gate") == hmac.digest(extracted, b"cadp/1/gate\x01", sha256)
    assert secret.mac("gate", b"m") == hmac.digest(secret.key("gate"), b"m", sha256)


def test_never_in_a_log() -> None:
    secret = PopulationSecret(b"s" * 32)
    assert "sss" not in repr(secret) + str(secret)


def test_a_population_belongs_to_one_ledger_for_ever(tmp_path: Path) -> None:
    assert bound_ledger(tmp_path, "people") is None
    require_noted(tmp_path, "people", "b" * 32)
    for _ in range(2):
        bind_ledger(tmp_path, "people", "a" * 32)
    for call in (bind_ledger, note_ledger, require_noted):
        with pytest.raises(LedgerError, match=r"kept by ledger a+, and this is ledger b+: .* a second\s+budget"):
            call(tmp_path, "people", "b" * 32)
    assert bound_ledger(tmp_path, "people") == "a" * 32
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


def test_one_folder_of_secrets_belongs_to_one_ledger(tmp_path: Path) -> None:
    refuse_second_ledger(tmp_path, None)
    bind_ledger(tmp_path, "people", "a" * 32)
    bind_ledger(tmp_path, "others", "a" * 32)
    with pytest.raises(LedgerError, match=r"of population others is kept by ledger a+, and this is ledger b+.*SECRETS"):
        bind_ledger(tmp_path, "renamed", "b" * 32)
    with pytest.raises(LedgerError, match=r"kept by ledger a+, and there is none where CADP_LEDGER points"):
        refuse_second_ledger(tmp_path, None)
    assert bound_ledger(tmp_path, "renamed") is None


def test_a_secret_without_a_note_is_old_and_its_ledger_must_know_it(tmp_path: Path) -> None:
    make_secret(tmp_path, "people")
    for population in ("people", "others"):
        with pytest.raises(LedgerError, match=r"no note says whose .* keeps the budget of population people"):
            bind_ledger(tmp_path, population, "a" * 32, known=["others"])
    bind_ledger(tmp_path, "others", "a" * 32, known=["people"])
    note_ledger(tmp_path, "people", "a" * 32)
    bind_ledger(tmp_path, "people", "a" * 32)


def test_what_a_crash_leaves_is_not_old(tmp_path: Path) -> None:
    """The note comes first: a note without a secret, or a secret with it, is this ledger's own beginning."""
    bind_ledger(tmp_path, "people", "a" * 32)
    bind_ledger(tmp_path, "people", "a" * 32)
    make_secret(tmp_path, "people")
    bind_ledger(tmp_path, "people", "a" * 32)


def test_one_at_a_time_holds_the_folder(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(_: int) -> int:
        with locked(tmp_path):
            inside.append(1)
            time.sleep(0.002)
            count = len(inside)
            inside.pop()
            return count

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(enter, range(40))) == {1}
    with pytest.raises(SettingsError, match="cannot write"), locked(tmp_path / "nowhere"):
        pass
