"""Anchors in a bucket, as a deployment keeps them: out of reach of whoever restores the database."""

from dataclasses import replace
from pathlib import Path

import pytest

from cadp.errors import LedgerRewound, StoreError
from cadp.ledger import Ledger
from cadp.privacy.accountant import PureEvent
from cadp.store import Store
from tests.ledger.life import RANGES, live
from tests.ledger.places import Place, add_population
from tests.servers.seaweedfs import S3Server


@pytest.fixture
def bucket(seaweedfs: S3Server, s3_bucket: str) -> Store:
    return Store.open(f"s3://{s3_bucket}/anchors", seaweedfs.options)


def test_a_life_is_anchored_in_the_bucket(nowhere: Place, bucket: Store) -> None:
    with Ledger.init(nowhere.url, bucket) as ledger:
        live(ledger)
        ledger.check()
        history = ledger.history()
    keys = [key for key, _ in bucket.list()]
    anchored = [f"{ledger.identity}/{entry.anchor_key}" for entry in history]
    assert [key for key in keys if "/leases/" not in key] == [*anchored, "ledger.json"]
    assert [bucket.get(key) for key in anchored] == [entry.anchor for entry in history]
    assert len([key for key in keys if "/leases/" in key]) == 1 + RANGES


def test_a_restored_copy_is_refused_by_the_bucket(nowhere: Place, bucket: Store) -> None:
    with Ledger.init(nowhere.url, bucket) as ledger:
        add_population(ledger)
    before = nowhere.twin()
    with Ledger.open(nowhere.url, bucket) as ledger:
        ledger.charge("people", release="r", key="k", event=PureEvent(1.0), parameters={})
    with pytest.raises(LedgerRewound, match=r"entry 3 is anchored at s3://"):
        Ledger.open(before, bucket)
    nowhere.restore(before)
    with pytest.raises(LedgerRewound, match=r"entry 3 is anchored at s3://"):
        Ledger.open(nowhere.url, bucket)


def test_of_two_copies_one_wins_the_put(nowhere: Place, bucket: Store) -> None:
    with Ledger.init(nowhere.url, bucket) as ledger:
        add_population(ledger)
    twin = nowhere.twin()
    with Ledger.open(nowhere.url, bucket) as first, Ledger.open(twin, bucket) as second:
        first.charge("people", release="r", key="k", event=PureEvent(1.0), parameters={})
        with pytest.raises(LedgerRewound, match=r"another entry 3 .charge."):
            second.charge("people", release="r", key="k", event=PureEvent(1.0), parameters={})
        first.check()


def test_a_bucket_that_is_away_hands_nothing_out(nowhere: Place, bucket: Store, seaweedfs: S3Server) -> None:
    with Ledger.init(nowhere.url, bucket) as ledger:
        add_population(ledger)
    gone = replace(seaweedfs, endpoint="http://127.0.0.1:1")
    options = {**gone.options, "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 1}}
    with pytest.raises(StoreError):
        Ledger.open(nowhere.url, Store.open(bucket.url, options))
    with Ledger.open(nowhere.url, bucket) as ledger:
        assert len(ledger.history()) == 2


def test_the_same_ledger_under_another_prefix_is_refused(nowhere: Place, bucket: Store, tmp_path: Path) -> None:
    with Ledger.init(nowhere.url, bucket) as ledger:
        add_population(ledger)
    with pytest.raises(LedgerRewound, match="no anchors at"):
        Ledger.open(nowhere.url, bucket.child("elsewhere"))
    with pytest.raises(LedgerRewound, match="no anchors at"):
        Ledger.open(nowhere.url, Store.open(str(tmp_path / "local")))
