"""The proxy that spoils requests: what it leaves alone passes, and leaving it ends whatever waits."""

import socket
import threading
from typing import Any

import pytest

from cadp.store import Store
from tests.servers.faulty_s3 import Fault, FaultyS3


def test_what_is_not_spoilt_passes_and_is_counted(seaweedfs: Any, s3_bucket: str) -> None:
    with FaultyS3(seaweedfs.endpoint) as proxy:
        store = Store.open(f"s3://{s3_bucket}/x", {**seaweedfs.options, "endpoint_url": proxy.endpoint})
        store.put("a b+c%20&d=e", b"1")
        assert store.list() == [("a b+c%20&d=e", 1)]
        assert proxy.requests == {"PutObject": 1, "ListObjectsV2": 1}
        assert proxy.spoilt == []


def test_a_fault_chooses_by_operation_key_and_turn(seaweedfs: Any, s3_bucket: str) -> None:
    with FaultyS3(seaweedfs.endpoint) as proxy:
        store = Store.open(f"s3://{s3_bucket}/x", {**seaweedfs.options, "endpoint_url": proxy.endpoint})
        proxy.plan(Fault("412", "PutObject", key="x/this", skip=1), Fault("500", signed_by="nobody"))
        for key in ("other", "this-0", "this-1", "this-2"):
            store.put(key, b"1")
        assert proxy.spoilt == ["412 PutObject"]
        assert proxy.requests["PutObject"] == 5  # this-1 twice: there was nothing, whatever the answer said


def test_leaving_ends_what_waits_also_after_a_failure() -> None:
    threads = threading.active_count()
    with socket.socket() as waiting:
        with pytest.raises(ZeroDivisionError), FaultyS3("http://127.0.0.1:1") as proxy:
            asked = threading.Event()
            proxy.plan(Fault("silent", first=asked.set))
            waiting.connect(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2])))
            waiting.sendall(b"GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n")
            assert asked.wait(20)
            _ = 1 / 0
        waiting.settimeout(20)
        assert waiting.recv(1) == b""
    assert threading.active_count() <= threads
