"""The command line in this process: what a shell would see of it, in milliseconds instead of an import's seconds."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from cadp.cli import main
from cadp.ledger import Charge, Ledger
from cadp.store import Store
from tests.small_release import Place


@dataclass(frozen=True)
class Done:
    """A command that ended.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it said beside that.
    """

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> str:
        """Check that it ended with `code` and one error message that has the words, and return the message."""
        assert self.code == code, self.out + self.err
        assert self.err.count("error:") == 1, self.err
        assert "Traceback" not in self.out + self.err
        message = self.err.partition("error:")[2].strip()
        missing = [word for word in words if word not in message]
        assert not missing, message
        return message


class Command:
    """Runs `cadp` for a place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, place: Place, *arguments: object, settings: Mapping[str, str] | None = None) -> Done:
        """Run `cadp ARGUMENTS` with the place's home and `settings` as further environment."""
        self._capsys.readouterr()
        with self._monkeypatch.context() as patch:
            patch.chdir(place.folder)
            patch.setattr(sys, "argv", ["cadp", *map(str, arguments)])
            for name, value in {**place.environ, **(settings or {})}.items():
                patch.setenv(name, value)
            code = 0
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        out, err = self._capsys.readouterr()
        return Done(code, out, err)


@pytest.fixture
def cadp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line."""
    return Command(monkeypatch, capsys)


def charges(place: Place) -> list[Charge]:
    """Every charge in the place's ledger."""
    settings = place.settings
    with Ledger.open(settings.ledger_url, Store.open(settings.anchors_url)) as ledger:
        return ledger.charges()


def public_files(place: Place) -> list[str]:
    """Everything below the public zone."""
    return sorted(str(path) for path in place.folder.glob("home/public/**/*") if path.is_file())
