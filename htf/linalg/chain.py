"""Products of chains of matrices in the order of fewest multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor


def chain_sizes(chain: Sequence[Tensor]) -> tuple[int, ...]:
    """Rows of the first matrix, then the columns of each."""
    return (chain[0].shape[-2], *(matrix.shape[-1] for matrix in chain))


Span = tuple[int, int]


@lru_cache(maxsize=256)
def cheapest_orders(sizes: tuple[int, ...]) -> tuple[dict[Span, int], dict[Span, int]]:
    """Fewest multiplications, and the last split, of the product of matrices start to stop - 1, for every span.

    Matrix k is ``sizes[k]`` x ``sizes[k + 1]``.  The classical dynamic program, O(len(sizes)³).
    """
    count = len(sizes) - 1
    costs = {(k, k + 1): 0 for k in range(count)}
    splits: dict[Span, int] = {}
    for length in range(2, count + 1):
        for start in range(count - length + 1):
            stop = start + length
            outer = sizes[start] * sizes[stop]
            costs[start, stop], splits[start, stop] = min(
                (costs[start, k] + costs[k, stop] + outer * sizes[k], k) for k in range(start + 1, stop)
            )
    return costs, splits


def meeting_point(sizes: tuple[int, ...], pairs: int) -> tuple[int, int]:
    """Where to split a chain to end in scalar products of `pairs` rows and columns, and its cost; (0, 0) if nowhere."""
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
