"""How every release stands in the ledger: what it charged, and whether and since when it is closed for good."""

from dataclasses import dataclass
from datetime import datetime

from cadp.ledger import Charge, Ledger, State


@dataclass(frozen=True, slots=True)
class Standing:
    """One release as the ledger knows it.

    Attributes:
        release: `name/version`.
        charges: those that count, in the order in which they were made.
        closed: when it was published or burned, by the ledger's entry of that; None if it is open.
    """

    release: str
    charges: tuple[Charge, ...]
    closed: datetime | None

    @property
    def published(self) -> bool:
        """Whether it is public, or bound to become so."""
        return all(charge.state is State.PUBLISHED for charge in self.charges)

    @property
    def burned(self) -> bool:
        """Whether it was abandoned: it can never be published."""
        return all(charge.state is State.BURNED for charge in self.charges)

    @property
    def plan_digest(self) -> str:
        """What the public may know of the plan that the charges were made for."""
        return str(self.charges[0].parameters.get("plan"))

    def charge(self, part: str) -> Charge | None:
        """Return the charge of one part of the plan: `train`, `records` or `gate`."""
        return next((charge for charge in self.charges if charge.parameters.get("part") == part), None)


def standings(ledger: Ledger) -> dict[str, Standing]:
    """Return every release that charged anything, by `name/version`."""
    charges: dict[str, list[Charge]] = {}
    for charge in ledger.charges():
        if charge.state is not State.VOIDED:
            charges.setdefault(charge.release, []).append(charge)
    of = {charge.id: release for release, made in charges.items() for charge in made}
    closed: dict[str, datetime] = {}
    for entry in ledger.history():
        if entry.kind in {"publish", "burn"}:
            closed[entry.value["body"]["release"]] = datetime.fromisoformat(entry.value["at"])
        elif entry.kind == "recover":  # what a recovery burns has no entry of its own
            at = datetime.fromisoformat(entry.value["at"])
            closed |= {of[charge]: at for charge in entry.value["body"]["burned"]}
    return {release: Standing(release, tuple(made), closed.get(release)) for release, made in charges.items()}
