"""A population's budget: making it, bound to the spec's source, and its figures."""

from collections.abc import Mapping
from pathlib import Path

from cadp.errors import LedgerError, LedgerMissing, SettingsError, SpecError
from cadp.ledger import Budget, Ledger, Population
from cadp.ledger.anchors import CLAIM
from cadp.ledger.budget import figure
from cadp.ledger.migrate import Outdated
from cadp.ledger.populations import LEAST_EPSILON
from cadp.plan import HOLDOUT_SUFFIX, holdout_population
from cadp.privacy.accountant import calibrate_gaussian
from cadp.privacy.plain_words import scientific
from cadp.secret import PopulationSecret, bind_ledger, locked, make_secret, note_ledger, refuse_second_ledger
from cadp.settings import Settings
from cadp.sources import open_source
from cadp.spec import ReleaseSpec, load_spec
from cadp.steps.job import known_secret, source_macs
from cadp.zones import anchor_zone

_MOST_EPSILON = 1e6


def init_budget(
    spec_path: Path, settings: Settings, *, epsilon: float, delta: float, holdout_epsilon: float
) -> tuple[Population, Population]:
    """Create what is missing of ledger, secret and the budgets of the spec's population and of its holdout.

    Asking again for the same limits changes nothing; limits are never changed.

    Raises:
        SpecError: a limit is out of range, or nothing could ever be trained under it.
        SourceError: there is no such source.
        SettingsError: a secret is missing, or is not the one that the ledger knows.
        LedgerError: the population exists with other limits, is bound to another source, or another ledger keeps it.
    """
    _require_limits(epsilon, delta, holdout_epsilon)
    spec = load_spec(spec_path)
    # A source that is not there would be bound for ever.
    open_source(spec.source, data_dir=settings.data_dir).files()
    settings.make_private_folders()
    with locked(settings.secrets_dir), _open_or_create(settings) as ledger:
        secret = _secret(ledger, settings, spec)
        bound = _binding(ledger, source_macs(secret, spec, settings.data_dir))
        made = []
        for name, limit in ((spec.population, epsilon), (holdout_population(spec.population), holdout_epsilon)):
            own = name == spec.population
            made.append(
                ledger.create_population(
                    name,
                    unit=spec.source.unit_text,
                    epsilon=limit,
                    delta=delta,
                    source_hmac=bound if own else secret.mac("holdout source", bound.encode()).hex(),
                    secret_fingerprint=secret.fingerprint(),
                    # Asked again under the ledger's lock: another machine may have been quicker.
                    refuse=(lambda others: _refuse_second_name(others, settings, spec)) if own else None,
                )
            )
        return made[0], made[1]


def has_budget(spec_path: Path, settings: Settings) -> bool:
    """Return whether the spec's population has its budgets already, whatever their limits.

    A ledger of an earlier version is upgraded, and noted beside the secret.

    Raises:
        SettingsError: the population's secret is missing, or is not the one that the ledger knows.
        LedgerError: another ledger keeps its budget.
    """
    spec = load_spec(spec_path)
    try:
        ledger = Ledger.open(settings.ledger_url, anchor_zone(settings))
    except LedgerMissing:
        return False
    except Outdated:
        ledger = _init(settings)
    with ledger:
        found = _by_name(ledger)
        if spec.population in found:
            known_secret(settings, found[spec.population])
            note_ledger(settings.secrets_dir, spec.population, ledger.identity)
    return {spec.population, holdout_population(spec.population)} <= set(found)


def _require_limits(epsilon: float, delta: float, holdout_epsilon: float) -> None:
    if not (all(LEAST_EPSILON <= value < _MOST_EPSILON for value in (epsilon, holdout_epsilon)) and 0 < delta < 1):
        raise SpecError(
            f"a limit needs ε of at least {LEAST_EPSILON} (one micro-nat) and below {_MOST_EPSILON:,.0f}, "
            f"and δ between 0 and 1, not ε = {epsilon!r} / {holdout_epsilon!r}, δ = {scientific(delta)}"
        )
    if calibrate_gaussian(epsilon, delta) == 0:
        raise SpecError(
            f"nothing could ever be trained under ε = {epsilon!r} at δ = {scientific(delta)}: at this δ the conversion "
            f"of the least Gaussian takes more than ε; a limit can never be changed, so choose a larger ε or δ now"
        )


def _open_or_create(settings: Settings) -> Ledger:
    anchors = anchor_zone(settings)
    try:
        return Ledger.open(settings.ledger_url, anchors)
    except Outdated:
        return _init(settings)
    except LedgerMissing:
        # Anchors without their ledger have a better answer than this one, and `init` gives it.
        if not anchors.exists(CLAIM):
            refuse_second_ledger(settings.secrets_dir, None)
        return _init(settings)


def _init(settings: Settings) -> Ledger:
    backups = settings.home / "private" / "backups"
    return Ledger.init(settings.ledger_url, anchor_zone(settings), backups=backups)


def _by_name(ledger: Ledger) -> Mapping[str, Population]:
    return {population.name: population for population in ledger.populations()}


def _secret(ledger: Ledger, settings: Settings, spec: ReleaseSpec) -> PopulationSecret:
    """Load the secret of a population that the ledger knows; make one for a population that may be created."""
    found = _by_name(ledger)
    if spec.population in found:
        # A lost secret is never made anew: the ledger would not know it.
        secret = known_secret(settings, found[spec.population])
        note_ledger(settings.secrets_dir, spec.population, ledger.identity)
        return secret
    _refuse_second_name(list(found.values()), settings, spec)
    bind_ledger(settings.secrets_dir, spec.population, ledger.identity, known=found)
    return make_secret(settings.secrets_dir, spec.population)


def _binding(ledger: Ledger, macs: tuple[str, ...]) -> str:
    """Return what a population of this source is, or will be, bound by."""
    return next((mac for mac in macs if ledger.bound_to(mac) is not None), macs[0])


def _refuse_second_name(populations: list[Population], settings: Settings, spec: ReleaseSpec) -> None:
    """One source has one budget: a second name for it would be a second budget for the same people."""
    for population in populations:
        if population.name == spec.population or population.name.endswith(HOLDOUT_SUFFIX):
            continue
        try:
            secret = known_secret(settings, population)
        except SettingsError as error:
            raise SettingsError(
                f"no other population can be made without the secret of population {population.name}, which alone "
                f"tells whether {spec.source.url} is its source too: {error}. Then run this again"
            ) from error
        if population.source_hmac in source_macs(secret, spec, settings.data_dir):
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
