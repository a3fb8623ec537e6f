"""Sums over the leaf rows that samples meet, shared between samples that meet the same rows of neighbouring modes.

Neighbouring modes are joined in groups of 2, 4, 8, ... for as long as that saves additions: a group's pattern, one
value of each of its modes, is summed once for all samples that show it.  Every sum, forward and back, runs over what is
met and over nothing else.  A difference that stood for "not met" would leave a rounding residue of what is met.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from htf.engine.distinct import distinct_tuples
from htf.engine.steps import Bags, Codes, Patterns

# Adding leaf rows to the sum of a pattern takes as long as this many of the additions that follow: the table of
# patterns soon is larger than a cache.
PATTERN_COST = 4
# Bytes of a table that stay in a processor's cache while rows are read from it in any order.
CACHE = 2**20
# Numbers that are added one after another before their sums are added: what is added last is rounded least.
GROUPS_IN_TURN = 64
ROWS_IN_TURN = 128
# Devices whose matrix products are so fast that sums over what is met, written as products with codes, are faster than
# reads in any order; for modes of up to so many values on average, beyond which most of a code is zero.
DENSE_DEVICES = {"cuda"}
DENSE_VALUES = 16


@dataclass(frozen=True)
class _Groups:
    """Groups of neighbouring modes, of one or several nodes: one group a row of each tensor."""

    node: Tensor
    start: Tensor  # slots start to stop - 1 of the node's children
    stop: Tensor
    ids: Tensor  # (groups, rows), the pattern of each row
    counts: Tensor
    first: Tensor  # (groups, largest count), a row that shows each pattern

    def take(self, where: Tensor | slice) -> _Groups:
        return _Groups(
            self.node[where],
            self.start[where],
            self.stop[where],
            self.ids[where],
            self.counts[where],
            self.first[where],
        )


def share_patterns(value: Tensor, first: Tensor, table_rows: int, row_bytes: int, sources: tuple[int, ...]) -> Patterns:
    """Plan the sums over leaf rows of nodes whose children are all leaves.

    Parameters
    ----------
    value : Tensor
        (nodes, arity, rows) int64: the value of each child in each row.
    first : Tensor
        (nodes, arity) int64: the leaf row of each child's value 0.
    table_rows : int
        Leaf rows in all.
    row_bytes : int
        Size of a row of the tables, for sums in portions that fit into a cache.
    sources : tuple of int
        The leaf tables, which lie end to end.

    Notes
    -----
    O(nodes x arity x rows) integer operations for each doubling of groups, of which few are worth their cost.
    """
    nodes, arity, _ = value.shape
    groups = _in_order(_final_groups(value))
    device = value.device
    n_patterns = int(groups.counts.sum())
    # Patterns are numbered group by group.
    offset = groups.counts.cumsum(0) - groups.counts
    group = torch.repeat_interleave(groups.counts)
    shown_by = groups.first[group, torch.arange(n_patterns, device=device) - offset[group]]

    # The leaf rows of each pattern.
    length = (groups.stop - groups.start)[group]
    starts = length.cumsum(0) - length
    slot = counting(groups.start[group], length)
    node, at = groups.node[group].repeat_interleave(length), shown_by.repeat_interleave(length)
    leaf = first[node, slot] + value[node, slot, at]

    pattern = groups.ids + offset[:, None]
    pieces, holds = _pieces(groups, pattern, max(CACHE // row_bytes, ROWS_IN_TURN))
    # The pieces that hold each leaf row.
    held = leaf[counting(starts[holds], length[holds])]
    holder = torch.repeat_interleave(length[holds])
    met = torch.bincount(held, minlength=table_rows)
    leaves = Bags(holder[held.argsort(stable=True)].int(), (met.cumsum(0) - met).int())

    taken = torch.bincount(pattern.flatten(), minlength=n_patterns).repeat_interleave(length)
    often = torch.zeros(table_rows, dtype=torch.int64, device=device).index_add_(0, leaf, taken)
    child = node * arity + slot
    most = torch.zeros(nodes * arity, dtype=torch.int64, device=device)
    most.scatter_reduce_(0, child, often[leaf] * table_rows + leaf, reduce="amax")
    common = most % table_rows
    base = torch.arange(table_rows, device=device)
    base[leaf] = common[child]
    return Patterns(
        rows=_rows(groups.node, pattern, nodes, n_patterns // nodes * row_bytes),
        patterns=Bags(leaf.int(), starts.int()),
        pieces=pieces,
        leaves=leaves,
        base=base,
        common=common.view(nodes, arity),
        sources=sources,
        dense=_codes(value, first, table_rows) if device.type in DENSE_DEVICES else None,
    )


def _codes(value: Tensor, first: Tensor, table_rows: int) -> Codes | None:
    """Codes of (nodes, arity, rows) values, if modes have few of them."""
    nodes, arity, rows = value.shape
    most = value.amax(2) + 1  # values of each child, (nodes, arity)
    columns = int(most.sum(1).max())
    if columns > DENSE_VALUES * arity:
        return None
    start = most.cumsum(1) - most
    code = torch.zeros(nodes, columns, rows, dtype=torch.bfloat16, device=value.device)
    code.scatter_(1, start[:, :, None] + value, 1)
    leaves = torch.zeros(nodes, columns, dtype=torch.int64, device=value.device)
    node, slot = (torch.repeat_interleave(t.flatten(), most.flatten()) for t in _places(nodes, arity, value.device))
    at = counting(start.flatten(), most.flatten())
    leaves[node, at] = first[node, slot] + at - start[node, slot]
    return Codes(code.transpose(1, 2).contiguous(), leaves, table_rows)


def _places(nodes: int, arity: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Node and slot of each child, (nodes, arity) each."""
    shape = (nodes, arity)
    return (
        torch.arange(nodes, device=device)[:, None].expand(shape),
        torch.arange(arity, device=device).expand(shape),
    )


