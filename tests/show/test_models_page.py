"""Every command of docs/models.md is run, and what the page says of architectures and checkpoints is so."""

import json
import re
from pathlib import Path

import numpy as np
import torch

from cadp.cinn.architecture import Convolutional, Coupled, Dense, Whitening
from cadp.cinn.checkpoint import save_checkpoint
from cadp.privacy.accountant import RELATION, GaussianEvent
from cadp.settings import Settings
from cadp.store import Store
from tests.cinn.conftest import one_thread, random_flow  # noqa: F401  (a fixture of every test here)
from tests.cinn.oracle import graph
from tests.command import Command
from tests.small_release import Place

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()


def test_every_command_works(tmp_path: Path, cadp: Command) -> None:
    place = Place(tmp_path, tmp_path / "release.yaml", Settings.load({"CADP_HOME": str(tmp_path / "home")}))
    place.settings.make_private_folders()
    privacy = {"relation": RELATION, "population": "visitors", "event": GaussianEvent(0.5).to_json()}
    store = Store.open(place.settings.private_url).child("models")
    digest = save_checkpoint(store, random_flow((4, 4, 1)), privacy, {"torch": torch.__version__})
    assert sorted(Path(key).suffix for key, _ in store.list()) == [".json", ".safetensors"]
    np.savez(tmp_path / "public.npz", images=np.zeros((3, 4, 4, 1), dtype=np.uint8), labels=np.arange(3))
    torch.save(
        {"model": graph((28, 28, 1), depths=(1, 1), width=4, head_width=4).state_dict()}, tmp_path / "checkpoint.pt"
    )
    said = [line for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
    commands = [line for line in said if "docs/examples" not in line]  # of those is `tests/test_model_examples.py`
    assert (len(commands), len(said)) == (3, 6)
    printed = []
    for command in commands:
        program, *arguments = command.replace("DIGEST", digest).split()
        assert program == "cadp"
        done = cadp(place, *arguments)
        assert done.code == 0, done.err
        printed.append(done.out)
    assert "of its own samples" in printed[0]
    assert json.loads(printed[1])["bits_per_dimension"]["data"] is not None
    assert (Path(place.settings.private_url) / "models" / f"{printed[2].strip()}.json").exists()


def test_every_architecture_is_on_the_page() -> None:
    told = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert told == [kind.kind for kind in (Whitening, Coupled, Convolutional, Dense)]
