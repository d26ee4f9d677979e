"""What stands on everything that a release makes when it must not be published: a mode that protects nobody."""

from cadp.errors import PrivacyError
from cadp.privacy.seeded import SEEDED, is_seeded
from cadp.steps.job import Job


def stamp_of(job: Job) -> str | None:
    """Return the stamp of a release: its mechanism's, this process's, or a part's, charged or made; else None."""
    if job.plan.stamp is not None:
        return job.plan.stamp
    if is_seeded():
        return SEEDED
    charges = (job.find_charge(part.name) for part in job.plan.parts())
    for charge in charges:
        if charge is None:
            continue
        kept = [charge.parameters, *(seal.facts for seal in job.ledger.seals(charge.id).values())]
        kept.append(job.ledger.recorded_answer(charge.id) or {})
        for facts in kept:
            if "stamp" in facts:
                return str(facts["stamp"])
    return None


def require_guarantee(job: Job) -> None:
    """Stop a plan whose mechanism has no guarantee, before its gate would be charged.

    Raises:
        PrivacyError: with the stamp and the next step.
    """
    if job.plan.stamp:
        raise PrivacyError(_refusal(job, job.plan.stamp))


def require_no_stamp(job: Job) -> None:
    """Let only a release through that protects somebody. There is no option that skips this.

    Raises:
        PrivacyError: with the stamp and the next step.
    """
    if stamp := stamp_of(job):
        raise PrivacyError(_refusal(job, stamp))


def _refusal(job: Job, stamp: str) -> str:
    return (
        f"{job.spec.release} is stamped {stamp}: what it made stays in the private zone and cannot be published. "
        f"Next: `cadp abandon`, and a new version without that mode"
    )
