"""Zones with credentials of their own: the publisher alone writes the public one, and every lack is said beforehand."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cadp.errors import AccessRefused, SettingsError, StoreError
from cadp.settings import Settings
from cadp.store import Store
from cadp.zones import anchor_zone, private_zone, public_zone
from tests.command import Command, charges
from tests.servers.seaweedfs import S3Server
from tests.small_release import Place


@dataclass(frozen=True)
class Buckets:
    """Two buckets whose rights differ by role."""

    server: S3Server
    private: str
    public: str
    environ: Mapping[str, str]

    def zones(self, role: str, **more: str) -> dict[str, str]:
        """The settings of a process in this role."""
        zones = {"CADP_PRIVATE": f"s3://{self.private}/zone", "CADP_PUBLIC": f"s3://{self.public}/releases"}
        return {**zones, "CADP_PRIVATE_PROFILE": role, "CADP_PUBLIC_PROFILE": role, **self.environ, **more}

    def as_role(self, role: str, url: str) -> Store:
        """A store with the credentials of a role."""
        key, secret = self.server.roles[role]
        return Store.open(url, {**self.server.options, "key": key, "secret": secret})

    def visible(self) -> list[str]:
        """Everything in the public bucket."""
        return [key for key, _ in Store.open(f"s3://{self.public}", self.server.options).list()]

    def uploads(self) -> int:
        """Multipart uploads that were begun and neither completed nor aborted, in both buckets."""
        stores = (Store.open(f"s3://{name}", self.server.options) for name in (self.private, self.public))
        return sum(len(store.drop_unfinished(-60, dry_run=True)) for store in stores)


@pytest.fixture
def buckets(seaweedfs: S3Server, tmp_path: Path) -> Buckets:
    """Fresh ones."""
    name = seaweedfs.bucket().removeprefix("bucket-")
    private, public = seaweedfs.bucket(f"private-{name}"), seaweedfs.bucket(f"public-{name}")
    (tmp_path / "aws").mkdir()
    return Buckets(seaweedfs, private, public, seaweedfs.profiles(tmp_path / "aws"))


def test_the_publisher_alone_writes_the_public_zone(buckets: Buckets) -> None:
    private, public = f"s3://{buckets.private}/zone", f"s3://{buckets.public}/releases"
    for role in ("worker", "publisher"):
        buckets.as_role(role, private).put(f"by-{role}", b"1")
        assert buckets.as_role(role, private).lacking(("list", "read", "write")) == {}
    buckets.as_role("publisher", public).put("release", b"1")
    worker = buckets.as_role("worker", public)
    assert worker.get("release") == b"1"
    refusals = [
        lambda: worker.put("release", b"2"),
        lambda: worker.put("another", b"2"),
        lambda: worker.put("large", bytes(33 << 20)),
        lambda: worker.delete("release"),
    ]
    for refused in refusals:
        with pytest.raises(AccessRefused, match="lack the right"):
            refused()
    assert buckets.visible() == ["releases/release"]
    assert list(worker.lacking(("list", "read", "write"))) == ["write"]
    assert buckets.as_role("publisher", public).lacking(("list", "read", "write")) == {}


def test_asking_for_rights_leaves_nothing_behind(buckets: Buckets) -> None:
    store = buckets.as_role("publisher", f"s3://{buckets.public}/releases")
    assert store.lacking(("list", "read", "write")) == {}
    assert buckets.visible() == []
    assert buckets.uploads() == 0


def test_a_stranger_lacks_everything_and_a_missing_bucket_is_another_matter(buckets: Buckets) -> None:
    strange = Store.open(f"s3://{buckets.private}", {**buckets.server.options, "key": "nobody"})
    assert list(strange.lacking(("list", "read", "write"))) == ["list", "read", "write"]
    with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'"):
        Store.open("s3://no-such-bucket/x", buckets.server.options).lacking(("list",))


def test_a_local_zone_is_asked_too(tmp_path: Path) -> None:
    assert Store.open(str(tmp_path / "not" / "yet")).lacking(("list", "read", "write")) == {}
    (tmp_path / "file").write_text("")
    lacking = Store.open(str(tmp_path / "file" / "below")).lacking(("read", "write"))
    assert list(lacking) == ["read", "write"]
    assert lacking["write"] == f"{tmp_path / 'file'} is not a folder"


def test_a_profile_belongs_to_an_s3_zone(tmp_path: Path) -> None:
    zones = {"CADP_PRIVATE": "s3://a/b", "CADP_PUBLIC": "s3://c", "CADP_ANCHORS": "s3://d"}
    profiles = {"CADP_PRIVATE_PROFILE": "one", "CADP_PUBLIC_PROFILE": "two", "CADP_ANCHORS_PROFILE": "three"}
    settings = Settings.load({**zones, **profiles})
    opened = (private_zone(settings), public_zone(settings), anchor_zone(settings))
    assert [store.__reduce__()[1][2] for store in opened] == [{"profile": name} for name in ("one", "two", "three")]
    for name in profiles:
        with pytest.raises(SettingsError, match="AWS credentials open nothing"):
            Settings.load({"CADP_HOME": str(tmp_path), name: "one"})


def test_an_unknown_profile_is_one_line(place: Place, cadp: Command, buckets: Buckets) -> None:
    place.open_budget()
    cadp(place, "plan", place.spec, settings=buckets.zones("nobody")).refused(1, "nobody", "profile")


def test_two_roles_make_a_release(place: Place, cadp: Command, buckets: Buckets) -> None:
    place.open_budget()
    worker, publisher = buckets.zones("worker"), buckets.zones("publisher")

    shown = cadp(place, "plan", place.spec, settings=worker)
    assert shown.code == 0, shown.err
    assert "may not write in the public zone" in " ".join(shown.out.split())
    found = json.loads(cadp(place, "plan", place.spec, "--json", settings=worker).out)["zones"]
    assert [(row["zone"], row["write"]) for row in found] == [("private", "yes"), ("anchors", "yes"), ("public", "no")]
    shown = cadp(place, "plan", place.spec, settings=publisher)
    assert "Not ready" not in shown.out

    # A whole release would end at its last step, when all is paid for: it does not begin.
    cadp(place, "release", place.spec, settings=worker).refused(1, "may not write in the public zone", "PUBLIC_PROFILE")
    assert charges(place) == []
    for step in ("shard", "train", "privatize", "validate"):
        done = cadp(place, step, place.spec, settings=worker)
        assert done.code == 0, done.err
    paid = [charge.id for charge in charges(place)]
    assert len(paid) == 3
    cadp(place, "publish", place.spec, settings=worker).refused(1, "may not write in the public zone")
    assert buckets.visible() == []
    done = cadp(place, "publish", place.spec, settings=publisher)
    assert done.code == 0, done.err
    assert cadp(place, "verify", f"s3://{buckets.public}/releases/shapes/1.0.0", settings=reading(buckets)).code == 0
    assert [charge.id for charge in charges(place)] == paid
    assert buckets.uploads() == 0
    # The worker sees that it is published, and has nothing left to do.
    before = buckets.visible()
    assert cadp(place, "privatize", place.spec, settings=worker).code == 0
    assert buckets.visible() == before
    assert [charge.id for charge in charges(place)] == paid


def reading(buckets: Buckets) -> dict[str, str]:
    """The environment of somebody who was given the worker's right to read."""
    return {**buckets.environ, "AWS_PROFILE": "worker"}
