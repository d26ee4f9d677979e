"""The environment in which Prefect runs here: its own home, its own server, nothing of the user's profile.

Prefect reads its settings, and makes its home folder, when it is first imported: `enter` comes before that import.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path


def variables(home: Path, url: str) -> dict[str, str]:
    """The variables that tie a process to the server at `url` (`http://host:port`) whose files lie in `home`."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_UI_URL": url,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        # Nothing is reported to anyone, and the UI advertises nothing.
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        # Results are references in the ledger, never data in Prefect's storage.
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        # The UI keeps every log; the terminal belongs to the progress bars.
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    }


def scrubbed(environ: MutableMapping[str, str]) -> dict[str, str]:
    """`environ` without any of the user's own Prefect settings (a cloud key, another server, a profile)."""
    return {name: value for name, value in environ.items() if not name.startswith("PREFECT_")}


def enter(home: Path, url: str) -> None:
    """Make this process a client of the server at `url`; the user's own Prefect settings no longer count.

    Raises:
        RuntimeError: Prefect was imported already, so that its settings are fixed.
    """
    if "prefect" in sys.modules:
        raise RuntimeError("prefect was imported before its environment was set")
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(variables(home, url))
