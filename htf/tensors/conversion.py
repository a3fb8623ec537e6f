"""CP, Tucker and tensor train to hierarchical Tucker and back, in TensorLy's classes."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
from tensorly.cp_tensor import CPTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor

from htf.linalg.backend import Array, Backend, asarray, backend_of, context, eye, promoted, to_numpy
from htf.linalg.dense import mode_product
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.rank import as_tree
from htf.tree import DimensionTree

# Components of a CP tensor that an exact expansion may have; beyond it a fit is what one wants.
_LARGEST_EXPANSION = 2**16


def cp_to_ht(cp_tensor: Any, tree: DimensionTree | None = None) -> HTTensor:
    """A CP tensor in HT format, exactly.

    Parameters
    ----------
    cp_tensor : CPTensor or (weights, factors)
        Weights may be None.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.

    Returns
    -------
    HTTensor
        All ranks are the number of components; transfer tensors are 1 on their diagonals and 0 elsewhere.

    Raises
    ------
    ValueError
        Without factors, or where a factor, the weights or the tree do not fit the others.
    TypeError
        For arrays of no backend of TensorLy, of several, or of several dtypes, and a tree that is no `DimensionTree`.

    See Also
    --------
    htf.tensors.ht_to_cp : back.
    htf.tensors.tucker_to_ht, htf.tensors.tt_to_ht : other formats.

    Examples
    --------
    >>> import htf, tensorly as tl
    >>> cp = tl.random.random_cp((4, 5, 6, 7), rank=3, random_state=0)
    >>> x = htf.tensors.cp_to_ht(cp)
    >>> x.rank, bool(abs(x.to_tensor() - cp.to_tensor()).max() < 1e-12)
    ((3, 3, 3, 3, 3, 3, 1), True)
    """
    weights, factors = _pair(cp_tensor, "cp_tensor", "(weights, factors)")
    if not factors:
        raise ValueError("cp_tensor has no factors; expected one per mode")
    B = backend_of(factors[0], "factor of mode 0")
    factors = promoted(factors, "factors")
    tree = as_tree(tree, len(factors))
    rank = int(factors[0].shape[-1]) if factors[0].shape else 1
    for mode, factor in enumerate(factors):
        if len(factor.shape) != 2 or factor.shape[1] != rank:
            raise ValueError(f"factor of mode {mode} has shape {tuple(factor.shape)}; expected (dimension, {rank})")
    if weights is None:
        weights = B.ones(rank, **context(factors[0]))
    *factors, weights = promoted([*factors, weights], "the factors and weights")
    if tuple(weights.shape) != (rank,):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; expected ({rank},), one per component")
    if tree.order == 1:
        return HTTensor._of(tree, [B.reshape(B.sum(factors[0] * weights, 1), (-1, 1))])
    parts = list(factors)
    for node in tree.inner_nodes:
        arity = len(tree.children(node))
        if node == tree.root:
            top = _diagonal(B, rank, arity, factors[0])
            parts.append(B.reshape(top * weights, (*top.shape, 1)))
        else:
            parts.append(_diagonal(B, rank, arity + 1, factors[0]))
    return HTTensor._of(tree, parts)


def ht_to_cp(ht_tensor: HTTensor | RawHT) -> CPTensor:
    """An HT tensor as a sum of outer products, exactly.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output.

    Returns
    -------
    CPTensor
        As many components as combinations of the leaves' ranks reach the root: their product in general, the number of
        components again for a tensor that was one of CP.

    Raises
    ------
    ValueError
        If there would be more than 65,536 components; a fit (``tensorly.decomposition.parafac``) is what helps then.

    See Also
    --------
    htf.tensors.cp_to_ht : back.
    htf.ranks.cp_rank : estimates the number of components that is needed.

    Notes
    -----
    Entries of transfer tensors that are exactly zero make no components, and get no gradient.

    Examples
    --------
    >>> import htf, tensorly as tl
    >>> x = htf.tensors.cp_to_ht(tl.random.random_cp((4, 5, 6, 7), rank=3, random_state=0))
    >>> cp = htf.tensors.ht_to_cp(x)
    >>> cp.rank, [factor.shape for factor in cp.factors]
    (3, [(4, 3), (5, 3), (6, 3), (7, 3)])
    """
    x = as_ht(ht_tensor)
    if x.outputs > 1:
        raise ValueError(f"the tensor has {x.outputs} outputs; a CP tensor has one")
    B = backend_of(x.factors[0])
    # Per node: the column of each leaf below it that a component takes, and the components' coordinates in the frame.
    columns: list[dict[int, np.ndarray]] = []
    coordinates: list[Array] = []
    for node, factor in enumerate(x.factors):
        group = x.tree.children(node)
        if not group:
            columns.append({node: np.arange(factor.shape[1])})
            coordinates.append(eye(B, factor.shape[1], factor))
            continue
        sizes = [coordinates[child].shape[0] for child in group]
        if prod(sizes) > _LARGEST_EXPANSION:
            raise ValueError(f"node {node} has {prod(sizes)} components; exact expansions end at {_LARGEST_EXPANSION}")
        for axis, child in enumerate(group):
            factor = mode_product(B, factor, coordinates[child], axis)
        matrix = B.reshape(factor, (-1, factor.shape[-1]))
        used = np.flatnonzero(to_numpy(matrix).any(axis=1))
        used = used if used.size else np.zeros(1, dtype=int)
        chosen = np.unravel_index(used, sizes)
        columns.append({m: c[k] for child, k in zip(group, chosen, strict=True) for m, c in columns[child].items()})
        coordinates.append(matrix[used])
    if x.order == 1:
        return CPTensor((B.ones(1, **context(x.factors[0])), [x.factors[0]]))
    return CPTensor((coordinates[-1][:, 0], [x.factors[mode][:, columns[-1][mode]] for mode in range(x.order)]))


def tucker_to_ht(tucker_tensor: Any, tree: DimensionTree | None = None) -> HTTensor:
    """A Tucker tensor in HT format, exactly.

    Parameters
    ----------
    tucker_tensor : TuckerTensor or (core, factors)
    tree : DimensionTree, optional
        The tree of depth one by default, whose transfer tensor is the core.  To any other the tensor is brought by
        `ht_change_tree`.

    Returns
    -------
    HTTensor

    Raises
    ------
    ValueError
        If there is not one factor for each axis of the core, or a factor or the tree does not fit.
    TypeError
        For arrays of no backend of TensorLy, of several, or of several dtypes, and a tree that is no `DimensionTree`.

    See Also
    --------
    htf.tensors.ht_to_tucker : back.
    htf.tensors.cp_to_ht, htf.tensors.tt_to_ht : other formats.

    Examples
    --------
    >>> import htf, tensorly as tl
    >>> tucker = tl.random.random_tucker((5, 6, 7, 8), rank=(2, 2, 2, 2), random_state=0)
    >>> htf.tensors.tucker_to_ht(tucker).rank  # on the tree of depth one
    (2, 2, 2, 2, 1)
    >>> htf.tensors.tucker_to_ht(tucker, htf.DimensionTree.balanced(4)).rank
    (2, 2, 2, 2, 4, 4, 1)
    """
    core, factors = _pair(tucker_tensor, "tucker_tensor", "(core, factors)")
    B = backend_of(core, "core")
    if len(factors) != len(core.shape):
        raise ValueError(f"there are {len(factors)} factors for a core of {len(core.shape)} axes; expected one each")
    core, *factors = promoted([core, *factors], "the core and factors")
    order = len(core.shape)
    flat = DimensionTree.balanced(order, arity=max(order, 2))
    tree = as_tree(flat if tree is None else tree, order)
    for mode, factor in enumerate(factors):
        if len(factor.shape) != 2 or factor.shape[1] != core.shape[mode]:
            raise ValueError(f"factor {mode} has shape {tuple(factor.shape)}; expected (dimension, {core.shape[mode]})")
    if order == 1:
        return HTTensor._of(flat, [B.matmul(factors[0], B.reshape(core, (-1, 1)))])
    x = HTTensor._of(flat, [*factors, B.reshape(core, (*core.shape, 1))])
    return x if tree == flat else x.change_tree(tree)


def ht_to_tucker(ht_tensor: HTTensor | RawHT) -> TuckerTensor:
    """An HT tensor in Tucker format, exactly.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output.

    Returns
    -------
    TuckerTensor
        Its factors are the leaf frames; its core has the product of the leaves' ranks as entries.

    Raises
    ------
    ValueError
        For several outputs, or a single mode.

    See Also
    --------
    htf.tensors.tucker_to_ht : back.
    htf.tensors.ht_to_cp, htf.tensors.ht_to_tt : other formats.

    Examples
    --------
    >>> import htf
    >>> core, factors = htf.tensors.ht_to_tucker(htf.random_ht((5, 6, 7), rank=2, random_state=0))
    >>> core.shape, [factor.shape for factor in factors]
    ((2, 2, 2), [(5, 2), (6, 2), (7, 2)])
    """
    x = as_ht(ht_tensor)
    if x.outputs > 1:
        raise ValueError(f"the tensor has {x.outputs} outputs; a Tucker tensor has one")
    B = backend_of(x.factors[0])
    if x.order == 1:
        raise ValueError("the tensor has one mode; in TensorLy a Tucker tensor has two modes at least")
    frames = x.factors[: x.order]
    identities = [eye(B, frame.shape[1], frame) for frame in frames]
    return TuckerTensor((HTTensor._of(x.tree, identities + x.factors[x.order :]).to_tensor(), frames))


def tt_to_ht(tt_tensor: Any, tree: DimensionTree | None = None) -> HTTensor:
    """A tensor train in HT format, exactly.

    Parameters
    ----------
    tt_tensor : TTTensor or sequence of cores
        (rank, dimension, rank), the outer ranks 1.
    tree : DimensionTree, optional
        ``DimensionTree.linear`` by default, on which cores become transfer tensors and leaf frames are identities.  To
        any other the tensor is brought by `ht_change_tree`.

    Returns
    -------
    HTTensor

    Raises
    ------
    ValueError
        Without cores, or where a core does not fit its neighbours, an outer rank is not 1, or the tree does not fit.
    TypeError
        For arrays of no backend of TensorLy, of several, or of several dtypes, and a tree that is no `DimensionTree`.

    See Also
    --------
    htf.tensors.ht_to_tt : back.
    htf.tensors.ht_change_tree : to another tree afterwards.

    Examples
    --------
    >>> import htf, tensorly as tl
    >>> tt = tl.random.random_tt((4, 5, 6, 7), rank=(1, 2, 3, 2, 1), random_state=0)
    >>> x = htf.tensors.tt_to_ht(tt)
    >>> x.shape, bool(abs(x.to_tensor() - tt.to_tensor()).max() < 1e-12)
    ((4, 5, 6, 7), True)
    """
    if not isinstance(tt_tensor, Iterable):
        raise TypeError(f"tt_tensor is a {type(tt_tensor).__name__}; expected cores, one per mode")
    cores = list(tt_tensor)
    if not cores:
        raise ValueError("tt_tensor has no cores; expected one per mode")
    B = backend_of(cores[0], "core 0")
    cores = promoted(cores, "cores")
    linear = DimensionTree.linear(len(cores))
    for k, core in enumerate(cores):
        before = 1 if k == 0 else int(cores[k - 1].shape[-1])
        if len(core.shape) != 3 or core.shape[0] != before or (k == len(cores) - 1 and core.shape[2] != 1):
            raise ValueError(
                f"core {k} has shape {tuple(core.shape)}; expected ({before}, dimension, rank), the last rank 1"
            )
    if len(cores) == 1:
        return HTTensor._of(linear, [cores[0][0]])
    leaves = [cores[0][0], *(eye(B, core.shape[1], core) for core in cores[1:])]
    x = HTTensor._of(linear, [*leaves, *cores[1:]])
    return x if tree is None else x.change_tree(as_tree(tree, len(cores)))


def ht_to_tt(ht_tensor: HTTensor | RawHT) -> TTTensor:
    """An HT tensor as a tensor train, exactly.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of one output.

    Returns
    -------
    TTTensor
        The tensor is brought to ``DimensionTree.linear`` first, see `ht_change_tree`: ranks between neighbours are
        those of the tensor, and can be larger than any of the tree's.

    Raises
    ------
    ValueError
        For several outputs.

    See Also
    --------
    htf.tensors.tt_to_ht : back.
    htf.tensors.ht_to_cp, htf.tensors.ht_to_tucker : other formats.

    Examples
    --------
    >>> import htf
    >>> tt = htf.tensors.ht_to_tt(htf.random_ht((4, 5, 6, 7), rank=2, random_state=0))
    >>> tt.rank, [core.shape for core in tt]
    ((1, 2, 2, 2, 1), [(1, 4, 2), (2, 5, 2), (2, 6, 2), (2, 7, 1)])
    """
    x = as_ht(ht_tensor)
    if x.outputs > 1:
        raise ValueError(f"the tensor has {x.outputs} outputs; a tensor train has one")
    B = backend_of(x.factors[0])
    x = x.change_tree(DimensionTree.linear(x.order))
    first = x.factors[0]
    cores = [B.reshape(first, (1, *first.shape))]
    cores += [mode_product(B, x.factors[x.order + k - 1], x.factors[k], 1) for k in range(1, x.order)]
    return TTTensor(cores)


def _pair(given: Any, name: str, parts: str) -> tuple[Any, list[Array]]:
    """The two parts of a tensor in TensorLy's raw form, the second as a list."""
    try:
        first, factors = given
        return first, list(factors)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is a {type(given).__name__}; expected {parts}") from error


def _diagonal(B: Backend, size: int, axes: int, like: Array) -> Array:
    values = np.zeros((size,) * axes)
    values[(np.arange(size),) * axes] = 1
    return asarray(B, values, like)