def _rows(node: Tensor, pattern: Tensor, nodes: int, n_bytes: int) -> tuple[Bags, ...]:
    """The patterns of each row, (groups, rows) in the order of nodes, in parts of few groups whose table is small."""
    rows, device = pattern.shape[1], pattern.device
    per_node = torch.bincount(node, minlength=nodes)
    rank = torch.arange(len(node), device=device) - (per_node.cumsum(0) - per_node)[node]
    most = int(per_node.max())
    n_parts = min(max(-(-most // GROUPS_IN_TURN), n_bytes // CACHE), most)
    parts = []
    for k in range(n_parts):
        of_part = ((rank * n_parts // most) == k).nonzero().squeeze(1)
        count = torch.bincount(node[of_part], minlength=nodes)
        before = count.cumsum(0) - count
        place = torch.arange(len(of_part), device=device) - before[node[of_part]]
        starts = before[:, None] * rows + torch.arange(rows, device=device) * count[:, None]
        index = torch.empty(len(of_part) * rows, dtype=torch.int32, device=device)
        index[starts[node[of_part]] + place[:, None]] = pattern[of_part].int()
        parts.append(Bags(index, starts.flatten().int()))
    return tuple(parts)


def _pieces(groups: _Groups, pattern: Tensor, portion: int) -> tuple[Bags, Tensor]:
    """The rows that show each pattern, a portion of the samples after another, and the pattern of each piece."""
    rows, n_patterns = pattern.shape[1], int(groups.counts.sum())
    order, starts, holds, end = [], [], [], 0
    # Short numbers are sorted faster.
    ids = groups.ids.short() if groups.first.shape[1] < 2**15 else groups.ids
    for start in range(0, rows, portion):
        some = slice(start, start + portion)
        order.append((ids[:, some].argsort(dim=1, stable=True) + (groups.node * rows + start)[:, None]).flatten())
        taken = torch.bincount(pattern[:, some].flatten(), minlength=n_patterns)
        pieces = (taken + ROWS_IN_TURN - 1) // ROWS_IN_TURN
        starts.append(end + counting(taken.cumsum(0) - taken, pieces, ROWS_IN_TURN))
        holds.append(torch.repeat_interleave(pieces))
        end += len(order[-1])
    return Bags(torch.cat(order).int(), torch.cat(starts).int()), torch.cat(holds)


def _in_order(groups: list[_Groups]) -> _Groups:
    """Groups of several sizes in the order of nodes and slots."""
    widest = max(each.first.shape[1] for each in groups)
    first = torch.cat([pad(each.first, (0, widest - each.first.shape[1])) for each in groups])
    node, start, stop, ids, counts = (
        torch.cat([getattr(each, name) for each in groups]) for name in ("node", "start", "stop", "ids", "counts")
    )
    joined = _Groups(node, start, stop, ids, counts, first)
    place = joined.node * (int(joined.stop.max()) + 1) + joined.start
    return joined if bool((place[1:] > place[:-1]).all()) else joined.take(place.argsort())


def _final_groups(value: Tensor) -> list[_Groups]:
    """Groups of modes that are worth no further joining, by size."""
    nodes, arity, rows = value.shape
    place = torch.arange(nodes * arity, device=value.device)
    # A value that no row takes is no pattern.
    found = distinct_tuples([value.flatten(0, 1)], [value.flatten(0, 1).amax(1) + 1])
    groups = _Groups(place // arity, place % arity, place % arity + 1, found.ids, found.counts, found.first)
    done = []
    while len(groups.node) > 1:
        size = int((groups.stop - groups.start).max())
        # The second of a pair starts at an odd multiple of the groups' size.
        left = (groups.start // size % 2 == 0)[:-1] & (groups.node[1:] == groups.node[:-1])
        left = (left & (groups.start[1:] == groups.stop[:-1])).nonzero().squeeze(1)
        if not len(left):
            break
        one, two = groups.take(_regular(left)), groups.take(_regular(left + 1))
        found = distinct_tuples([one.ids, two.ids], [one.counts, two.counts])
        length = two.stop - one.start
        apart = rows + PATTERN_COST * (one.counts * (one.stop - one.start) + two.counts * (two.stop - two.start))
        worth = PATTERN_COST * found.counts * length < apart
        joined = _Groups(one.node, one.start, two.stop, found.ids, found.counts, found.first)
        joined = joined if bool(worth.all()) else joined.take(worth)
        alone = torch.ones_like(groups.node, dtype=torch.bool)
        alone[left[worth]] = alone[left[worth] + 1] = False
        if not bool(worth.any()):
            break
        done.append(groups.take(alone))
        groups = joined
    return [*done, groups]


def _regular(where: Tensor) -> Tensor | slice:
    """Numbers of groups as a slice where every second one is taken, which needs no copies."""
    first = int(where[0])
    every = torch.arange(first, first + 2 * len(where), 2, device=where.device)
    return slice(first, first + 2 * len(where), 2) if torch.equal(where, every) else where


def counting(starts: Tensor, counts: Tensor, step: int = 1) -> Tensor:
    """From each start, so many numbers with a step between them, end to end."""
    offset = counts.cumsum(0) - counts
    position = torch.arange(int(counts.sum()), device=counts.device) - offset.repeat_interleave(counts)
    return starts.repeat_interleave(counts) + step * position
