"""What a user can get wrong: one clear line, the right exit code, nothing charged, nothing half-written."""

import gzip
import os
import re
import secrets
from pathlib import Path

import pytest

from cadp.release import run_step
from cadp.reporter import Silent
from cadp.steps.shard import ShardStep
from cadp.steps.train import TrainStep
from tests.command import Command, charges, public_files
from tests.servers.seaweedfs import S3Server
from tests.small_release import Place, build

INIT = ("budget", "init")
LIMITS = ("--epsilon", "100", "--delta", "1e-6", "--holdout-epsilon", "5")


@pytest.fixture
def opened(place: Place) -> Place:
    """A place with a key and budgets; nothing is charged."""
    place.open_budget()
    return place


def edit(place: Place, old: str, new: str) -> None:
    """Change the text of the place's spec."""
    text = place.spec.read_text()
    assert old in text
    place.spec.write_text(text.replace(old, new))


def untouched(place: Place) -> None:
    """Check that nothing was charged, published or left in scratch."""
    assert charges(place) == []
    assert public_files(place) == []
    assert [path for path in place.settings.scratch.rglob("*") if path.is_file()] == []


# The spec


def test_every_problem_of_a_spec_with_its_line(opened: Place, cadp: Command) -> None:
    edit(opened, "version: 1.0.0", "version: one")
    edit(opened, "delta: 1e-6", "delta: 2")
    edit(opened, "kind: privunit", "kind: magic")
    edit(opened, "license: MIT", "licence: MIT")
    lines = opened.spec.read_text().splitlines()
    message = cadp(opened, "release", opened.spec).refused(2)
    where = {
        "version": "version: one",
        "spend.delta": "delta: 2",
        "mechanism.kind": "kind: magic",
        "licence: no such setting": "licence",
        "license: is missing": "name: ",
    }
    assert len(message.splitlines()) == len(where)
    for problem, text in where.items():
        number = next(i for i, line in enumerate(lines, 1) if text in line)
        assert re.search(rf"release\.yaml:{number}: {re.escape(problem)}", message), (problem, message)
    untouched(opened)


@pytest.mark.parametrize("command", ["plan", "release", "shard", "abandon"])
def test_a_spec_that_is_not_there_or_not_yaml(opened: Place, cadp: Command, command: str) -> None:
    cadp(opened, command, opened.folder / "none.yaml").refused(2, "none.yaml", "No such file")
    opened.spec.write_text("name: [a\nb: c")
    cadp(opened, command, opened.spec).refused(2, "release.yaml:", "not YAML")
    opened.spec.write_bytes(b"\xff\xfe\x00")
    cadp(opened, command, opened.spec).refused(2, "release.yaml")
    cadp(opened, command, opened.folder).refused(2, "directory")
    untouched(opened)


def test_too_large_a_delta(opened: Place, cadp: Command) -> None:
    edit(opened, "delta: 1e-6", "delta: 1e-3")
    cadp(opened, "release", opened.spec).refused(2, "1e-03", "8.3e-05", "why_delta")
    untouched(opened)


def test_parts_that_cost_more_than_the_release_may_take(opened: Place, cadp: Command) -> None:
    opened.write_spec(spend=20)
    message = cadp(opened, "release", opened.spec).refused(2, "would cost ε = 38", "18 more", "spend.epsilon = 20")
    assert "train 30" in message
    untouched(opened)


def test_more_content_than_the_model_learns(opened: Place, cadp: Command) -> None:
    edit(opened, "content_dims: 4", "content_dims: 140")
    cadp(opened, "release", opened.spec).refused(2, "140", "principal dimensions")
    untouched(opened)


# The source


def test_a_source_that_is_not_there(opened: Place, cadp: Command) -> None:
    (opened.folder / "source").rename(opened.folder / "moved")
    cadp(opened, "release", opened.spec).refused(1, "no folder", "source", "fashion-mnist")
    untouched(opened)


def test_an_unknown_dataset(opened: Place, cadp: Command) -> None:
    opened.write_spec(url="fashion-mnits")
    cadp(opened, "plan", opened.spec).refused(1, "fashion-mnits", "fashion-mnist")
    cadp(opened, "release", opened.spec).refused(1, "fashion-mnits")
    untouched(opened)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_truncated_file(opened: Place, cadp: Command, name: str) -> None:
    path = opened.folder / "source" / name
    path.write_bytes(path.read_bytes()[:-20])
    cadp(opened, "release", opened.spec).refused(1, name)
    untouched(opened)
    assert not (opened.private / "raw" / "facts.json").exists()


