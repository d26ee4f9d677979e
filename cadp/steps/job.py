"""One release on one machine: its plan, its places and its ledger, opened and checked together."""

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cadp.errors import BudgetExceeded, LedgerError, PrivacyError, SettingsError
from cadp.ledger import Charge, Lease, LeaseHeld, Ledger, Population, State, process_owner
from cadp.ledger.refusals import refusal
from cadp.plan import Part, Plan, bind_plan, plan_release
from cadp.privacy.events import ComposedEvent
from cadp.privacy.seeded import require_same_mode, stamped
from cadp.reporter import Reporter
from cadp.secret import PopulationSecret, load_secret, note_ledger, require_noted
from cadp.settings import Settings
from cadp.sources.address import addresses
from cadp.spec import ReleaseSpec, load_spec
from cadp.steps.model_charge import charge_model, find_model_charge
from cadp.steps.scratch import own_scratch, sweep_scratch
from cadp.store import Store
from cadp.zones import anchor_zone, private_zone, public_zone

# A range takes minutes; its worker renews the lease as it goes. A dead worker's lease lapses after this.
LEASE_SECONDS = 300.0
_FORMERLY = ("idx\0", "imagefolder\0")


@dataclass(frozen=True)
class Job:
    """What every step needs.

    Attributes:
        plan: what the release does; bound to what it started with.
        settings: where things are.
        private: the private zone of this release.
        models: the private zone's content-addressed checkpoints.
        public: the release's own prefix in the public zone.
        ledger: the budget.
        secret: the population's secret.
    """

    plan: Plan
    settings: Settings
    private: Store
    models: Store
    public: Store
    ledger: Ledger
    secret: PopulationSecret

    @classmethod
    def open(cls, spec_path: str | Path, settings: Settings | None = None) -> "Job":
        """Read the spec, find the source, open the ledger and bind the plan; nothing is charged.

        Raises:
            CadpError: anything that would stop the release later and can be seen now.
        """
        settings = settings or Settings.load()
        spec = load_spec(spec_path)
        ledger = Ledger.open(settings.ledger_url, anchor_zone(settings))
        secret = population_secret(ledger, settings, spec)
        note_ledger(settings.secrets_dir, spec.population, ledger.identity)
        settings.make_private_folders()
        sweep_scratch(settings.scratch)
        private = private_zone(settings)
        release = private.child(f"releases/{spec.release}")
        plan = plan_release(spec, settings.data_dir, release, private.child("models"))
        bind_plan(plan, release)
        return cls(
            plan=plan,
            settings=settings,
            private=release,
            models=private.child("models"),
            public=public_zone(settings).child(spec.release),
            ledger=ledger,
            secret=secret,
        )

    @property
    def spec(self) -> ReleaseSpec:
        """The release as declared."""
        return self.plan.spec

    @property
    def workers(self) -> int:
        """Threads that share the ranges of a step."""
        return self.spec.run.workers or os.cpu_count() or 1

    @property
    def scratch(self) -> Path:
        """Local folder of this process for sorting and staging; private."""
        return own_scratch(self.settings.scratch)

    def telling(self, reporter: Reporter) -> AbstractContextManager[None]:
        """Tell `reporter` what the ledger notes down while the context is open: reserved, refused, takeover, …"""
        return self.ledger.watched(lambda notice: reporter.event(notice.kind, notice.text))

    @property
    def plan_digest(self) -> str:
        """What the public may know of the plan."""
        return self.plan.digest(self.secret)

    def part(self, name: str) -> Part:
        """The planned charge called `name`."""
        return next(part for part in self.plan.parts() if part.name == name)

    def charge(self, name: str) -> Charge:
        """Charge one part of the plan, or find its charge: the same part, or the same model, is never charged twice.

        The charge is committed and anchored, and may be worked under, when this returns.

        Raises:
            BudgetExceeded: it, or what the release has still to charge after it, does not fit a population's limit.
            LedgerError: the release was abandoned.
            PrivacyError: the part has no guarantee, or was charged in seeded mode and this process is in the other.
        """
        part = self.part(name)
        if not part.guaranteed:
            raise PrivacyError(f"{name} of {self.spec.release} has {self.plan.stamp}: there is no loss to charge")
        found = self.find_charge(name)
        if found is None:
            self._require_budget()
        else:
            require_same_mode(found.parameters, f"charge {name} of {self.spec.release}")
        parameters = stamped({"plan": self.plan_digest, "part": name})
        release, loaded = self.spec.release, self.plan.loaded
        if name == "train" and loaded is not None:
            return charge_model(
                self.ledger,
                part.population,
                release=release,
                digest=loaded.digest,
                event=part.event,
                parameters=parameters,
            )
        charge = self.ledger.charge(
            part.population, release=release, key=f"{release}/{name}", event=part.event, parameters=parameters
        )
        if charge.state is State.RESERVED:
            self.ledger.begin(charge.id)
        return charge

    def _require_budget(self) -> None:
        """Refuse to begin what cannot be paid to its end: a model that no release may use is budget lost."""
        ahead = [part for part in self.plan.parts() if part.guaranteed and self.find_charge(part.name) is None]
        for population in dict.fromkeys(part.population for part in ahead):
            parts = [part for part in ahead if part.population == population]
            quote = self.ledger.quote(population, ComposedEvent(tuple(part.event for part in parts)))
            if not quote.fits:
                key = f"{self.spec.release}/{'+'.join(part.name for part in parts)}"
                holders = self.ledger.budget(population).releases
                text = refusal(self.spec.release, key, quote, holders)
                self.ledger.note_refusal(population, self.spec.release, text)
                raise BudgetExceeded(text)

    def lease(self, charge: Charge, index: int, reporter: Reporter) -> Lease | None:
        """Take the lease of a range; wait while another live worker holds it; None if it is sealed by then."""
        while True:
            try:
                return self.ledger.lease(charge.id, index, process_owner(), LEASE_SECONDS)
            except LeaseHeld as held:
                reporter.event("waiting", f"range {index} is {held.owner}'s for {held.seconds_left:.0f} s more")
                time.sleep(min(max(held.seconds_left, 0.1), 10.0))
            except LedgerError:
                # Sealed since we looked, and perhaps finished with its charge; anything else is a refusal.
                if self.ledger.seal_of(charge.id, index) is None:
                    raise
                return None

    def find_charge(self, name: str) -> Charge | None:
        """Return the charge of one part, or None before it is made; one that was taken back does not count."""
        part, key, loaded = self.part(name), f"{self.spec.release}/{name}", self.plan.loaded
        if name == "train" and loaded is not None:
            return find_model_charge(self.ledger, part.population, loaded.digest, part.event)
        charges = self.ledger.charges(population=part.population, release=self.spec.release)
        return next((c for c in charges if c.key == key and c.state is not State.VOIDED), None)


