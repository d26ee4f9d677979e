"""The audit of a loaded model's charge: the code that charges it, on a ledger that is thrown away, for two releases."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cadp.errors import LedgerError
from cadp.ledger import Ledger, State
from cadp.privacy.accountant import Curve, curve
from cadp.privacy.audit.verdict import Check, Claim, Setting
from cadp.privacy.events import RELATION, Event
from cadp.steps.model_charge import charge_model
from cadp.store import Store

if TYPE_CHECKING:
    from cadp.plan import Plan

_NAME, _DIGESTS = "synthetic", ("0" * 64, "1" * 64)
_ROOM = 1000.0


@dataclass(frozen=True)
class LoadAudit:
    """A model that is loaded: what its record says is charged, once for all releases and once for each model.

    Attributes:
        event: of its record; the empty composition for a public model.
        parameters: what is public of it.
        delta: δ at which it is charged.
    """

    event: Event
    parameters: Mapping[str, object]
    delta: float

    @property
    def bounds(self) -> int:
        """Nothing is measured: a charge has no chance in it."""
        return 0

    def outputs(self, trials: int) -> int:
        """Return how many outputs are made: none."""
        del trials
        return 0

    def setting(self, trials: int, alpha: float, advance: Callable[[int], object]) -> Setting:
        """Return the findings; see `Subject`."""
        del trials, alpha, advance
        claim = Claim.of(self.event, self.delta)
        return Setting("loaded", self.parameters, claim, True, (self._once(),), (), "train")

    def _once(self) -> Check:
        cost = curve(self.event)
        steps = [(f"{_NAME}/1.0.0", 0, 1), (f"{_NAME}/1.0.1", 0, 1), (f"{_NAME}/1.0.0", 0, 1), (f"{_NAME}/1.0.2", 1, 2)]
        if not any(micro for micro in cost.micro) and not cost.delta_atto:
            return Check("load-charge", self.event.relation == RELATION, "a public model: nothing is charged", 0.0, 0.0)
        with tempfile.TemporaryDirectory() as folder, _ledger(Path(folder)) as ledger:
            for release, which, times in steps:
                try:
                    charge_model(
                        ledger,
                        _NAME,
                        release=release,
                        digest=_DIGESTS[which],
                        event=self.event,
                        parameters={"part": "train"},
                    )
                except LedgerError as error:
                    return Check("load-charge", False, f"loading was not charged: {error}")
                charges = [charge for charge in ledger.charges() if charge.state is not State.VOIDED]
                paid, due = sum((charge.curve for charge in charges), Curve.zero()), Curve.zero()
                for _ in range(times):
                    due = due + cost
                if paid != due or any(charge.state is State.RESERVED for charge in charges):
                    found, owed = paid.epsilon(self.delta), due.epsilon(self.delta)
                    told = f"after {release} the ledger has {len(charges)} charges of {found:.6g}, {owed:.6g} is due"
                    return Check("load-charge", False, told, owed, found)
        each = cost.epsilon(self.delta)
        return Check("load-charge", True, "three releases, two models: each model is charged once", each, each)


def load_audits(plan: "Plan") -> tuple[LoadAudit, ...]:
    """Return the audit of a plan's loaded model; none where one is trained."""
    if plan.loaded is None:
        return ()
    return (LoadAudit(plan.loaded.event(), plan.loaded.parameters(), plan.spec.spend.delta),)


def _ledger(folder: Path) -> Ledger:
    ledger = Ledger.init(f"sqlite:///{folder / 'ledger.db'}", Store.open(str(folder / "anchors")))
    ledger.create_population(
        _NAME, unit="record", epsilon=_ROOM, delta=1e-5, source_hmac="0" * 64, secret_fingerprint="0" * 16
    )
    return ledger