def test_a_file_that_holds_less_than_its_header_says(opened: Place, cadp: Command) -> None:
    path = opened.folder / "source" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    cadp(opened, "release", opened.spec).refused(1, path.name, "truncated", "1 bytes missing")
    untouched(opened)


def test_other_counts_than_declared(opened: Place, cadp: Command) -> None:
    opened.write_spec(records=1199)
    message = cadp(opened, "release", opened.spec).refused(2, "1,199", "1,200", "nothing was charged")
    assert "train" in message
    untouched(opened)
    # The plan is bound by now; nothing was charged, so the release may be forgotten and started again.
    opened.write_spec()
    cadp(opened, "release", opened.spec).refused(2, "another plan")
    assert "forgotten" in cadp(opened, "abandon", opened.spec).out
    assert cadp(opened, "shard", opened.spec).code == 0
    untouched(opened)


def test_facts_that_are_not_declared(opened: Place, cadp: Command) -> None:
    edit(opened, "  shape: [12, 12, 1]\n", "")
    cadp(opened, "release", opened.spec).refused(2, "source.shape")
    untouched(opened)


# The ledger, the budget and what a population is bound to


@pytest.mark.parametrize("command", [("release",), ("abandon",), ("train",)])
def test_a_missing_ledger_is_never_made_by_accident(place: Place, cadp: Command, command: tuple[str, ...]) -> None:
    cadp(place, *command, place.spec).refused(2, "cadp budget init")
    assert not place.settings.home.exists()


@pytest.mark.parametrize("command", ["show", "history"])
def test_budgets_of_a_missing_ledger(place: Place, cadp: Command, command: str) -> None:
    cadp(place, "budget", command).refused(2, "cadp budget init")
    assert not place.settings.home.exists()


# 20 does not pay for the training; 35 does, but then nothing could be released with it.
@pytest.mark.parametrize("limit", [20.0, 35.0])
def test_a_budget_that_is_too_small(place: Place, cadp: Command, limit: float) -> None:
    place.open_budget(epsilon=limit)
    message = cadp(place, "release", place.spec).refused(3, "train+records", "asked 37.9997", f"left {limit:.2f}")
    assert f"{37.999794 - limit:.6f} too much" in message
    untouched(place)


def test_a_holdout_budget_that_is_too_small(opened: Place, cadp: Command) -> None:
    edit(opened, "holdout: test, epsilon: 1,", "holdout: test, epsilon: 6,")
    cadp(opened, "release", opened.spec).refused(3, "shapes.holdout", "asked 6.00", "left 5.00", "1.00 too much")
    untouched(opened)


@pytest.mark.parametrize("limits", [("0", "1e-6"), ("-1", "1e-6"), ("nan", "1e-6"), ("inf", "1e-6"), ("8", "1")])
def test_limits_that_are_none(place: Place, cadp: Command, limits: tuple[str, str]) -> None:
    cadp(place, *INIT, place.spec, "--epsilon", limits[0], "--delta", limits[1]).refused(2, "limit", "ε")
    assert not (place.settings.home / "private" / "ledger.db").exists()


def test_a_limit_is_never_raised(opened: Place, cadp: Command) -> None:
    before = cadp(opened, "budget", "show", "--json").out
    assert cadp(opened, *INIT, opened.spec, *LIMITS).code == 0
    cadp(opened, *INIT, opened.spec, "--epsilon", "200", "--delta", "1e-6").refused(1, "200", "100", "never change")
    assert cadp(opened, *INIT, opened.spec, "--epsilon", "200", "--delta", "1e-6", "--if-absent").code == 0
    assert cadp(opened, "budget", "show", "--json").out == before


@pytest.mark.parametrize("address", ["{}", "{}/", "{}/../source", "file://{}", "source", "link"])
def test_one_source_has_one_budget(opened: Place, cadp: Command, address: str) -> None:
    (opened.folder / "link").symlink_to(opened.folder / "source")
    opened.write_spec(url=address.format(opened.folder / "source"))
    edit(opened, "population: shapes", "population: shapes-again")
    cadp(opened, *INIT, opened.spec, *LIMITS).refused(1, "shapes already", "one budget")
    assert not (opened.settings.secrets_dir / "shapes-again.key").exists()
    cadp(opened, "release", opened.spec).refused(1, "shapes-again")
    untouched(opened)


