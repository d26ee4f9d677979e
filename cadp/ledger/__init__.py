"""The ledger: one global budget per population that cannot be overspent, and the truth about what is done."""

from cadp.ledger.budget import Budget, Quote, Share
from cadp.ledger.chain import Entry
from cadp.ledger.charges import Charge
from cadp.ledger.checking import Checked, Inconsistent
from cadp.ledger.divergence import Recovery
from cadp.ledger.ledger import Ledger
from cadp.ledger.notices import Notice
from cadp.ledger.owner import process_owner
from cadp.ledger.populations import Population
from cadp.ledger.ranges import Lease, LeaseHeld, Seal
from cadp.ledger.states import State

__all__ = [
    "Budget",
    "Charge",
    "Checked",
    "Entry",
    "Inconsistent",
    "Lease",
    "LeaseHeld",
    "Ledger",
    "Notice",
    "Population",
    "Quote",
    "Recovery",
    "Seal",
    "Share",
    "State",
    "process_owner",
]
