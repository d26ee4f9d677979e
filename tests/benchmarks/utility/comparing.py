"""The parts of the report that hold figures against something: targets, published figures, a plan without a part."""

import math

from cadp.privacy.events import RELATION
from tests.benchmarks.utility.cells import RELEASE_DIMS, Release, Training, cells
from tests.benchmarks.utility.markdown import paragraph, section, table
from tests.benchmarks.utility.published import CPU_SECONDS, NOISE, PUBLISHED, RETENTION, SOURCE, TARGETS
from tests.benchmarks.utility.summary import FIT, NONE, Seeds, Summary


def against_targets(summary: Summary) -> str:
    """Each target: met, not met or not measured."""
    rows = []
    for epsilon, target in TARGETS.items():
        cell = Release(Training(epsilon))
        rows.append(_row(f"p/o at zero-out ε = {epsilon:g}", summary.accuracy(cell), target))
        exact = summary.accuracy(Release(Training(epsilon, exact=True)))
        rows.append(_row(f"the same, ε = {epsilon:g} exact", exact, target))
        spent = summary.cpu_seconds(cell, FIT)
        rows.append(_row(f"its fit and sampling, CPU-s, at ε = {epsilon:g}", spent, CPU_SECONDS, most=True, digits=0))
        best = max(PUBLISHED, key=lambda one, e=epsilon: one.at_1 if e == 1.0 else one.at_10)  # type: ignore[misc]
        record = best.at_1 if epsilon == 1.0 else best.at_10
        rows.append(_row(f"published record at ε = {epsilon:g} ({best.method})", summary.accuracy(cell), record))
    model = Training(4.0, RELATION)
    for epsilon, target in RETENTION.items():
        cell = Release(model, "privunit", epsilon, RELEASE_DIMS)
        what = f"nearer their own original, PrivUnit at record ε = {epsilon:g}, model at ε = 4"
        rows.append(_row(what, summary.of(cell, "nearer"), target))
        without = summary.accuracy(Release(model))
        lowest = without.mean - NOISE
        rows.append(
            _row(f"its p/o, against {without.text()} without the record's latent", summary.accuracy(cell), lowest)
        )
    return section("Targets", table(["", "measured", "target", ""], rows))


def against_published(summary: Summary) -> str:
    """Ours among the published figures, by p/o at ε = 10."""
    rows = [(one.at_10, [one.method, f"{one.at_1:.3f}", f"{one.at_10:.3f}"]) for one in PUBLISHED]
    for exact in (False, True):
        ours = [summary.accuracy(Release(Training(epsilon, exact=exact))) for epsilon in (1.0, 10.0)]
        if any(one.known for one in ours):
            place = ours[1].mean if ours[1].known else 1.0
            method = f"**cadp**, zero-out{', exact' if exact else ''}"
            rows.append((place, [method, *(f"**{one.text()}**" if one.known else NONE for one in ours)]))
    ordered = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    words = f"""p/o at total ε = 1 and 10. Published: {SOURCE}. Ours: a small classifier on a CPU; ε by the ledger's
        accountant, or exact."""
    return section("Beside published figures", paragraph(words), table(["", "ε = 1", "ε = 10"], ordered))


def gains(summary: Summary) -> str:
    """Plans with a part switched off, or on, beside the plan of the rule at the same ε."""
    rows = []
    for cell in cells():
        if not isinstance(cell, Release) or cell.mechanism != "resample":
            continue
        training = cell.training
        rule = Release(Training(training.epsilon, training.relation))
        changed = _changed(cell)
        if not changed:
            continue
        own, whole = summary.accuracy(cell), summary.accuracy(rule)
        gap = f"{own.mean - whole.mean:+.3f}" if own.known and whole.known else NONE
        frechet = [summary.of(one, "frechet").text(2) for one in (cell, rule)]
        spent = summary.cpu_seconds(cell, FIT).text(0)
        rows.append([f"{training.epsilon:g}", changed, own.text(), whole.text(), gap, *frechet, spent])
    plans = [f"ε = {one.training.epsilon:g}: {_plan(summary, one)}" for one in map(Release, map(Training, TARGETS))]
    heads = ["zero-out ε", "change", "p/o", "p/o of the rule", "difference", "Fréchet", "of the rule", "CPU-s"]
    words = f"""The plan of the public rule with one thing changed, at the same total ε. The rule: {"; ".join(plans)}.
        The plain classifier has 3×3 convolutions, 3 epochs and no noise of its own."""
    return section("What each part is worth", paragraph(words), table(heads, rows))


def _plan(summary: Summary, cell: Release) -> str:
    found = summary.first(cell)
    if found is None:
        return "not measured yet"
    plan = found.values["plan"]
    return f"{plan['words']}, {plan['components'] or 'no'} Gaussians a class in a mixture"


def _changed(cell: Release) -> str:
    training = cell.training
    changes = ["the plain classifier"] if cell.recipe == "plain" else []
    changes += [] if training.mixture else ["without the mixture"]
    changes += ["with couplings by DP-SGD"] if training.couplings else []
    changes += [f"{training.content} principal dimensions"] if training.content else []
    return ", ".join(changes)


def _row(what: str, seeds: Seeds, target: float, *, most: bool = False, digits: int = 3) -> list[str]:
    bound = NONE if math.isnan(target) else f"{'≤' if most else '≥'} {target:.{digits}f}"
    if not seeds.known or math.isnan(target):
        return [what, seeds.text(digits), bound, "not measured yet"]
    met = seeds.mean <= target if most else seeds.mean >= target
    return [what, seeds.text(digits), bound, "met" if met else "**not met**"]
