"""Where things are: zones, ledger, keys, data. From `CADP_*` variables or a profile; never in a spec or a log.

The embedded default keeps everything below one folder, `.cadp` of the current directory:

    .cadp/private/   raw shards, models, sealed runs, plans, secrets, keys and the ledger
    .cadp/anchors/   the ledger's anchors: apart, so that a restored backup of the ledger does not bring old ones along
    .cadp/public/    releases, one folder a version
    .cadp/prefect/   the Prefect server's database and logs

A profile is a TOML file named by `CADP_PROFILE`, with the same names in lower case (`home`, `public`, …).
Variables win over the profile.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cadp.errors import SettingsError

_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
_NAMES = (
    "home",
    "private",
    "public",
    "ledger",
    "anchors",
    "keys",
    "secrets",
    "data",
    "scratch",
    "retention_days",
    "device",
    "private_profile",
    "public_profile",
    "anchors_profile",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The places of one deployment.

    Attributes:
        home: local folder below which the defaults lie.
        private_url: the private zone (a local path, `file://` or `s3://`).
        public_url: the public zone; a release is written below it.
        ledger_url: SQLAlchemy URL of the ledger.
        anchors_url: where the ledger's anchors are put; outside its database.
        keys_dir: local folder of the signing key and of the public keys that are trusted.
        secrets_dir: local folder of the populations' secrets.
        data_dir: local folder of datasets that cadp knows by name.
        scratch: local folder for sorting; emptied after use.
        device: what networks run on: `cpu`, `cuda` or `cuda:1`; it is never chosen by itself.
        private_profile: the profile of AWS's own configuration whose credentials open the private zone, where that is
            `s3://`; those of the environment if empty. Credentials themselves are never settings.
        public_profile: the same for the public zone, which only a publisher's may write.
        anchors_profile: the same for the anchors.
        retention_days: how long `cadp gc` keeps what a release was made from after it was published or burned.
    """

    home: Path
    private_url: str
    public_url: str
    ledger_url: str = field(repr=False)  # it may hold a password
    anchors_url: str
    keys_dir: Path
    secrets_dir: Path
    data_dir: Path
    scratch: Path
    retention_days: int = 30
    device: str = "cpu"
    private_profile: str = ""
    public_profile: str = ""
    anchors_profile: str = ""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from `environ` (the process's environment if None) and the profile it names.

        Raises:
            SettingsError: an unknown `CADP_*` variable would be ignored, or the profile cannot be read.
        """
        environ = os.environ if environ is None else environ
        values = _profile(environ.get("CADP_PROFILE"))
        for name in _NAMES:
            if value := environ.get(f"CADP_{name.upper()}"):
                values[name] = value
        known = {f"CADP_{name.upper()}" for name in _NAMES} | {"CADP_PROFILE"}
        if unknown := sorted(key for key in environ if key.startswith("CADP_") and key not in known):
            raise SettingsError(f"unknown setting {', '.join(unknown)}: known are {', '.join(sorted(known))}")
        home = Path(values.get("home", ".cadp")).expanduser().absolute()
        private = _absolute(values.get("private", str(home / "private")))
        local = home / "private"
        return cls(
            home=home,
            private_url=private,
            public_url=_absolute(values.get("public", str(home / "public"))),
            ledger_url=values.get("ledger", f"sqlite:///{local / 'ledger.db'}"),
            anchors_url=_absolute(values.get("anchors", str(home / "anchors"))),
            keys_dir=Path(values.get("keys", str(local / "keys"))).expanduser().absolute(),
            secrets_dir=Path(values.get("secrets", str(local / "secrets"))).expanduser().absolute(),
            data_dir=Path(values.get("data", str(home / "data"))).expanduser().absolute(),
            scratch=Path(values.get("scratch", str(home / "scratch"))).expanduser().absolute(),
            retention_days=_days(values.get("retention_days", "30")),
            device=_device(values.get("device", "cpu")),
            **_profiles(values),
        )

    def make_private_folders(self) -> None:
        """Create the local folders of the private zone, readable by their owner alone.

        Raises:
            SettingsError: a folder cannot be made, or a local zone could not be written.
        """
        zones = [Path(url.removeprefix("file://")) for url in (self.private_url, self.anchors_url) if _is_local(url)]
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            for name in ("private", "public", "anchors"):
                _require_writable(name, getattr(self, f"{name}_url"))
            for folder in (self.home / "private", *zones, self.keys_dir, self.secrets_dir, self.scratch):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if folder.is_dir() and folder.stat().st_mode & 0o007:
                    raise SettingsError(f"{folder} is open to everybody on this machine: chmod o-rwx {folder}")
        except OSError as error:
            raise SettingsError(
                f"cannot create {error.filename}: {error.strerror}; set CADP_HOME to a folder of yours"
            ) from error


def _is_local(url: str) -> bool:
    return "://" not in url.removeprefix("file://")


def _require_writable(name: str, url: str) -> None:
    """Refuse a local zone that cannot be written, before anything is charged for what could not be put there."""
    if not _is_local(url):
        return
    path = url.removeprefix("file://")
    nearest = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "cannot be written" if nearest.is_dir() else "is not a folder"
        raise SettingsError(f"{nearest} {reason}: set CADP_{name.upper()} to a folder that you can write")


def _absolute(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return str(Path(url).expanduser().absolute())
    if scheme not in ("file", "s3"):
        raise SettingsError(f"{url}: a zone is a folder, file:// or s3://, not {scheme}://")
    return url


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise SettingsError(f"retention_days is a whole number of days from 0 on, not {text!r}")
    return int(text)


def _device(text: str) -> str:
    if _DEVICE.fullmatch(text) is None:
        raise SettingsError(f"device is cpu, cuda or cuda:1, not {text!r}")
    return text


def _profiles(values: Mapping[str, str]) -> dict[str, str]:
    """The AWS profiles of the zones; one that would open nothing is a mistake, and said to be."""
    found = {name: values[name] for name in _NAMES if name.endswith("_profile") and values.get(name)}
    for name, profile in found.items():
        zone = name.removesuffix("_profile")
        if not values.get(zone, "").startswith("s3://"):
            raise SettingsError(f"{name} is {profile!r}, but {zone} is no s3:// address: AWS credentials open nothing")
    return found


def _profile(path: str | None) -> dict[str, str]:
    if not path:
        return {}
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the profile {path}: {error}") from error
    if unknown := sorted(set(tree) - set(_NAMES)):
        raise SettingsError(f"{path}: unknown setting {', '.join(unknown)}: known are {', '.join(_NAMES)}")
    return {name: str(value) for name, value in tree.items()}
