"""Garbage: losers and expired intermediates go, and only those, whenever it is collected."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cadp.errors import LedgerMissing
from cadp.ledger import Ledger
from cadp.publish.sign import load_public, public_path
from cadp.publish.verify import verify
from cadp.release import STEPS, run_release, run_step, summary
from cadp.reporter import Silent
from cadp.steps import retention
from cadp.steps.audit import AUDIT
from cadp.steps.collect import BURNED, EXPIRED, LOSERS, MODELS, SCRATCH, UNFINISHED, Collected, collect
from cadp.steps.job import Job
from cadp.steps.privatize import PrivatizeStep
from cadp.steps.publish import signing_key_path
from cadp.steps.train import TrainStep
from cadp.store import Store
from tests.command import Command, charges
from tests.servers.seaweedfs import S3Server
from tests.small_release import Place
from tests.steps.conftest import Restore
from tests.steps.moments import at_every_moment
from tests.steps.test_scratch import LEAVE
from tests.steps.test_zombie import tree

KEPT = {
    "audits/",
    "plan.json",
    "published/context.json",
    "validation/verdict.json",
    "validation/expectations/index.html",
    "validation/expectations/result.json",
    "validation/expectations/suite.json",
}
SHA = "0123456789abcdef" * 4


def found(collected: Collected) -> dict[str, int]:
    """Objects by kind, of the kinds that there were any of."""
    return {kind: len(sizes) for kind, sizes in collected.found.items() if sizes}


def models(place: Place) -> list[str]:
    return sorted(path.name for path in (place.settings.home / "private" / "models").iterdir())


def check_public(place: Place) -> None:
    trusted = [load_public(public_path(signing_key_path(place.settings)))]
    assert verify(str(place.public), trusted).records == 1200


@pytest.mark.parametrize("stage", ["nothing", "validate"])
def test_collected_at_every_moment_a_release_is_the_same(
    restore: Restore, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each put, charge, lease, seal: nothing that the release has written goes until it is public."""
    place = restore(stage)
    job = place.job()
    moments: list[str] = []
    lock = threading.RLock()
    bytes_before: dict[str, str] = {}
    if stage == "validate":
        place.release()
        bytes_before, context = tree(place.public), (place.private / "published" / "context.json").read_bytes()
        place = restore(stage)
        job = place.job()
        job.private.put("published/context.json", context)  # the date, which may be tomorrow's by now

    def act(when: str, call: str, what: str) -> None:
        with lock:
            collected = collect(place.settings, days=0)
            if not (place.public / "manifest.dsse").exists():
                assert found(collected) == {}, (when, call, what)
            assert collected.unknown == []
            moments.append(call)

    with monkeypatch.context() as patch:
        at_every_moment(patch, act)
        run_release(job, Silent())
    assert {"put", "publish"} <= set(moments)
    if stage == "nothing":
        assert {"charge", "lease", "seal", "finish", "answer"} <= set(moments)
    check_public(place)
    if bytes_before:
        changed = {name for name, digest in tree(place.public).items() if bytes_before.get(name) != digest}
        assert changed == set()
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == KEPT
    assert models(place) == []
    assert summary(place.job()).accuracy


DRIVE = [
    ("nothing", "after", "put", "raw/train-", 2),
    ("shard", "after", "put", ".safetensors", 1),
    ("shard", "before", "seal", "0", 1),
    ("train", "before", "seal", "1", 1),
    ("validate", "after", "put", "published/00001", 1),
    ("validate", "after", "publish", "", 1),
]

