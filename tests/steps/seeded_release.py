"""A program for `test_seeded`: takes a small release as far as it goes in seeded mode, and says what it is stamped.

It is a process of its own because the mode has no way back. Steps that are named are tried alone, and what each was
refused for is said.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy.seeded import is_seeded, seeded
from cadp.privacy.statement import verify_statement
from cadp.release import STEPS, Job, run_step
from cadp.reporter import Silent
from cadp.steps.disclosure import privacy_statement, publication_context, release_facts
from cadp.steps.validate import VERDICT, gate_answer
from tests.small_release import at

PARTS = ("train", "records", "gate")


def some_steps(job: Job, seed: int, names: list[str]) -> dict[str, str]:
    """Try the named steps; return what each was refused for."""
    refused = {}
    with seeded(seed):
        for step in (step for step in STEPS if step.name in names):
            try:
                run_step(step, job, Silent())
            except PrivacyError as error:
                refused[step.name] = str(error)
    return refused


def all_steps(job: Job, seed: int, models: Path) -> dict[str, Any]:
    """Run every step; publishing is tried within the mode and after it."""
    with seeded(seed):
        for step in STEPS[:-1]:
            run_step(step, job, Silent())
    refusals = []
    tries = (
        lambda: run_step(STEPS[-1], job, Silent()),
        lambda: release_facts(job, publication_context(job), gate_answer(job), {}),
    )
    for method in tries:
        with pytest.raises(PrivacyError) as refused:
            method()
        refusals.append(str(refused.value))
    statement = privacy_statement(job, publication_context(job))
    seals = [
        seal.facts
        for name in PARTS
        if (charge := job.find_charge(name))
        for seal in job.ledger.seals(charge.id).values()
    ]
    with pytest.raises(VerificationFailed) as refused_statement:
        verify_statement(statement)
    (model,) = models.glob("*.json")
    return {
        "is_seeded": is_seeded(),
        "refusals": [*refusals, str(refused_statement.value)],
        "guarantee": statement["guarantee"],
        "promise": statement["lines"][1],
        "seals": seals,
        "charges": [charge.parameters for name in PARTS if (charge := job.find_charge(name))],
        "verdict": json.loads(job.private.get(VERDICT)),
        "answer": gate_answer(job).get("stamp"),
        "model": json.loads(model.read_text())["privacy"],
    }


def main() -> None:
    """`FOLDER SEED [STEP …]`."""
    folder, seed, *names = sys.argv[1:]
    job = at(Path(folder)).job()
    models = Path(folder) / "home" / "private" / "models"
    said = some_steps(job, int(seed), names) if names else all_steps(job, int(seed), models)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
