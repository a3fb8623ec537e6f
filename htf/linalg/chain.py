"""Products of chains of matrices in the order of fewest multiplications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor


def chain_sizes(chain: Sequence[Tensor]) -> tuple[int, ...]:
    """Rows of the first matrix, then the columns of each."""
    return (chain[0].shape[-2], *(matrix.shape[-1] for matrix in chain))


Span = tuple[int, int]


Cost = Callable[[int, int, int], int]


def cheapest_splits(
    count: int, cost: Cost, allowed: Callable[[int, int], Sequence[int]] | None = None
) -> tuple[dict[Span, int], dict[Span, int]]:
    """Least cost, and the last split, of the product of the factors start to stop - 1, for every span of a chain.

    Parameters
    ----------
    count : int
        Factors.
    cost : callable
        Cost of the last product of a span, from start, split and stop.
    allowed : callable, optional
        Splits of a span, from start and stop; all by default.

    Notes
    -----
    The classical dynamic program, O(count³).
    """
    costs = {(k, k + 1): 0 for k in range(count)}
    splits: dict[Span, int] = {}
    for length in range(2, count + 1):
        for start in range(count - length + 1):
            stop = start + length
            costs[start, stop], splits[start, stop] = min(
                (costs[start, k] + costs[k, stop] + cost(start, k, stop), k)
                for k in (range(start + 1, stop) if allowed is None else allowed(start, stop))
            )
    return costs, splits


@lru_cache(maxsize=256)
def cheapest_orders(sizes: tuple[int, ...]) -> tuple[dict[Span, int], dict[Span, int]]:
    """Fewest multiplications, and the last split, for every span of a chain of matrices.

    Matrix k is ``sizes[k]`` x ``sizes[k + 1]``: sizes (8, 2, 8, 1) take 2 · 8 + 8 · 2 multiplications from the right,
    8 · 2 · 8 + 8 · 8 from the left.
    """
    return cheapest_splits(len(sizes) - 1, lambda start, k, stop: sizes[start] * sizes[k] * sizes[stop])


def meeting_point(sizes: tuple[int, ...], pairs: int) -> tuple[int, int]:
    """Best split of a chain that ends in scalar products of `pairs` rows and columns, and its cost; (0, 0) if none."""
    costs, _ = cheapest_orders(sizes)
    last = len(sizes) - 1
    return min(
        ((k, costs[0, k] + costs[k, last] + pairs * sizes[k]) for k in range(1, last)),
        key=lambda found: found[1],
        default=(0, 0),
    )


def chain_product(chain: Sequence[Tensor]) -> Tensor:
    """The product of a chain of matrices, or of batches of them, in the cheapest order."""
    _, splits = cheapest_orders(chain_sizes(chain))

    def span(start: int, stop: int) -> Tensor:
        if stop == start + 1:
            return chain[start]
        split = splits[start, stop]
        return span(start, split) @ span(split, stop)

    return span(0, len(chain))
