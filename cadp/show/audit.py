"""An audit for people: what was measured, against what is charged, and how much so many trials could have shown."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from cadp.reporter import plain_table


def audit_rows(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row a bound, and one a setting for the exact checks.

    The claim is what the ledger charges, or the nominal ε of a mechanism that has no guarantee.
    """
    charged = all(setting["charged"] for setting in document["settings"])
    rows = []
    for setting in document["settings"]:
        claim = f"{setting['epsilon']:.4g}" + (f" at δ {setting['delta']:.0e}" if setting["delta"] else "")
        held = sum(check["held"] for check in setting["exact"])
        first = {
            "part": setting["part"],
            "mechanism": f"{setting['mechanism']}{'' if setting['planned'] else ', same code'}",
            "charged ε" if charged else "nominal ε": claim,
        }
        exact = f"{held} of {len(setting['exact'])} checks hold"
        nothing = {"ε at least": "", "trials": "", "confidence": "", "ceiling": ""}
        rows.append({**first, "layer": "exact", **nothing, "found": exact})
        for measure in setting["measured"]:
            counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in measure["counts"].items())
            rows.append(
                {
                    **first,
                    "layer": measure["layer"],
                    "ε at least": f"{measure['epsilon_lower_bound']:.3f}",
                    "trials": f"{measure['trials']:,}",
                    "confidence": f"{measure['confidence']:.3%}",
                    "ceiling": f"{measure['ceiling']:.2f}",
                    "found": counts,
                }
            )
    return rows


def print_audit(document: Mapping[str, Any], console: Console) -> None:
    """Print the rows and the verdict."""
    console.print(plain_table(f"Audit of {document['release']} (replace-one)", audit_rows(document)))
    verdict = f"{document['verdict']}, confidence {document['confidence']:.0%} over all bounds together"
    console.print(escape(verdict), highlight=False, soft_wrap=True)
    note = "Synthetic records and a synthetic network; so many trials could have shown at most the ceiling."
    console.print(escape(note), highlight=False, soft_wrap=True)