class Renewal:
    """Keeps a lease alive while its range is worked on."""

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self._ledger, self._lease = ledger, lease
        self._due = time.monotonic() + LEASE_SECONDS / 4

    def renew_if_due(self) -> None:
        """Renew after a quarter of the lease.

        Raises:
            SealConflict: another worker has taken the range over; this attempt must stop.
        """
        if time.monotonic() >= self._due:
            self._lease = self._ledger.renew(self._lease)
            self._due = time.monotonic() + LEASE_SECONDS / 4


def population_secret(ledger: Ledger, settings: Settings, spec: ReleaseSpec) -> PopulationSecret:
    """Load the secret of the spec's population and check it, and the source, against the ledger.

    Raises:
        LedgerError: the population is unknown, kept by another ledger, or bound to another source.
        SettingsError: the secret is missing, or is not the one the ledger knows.
    """
    population = ledger.population(spec.population)
    secret = known_secret(settings, population)
    require_noted(settings.secrets_dir, spec.population, ledger.identity)
    if population.unit != spec.source.unit_text:
        raise LedgerError(
            f"the budget of population {spec.population} protects one {population.unit}, the spec says "
            f"{spec.source.unit_text}: the same unit in every release, or its losses do not add up"
        )
    if population.source_hmac not in source_macs(secret, spec, settings.data_dir):
        raise LedgerError(
            f"population {spec.population} is bound to another source than {spec.source.url}: "
            f"name the population of this source, or make one with `cadp budget init`"
        )
    return secret


def known_secret(settings: Settings, population: Population) -> PopulationSecret:
    """Load a population's secret and check that it is the one that the ledger knows.

    Raises:
        SettingsError: it is missing, or another.
    """
    secret = load_secret(settings.secrets_dir, population.name)
    if secret.fingerprint() != population.secret_fingerprint:
        raise SettingsError(
            f"the secret of population {population.name} has fingerprint {secret.fingerprint()}, "
            f"the ledger knows {population.secret_fingerprint}: restore the right one from backup"
        )
    return secret


def source_macs(secret: PopulationSecret, spec: ReleaseSpec, data_dir: Path) -> tuple[str, ...]:
    """Return what binds a population to its source, HMAC of the source's address under the population's secret.

    The first is how it is bound today; the others are how earlier versions did: they named the format too, so that one
    folder that can be read in two formats could have had two budgets, and a catalogued dataset's folder by its path.
    """
    return address_macs(secret, addresses(spec.source.url, data_dir))


def address_macs(secret: PopulationSecret, names: Sequence[str]) -> tuple[str, ...]:
    """Return what a population with this secret may be bound by to a source of these addresses; see `source_macs`."""
    texts = (f"{before}{name}" for before in ("", *_FORMERLY) for name in names)
    return tuple(secret.mac("source", text.encode()).hex() for text in texts)


class Step(Protocol):
    """One step of a release. Every method may be called again after a crash and does nothing twice."""

    name: str
    title: str

    def prepare(self, job: Job, reporter: Reporter) -> list[int]:
        """Make the step's charge, if it has one, and return the ranges that are still to do."""

    def run(self, job: Job, index: int, reporter: Reporter) -> None:
        """Do one range; ranges may run at the same time."""

    def finish(self, job: Job, reporter: Reporter) -> None:
        """Close the step once every range is done."""
