"""An event without a guarantee is charged nowhere, whatever it is put into."""

from collections.abc import Callable

import pytest

from cadp.errors import PrivacyError
from cadp.ledger import Charge, Ledger
from cadp.privacy.accountant import Event, PureEvent
from cadp.privacy.events import ComposedEvent
from cadp.privacy.legacy import NominalEvent

NOMINAL = NominalEvent(1.0)
EVENTS = {"alone": NOMINAL, "composed": ComposedEvent((PureEvent(0.1), NOMINAL))}


@pytest.mark.parametrize("how", EVENTS)
def test_it_is_refused_and_nothing_is_written(how: str, ledger: Ledger, pay: Callable[..., Charge]) -> None:
    event: Event = EVENTS[how]
    with pytest.raises(PrivacyError, match="NominalEvent"):
        pay(event=event)
    with pytest.raises(PrivacyError, match="NominalEvent"):
        ledger.quote("patients", event)
    assert ledger.charges() == []
    assert pay().event == PureEvent(0.5)