KILLED = """
import os, signal, sys
import pytest
from cadp.release import Job, run_release
from cadp.reporter import Silent
from cadp.settings import Settings
from tests.steps.moments import at_moment

home, spec, when, call, part, nth = sys.argv[1:]
at_moment(pytest.MonkeyPatch(), (when, call, part, int(nth)), lambda: os.kill(os.getpid(), signal.SIGKILL))
run_release(Job.open(spec, Settings.load({"CADP_HOME": home})), Silent())
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", DRIVE, ids=lambda p: "-".join(str(part).strip("/.") for part in p if part))
def test_collected_after_a_kill_a_release_is_completed(restore: Restore, point: tuple[str, str, str, str, int]) -> None:
    place = restore(point[0])
    paths = [str(Path(__file__).resolve().parents[2]), *(path for path in sys.path if path)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(place.settings.home), str(place.spec), *map(str, point[1:])],
        env={**place.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
        timeout=300,
        cwd=place.folder,
    )
    assert killed.returncode < 0, killed.stderr.decode()[-2000:]
    before = {**tree(place.private), **tree(place.settings.home / "private" / "models")}
    first = collect(place.settings, days=0)
    assert set(found(first)) <= {SCRATCH}  # the last attempt may still seal, for all that anybody knows
    assert {**tree(place.private), **tree(place.settings.home / "private" / "models")} == before
    public = tree(place.public)
    for step in STEPS:
        run_step(step, place.job(), Silent())
        collect(place.settings, days=0)
    assert public.items() <= tree(place.public).items()
    check_public(place)
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == KEPT
    assert models(place) == []


def attempt(job: Job, index: int, token: int, number: int) -> str:
    """Put the objects of an attempt at a range."""
    key = f"sealed/{index:05d}.{token}-{number:08x}.run"
    for part in (key, key + ".index"):
        job.private.put(part, b"an attempt")
    return key


def there(job: Job) -> set[str]:
    return {key for key, _ in job.private.list("sealed/") if key.endswith(".run")}


def test_losers_are_what_can_never_be_sealed(restore: Restore) -> None:
    place = restore("train")
    job = place.job()
    step = PrivatizeStep()
    step.prepare(job, Silent())
    charge = job.charge("records")
    step.run(job, 0, Silent())  # sealed under token 1
    sealed = there(job).pop()
    first = job.ledger.lease(charge.id, 1, "one that died", 0.01)
    time.sleep(0.02)
    old = attempt(job, 1, first.token, 1)
    assert found(collect(place.settings, days=0)) == {}, "the newest token may seal, also after its lease is over"
    second = job.ledger.lease(charge.id, 1, "its heir", 60)
    new = attempt(job, 1, second.token, 2)
    beside = attempt(job, 0, 1, 3)  # another output of a range that has its one
    unheard = attempt(job, 2, 7, 4)  # of a token that nobody was given
    assert there(job) == {sealed, old, new, beside, unheard}

    dry = collect(place.settings, days=0, dry_run=True)
    assert there(job) == {sealed, old, new, beside, unheard}
    collected = collect(place.settings, days=0)
    assert found(collected) == found(dry) == {LOSERS: 4}
    assert there(job) == {sealed, new, unheard}
    assert collected.unknown == [job.private.url_of(key) for key in (unheard, unheard + ".index")]
    job.ledger.seal(second, key=new, sha256=SHA, facts={"records": 300})
    assert found(collect(place.settings, days=0)) == {}

    job.ledger.burn(job.spec.release, "given up")
    late = attempt(job, 3, 1, 5)
    assert found(collect(place.settings)) == {LOSERS: 4}  # `unheard` and `late`, which a burned charge can never seal
    assert late not in there(job)
    assert there(job) == {sealed, new}, "sealed runs of a burned release are kept as long as its other intermediates"
    assert found(collect(place.settings, days=0))[EXPIRED] > 4
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == {"audits/", "plan.json"}


def test_models_that_no_seal_names(restore: Restore) -> None:
    """An attempt's model stays while a training that could have made it is open, and goes when none is."""
    place = restore("shard")
    job = place.job()
    TrainStep().prepare(job, Silent())
    charge = job.charge("train")
    privacy = {"relation": "x", "population": "shapes", "event": charge.event.to_json()}
    store = job.models
    store.put(f"{'a' * 64}.safetensors", b"tensors of an attempt")
    store.put(f"{'b' * 64}.json", json.dumps({"privacy": privacy, "tensors": {"sha256": "a" * 64}}).encode())
    store.put(f"{'c' * 64}.safetensors", b"tensors of one that was killed before its record")
    # Somebody else's: trained for other people, or no model at all.
    store.put(f"{'d' * 64}.safetensors", b"tensors of another population")
    foreign = {**privacy, "population": "others"}
    store.put(f"{'e' * 64}.json", json.dumps({"privacy": foreign, "tensors": {"sha256": "d" * 64}}).encode())
    store.put("notes.txt", b"mine")
    collected = collect(place.settings, days=0)
    unknown = [store.url_of(f"{'e' * 64}.json"), store.url_of("notes.txt")]
    assert found(collected) == {}
    assert collected.unknown == unknown
    run_step(TrainStep(), job, Silent())
    collected = collect(place.settings, days=0)
    assert found(collected) == {LOSERS: 3}
    assert collected.unknown == unknown
    left = {key for key, _ in store.list()}
    assert {f"{'d' * 64}.safetensors", f"{'e' * 64}.json", "notes.txt"} < left
    assert len(left) == 5
    run_release(place.job(), Silent())
    check_public(place)


