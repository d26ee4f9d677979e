"""A program for `test_seeded`: takes a small release as far as it goes in seeded mode, and says what it is stamped.

It is a process of its own because the mode has no way back.
"""

import json
import sys
from pathlib import Path

import pytest

from cadp.errors import PrivacyError, VerificationFailed
from cadp.privacy.seeded import is_seeded, seeded
from cadp.privacy.statement import verify_statement
from cadp.release import STEPS, run_step
from cadp.reporter import Silent
from cadp.steps.disclosure import privacy_statement, publication_context, release_facts
from cadp.steps.validate import gate_answer
from tests.small_release import at


def main() -> None:
    """Run every step; publishing is tried within the mode and after it."""
    place = at(Path(sys.argv[1]))
    job = place.job()
    with seeded(int(sys.argv[2])):
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
        for name in ("train", "records")
        if (charge := job.find_charge(name))
        for seal in job.ledger.seals(charge.id).values()
    ]
    with pytest.raises(VerificationFailed) as refused_statement:
        verify_statement(statement)
    (model,) = place.folder.glob("home/private/models/*.json")
    said = {
        "is_seeded": is_seeded(),
        "refusals": [*refusals, str(refused_statement.value)],
        "guarantee": statement["guarantee"],
        "promise": statement["lines"][1],
        "seals": seals,
        "answer": gate_answer(job).get("stamp"),
        "model": json.loads(model.read_text())["privacy"],
    }
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
