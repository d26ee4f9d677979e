"""No draw, coin or count of proposals of a real release is in what is published or said."""

import io
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cadp.cinn.fit import moments
from cadp.cinn.fit.plan import STEP
from cadp.privacy import bits, noise, privunit
from cadp.release import run_release
from cadp.reporter import ConsoleReporter
from cadp.utility import gate
from tests.needles import Needles
from tests.small_release import RECORDS, Place

pytestmark = pytest.mark.audits

WORDS = 60_000  # random words that are looked for
MANY = 200  # draws of each sampler,
A_CALL = 12  # so many of one call
FEW = 10**7  # and of integers only those that are no number of a file


class Taps:
    """Remembers what was drawn: random words as bytes, and draws that are long enough as text to be nothing else."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.needles, self.proposals, self.coins = Needles(), 0, [0, 0]
        self.taken: Counter[str] = Counter()
        self._patch = patch

    def over(self, module: object, name: str, remember: Callable[[str, Any], None]) -> None:
        sampler: Callable[..., Any] = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            drawn = sampler(*args, **kwargs)
            remember(name, drawn)
            return drawn

        self._patch.setattr(module, name, call)

    def words(self, name: str, drawn: bytes) -> None:
        """Some words of every call: they are all there is to a coin or a proposal."""
        step = max(8, len(drawn) // 256 // 8 * 8)
        for at in range(0, len(drawn) - 7, step):
            if self.taken[name] < WORDS:
                self.taken[name] += 1
                self.needles.add_secret(f"{name} {self.taken[name]}", drawn[at : at + 8])
                if self.taken[name] % 100 == 0:
                    self.needles.add_text(
                        f"{name} {self.taken[name]}", str(int.from_bytes(drawn[at : at + 8], "little"))
                    )

    def draws(self, name: str, drawn: np.ndarray[Any, Any]) -> None:
        """As text, some of every call: integers on their lattice too, floats as an array of them is printed."""
        if name == "_proposals":
            self.proposals += drawn.shape[1] * drawn.shape[2]
        flat = drawn.ravel()[:1000]
        for value in flat[np.abs(flat) > (FEW if drawn.dtype == np.int64 else 1)][:A_CALL]:
            decimals = f"{abs(value):.10f}"
            texts = (
                [str(value), repr(float(value) * STEP)]
                if drawn.dtype == np.int64
                else [decimals[: decimals.index(".") + 8]]
            )
            for text in texts:
                if self.taken[name] < MANY:
                    self.taken[name] += 1
                    self.needles.add_text(f"{name} {self.taken[name]}", text)

    def flips(self, name: str, drawn: np.ndarray[Any, Any]) -> None:
        """How many coins fell how is not said either."""
        del name
        self.coins[0] += int(drawn.sum())
        self.coins[1] += drawn.size


def test_draws_and_proposal_counts_stay(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    place.spec.write_text(
        place.spec.read_text().replace("labels: public", "labels: {randomized-response: {epsilon: 2}}")
    )
    place.open_budget()
    taps = Taps(monkeypatch)
    taps.over(bits, "random_bytes", taps.words)  # released names are drawn by another name for it, and are public
    for module, name in (
        (noise, "normal_columns"),
        (privunit, "_proposals"),
        (moments, "discrete_gaussian"),
    ):
        taps.over(module, name, taps.draws)
    taps.over(noise, "bernoulli_exact", taps.flips)
    screen = io.StringIO()
    with caplog.at_level(logging.DEBUG):
        run_release(place.job(), ConsoleReporter(Console(file=screen, width=200)))
    monkeypatch.undo()

    # Every sampler that the release uses was heard.
    assert taps.proposals > 10_000
    assert taps.coins[1] >= 2 * RECORDS  # PrivUnit's and the label's, of each record
    assert {name for name, count in taps.taken.items() if count > 50} == {
        "random_bytes",
        "normal_columns",
        "_proposals",
        "discrete_gaussian",
    }
    assert len(taps.needles.digests) > 10_000
    said = capfd.readouterr()
    haystack = [("screen", screen.getvalue()), ("log", caplog.text), ("stdout", said.out), ("stderr", said.err)]
    public = Path(place.settings.public_url)
    files = [(str(path), path.read_bytes()) for path in public.rglob("*") if path.is_file()]
    assert "sealed" in screen.getvalue()
    assert taps.needles.found_in([*((where, text.encode()) for where, text in haystack), *files]) == []
    words = "\n".join([text for _, text in haystack] + [data.decode("utf-8", "ignore") for _, data in files])
    assert "proposals" not in screen.getvalue() + caplog.text
    counts = {count for number in (taps.proposals, taps.coins[0]) for count in (f"{number:,}", str(number))}
    assert not counts & set(words.split())


@pytest.mark.parametrize("how", ["word", "hex", "draw", "lattice", "array"])
def test_a_draw_that_gets_out_is_found(how: str) -> None:
    taps = Taps(pytest.MonkeyPatch())
    word = np.random.default_rng(3).bytes(64)
    drawn = np.array([7, -123_456_789_012, 5_001], dtype=np.int64)
    taps.words("random_bytes", word)
    taps.draws("discrete_gaussian", drawn)
    normals = np.array([[1.234567891234], [-0.5], [-2.000000123456]])
    taps.draws("normal_columns", normals)
    leak = {
        "array": f"drawn {normals}".encode(),
        "word": b"..." + word[8:16] + b"...",
        "hex": b"<td>" + word[16:24].hex().encode() + b"</td>",
        "draw": b"noise -123456789012 was added",
        "lattice": repr(float(drawn[1]) * STEP).encode(),
    }
    assert taps.needles.found_in([("log", leak[how])]) != []
    assert taps.needles.found_in([("log", b"7 and 5001 and " + bytes(64))]) == []


def test_the_gates_true_count_is_no_part_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "discrete_laplace", lambda scale, size: np.full(size, 37, dtype=np.int64))
    answer = gate.GatePlan(epsilon=0.1, holdout_units=10_000, accuracy_at_least=0.5).answer(7_219)
    assert answer["noisy_correct"] == 7_256
    words = json.dumps(answer)
    assert not [private for private in ("7219", "0.7219", "37") if private in words]