def test_a_population_of_another_source(opened: Place, cadp: Command, tmp_path: Path) -> None:
    other = build(tmp_path / "other")
    opened.write_spec(url=other.folder / "source")
    cadp(opened, "release", opened.spec).refused(1, "bound to another source")
    cadp(opened, "plan", opened.spec).refused(1, "bound to another source")
    cadp(opened, *INIT, opened.spec, *LIMITS).refused(1)
    untouched(opened)


def test_a_restored_ledger_is_noticed(opened: Place, cadp: Command) -> None:
    ledger = opened.settings.home / "private" / "ledger.db"
    old = ledger.read_bytes()
    assert cadp(opened, "shard", opened.spec).code == 0
    job = opened.job()
    job.charge("train")
    job.ledger.close()
    for path in ledger.parent.glob("ledger.db*"):
        path.unlink()
    ledger.write_bytes(old)
    cadp(opened, "release", opened.spec).refused(1)
    ledger.unlink()
    cadp(opened, "release", opened.spec).refused(2)
    cadp(opened, *INIT, opened.spec, *LIMITS).refused(1, "forget what was spent")
    assert public_files(opened) == []


# Secrets and keys


def test_another_secret(opened: Place, cadp: Command) -> None:
    path = opened.settings.secrets_dir / "shapes.key"
    right = path.read_bytes()
    path.write_bytes(secrets.token_bytes(32))
    cadp(opened, "release", opened.spec).refused(2, "secret", "fingerprint", "backup")
    path.write_bytes(right[:-1])
    cadp(opened, "release", opened.spec).refused(2, "damaged", "31 bytes")
    path.unlink()
    message = cadp(opened, "release", opened.spec).refused(2, "backup", "shapes.key")
    assert right.hex() not in message
    untouched(opened)


def test_a_missing_or_open_signing_key(opened: Place, cadp: Command) -> None:
    key = opened.settings.keys_dir / "publisher.pem"
    key.chmod(0o644)
    cadp(opened, "release", opened.spec).refused(2, "chmod 600")
    key.unlink()
    key.with_name("publisher.pem.pub").unlink()
    cadp(opened, "release", opened.spec).refused(2, "publisher.pem")
    untouched(opened)
    assert cadp(opened, "keys", "new").code == 0
    before = key.read_bytes()
    assert cadp(opened, "keys", "new", "--if-absent").code == 0
    cadp(opened, "keys", "new").refused(2)
    assert key.read_bytes() == before


# Plans, steps and models


def test_a_changed_spec_stops_with_a_diff(opened: Place, cadp: Command) -> None:
    assert cadp(opened, "shard", opened.spec).code == 0
    edit(opened, "accuracy_at_least: 0.5", "accuracy_at_least: 0.4")
    for command in ("plan", "release", "train"):
        message = cadp(opened, command, opened.spec).refused(2, "another plan", "next:")
        assert '-   "accuracy_at_least": 0.5,' in message
        assert '+   "accuracy_at_least": 0.4,' in message
    untouched(opened)


def test_a_changed_source_stops_with_a_diff(opened: Place, cadp: Command) -> None:
    assert cadp(opened, "shard", opened.spec).code == 0
    path = opened.folder / "source" / "train-labels-idx1-ubyte.gz"
    os.utime(path, (1, 1))
    cadp(opened, "release", opened.spec).refused(2, "another plan", "source files changed")
    untouched(opened)


@pytest.mark.parametrize(
    ("step", "missing"),
    [("train", "shard"), ("privatize", "train"), ("validate", "privatize"), ("publish", "validate")],
)
def test_a_step_before_the_one_it_needs(opened: Place, cadp: Command, step: str, missing: str) -> None:
    cadp(opened, step, opened.spec).refused(1, "yet", f"run `cadp {missing}`")
    untouched(opened)


