"""The audit of rows: silent about the code as it is, loud about flaws that tables invite, as bounds taken from data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cadp.cinn.fit import moments
from cadp.cinn.fit.plan import MomentsPlan
from cadp.cinn.network import ConditionalFlow
from cadp.privacy.audit.exact_training import training_checks
from cadp.privacy.audit.path import CodePath, path_checks
from cadp.privacy.audit.worst_case import is_far, worst_pair
from cadp.privacy.mechanisms import Mechanism, plan_mechanism
from cadp.records import ENTRIES, Batch
from cadp.shards import encode_values
from cadp.sources import PublicFacts
from cadp.steps import audit, audited_gate
from cadp.steps.audit import code_path
from cadp.steps.audited_fit import fit_path
from cadp.steps.audited_flow import synthetic_flow
from cadp.steps.classify import Kind
from tests.sources.test_table import TABLE

DIMS = 9
PRIVUNIT = plan_mechanism("privunit", epsilon=4.0, delta=1e-5, content_dims=3)
MECHANISMS = [
    PRIVUNIT,
    plan_mechanism("gaussian", epsilon=4.0, delta=1e-5, content_dims=3),
    plan_mechanism("resample", epsilon=0.0, delta=1e-5, content_dims=3),
]


def plan(dims: int = DIMS) -> MomentsPlan:
    return MomentsPlan.calibrate(4.0, 1e-5, shape=(1, 1, dims), classes=2, units=400, max_records_per_unit=2)


def path() -> CodePath:
    return code_path(synthetic_flow(plan().architecture), ENTRIES)


def broken(checks: Any) -> set[str]:
    return {check.name for check in checks if not check.held}


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.kind)
def test_rows_go_the_audited_way(mechanism: Mechanism) -> None:
    own = path()
    assert (own.white, own.kind) == (65_535, ENTRIES)
    assert broken(path_checks(own, mechanism)) == set()


def test_two_rows_are_as_far_apart_as_two_can_be() -> None:
    pair = worst_pair(path(), PRIVUNIT)
    assert pair.images.dtype == ENTRIES
    assert is_far(pair)


def test_an_original_entry_in_a_released_row(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = audit.privatize_batch

    def leaky(flow: ConditionalFlow, mechanism: Mechanism, batch: Batch, labels: Any = None) -> Any:
        import dataclasses

        made = honest(flow, mechanism, batch, labels)
        rows = [np.frombuffer(one.data, dtype="<u2").copy() for one in made]
        for row, original in zip(rows, batch.images, strict=True):
            row[-1] = original.ravel()[-1]
        return [
            dataclasses.replace(one, data=encode_values(row.reshape(1, 1, -1)))
            for one, row in zip(made, rows, strict=True)
        ]

    monkeypatch.setattr(audit, "privatize_batch", leaky)
    assert "path" in broken(path_checks(path(), PRIVUNIT))


def test_bounds_taken_from_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ConditionalFlow.encode_images

    def scaled(self: ConditionalFlow, images: Any, labels: Any) -> Any:
        most = images.max(axis=0, keepdims=True).clip(1)
        return honest(self, (images.astype(np.float64) / most * 65_535).astype(ENTRIES), labels)

    monkeypatch.setattr(ConditionalFlow, "encode_images", scaled)
    assert "path-independence" in broken(path_checks(path(), PRIVUNIT))


def test_the_fit_of_rows_costs_what_is_charged() -> None:
    assert broken(training_checks(fit_path(plan()))) == set()


def test_bounds_taken_from_the_data_by_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = moments._Fit._rows

    def standardised(self: Any, label: str) -> Iterator[Any]:
        rows = list(honest(self, label))
        most = torch.cat([row[0] for row in rows]).amax(dim=0).clamp(min=1e-3)
        yield from ((row[0] / most, *row[1:]) for row in rows)

    monkeypatch.setattr(moments._Fit, "_rows", standardised)
    assert "training-distance" in broken(training_checks(fit_path(plan())))


@pytest.mark.parametrize("kind", ["linear", "boosting"])
@pytest.mark.parametrize("labels", [False, True], ids=["public labels", "private labels"])
def test_one_unit_moves_the_gates_count_by_one(kind: Kind, labels: bool) -> None:
    facts = PublicFacts(records=400, holdout_records=40, shape=TABLE.shape, classes=("no", "yes"), table=TABLE)
    pairs = audited_gate.neighbouring_counts(facts, kind, labels=labels)
    assert {abs(one - other) for one, other in pairs} <= {0, 1}
    assert any(one != other for one, other in pairs)


def test_dp_sgd_reads_rows_as_the_network_encodes_them(tmp_path: Any) -> None:
    from cadp.reporter import Silent
    from cadp.steps.decode import DecodedRecords
    from cadp.steps.train_couplings import unit_records

    flow = synthetic_flow(plan().architecture)
    images = np.random.default_rng(3).integers(0, 65_536, (40, 1, 1, DIMS), dtype=np.uint16)
    labels, everyone = np.arange(40, dtype=np.int64) % 2, np.ones(40, dtype=np.bool_)
    records = DecodedRecords(tmp_path, images, labels, everyone, np.arange(40, dtype=np.int64), everyone)
    content = unit_records(flow, records, Silent()).content
    expected = flow.encode_images(images, labels)[:, : content.shape[1]]
    assert np.allclose(content, expected, rtol=1e-5, atol=1e-5)


def test_rows_come_back_from_their_latents() -> None:
    flow = synthetic_flow(plan().architecture)
    images = np.random.default_rng(4).integers(0, 65_536, (40, 1, 1, DIMS), dtype=np.uint16)
    labels = np.arange(40, dtype=np.int64) % 2
    back = flow.decode_images(flow.encode_images(images, labels), labels, ENTRIES)
    assert back.dtype == ENTRIES
    assert np.abs(back.astype(np.int64) - images).max() <= 1
