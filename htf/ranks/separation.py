"""Separation rank across bipartitions of the modes that need not be on the tree."""

from __future__ import annotations

from collections.abc import Sequence

from htf.linalg.backend import Array, constant
from htf.ranks.frames import Frames, Ranked
from htf.ranks.matricizations import spectra_of
from htf.ranks.spectrum import numerical_rank
from htf.tensors.ht_tensor import check_mode
from htf.tensors.rank import check_tolerance
from htf.tensors.retree import restricted
from htf.tree import DimensionTree


def separation_spectrum(x: Ranked, modes: Sequence[int], run: int = 0) -> Array:
    """Singular values of the matricization of some modes against the rest, relative to the norm of the tensor.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    modes : sequence of int
        One side of the bipartition, in any order; negative ones count from the last.
    run : int
        Which run of a network.

    Returns
    -------
    array
        In double precision, descending, squares adding to 1.  The axis of several outputs belongs to the rest.

    Raises
    ------
    IndexError
        If a mode or `run` is out of range.
    ValueError
        If `modes` is empty, repeats a mode, or holds all of them; for NaN or infinite entries.
    TypeError
        If `x` is nothing that has a tree.

    See Also
    --------
    htf.ranks.separation_rank : how many of them are not zero.
    htf.ranks.spectra : of all nodes of the tree at once.

    Notes
    -----
    Where the modes or the rest are a node of the tree, this is what `spectra` finds there; for CP they always are.
    Otherwise the tensor is brought to a tree that has such a node, see `htf.tensors.ht_change_tree`: exact, and never
    dense, but ranks multiply along the cut.  A network of high order whose tree the cut crosses often is out of reach,
    as the rank itself is.

    References
    ----------
    .. [1] N. Cohen, A. Shashua, "Inductive bias of deep convolutional networks through pooling geometry", ICLR 2017.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 4, 4, 4), rank=2, random_state=0)
    >>> values = htf.ranks.separation_spectrum(x, [0, 2])  # the tree joins modes 0 and 1
    >>> values.shape, round(float((values**2).sum()), 6)
    ((4,), 1.0)
    """
    frames = Frames.of(x, run)
    chosen = _checked_modes(modes, frames.tree.order)
    rest = set(range(frames.tree.order)) - chosen
    # Several outputs belong to the rest, so that its matricization is another one then.
    sides = [chosen] if int(frames.factors[-1].shape[-1]) > 1 else [chosen, rest]
    if not rest:
        raise ValueError(f"modes holds all {len(chosen)} modes; expected some to be left on the other side")
    if frames.diagonal:
        frames = frames.separated(chosen)
    node = _node_of(frames.tree, sides)
    if node is None:
        nested = (restricted(frames.tree, chosen), restricted(frames.tree, rest))
        frames = Frames.of(frames.normalized().to_ht().change_tree(DimensionTree.from_nested(nested)))
        node = _node_of(frames.tree, sides)
    return spectra_of(frames)[node]  # type: ignore[index]


def separation_rank(x: Ranked, modes: Sequence[int], tol: float | None = None, run: int = 0) -> int:
    """Separation rank: the least number of products g(modes) h(rest) that add to the tensor.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    modes : sequence of int
        One side of the bipartition, in any order; negative ones count from the last.
    tol : float, optional
        Relative to the largest singular value; see `numerical_rank`.
    run : int
        Which run of a network.

    Returns
    -------
    int
        The rank of the matricization of `modes` against the rest.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `separation_spectrum`, and for a tolerance that is no number, negative or not finite.

    See Also
    --------
    htf.ranks.separation_spectrum : the singular values.
    htf.ranks.hierarchical_rank : of all nodes of the tree at once.
    htf.ranks.separation_profile : how much any network depends on interactions, by distance.

    References
    ----------
    .. [1] N. Cohen, A. Shashua, "Inductive bias of deep convolutional networks through pooling geometry", ICLR 2017.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), dims=4, width=3, seed=0)
    >>> htf.ranks.separation_rank(net, [0, 1, 2, 3])  # neighbours, which the tree joins early
    3
    >>> htf.ranks.separation_rank(net, [0, 2, 4, 6])  # interleaved
    81
    """
    check_tolerance(tol)
    return numerical_rank(constant(separation_spectrum(x, modes, run)), tol)


def _checked_modes(modes: Sequence[int], order: int) -> set[int]:
    numbers = [check_mode(mode, order) for mode in modes]
    if not numbers:
        raise ValueError("modes is empty; expected at least one mode")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"modes is {list(modes)} and repeats a mode; expected each once")
    return set(numbers)


def _node_of(tree: DimensionTree, sides: Sequence[set[int]]) -> int | None:
    """A node whose modes are one of the sets."""
    return next((node for side in sides if (node := tree.find(side)) is not None), None)
