"""The model of a plan for reading: what is trained with which noise, or what is loaded and who has paid for it."""

from cadp.ledger import Charge, Ledger
from cadp.plan import Plan
from cadp.steps.model_charge import find_model_charge


def model_lines(plan: Plan) -> list[str]:
    """Say in plain words where the network comes from."""
    loaded, start = plan.loaded, plan.start
    if loaded is not None:
        content = f"{loaded.architecture.content} content dimensions"
        where = "trained before, with DP, at the cost in its record"
        if loaded.cost is None:
            where = f"declared public, not verified: {loaded.origin}"
        return [f"Model: loaded, {loaded.digest[:12]}, {loaded.architecture.kind}, {content}; {where}."]
    moments = plan.training.moments
    noise = ", ".join(f"{query.name} {query.noise_multiplier:.3g}" for query in moments.queries)
    lines = [f"Model: {moments.architecture.content} principal dimensions, noise multipliers {noise}."]
    if start is not None:
        lines.append(
            f"Its couplings start from model {start.digest[:12]}, declared public, not verified: {start.origin}."
        )
    return lines


def public_row(plan: Plan) -> list[dict[str, str]]:
    """Return the row of a step that charges nothing: a public model; none where training or loading costs something."""
    if plan.loaded is None or plan.loaded.cost is not None:
        return []
    told = {"step": "train", "reads": "no record", "mechanism": plan.loaded.words()}
    return [{**told, "ε": "0", "δ": "0", "left after it": ""}]


def paid_before(plan: Plan, ledger: Ledger | None) -> Charge | None:
    """Return the charge by which another release has paid for a loaded model; None if this release pays."""
    loaded = plan.loaded
    if ledger is None or loaded is None or loaded.cost is None:
        return None
    charge = find_model_charge(ledger, plan.spec.population, loaded.digest, loaded.cost)
    return None if charge is None or charge.release == plan.spec.release else charge
