"""Where things are: variables before the profile before the defaults, and nothing ignored in silence."""

import os
from pathlib import Path

import pytest

from cadp.errors import SettingsError
from cadp.settings import Settings


def test_everything_lies_below_home(tmp_path: Path) -> None:
    settings = Settings.load({"CADP_HOME": str(tmp_path / "h")})
    home = tmp_path / "h"
    assert settings.public_url == str(home / "public")
    assert settings.private_url == str(home / "private")
    assert settings.ledger_url == f"sqlite:///{home}/private/ledger.db"
    assert not settings.keys_dir.is_relative_to(settings.public_url)
    assert not settings.secrets_dir.is_relative_to(settings.public_url)
    assert not home.exists()


def test_the_default_is_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load({}).home == tmp_path / ".cadp"


def test_variables_win_over_the_profile(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text('home = "/from/profile"\npublic = "s3://bucket/of-profile"\n')
    settings = Settings.load({"CADP_PROFILE": str(profile), "CADP_PUBLIC": "s3://bucket/releases"})
    assert settings.home == Path("/from/profile")
    assert settings.public_url == "s3://bucket/releases"
    assert Settings.load({"CADP_PROFILE": str(profile), "CADP_PUBLIC": ""}).public_url == "s3://bucket/of-profile"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CADP_PUBLISH": "x"}, "CADP_PUBLISH"),
        ({"CADP_home": "x"}, "CADP_home"),
        ({"CADP_PROFILE": "/no/such/profile.toml"}, "/no/such/profile.toml"),
    ],
)
def test_what_would_be_ignored_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.load(environ)


def test_retention_is_a_whole_number_of_days(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text("retention_days = 7\n")
    assert Settings.load({}).retention_days == 30
    assert Settings.load({"CADP_PROFILE": str(profile)}).retention_days == 7
    assert Settings.load({"CADP_PROFILE": str(profile), "CADP_RETENTION_DAYS": "0"}).retention_days == 0
    for text in ("-1", "1.5", "soon", "1e3", "9999999"):
        with pytest.raises(SettingsError, match="retention_days is a whole number of days"):
            Settings.load({"CADP_RETENTION_DAYS": text})


def test_the_device_is_said_and_never_chosen() -> None:
    assert Settings.load({}).device == "cpu"
    for name in ("cpu", "cuda", "cuda:1"):
        assert Settings.load({"CADP_DEVICE": name}).device == name
    for text in ("gpu", "cuda:", "cpu:0", "cuda:-1", "CUDA", "cuda:999"):
        with pytest.raises(SettingsError, match=f"device is cpu, cuda or cuda:1, not '{text}'"):
            Settings.load({"CADP_DEVICE": text})


@pytest.mark.parametrize("text", [b"home = ", b"epsilon = 8", b"\xff"])
def test_a_bad_profile_is_refused(tmp_path: Path, text: bytes) -> None:
    profile = tmp_path / "p.toml"
    profile.write_bytes(text)
    with pytest.raises(SettingsError, match=r"p\.toml"):
        Settings.load({"CADP_PROFILE": str(profile)})


def test_private_folders_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        settings = Settings.load({"CADP_HOME": str(tmp_path / "h")})
        settings.make_private_folders()
        settings.make_private_folders()
    finally:
        os.umask(before)
    for folder in (settings.home / "private", settings.keys_dir, settings.secrets_dir, settings.scratch):
        assert folder.stat().st_mode & 0o077 == 0, folder


@pytest.mark.parametrize("zone", ["public", "private", "anchors"])
def test_a_local_zone_must_be_writable(tmp_path: Path, zone: str) -> None:
    (tmp_path / "file").write_text("")
    for address in (tmp_path / "file", tmp_path / "file" / "below", f"file://{tmp_path}/file"):
        settings = Settings.load({"CADP_HOME": str(tmp_path / "h"), f"CADP_{zone.upper()}": str(address)})
        with pytest.raises(SettingsError, match=f"is not a folder: set CADP_{zone.upper()}"):
            settings.make_private_folders()
