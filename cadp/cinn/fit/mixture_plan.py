"""How many Gaussians a class is a mixture of, and what finding them may cost: a public rule."""

import math

from cadp.cinn.architecture import LIMIT_MIXTURE, Whitening
from cadp.cinn.fit.query import Query

# Provenance of the constants: the docs' page on models says what was tried, on which public data.
ITERATIONS = 3
SHARE = 0.5  # of μ², for the whole mixture
CENTRES = 0.25  # of that, for Lloyd's iterations; the rest is for the covariances
EDGE = 1.2
FEWEST, MOST = 3, 16
RECORDS = 4  # a component, for each dimension of its covariance
LEAST_RECORDS = 100  # a component: with fewer, chance alone makes clusters
# The count beside a record's vector, as a fraction of the clip norm. The larger, the less noise on the number of a
# component's records. Beside a vector it costs nothing under replace-one and 3 % under zero-out, beside an outer
# product a quarter more noise.
COUNT = 0.25
COUNT_OUTER = 0.5


def choose_components(mu: float, architecture: Whitening, units: int, records: int) -> int:
    """The number of Gaussians a class for a total μ; 0 where a mixture would be made of noise.

    It is the largest number, up to `MOST`, for which the edge of the spectrum of the noise on the covariance of an
    average component is at most `EDGE` of the class's variance (Wigner: 2·noise·√k), which has at least `RECORDS`·k
    records and `LEAST_RECORDS`, and whose covariances a network may hold; fewer than `FEWEST` are not worth their part
    of the budget. Only public sizes enter. A unit is taken for one record: that it may have `records` is no promise
    that it has.
    """
    k = architecture.content
    noise = records * (1 + COUNT_OUTER**2) * k / _mu_of_covariances(mu)
    least = max(2 * math.sqrt(k) * noise / EDGE, RECORDS * k, LEAST_RECORDS)
    fitting = math.floor(units / architecture.classes / least)
    fitting = min(fitting, MOST, LIMIT_MIXTURE // (architecture.classes * k**2))
    return 0 if fitting < FEWEST else fitting


def lloyd_queries(mu: float, architecture: Whitening, radius: int, records: int) -> tuple[Query, ...]:
    """The queries of Lloyd's iterations, alike but for their names; none where there is no mixture.

    Args:
        mu: of the whole fit, of which these take the share μ²·`SHARE`·`CENTRES`.
        architecture: the network, with its number of components.
        radius: the clip norm of the principal dimensions, in lattice steps.
        records: `m`.
    """
    if not architecture.components:
        return ()
    multiplier = 1 / (mu * math.sqrt(SHARE * CENTRES / ITERATIONS))
    count = max(1, math.floor(COUNT * radius))
    return tuple(Query(f"mixture {i + 1}", 1, radius, multiplier, records, count) for i in range(ITERATIONS))


def spread_query(mu: float, architecture: Whitening, step: float, records: int) -> Query | None:
    """The query for every component's weight, mean and covariance; None where there is no mixture.

    Args:
        mu: of the whole fit, of which it takes the share μ²·`SHARE`·(1 − `CENTRES`).
        architecture: the network, with its number of components.
        step: the lattice step.
        records: `m`.
    """
    if not architecture.components:
        return None
    radius = math.ceil(math.sqrt(architecture.content) / step)
    count = max(1, math.floor(COUNT_OUTER * radius))
    return Query("mixture covariances", 2, radius, 1 / _mu_of_covariances(mu), records, count)


def moments_share(architecture: Whitening) -> float:
    """The share of μ² that is left for the other queries."""
    return 1 - SHARE if architecture.components else 1.0


def _mu_of_covariances(mu: float) -> float:
    return mu * math.sqrt(SHARE * (1 - CENTRES))
