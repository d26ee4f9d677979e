"""No draw, coin or count of proposals of a real release is in what is published or said."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cadp.privacy import noise, privunit
from cadp.release import run_release
from cadp.reporter import ConsoleReporter
from cadp.utility import gate
from tests.needles import Needles
from tests.small_release import Place

MANY = 400  # draws of each sampler


def test_draws_and_proposal_counts_stay(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    needles, proposals = Needles(), [0]

    def remember(name: str, drawn: np.ndarray[Any, Any]) -> None:
        # An integer of seven digits may be any number of a file; a float of sixteen is itself.
        kept = drawn.ravel()[:MANY] if drawn.dtype == np.float64 else []
        for value in kept[: max(0, MANY - sum(text.startswith(name) for text in needles.plain))]:
            needles.add_text(f"{name} {len(needles.plain)}", repr(value.item()))
            needles.digests[value.tobytes()] = name

    def tapped(name: str, sampler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            drawn = sampler(*args, **kwargs)
            remember(name, drawn)
            proposals[0] += drawn.shape[1] * drawn.shape[2] if name == "_proposals" else 0
            return drawn

        return call

    for module, name in ((noise, "discrete_gaussian"), (noise, "normal_columns"), (privunit, "_proposals")):
        monkeypatch.setattr(module, name, tapped(name, getattr(module, name)))
    place.open_budget()
    screen = io.StringIO()
    with caplog.at_level(logging.DEBUG):
        run_release(place.job(), ConsoleReporter(Console(file=screen, width=200)))
    monkeypatch.undo()

    assert proposals[0] > 10_000
    assert {name.split()[0] for name in needles.plain} == {"normal_columns", "_proposals"}
    said = capfd.readouterr()
    haystack = [("screen", screen.getvalue()), ("log", caplog.text), ("stdout", said.out), ("stderr", said.err)]
    public = Path(place.settings.public_url)
    files = [(str(path), path.read_bytes()) for path in public.rglob("*") if path.is_file()]
    assert "sealed" in screen.getvalue()
    assert needles.found_in([*((where, text.encode()) for where, text in haystack), *files]) == []
    words = "\n".join([text for _, text in haystack] + [data.decode("utf-8", "ignore") for _, data in files])
    assert "proposals" not in screen.getvalue() + caplog.text
    assert not {f"{proposals[0]:,}", str(proposals[0])} & set(words.split())


def test_the_gates_true_count_is_no_part_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "discrete_laplace", lambda scale, size: np.full(size, 37, dtype=np.int64))
    answer = gate.GatePlan(epsilon=0.1, holdout_units=10_000, accuracy_at_least=0.5).answer(7_219)
    assert answer["noisy_correct"] == 7_256
    words = json.dumps(answer)
    assert not [private for private in ("7219", "0.7219", "37") if private in words]