def test_tensors_stay_while_a_record_cannot_be_read(restore: Restore) -> None:
    """A damaged record may be put right from a backup, and its tensors are then needed."""
    place = restore("train")
    (record,) = (place.settings.home / "private" / "models").glob("*.json")
    right = record.read_bytes()
    record.write_bytes(right[:-5])
    assert found(collect(place.settings, days=0)) == {}
    record.unlink()
    assert found(collect(place.settings, days=0)) == {}
    record.write_bytes(right)
    run_release(place.job(), Silent())
    check_public(place)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let that many days pass."""

    def pass_by(days: float) -> None:
        class Later(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.now(UTC) + timedelta(days=days)

        monkeypatch.setattr(retention, "datetime", Later)

    return pass_by


def test_intermediates_of_a_published_release_expire(
    restore: Restore, cadp: Command, later: Callable[[float], None]
) -> None:
    place = restore("publish")
    home = place.settings.home
    elsewhere = {
        name: digest
        for name, digest in tree(home).items()
        if "/releases/" not in name and "/models/" not in name and not name.endswith(("-wal", "-shm"))
    }
    before, made = tree(place.public), charges(place)
    said = cadp(place, "release", place.spec).out
    later(29.9)
    assert found(collect(place.settings)) == {}
    later(30.1)
    collected = collect(place.settings)
    # 2 runs with sidecars, 5 shards, facts, rejects; 4 sealed runs with sidecars; 4 intervals in place; the
    # private round trip.
    assert found(collected) == {EXPIRED: 11 + 8 + 4 + 1, MODELS: 2}
    assert collected.unknown == collected.notes == []
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == KEPT
    assert models(place) == []
    assert found(collect(place.settings)) == {}

    assert cadp(place, "release", place.spec).out == said
    for step in STEPS:
        done = cadp(place, step.name, place.spec)
        assert done.code == 0, done.err
    assert tree(place.public) == before
    assert charges(place) == made
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == KEPT
    assert cadp(place, "verify", place.public).code == 0
    now = tree(home)
    # The secrets, the keys, the ledger and its anchors: nothing of them was deleted, nor the public release.
    assert elsewhere.keys() <= now.keys()
    assert {n for n in elsewhere if elsewhere[n] != now[n]} <= {
        "private/ledger.db",
        "private/ledger.db-wal",
        "private/ledger.db-shm",
    }
    assert place.job().ledger.check().charges == 3


def test_nothing_expires_before_what_is_public_is_whole(restore: Restore, cadp: Command) -> None:
    place = restore("publish")
    private = tree(place.private)
    shard = place.public / "shards" / "train-000001.tar"
    right = shard.read_bytes()
    for spoiled in (right[:-1], right[:99] + bytes([right[99] ^ 1]) + right[100:]):
        shard.write_bytes(spoiled)
        collected = collect(place.settings, days=0)
        assert found(collected) == {}
        assert "changed: shards/train-000001.tar" in "".join(collected.notes)
    shard.write_bytes(right)
    last = {name: (place.public / name).read_bytes() for name in ("manifest.json", "manifest.dsse")}
    (place.public / "manifest.dsse").unlink()
    for name in ("", "manifest.json"):
        (place.public / name).unlink() if name else None
        collected = collect(place.settings, days=0)
        assert found(collected) == {}
        assert collected.notes == ["shapes/1.0.0 is bound to become public and has no manifest: run `cadp publish`"]
    assert tree(place.private) == private
    assert cadp(place, "publish", place.spec).code == 0
    assert {name: (place.public / name).read_bytes() for name in last} == last
    assert found(collect(place.settings, days=0))[EXPIRED] > 20


def test_what_paused_writers_put_after_an_abandon(
    restore: Restore, cadp: Command, later: Callable[[float], None]
) -> None:
    place = restore("validate")
    plan = place.job().plan_digest
    assert cadp(place, "abandon", place.spec).code == 0
    assert set(tree(place.private)) == set()
    public, private = Store.open(str(place.public)), Store.open(str(place.private))
    litter = ["data/train-00001-of-00004.parquet", "shards/train-000001.tar", "SHA256SUMS", "manifest.json"]
    for key in litter:
        public.put(key, b"put too late")
    public.put("notes.txt", b"mine")
    private.put("raw/train-00001.tar", b"put too late")
    private.put("mine.txt", b"mine")
    collected = collect(place.settings)
    assert found(collected) == {BURNED: 4}
    assert collected.unknown == [private.url_of("mine.txt"), public.url_of("notes.txt")]
    assert [key for key, _ in public.list()] == ["notes.txt"]
    later(31)
    assert found(collect(place.settings)) == {EXPIRED: 1, MODELS: 2}
    assert tree(place.private).keys() == {"mine.txt"}

    from cadp.publish.claim import claim_bytes

    public.put("data/train-00001-of-00004.parquet", b"again")
    for claimed, deleted in (
        (claim_bytes("shapes/1.0.0", "0" * 64), {}),
        (claim_bytes("shapes/1.0.0", plan), {BURNED: 2}),
    ):
        public.delete("claim.json")
        public.put("claim.json", claimed)
        assert found(collect(place.settings)) == deleted
    public.put("manifest.dsse", b"signed by whomever")
    public.put("SHA256SUMS", b"of whomever")
    collected = collect(place.settings)
    assert found(collected) == {}
    assert collected.notes == [f"shapes/1.0.0 is burned; what is signed at {public.url} is left alone"]


def test_scratch_and_half_written_objects(restore: Restore) -> None:
    place = restore("validate")
    killed = subprocess.run(
        [sys.executable, "-c", LEAVE, str(place.settings.scratch)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=60,
        check=False,
    )
    assert killed.returncode < 0
    old, young = (place.settings.home / ".incoming-private" / name for name in ("0" * 32, "1" * 32))
    old.parent.mkdir(exist_ok=True)
    for path, hours in ((old, 25), (young, 23)):
        path.write_bytes(b"half of an object")
        os.utime(path, (time.time() - hours * 3600,) * 2)
    assert found(collect(place.settings, dry_run=True)) == {SCRATCH: 1, UNFINISHED: 1}
    assert old.exists()
    assert found(collect(place.settings)) == {SCRATCH: 1, UNFINISHED: 1}
    assert (old.exists(), young.exists()) == (False, True)
    assert found(collect(place.settings)) == {}


def test_several_at_once(restore: Restore) -> None:
    place = restore("publish")
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work() -> None:
        try:
            start.wait(30)
            collect(place.settings, days=0)
        except BaseException as error:  # noqa: BLE001 (shown by the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == KEPT
    assert models(place) == []
    check_public(place)


def test_the_command(restore: Restore, cadp: Command) -> None:
    place = restore("publish")
    (place.private / "mine.txt").write_text("mine")
    private = tree(place.private)
    done = cadp(place, "gc")
    assert (done.code, "nothing to delete" in done.out) == (0, True), done
    dry = cadp(place, "gc", "--dry-run", "--older-than", 0)
    assert dry.code == 0
    assert all(word in dry.out for word in ("would delete", "expired intermediates", "24", "mine.txt"))
    assert tree(place.private) == private
    by_setting = cadp(place, "gc", "--dry-run", "--json", settings={"CADP_RETENTION_DAYS": "0"})
    facts = json.loads(by_setting.out)
    assert facts["dry_run"] is True
    assert facts["kinds"][EXPIRED]["objects"] == 24
    assert facts["kinds"][EXPIRED]["bytes"] > 100_000
    assert facts["unknown"] == [f"file://{place.private}/mine.txt"]
    assert tree(place.private) == private
    assert "deleted" in cadp(place, "gc", "--older-than", "0").out
    assert {AUDIT.sub("audits/", key) for key in tree(place.private)} == {*KEPT, "mine.txt"}
    cadp(place, "gc", settings={"CADP_RETENTION_DAYS": "-1"}).refused(2, "retention_days", "'-1'")


def test_without_a_ledger_nothing_is_deleted(restore: Restore) -> None:
    place = restore("publish")
    private = tree(place.private)
    for path in (place.settings.home / "private").glob("ledger.db*"):
        path.unlink()
    with pytest.raises(LedgerMissing):
        collect(place.settings, days=0)
    assert tree(place.private) == private


def test_between_buckets(place: Place, cadp: Command, seaweedfs: S3Server) -> None:
    private_url, public_url = f"s3://{seaweedfs.bucket()}/zone", f"s3://{seaweedfs.bucket()}/releases"
    zones = {"CADP_PRIVATE": private_url, "CADP_PUBLIC": public_url, **seaweedfs.environment}
    private = Store.open(private_url, seaweedfs.options)
    place.open_budget()
    for step in ("shard", "train", "privatize", "validate", "publish"):
        done = cadp(place, step, place.spec, settings=zones)
        assert done.code == 0, done.err
        collected = json.loads(cadp(place, "gc", "--json", settings=zones).out)
        assert {kind for kind, sizes in collected["kinds"].items() if sizes["objects"]} == set(), step
    private.put("releases/shapes/1.0.0/sealed/00000.1-00000000.run", b"a zombie's")
    private.put("secrets/of-somebody", b"not looked at")
    collected = json.loads(cadp(place, "gc", "--json", settings=zones).out)
    assert collected["kinds"][LOSERS] == {"objects": 1, "bytes": 10}
    said = cadp(place, "release", place.spec, settings=zones).out
    collected = json.loads(cadp(place, "gc", "--json", "--older-than", 0, settings=zones).out)
    assert (collected["kinds"][EXPIRED]["objects"], collected["kinds"][MODELS]["objects"]) == (24, 2)
    assert collected["unknown"] == collected["notes"] == []
    names = (key.removeprefix("releases/shapes/1.0.0/") for key, _ in private.list())
    kept = {AUDIT.sub("audits/", name) for name in names}
    assert kept == {*KEPT, "secrets/of-somebody"}
    assert cadp(place, "release", place.spec, settings=zones).out == said
    assert cadp(place, "verify", f"{public_url}/shapes/1.0.0", settings=zones).code == 0
    with Ledger.open(place.settings.ledger_url, Store.open(place.settings.anchors_url)) as ledger:
        assert ledger.check().charges == 3
