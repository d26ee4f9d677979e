"""What a loaded model costs the people it was trained on: its event, once, whichever releases load it.

A model was paid for by the charge whose seal names it: the training that made it here, or the first release that loaded
it. Any other release finds that charge, pays nothing, and states it. A charge counts from the moment it has begun, for
ever, whatever became of its release; one that has not begun could still be taken back, so whoever relies on it begins
it. What a checkpoint says of itself is believed only under its digest: with another event it is another model, whose
event is charged.
"""

from collections.abc import Mapping

from cadp.errors import LedgerError
from cadp.ledger import Charge, Ledger, State
from cadp.privacy.events import Event


def model_key(digest: str) -> str:
    """Return the ledger's key for loading a model: one live charge of it a population."""
    return f"model/{digest}"


def find_model_charge(ledger: Ledger, population: str, digest: str, event: Event) -> Charge | None:
    """Return the charge that paid for a model's event; None if there is none that counts."""
    for charge in ledger.charges(population=population):
        if charge.state is State.VOIDED or charge.event.to_json() != event.to_json():
            continue
        if charge.key == model_key(digest):
            return charge
        seal = ledger.seal_of(charge.id, 0) if charge.parameters.get("part") == "train" else None
        if seal is not None and seal.key == digest:
            return charge
    return None


def charge_model(
    ledger: Ledger, population: str, *, release: str, digest: str, event: Event, parameters: Mapping[str, object]
) -> Charge:
    """Charge a model's event unless it was; the charge has begun, so that nobody can take it back.

    Raises:
        BudgetExceeded: it was not charged, and does not fit.
        LedgerError: the release was abandoned.
    """
    key = model_key(digest)
    charge = find_model_charge(ledger, population, digest, event)
    if charge is None or (charge.key, charge.release) == (key, release):
        try:
            charge = ledger.charge(population, release=release, key=key, event=event, parameters=parameters)
        except LedgerError:
            # Another release may have come first, just now.
            charge = find_model_charge(ledger, population, digest, event)
            if charge is None or charge.release == release:
                raise
    return ledger.begin(charge.id) if charge.state is State.RESERVED else charge
