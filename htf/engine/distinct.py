"""Distinct index tuples below a node: the counting part of subtree sharing.

All functions treat the nodes of a group together, one row of the arguments a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A bucket costs some fifty kernel launches, forward and back; about as long as this many rows take.
ROWS_WORTH_A_BUCKET = 4096


@dataclass(frozen=True)
class Distinct:
    """The distinct joint values of several nodes.

    Attributes
    ----------
    ids : Tensor
        (nodes, batch) int64: which distinct value each sample takes at each node.
    counts : Tensor
        (nodes,) int64: how many there are.
    first : Tensor
        (nodes, largest count) int64: a sample that takes each value; 0 past a node's count.
    """

    ids: Tensor
    counts: Tensor
    first: Tensor


def distinct_tuples(children: list[Tensor], counts: list[Tensor]) -> Distinct:
    """Number the distinct tuples of children's values, one node a row.

    Parameters
    ----------
    children : list of Tensor
        One (nodes, batch) int64 tensor of value ids per child slot.
    counts : list of Tensor
        One (nodes,) tensor per slot: the ids of a child lie below its count.

    Notes
    -----
    Tuples are numbered by mixed radix, slot by slot; keys are renumbered before they could exceed 63 bits
    and after the last slot.  O(K batch) where the keys are few (a table of marks), otherwise
    O(K batch log batch) (a sort).
    """
    keys, sizes = children[0], counts[0]
    renumbered = None
    for ids, size in zip(children[1:], counts[1:], strict=True):
        if int(sizes.max()) * int(size.max()) >= 2**62:
            renumbered = _renumber(keys, sizes)
            keys, sizes = renumbered.ids, renumbered.counts
        keys = torch.addcmul(ids, keys, size[:, None])
        sizes = sizes * size
    return _renumber(keys, sizes)


def _renumber(keys: Tensor, sizes: Tensor) -> Distinct:
    """Number the distinct keys of each row, which lie below its size."""
    batch = keys.shape[1]
    if int(sizes.max()) <= 4 * batch + 64:
        return _by_marking(keys, sizes)
    ordered, order = keys.sort(dim=1)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = new.cumsum(1) - 1
    ids = torch.empty_like(keys).scatter_(1, order, rank)
    return _with_first(ids, rank[:, -1] + 1)


def _by_marking(keys: Tensor, sizes: Tensor) -> Distinct:
    marks = torch.zeros(keys.shape[0], int(sizes.max()), dtype=torch.int64, device=keys.device)
    marks.scatter_(1, keys, 1)
    number = marks.cumsum(1)
    if torch.equal(number[:, -1], sizes):
        return _with_first(keys, sizes)  # all of them occur: they are numbered already
    return _with_first((number - 1).gather(1, keys), number[:, -1])


def _with_first(ids: Tensor, counts: Tensor) -> Distinct:
    nodes, batch = ids.shape
    samples = torch.arange(batch, device=ids.device).expand(nodes, batch)
    first = torch.full((nodes, int(counts.max())), batch, dtype=torch.int64, device=ids.device)
    # amin, not plain scatter: which of several equal writes wins is otherwise undefined on a GPU.
    first.scatter_reduce_(1, ids, samples, reduce="amin")
    return Distinct(ids, counts, first.masked_fill_(first == batch, 0))


def buckets(counts: list[int], batch: int) -> list[tuple[list[int], int]]:
    """Split nodes into buckets that are computed with a common, padded number of rows.

    Parameters
    ----------
    counts : list of int
        Distinct values of each node.
    batch : int
        Samples; a node with more than three quarters as many values is computed per sample instead.

    Returns
    -------
    list of (positions, rows)
        ``rows == batch`` for the nodes computed per sample.  Padding is at most twofold in a bucket, or a few
        thousand rows.
    """
    ascending = sorted(range(len(counts)), key=lambda k: counts[k])
    dense = sorted(k for k in ascending if 4 * counts[k] > 3 * batch)
    shared = [k for k in ascending if 4 * counts[k] <= 3 * batch]
    result: list[tuple[list[int], int]] = []
    while shared:
        rows = counts[shared[-1]]
        cut = next(i for i, k in enumerate(shared) if 2 * counts[k] >= rows)
        if sum(rows - counts[k] for k in shared[:cut]) < ROWS_WORTH_A_BUCKET:
            cut = 0
        result.append((sorted(shared[cut:]), rows))
        shared = shared[:cut]
    if dense:
        result.append((dense, batch))
    return result
