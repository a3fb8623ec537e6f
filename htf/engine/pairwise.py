"""Outputs of a root over few distinct rows: all pairs of rows of two groups of its children, in one matrix product.

In a completion problem many samples share the rows of the root's children.  Every pair of rows is then multiplied in
one matrix product per run, and the samples' entries are read from it: more products than are asked for, but far faster
ones than those of gathered rows.  Of 2,048 entries of an 8 x 8 x 8 x 8 tensor on a balanced tree, both children of the
root have 64 rows of width R: (64, R) times (R, 64) holds all 4,096 entries.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from htf.engine.distinct import distinct_tuples

# A product of two gathered entries takes as long as this many multiplications inside a matrix product: measured with
# gradients, 10 to 30 at dimension 64 and 100 at 256; below 16 both take no time.
GATHERED = 30


@dataclass(frozen=True)
class Group:
    """Neighbouring children of the root, joined.

    Attributes
    ----------
    size : int
        How many children.
    ids : Tensor
        (batch,); which of the group's rows each sample takes.
    rows : int
    first : Tensor or None
        (1, rows), a sample that takes each row; None for a single child, whose rows lie in its table.
    """

    size: int
    ids: Tensor
    rows: int
    first: Tensor | None = None

    def joined(self, other: Group) -> Group:
        """The group of all children of both."""
        counts = [self.ids.new_tensor([group.rows]) for group in (self, other)]
        found = distinct_tuples([self.ids[None], other.ids[None]], counts)
        return Group(self.size + other.size, found.ids[0], int(found.counts[0]), found.first)


def cheapest_groups(
    children: list[Group], width: int, outputs: int, gathered: float
) -> tuple[tuple[Group, Group], int] | None:
    """Split the root's children in two groups, if all pairs of rows cost less than gathered rows sample by sample.

    Parameters
    ----------
    children : list of Group
        One a child, in order.
    width, outputs : int
        Rows and columns of the root's matrix.
    gathered : float
        Gathered entries per run when computed sample by sample: batch x width x children.

    Returns
    -------
    (Group, Group), int
        The two groups, and how many children are in the first of them in order; or None.

    Notes
    -----
    The grid never holds more than the way sample by sample keeps: rows x rows x outputs x (width + GATHERED) below
    GATHERED x gathered bounds its entries by `gathered`.
    """
    fronts, backs = [children[0]], [children[-1]]
    for child in children[1:-1]:
        fronts.append(fronts[-1].joined(child))
    for child in children[-2:0:-1]:
        backs.append(child.joined(backs[-1]))
    pairs = list(zip(fronts, reversed(backs), strict=True))
    costs = [_cost(pair, width, outputs) for pair in pairs]
    cut = min(range(len(pairs)), key=costs.__getitem__)
    return (pairs[cut], cut + 1) if costs[cut] < GATHERED * gathered else None


def _cost(pair: tuple[Group, Group], width: int, outputs: int) -> int:
    """Time of all pairs per run, in multiplications of a matrix product."""
    grid = pair[0].rows * pair[1].rows * outputs * (width + GATHERED)
    return grid + sum(GATHERED * group.rows * width * group.size for group in pair if group.size > 1)
