"""The verified accounts, and a recovery, in words and for scripts."""

import math
from dataclasses import asdict
from typing import Any

from cadp.ledger import Recovery
from cadp.ledger.budget import figure
from cadp.privacy.plain_words import scientific
from cadp.steps.accounts import Accounts

SCHEMA = 1


def accounts_json(accounts: Accounts) -> dict[str, Any]:
    """For scripts; an infinite ε, for which JSON has no number, is null."""
    return {
        "schema": SCHEMA,
        "ok": accounts.hold,
        "relation": "replace-one",
        "checked": None if accounts.checked is None else asdict(accounts.checked),
        "manifests": list(accounts.manifests),
        "populations": [
            {key: _finite(value) for key, value in asdict(account).items()} for account in accounts.accounts
        ],
        "findings": [asdict(finding) for finding in accounts.findings],
    }


def account_rows(accounts: Accounts) -> list[dict[str, str]]:
    """Return one row a population: the limit, beside the ε of what is charged, published, and in the manifests."""
    return [
        {
            "population": account.population,
            "limit ε": figure(account.limit_epsilon),
            "δ": scientific(account.delta),
            "charged": figure(account.charged),
            "published": figure(account.published),
            "manifests": figure(account.manifests),
        }
        for account in accounts.accounts
    ]


def recovery_json(recovery: Recovery) -> dict[str, Any]:
    """For scripts: what a recovery did if it has an `entry`, would do if it has none, nothing if none came back."""
    return {"schema": SCHEMA, **asdict(recovery)}


def recovery_lines(recovery: Recovery) -> list[str]:
    """Say what a recovery does, or did."""
    if recovery.reentered is None:
        return ["Nothing to recover: the ledger has every entry that is anchored."]
    first, last = recovery.reentered
    lines = [
        f"Entries {first} to {last} come back from the anchors, and every charge in them counts."
        if first <= last
        else "No entry is missing, but leases were given that this copy knows nothing of: whatever runs is burned."
    ]
    for entry in recovery.dropped:
        about = f" of charge {entry['charge']}" if "charge" in entry else ""
        lines.append(f"Entry {entry['seq']} of this copy ({entry['kind']}{about}) was never anchored: it goes.")
    lines += [
        f"Burned: {release}. What it charged stays spent; it needs a new version." for release in recovery.releases
    ]
    if recovery.lost_seals:
        lines.append(f"The seals of {len(recovery.lost_seals)} finished charges are lost; what is published stays.")
    if recovery.entry is not None:
        lines.append(f"Done: entry {recovery.entry} says so and is anchored. Next: `cadp budget verify`.")
    return lines


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
