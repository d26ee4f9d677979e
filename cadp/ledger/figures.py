"""How a figure of the budget is written."""

import math

from cadp.privacy.plain_words import scientific


def figure(epsilon: float) -> str:
    """Return an ε to the micro-nat that the ledger counts in, with at least two decimals.

    >>> figure(8.0), figure(0.000001), figure(2.3456789)
    ('8.00', '0.000001', '2.345679')
    """
    if math.isinf(epsilon):
        return "∞"
    whole, _, decimals = f"{epsilon:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def attos(amount: int) -> str:
    """Return an additive δ, counted in 1e-18, in scientific form.

    >>> attos(90_000_000_000), attos(1), attos(0)
    ('9e-08', '1e-18', '0')
    """
    return scientific(amount / 1e18) if amount else "0"
