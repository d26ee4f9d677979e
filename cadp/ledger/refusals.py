"""The words of a refusal: what was asked, left and missing, in ε and in additive δ, and who holds the budget."""

import math
from collections.abc import Iterable

from sqlalchemy import Connection

from cadp.errors import BudgetExceeded
from cadp.ledger.budget import Quote, Share, held_by
from cadp.ledger.figures import attos, figure
from cadp.ledger.populations import find_population
from cadp.privacy.plain_words import scientific

_MOST_HOLDERS = 10
_MOST_KEYS = 3


class DoesNotFit(BudgetExceeded):
    """A refusal from inside a transaction: who holds the budget is read after it, when nobody has to wait for that."""

    def __init__(self, release: str, key: str, quote: Quote) -> None:
        super().__init__(refusal(release, key, quote))
        self.quote = quote


def explained(connection: Connection, release: str, key: str, quote: Quote) -> str:
    """Return the words of a refusal, with who holds the budget now."""
    return refusal(release, key, quote, held_by(connection, find_population(connection, quote.population)[1]))


def refusal(release: str, key: str, quote: Quote, held: Iterable[Share] | None = None) -> str:
    """Return the words of a refusal: requested, left, difference, who holds the budget, and what to do.

    Args:
        release: who asked.
        key: for what.
        quote: what it would do.
        held: who holds the budget; None says nothing of them.
    """
    excess = quote.spent_delta_atto + quote.delta_atto - quote.cap_delta_atto
    by_delta = excess > 0 and quote.after <= quote.limit
    reasons = [] if by_delta else [_epsilon_reason(quote)]
    spent = f"Spent ε {figure(quote.before)}, limit ε {figure(quote.limit)} at δ {scientific(quote.delta)}"
    if excess > 0:
        left = quote.cap_delta_atto - quote.spent_delta_atto
        reasons.append(
            f"asked additive δ {attos(quote.delta_atto)}, left {attos(left)} of {attos(quote.cap_delta_atto)} (the "
            f"most that samplers may take of δ {scientific(quote.delta)}), {attos(excess)} too much"
        )
        spent += f", spent additive δ {attos(quote.spent_delta_atto)}"
    return (
        f"population {quote.population} cannot pay for {key} of release {release}: {', and '.join(reasons)}. "
        f"{spent}{'' if held is None else _holders(held, by_delta=by_delta)}. Nothing was charged. Spend less in the "
        f"spec (`cadp plan` shows each part), or release another population: this limit never rises"
    )


def _epsilon_reason(quote: Quote) -> str:
    left = figure(max(0.0, quote.limit - quote.before))
    if math.isinf(quote.after):
        at = scientific(quote.delta)
        return f"left {left}; no ε holds at δ {at} for what was asked (its curve has no finite Rényi order)"
    return (
        f"asked {figure(quote.after - quote.before)} more (ε {figure(quote.alone)} alone), left {left}; "
        f"ε would become {figure(quote.after)}, {figure(quote.after - quote.limit)} too much"
    )


def _holders(held: Iterable[Share], *, by_delta: bool) -> str:
    """Name those who hold most of what is short, with the charges by which they hold it."""

    def size(share: Share) -> float:
        return share.additive_delta if by_delta else share.epsilon

    shares = sorted((share for share in held if size(share) > 0), key=size, reverse=True)
    if not shares:
        return "; held by nobody"
    named = []
    for share in shares[:_MOST_HOLDERS]:
        amount = scientific(share.additive_delta) if by_delta else figure(share.epsilon)
        keys = [key.removeprefix(f"{share.release}/") for key in share.keys]
        more = f" and {len(keys) - _MOST_KEYS:,} more" if len(keys) > _MOST_KEYS else ""
        named.append(f"{share.release} {amount} ({', '.join(keys[:_MOST_KEYS])}{more}; {'/'.join(share.states)})")
    beyond = len(shares) - _MOST_HOLDERS
    rest = f" and {beyond:,} more release{'s' if beyond > 1 else ''}" if beyond > 0 else ""
    return f"; held by ({'additive δ' if by_delta else 'ε'} of each alone): {', '.join(named)}{rest}"
