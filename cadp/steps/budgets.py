"""A population's budget: making it, bound to the spec's source, and its figures."""

from pathlib import Path

from cadp.errors import LedgerError, LedgerMissing, SpecError
from cadp.ledger import Budget, Ledger, Population
from cadp.ledger.budget import figure
from cadp.ledger.migrate import Outdated
from cadp.plan import HOLDOUT_SUFFIX, holdout_population
from cadp.privacy.plain_words import scientific
from cadp.secret import bind_ledger, load_secret, make_secret
from cadp.settings import Settings
from cadp.spec import ReleaseSpec, load_spec
from cadp.steps.job import source_macs
from cadp.store import Store


def init_budget(
    spec_path: Path, settings: Settings, *, epsilon: float, delta: float, holdout_epsilon: float
) -> tuple[Population, Population]:
    """Create what is missing of ledger, secret and the budgets of the spec's population and of its holdout.

    Asking again for the same limits changes nothing; limits are never changed.

    Raises:
        SpecError: a limit is out of range.
        LedgerError: the population exists with other limits, or is bound to another source.
    """
    if not (0 < epsilon < 1e6 and 0 < holdout_epsilon < 1e6 and 0 < delta < 1):
        raise SpecError(
            f"a limit needs ε above 0 and δ between 0 and 1, not ε = {epsilon:g} / {holdout_epsilon:g}, "
            f"δ = {scientific(delta)}"
        )
    spec = load_spec(spec_path)
    settings.make_private_folders()
    with _init(settings) as ledger:
        _refuse_rename(ledger, settings, spec)
        secret = make_secret(settings.secrets_dir, spec.population)
        bind_ledger(settings.secrets_dir, spec.population, ledger.identity)
        bound = _binding(ledger, source_macs(secret, spec))
        made = []
        for name, limit in ((spec.population, epsilon), (holdout_population(spec.population), holdout_epsilon)):
            mac = bound if name == spec.population else secret.mac("holdout source", bound.encode()).hex()
            made.append(
                ledger.create_population(
                    name,
                    unit=spec.source.unit,
                    epsilon=limit,
                    delta=delta,
                    source_hmac=mac,
                    secret_fingerprint=secret.fingerprint(),
                )
            )
        return made[0], made[1]


def has_budget(spec_path: Path, settings: Settings) -> bool:
    """Return whether the spec's population has its budgets already, whatever their limits.

    A ledger of an earlier version is upgraded.
    """
    spec = load_spec(spec_path)
    try:
        ledger = Ledger.open(settings.ledger_url, Store.open(settings.anchors_url))
    except LedgerMissing:
        return False
    except Outdated:
        ledger = _init(settings)
    with ledger:
        names = {population.name for population in ledger.populations()}
    return {spec.population, holdout_population(spec.population)} <= names


def _init(settings: Settings) -> Ledger:
    backups = settings.home / "private" / "backups"
    return Ledger.init(settings.ledger_url, Store.open(settings.anchors_url), backups=backups)


def _binding(ledger: Ledger, macs: tuple[str, ...]) -> str:
    """Return what a population of this source is, or will be, bound by."""
    return next((mac for mac in macs if ledger.bound_to(mac) is not None), macs[0])


def _refuse_rename(ledger: Ledger, settings: Settings, spec: ReleaseSpec) -> None:
    """One source has one budget: a second name for it would be a second budget for the same people."""
    for population in ledger.populations():
        if population.name == spec.population or population.name.endswith(HOLDOUT_SUFFIX):
            continue
        secret = load_secret(settings.secrets_dir, population.name)
        if population.source_hmac in source_macs(secret, spec):
            raise LedgerError(
                f"{spec.source.url} is the source of population {population.name} already: "
                f"say `population: {population.name}` in {spec.name}'s spec; a source has one budget"
            )


def budget_row(budget: Budget) -> dict[str, str]:
    """The figures of one population's budget, replace-one."""
    return {
        "population": budget.population,
        "limit ε": figure(budget.epsilon),
        "δ": scientific(budget.delta),
        "spent ε": figure(budget.spent),
        "reserved ε": figure(budget.reserved),
        "left ε": figure(budget.left),
        "held by": ", ".join(f"{share.release} ({'/'.join(share.states)})" for share in budget.releases) or "–",
    }