def test_a_tampered_model_is_refused_before_the_records_are_charged(opened: Place, cadp: Command) -> None:
    job = opened.job()
    for step in (ShardStep(), TrainStep()):
        run_step(step, job, Silent())
    made = charges(opened)
    models = opened.settings.home / "private" / "models"
    (weights,), (record,) = models.glob("*.safetensors"), models.glob("*.json")
    for path in (weights, record):
        right = path.read_bytes()
        path.write_bytes(right[:-9] + bytes([right[-9] ^ 1]) + right[-8:])
        cadp(opened, "release", opened.spec).refused(1)
        path.unlink()
        cadp(opened, "release", opened.spec).refused(1)
        path.write_bytes(right)
    assert [charge.key for charge in made] == ["shapes/1.0.0/train"]
    assert charges(opened) == made
    assert public_files(opened) == []


# Places


@pytest.mark.parametrize("zone", ["private", "public", "home", "scratch"])
def test_a_zone_that_is_a_file(opened: Place, cadp: Command, zone: str) -> None:
    (opened.folder / "file").write_text("")
    where = {f"CADP_{zone.upper()}": str(opened.folder / "file")}
    cadp(opened, "release", opened.spec, settings=where).refused(2, str(opened.folder / "file"))
    untouched(opened)


def test_an_unknown_setting_and_a_bad_profile(opened: Place, cadp: Command) -> None:
    done = cadp(opened, "release", opened.spec, settings={"CADP_PUBLISH": "/somewhere"})
    done.refused(2, "CADP_PUBLISH", "CADP_PUBLIC")
    done = cadp(opened, "release", opened.spec, settings={"CADP_PROFILE": "none.toml"})
    done.refused(2, "none.toml")
    untouched(opened)


def test_an_address_of_no_known_kind(opened: Place, cadp: Command) -> None:
    cadp(opened, "release", opened.spec, settings={"CADP_PUBLIC": "ftp://host/x"}).refused(2, "ftp://host/x")
    cadp(opened, "release", opened.spec, settings={"CADP_LEDGER": "ftp://h/x"}).refused(2, "ftp")
    cadp(opened, "release", opened.spec, settings={"CADP_LEDGER": "mysql://h/d"}).refused(2, "sqlite", "postgresql")
    nobody = "postgresql://someone:sesame@127.0.0.1:1/budget"
    said = cadp(opened, "release", opened.spec, settings={"CADP_LEDGER": nobody})
    said.refused(1, "budget on 127.0.0.1:1 cannot be reached")
    assert "sesame" not in said.out + said.err
    untouched(opened)


def test_a_bucket_that_is_not_there(opened: Place, cadp: Command, seaweedfs: S3Server) -> None:
    where = {"CADP_PUBLIC": "s3://no-such-bucket/releases", **seaweedfs.environment}
    cadp(opened, "release", opened.spec, settings=where).refused(1, "no-such-bucket", "create it")
    where = {"CADP_PRIVATE": "s3://no-such-bucket/private", **seaweedfs.environment}
    cadp(opened, "release", opened.spec, settings=where).refused(1, "no-such-bucket", "create it")
    untouched(opened)


def test_wrong_credentials(opened: Place, cadp: Command, seaweedfs: S3Server, s3_bucket: str) -> None:
    secret = "no-secret-of-mine"
    for wrong in ({"AWS_SECRET_ACCESS_KEY": secret}, {"AWS_ACCESS_KEY_ID": "nobody"}):
        where = {"CADP_PUBLIC": f"s3://{s3_bucket}/releases", **seaweedfs.environment, **wrong}
        done = cadp(opened, "release", opened.spec, settings=where)
        done.refused(1, s3_bucket, "credentials")
        assert secret not in done.out + done.err
    untouched(opened)


# Usage


@pytest.mark.parametrize(
    "arguments", [("no-such-command",), ("release",), ("plan", "--no-such-option"), ("budget", "init", "x.yaml")]
)
def test_wrong_usage(place: Place, cadp: Command, arguments: tuple[str, ...]) -> None:
    done = cadp(place, *arguments)
    assert done.code == 2
    assert "Usage:" in done.err
    assert "Traceback" not in done.err


def test_verify_of_nothing(opened: Place, cadp: Command) -> None:
    cadp(opened, "verify", opened.folder / "nothing").refused(4, "no manifest")
    cadp(opened, "verify", opened.folder, "--key", opened.folder / "none.pub").refused(2, "none.pub")
    cadp(opened, "verify", "gopher://x").refused(1, "gopher")
