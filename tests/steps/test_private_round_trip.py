"""How private records return from their model: in the private zone and on the operator's screen, and nowhere else."""

import json
from pathlib import Path

import numpy as np
import torch

from cadp.cinn.architecture import Whitening
from cadp.cinn.network import ConditionalFlow
from cadp.reporter import Silent
from cadp.steps.collect import collect
from cadp.steps.decode import DecodedRecords
from cadp.steps.private_round_trip import MOST_RECORDS, operators_report, private_round_trip
from tests.command import Command
from tests.steps.conftest import Restore


def records(folder: Path, n: int = 50) -> DecodedRecords:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (n, 6, 6, 1), dtype=np.uint8)
    every = np.ones(n, dtype=np.bool_)
    return DecodedRecords(folder, images, np.zeros(n, dtype=np.int64), every, np.arange(n), every)


def test_a_bijection_returns_every_record_and_a_broken_one_says_so(tmp_path: Path) -> None:
    flow = ConditionalFlow(Whitening((6, 6, 1), 1, 4, 4, 3))
    good = private_round_trip(flow, records(tmp_path))
    assert good["records"] == 50
    assert good["exact"] == 1
    assert good["largest_error"] < 1e-12
    assert private_round_trip(flow, records(tmp_path, 3000))["records"] == MOST_RECORDS
    with torch.no_grad():
        flow.whitening.log_diagonal.fill_(-40.0)
        flow.whitening.lower[:, 1, 0] = 1e12
    bad = private_round_trip(flow, records(tmp_path))
    assert bad["exact"] < 1
    with torch.no_grad():
        flow.scale.log_scale.fill_(float("nan"))
    lost = private_round_trip(flow, records(tmp_path))
    assert lost["largest_error"] is None
    assert json.dumps(lost, allow_nan=False)


def test_the_operator_is_shown_the_figures_and_nobody_else(restore: Restore, cadp: Command) -> None:
    place = restore("publish")
    job = place.job()
    report = operators_report(job)["round_trip"]
    assert report["records"] == 1200
    assert report["exact"] == 1
    shown = cadp(place, "model", "report", place.spec)
    assert shown.code == 0
    assert "PRIVATE" in shown.out
    assert "1,200 records: 100.0% return" in " ".join(shown.out.split())
    assert json.loads(cadp(place, "model", "report", place.spec, "--json").out)["round_trip"] == report
    figure = repr(report["largest_error"]).encode()
    public = [path for path in (place.folder / "home/public").rglob("*") if path.is_file()]
    assert len(public) > 5
    assert not [path for path in public if figure in path.read_bytes()]
    collect(job.settings)
    assert operators_report(job)["round_trip"] == report  # garbage collection knows its name


def test_no_reporter_is_told(restore: Restore) -> None:
    from cadp.release import run_step
    from cadp.steps.train import TrainStep

    said: list[str] = []

    class Listening(Silent):
        def event(self, kind: str, message: str) -> None:
            said.append(message)

        def figure(self, key: str, title: str, value: str) -> None:
            said.append(value)

    place = restore("shard")
    job = place.job()
    run_step(TrainStep(), job, Listening())
    report = operators_report(job)["round_trip"]
    figures = [f"{report[name]:.2g}" for name in ("largest_error", "mean_error", "largest_latent")]
    assert said
    assert not [figure for figure in figures if any(figure in message for message in said)]
