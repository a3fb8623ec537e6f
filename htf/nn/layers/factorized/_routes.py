"""Which contraction of a factorized layer costs least, kept per shapes."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Count, Labels, count, operations
from htf.nn.layers.factorized._stages import WHOLE, Geometry, Pair, chain_cost, chain_size

RECONSTRUCTED, BY_FACTORS = "reconstructed", "factor by factor"


def linear_labels(layout: Format, outs: int) -> tuple[Labels, Labels]:
    """Labels of a batch of inputs, and of the outputs, where the first `outs` modes are the outputs'."""
    batch = layout.order + len(layout.bounds)
    return (batch, *layout.modes[outs:]), (batch, *layout.modes[:outs])


@lru_cache(maxsize=4096)
def linear_times(layout: Format, rank: Rank, outs: int, batch: int) -> dict[str, int]:
    """Estimated times of the two ways to multiply a batch by a matrix in a format."""
    shapes, ins = layout.shapes(rank), prod(layout.dims[outs:])
    size = prod(layout.dims)
    product = Count(2 * batch * size, batch * (ins + size // ins) + size, 1)
    given, wanted = linear_labels(layout, outs)
    direct = count(((batch, *layout.dims[outs:]), *shapes), (given, *layout.labels), wanted)
    return {
        RECONSTRUCTED: (count(shapes, layout.labels, layout.modes) + product).time,
        BY_FACTORS: direct.time,
    }


def linear_route(layout: Format, rank: Rank, outs: int, batch: int) -> str:
    """How to multiply a batch by a matrix in a format."""
    if batch == 0:
        return RECONSTRUCTED
    times = linear_times(layout, rank, outs, batch)
    return min(times, key=times.__getitem__)


@lru_cache(maxsize=4096)
def conv_route(layout: Format, rank: Rank, geometry: Geometry, batch: int, image: Pair) -> int | None:
    """The number of the chain of convolutions that costs least, None for the reconstructed kernel."""
    size = geometry.size(image, layout.dims[2:])
    if batch == 0 or min(size) < 1:
        return None
    sizes = layout.sizes(rank)
    dense = operations(layout.shapes(rank), layout.labels, layout.modes) + 2 * batch * prod(size) * prod(layout.dims)
    costs = [chain_cost(chain, layout.labels, sizes, geometry, batch, image) for chain in layout.chains]
    cheapest = min(range(len(costs)), key=costs.__getitem__)
    return cheapest if costs[cheapest] < dense else None


def smallest_chain(layout: Format, rank: Rank) -> int | None:
    """The number of the chain of convolutions with the fewest numbers, None where the plain kernel has no more."""
    sizes = layout.sizes(rank)
    counts = [chain_size(chain, sizes) for chain in layout.chains]
    smallest = min(range(len(counts)), key=counts.__getitem__)
    return smallest if counts[smallest] < chain_size((WHOLE,), sizes) else None
