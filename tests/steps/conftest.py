"""A small release stopped at the end of each step, to go on from any number of times."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_release import Place, at, build

STAGES = ("nothing", "shard", "train", "privatize", "validate", "publish")
Restore = Callable[[str], Place]


@pytest.fixture(scope="session")
def _stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    from cadp.release import STEPS, run_step
    from cadp.reporter import Silent
    from cadp.steps.audit import require_audit

    place = build(tmp_path_factory.mktemp("live") / "place")
    place.open_budget()
    job = place.job()
    require_audit(job.plan, job.private, Silent())  # once, by hand: not again after every kill
    kept = {}
    for name in STAGES:
        if name != "nothing":
            run_step(next(step for step in STEPS if step.name == name), place.job(), Silent())
        kept[name] = tmp_path_factory.mktemp("stage") / name
        copy(place.folder, kept[name])
    return place.folder, kept


@pytest.fixture
def restore(_stages: tuple[Path, dict[str, Path]]) -> Restore:
    """Put the release back as it was at the end of a step: at its own place, where its ledger knows its anchors."""
    live, kept = _stages

    def back(stage: str) -> Place:
        subprocess.run(["rm", "-rf", str(live)], check=True, timeout=60)
        copy(kept[stage], live)
        return at(live)

    return back


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True, timeout=60)
