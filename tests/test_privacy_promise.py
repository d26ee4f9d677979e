"""docs/privacy-promise.md: every command is run, every figure computed again, every link followed."""

import math
import re
import shlex
import shutil
from pathlib import Path

import pytest

from cadp.errors import PrivacyError
from cadp.privacy.accountant import GaussianEvent, PureEvent, calibrate_gaussian, curve
from cadp.privacy.additive import Gaussian
from cadp.privacy.audit.bounds import two_record_ceiling
from cadp.privacy.labels import AttributeResponse, plan_response
from cadp.privacy.legacy import Legacy
from cadp.privacy.plain_words import nats
from cadp.privacy.privunit import PrivUnit
from cadp.privacy.shuffling import shuffled_reports
from cadp.sources import catalogue
from tests.small_release import Place

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "privacy-promise.md").read_text()
DELTA = 1e-6
# Gaps that a reader has a right to find; each is a heading.
GAPS = (
    "record count",
    "public labels",
    "a randomized label",
    "several attributes",
    "labels drawn anew",
    "class counts",
    "pre-image",
    "diameter",
    "several records",
    "which records are used",
    "two ids",
    "bounds",
    "unreadable",
    "floating point",
    "discrete",
    "η",
    "time",
    "side channels",
    "holdout",
    "withheld",
    "constants",
    "several releases",
    "copying",
    "anchors",
    "shuffling",
    "groups",
    "alike",
    "post-processing",
    "seed",
    "logs",
    "audit",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def subtleties() -> dict[str, str]:
    parts = re.split(r"^#### Subtlety: (.*)$", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture
def home(published: Place, tmp_path: Path) -> Place:
    """A published release in the place of the demo's, and the legacy example as it is."""
    place = published.copy(tmp_path / "copied")
    examples = place.folder / "docs" / "examples"
    examples.mkdir(parents=True)
    shutil.copy(place.spec, examples / "fashion-mnist.yaml")
    shutil.copy(ROOT / "docs" / "examples" / "legacy.yaml", examples)
    known = catalogue.get("fashion-mnist")
    for file in known.files:  # a plan and an audit read no record: names are enough
        path = place.settings.data_dir / known.name / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return place


def run(place: Place, block: str) -> list[str]:
    """Run a block's lines, each to the exit code it names (`# ends with N`, else 0), and return what each said."""
    said = []
    for line in block.splitlines():
        command, _, comment = line.partition("#")
        wanted = re.match(r" ends with (\d)", comment)
        here = command.replace(".cadp/public/fashion-mnist", f"{place.settings.public_url}/shapes")
        done = place.cadp(*shlex.split(here)[1:])
        assert done.returncode == (int(wanted[1]) if wanted else 0), f"{line}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout + done.stderr)
    return said


def test_the_commands_to_look_for_yourself(home: Place) -> None:
    look, _ = blocks("console")
    plan, budget, verify, audit = run(home, look)
    assert "replace-one" in plan
    assert "Budget of shapes" in budget
    assert "ok" in verify
    assert "not refuted at 5,000 trials" in audit


def test_legacy_is_refuted_as_the_page_shows(home: Place) -> None:
    _, refutation = blocks("console")
    (said,) = run(home, refutation)
    (shown,) = blocks("text")

    def bare(text: str) -> list[str]:
        # What trials show varies a little from run to run.
        lines = (re.sub(r"at least [\d.]+,", "at least …,", line).strip() for line in text.strip().splitlines())
        return [line for line in lines if line]

    assert bare(said)[-len(bare(shown)) :] == bare(shown)
    measured = [float(figure) for figure in re.findall(r"epsilon is at least ([\d.]+),", said)]
    assert len(measured) == 2
    assert all(figure > 1.0 for figure in measured)


def test_every_command_is_run_here() -> None:
    assert len(blocks("console")) == 2
    assert set(re.findall(r"```(\w+)\n", PAGE)) == {"console", "text"}
    assert all(line.startswith("cadp ") for block in blocks("console") for line in block.splitlines())


def test_every_gap_has_its_subtlety_and_its_code() -> None:
    found = subtleties()
    for gap in GAPS:
        assert any(gap in title.lower() for title in found), gap
    assert [title for title, text in found.items() if "Code:" not in text] == []


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if not link.startswith("http")]
    assert len(links) > 30
    assert [link for link in links if not (ROOT / "docs" / link).resolve().is_file()] == []
    assert "docs/privacy-promise.md" in (ROOT / "README.md").read_text()
    assert "privacy-promise.md" in (ROOT / "docs" / "architecture.md").read_text()


def test_the_odds() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.,]+) \| ([\d.]+) in ([\d,]+) \| ([\d.]+) in 100 \|$", PAGE, re.MULTILINE)
    assert [float(row[0]) for row in rows] == [0.1, 1, 4, 8]
    for epsilon, factor, first, of, second in rows:
        grown = math.exp(float(epsilon))
        assert float(factor.replace(",", "")) == pytest.approx(grown, rel=0.005)
        for prior, stated in ((0.001, float(first) / float(of.replace(",", ""))), (0.01, float(second) / 100)):
            odds = prior / (1 - prior) * grown
            assert stated == pytest.approx(odds / (1 + odds), rel=0.03)


def test_the_figures_of_privunit() -> None:
    demo = PrivUnit.plan(4.0, 8)
    told = demo.parameters()
    assert f"{demo.expected_cosine():.3f}".removeprefix("0") in PAGE
    assert f"probability {told['p']:.3f}".replace("0.", ".") in PAGE
    assert f"η = {told['eta']:.1e} beside q = {told['q']:.3f}".replace(" 0.", " .") in PAGE


def test_the_figures_of_randomized_labels() -> None:
    assert (
        f"p = {plan_response(1.0, 10).keep:.3f}".replace(" 0.", " .") in subtleties()["a randomized label may be wrong"]
    )
    together = math.prod(AttributeResponse.plan(3.0, 3).keeps)
    text = " ".join(subtleties()["labels that are several attributes"].split())
    assert (
        f"with probability {together:.3f}, the same 8 classes as one label with {plan_response(3.0, 8).keep:.3f}"
        in (text.replace(" .", " 0."))
    )


def test_the_figures_of_several_releases() -> None:
    once = curve(GaussianEvent(calibrate_gaussian(4.0, DELTA))) + curve(PureEvent(4.0))
    single, double = nats(once.epsilon(DELTA)), nats((once + once).epsilon(DELTA))
    assert f"costs {single}" in " ".join(PAGE.split())
    assert f"once and {double} twice" in " ".join(PAGE.split())
    assert f"would give {2 * float(single):.3f} and" in PAGE


def test_the_figures_of_shuffling() -> None:
    for n in (6000, 600):
        found = shuffled_reports((PureEvent(4.0),), n=n, delta=DELTA, per_unit=1).epsilon
        assert nats(found).removeprefix("0") in subtleties()["shuffling is a second figure"]
    try:
        gained = shuffled_reports((PureEvent(8.0),), n=6000, delta=DELTA, per_unit=1).epsilon
    except PrivacyError:
        gained = 8.0
    assert gained == pytest.approx(8.0, abs=1e-3)


def test_the_other_figures() -> None:
    legacy = Legacy.plan(1.0, 28 * 28)
    assert f"**{legacy.worst_case:,.0f}**" in PAGE
    assert legacy.scale == 0.5
    gaussian = Gaussian.plan(4.0, DELTA, 8)
    assert gaussian.sigma >= 1024
    assert round(two_record_ceiling(5000), 1) == 7.2
