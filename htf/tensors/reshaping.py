"""Modes in another order, split into finer ones, merged, or run through together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any, SupportsIndex

from htf._checks import check_dims, check_shape, listed, positive
from htf.linalg.backend import Array, backend_of, eye
from htf.linalg.dense import joint_values
from htf.tensors.arithmetic import renumbered
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht, check_mode
from htf.tensors.network import Leg, Network, mode_leg


def ht_permute(ht_tensor: HTTensor | RawHT, modes: Sequence[int]) -> HTTensor:
    """Modes in another order, as ``numpy.transpose``.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    modes : sequence of int
        A permutation: mode k of the result is mode ``modes[k]`` of the tensor.

    Returns
    -------
    HTTensor
        The same factors; the leaves of the tree have other numbers.

    Raises
    ------
    ValueError, IndexError, TypeError
        If `modes` is no permutation, or holds what is no mode of the tensor or no integer.

    See Also
    --------
    htf.tensors.ht_reshape : other modes.
    htf.tensors.ht_change_tree : the same modes, joined otherwise.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.tensors.ht_permute(x, (2, 0, 1))
    >>> y.shape, bool(abs(y[3, 1, 2] - x[1, 2, 3]) < 1e-12)
    ((6, 4, 5), True)
    """
    x = as_ht(ht_tensor)
    modes = listed("modes", modes, f"a permutation of 0 to {x.order - 1}")
    numbers = [check_mode(mode, x.order) for mode in modes]
    if sorted(numbers) != list(range(x.order)):
        raise ValueError(f"modes is {modes}; expected a permutation of 0 to {x.order - 1}")
    place = {mode: k for k, mode in enumerate(numbers)}
    children = [tuple(place.get(c, c) for c in x.tree.children(node)) for node in x.tree.inner_nodes]
    return renumbered(x.order, children, [x.factors[mode] for mode in numbers] + x.factors[x.order :])


def ht_reshape(ht_tensor: HTTensor | RawHT, shape: int | Sequence[int], arity: int | None = None) -> HTTensor:
    """Modes split into finer ones, or merged, as ``numpy.reshape`` does in C order.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    shape : int or sequence of int
        With the product of the tensor's dimensions, one of which may be given as -1; outputs are left out.
    arity : int, optional
        Children, at most, of a node above the parts of a mode: 2 joins neighbouring parts in a balanced binary tree.
        By default all parts are children of one node, whatever their number.

    Returns
    -------
    HTTensor
        A mode that is split becomes a node above its parts, with the identity as their frames, and as that of nodes
        between if there is an `arity`: exact, and no arithmetic.  Modes that are merged are brought together in the
        tree first; see `ht_change_tree`.  `ht_round` then finds the ranks.

    Raises
    ------
    ValueError, TypeError
        If sizes differ, or `arity` is no integer of at least 2.

    See Also
    --------
    htf.tensors.ht_permute : modes in another order.
    htf.tensors.ht_round : the lowest ranks afterwards.

    Notes
    -----
    Dimensions are matched from the left in the smallest groups of equal product; a group of several modes on both
    sides, such as (4, 6) to (8, 3), passes through one mode of 24.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.hierarchical_tucker(np.cos(np.add.outer(np.arange(256), np.arange(256)) / 10), tol=1e-10)
    >>> fine = htf.tensors.ht_reshape(x, (2,) * 16, arity=2).round(tol=1e-10)  # quantized
    >>> x.n_parameters, fine.n_parameters, max(fine.rank)
    (1028, 180, 2)
    >>> fine.tree == htf.DimensionTree.balanced(16)
    True
    >>> htf.tensors.ht_reshape(x, (2,) * 16).tree.depth  # eight parts at a node
    2
    """
    x = as_ht(ht_tensor)
    if arity is not None and positive("arity", arity) < 2:
        raise ValueError(f"arity is {arity}; expected at least 2")
    wanted = _filled(x.dims, _as_list(shape))
    if prod(wanted) != prod(x.dims):
        raise ValueError(f"shape {wanted} has {prod(wanted)} entries; the tensor has {prod(x.dims)}")
    network = Network.of(x)
    root = network.simplify(x.tree.root)
    fresh: list[Leg] = []
    for old, new in _groups(x.dims, wanted):
        legs: list[Leg] = [("new", len(fresh) + k) for k in range(len(new))]
        fresh.extend(legs)
        vertex = _merged(network, [mode_leg(mode) for mode in old], centred=not x.requires_grad)
        rest = [leg for leg in network.legs[vertex] if leg[0] != "mode"]
        array = network.arranged(vertex, [*(mode_leg(mode) for mode in old), *rest])
        parts = [(leg, wanted[leg[1]]) for leg in legs]
        network.drop(vertex)
        if arity is not None:
            parts = _joined_in_levels(network, parts, arity, array)
        dims = tuple(dim for _, dim in parts)
        reshaped = backend_of(array).reshape(array, dims + tuple(array.shape[len(old) :]))
        network.put(vertex, reshaped, [*(leg for leg, _ in parts), *rest])
        if root not in network.legs:
            root = vertex
    network.rename({leg: mode_leg(leg[1]) for leg in fresh})
    return network.to_ht(root)


def _joined_in_levels(
    network: Network, parts: Sequence[tuple[Leg, int]], arity: int, like: Array
) -> list[tuple[Leg, int]]:
    """Legs and dimensions of parts, at most `arity`, of which those for several stand for the identity on them."""
    if len(parts) <= arity:
        return list(parts)
    B = backend_of(like)
    found: list[tuple[Leg, int]] = []
    # Runs of nearly equal lengths, longer ones first.
    ends = [-(-k * len(parts) // arity) for k in range(arity + 1)]
    for start, end in itertools.pairwise(ends):
        if end - start == 1:
            found.append(parts[start])
            continue
        below = _joined_in_levels(network, parts[start:end], arity, like)
        size = prod(dim for _, dim in below)
        identity = B.reshape(eye(B, size, like), (*(dim for _, dim in below), size))
        found.append((network.add(identity, [leg for leg, _ in below]), size))
    return found


def _as_list(shape: int | Sequence[int]) -> list[int]:
    """A shape as a list, that of a vector from a number; -1 stays."""
    # Arrays with axes have an index method too, which is for those of one entry.
    if isinstance(shape, SupportsIndex) and not getattr(shape, "shape", ()):
        shape = [shape]
    return [_dimension(mode, dim) for mode, dim in enumerate(check_shape("shape", shape))]


def _dimension(mode: int, dim: Any) -> int:
    try:
        return positive(f"dims[{mode}]", dim)
    except ValueError:
        if int(dim) == -1:
            return -1
        raise


def _filled(dims: tuple[int, ...], shape: list[int]) -> tuple[int, ...]:
    """The shape with the -1 that it may hold replaced by what is left."""
    if shape.count(-1) == 1:
        known = -prod(shape)
        shape[shape.index(-1)] = prod(dims) // known if known > 0 else 0
    return check_dims(shape, len(shape))


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of modes with equal products, as numbers of modes."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        mine, theirs = [i], [j]
        left, right = old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= old[i]
                mine.append(i)
                i += 1
            else:
                right *= new[j]
                theirs.append(j)
                j += 1
        groups.append((mine, theirs))
    # What is left over has dimension 1 on either side.
    groups[-1][0].extend(range(i, len(old)))
    groups[-1][1].extend(range(j, len(new)))
    return groups


def _merged(network: Network, legs: Sequence[Leg], centred: bool) -> int:
    """One vertex that holds these modes and no other."""
    (vertex,) = network.holders(legs[0])
    if len(legs) == 1:
        return vertex
    bonds = [network.mode(leg[1]) for leg in legs]
    top = _joined(network, bonds, centred)
    for leg in legs:
        (holder,) = network.holders(leg)
        if holder != top:
            network.absorb(holder, top)
    return top


def _joined(network: Network, bonds: Sequence[Leg], centred: bool) -> int:
    if len(set(bonds)) < len(bonds):
        # Two leaves and nothing else: they face each other.
        a, b = list(network.holders(bonds[0]))
        network.absorb(a, b)
        return b
    return network.join(bonds, centred)[0]


def diagonal(x: HTTensor, modes: Sequence[int], position: int) -> HTTensor:
    """Modes of equal dimension run through together: one mode, at a position among those that are left."""
    network = Network.of(x)
    root = network.simplify(x.tree.root)
    B = backend_of(x.factors[0])
    legs, bonds = [mode_leg(mode) for mode in modes], [network.mode(mode) for mode in modes]
    frames = [network.units[bond] for bond in bonds]
    top, above = network.join(bonds, centred=not x.requires_grad)
    array = network.arranged(top, [*bonds, above])
    values = joint_values(
        B, array, [network.arranged(h, [leg, b]) for h, leg, b in zip(frames, legs, bonds, strict=True)]
    )
    for holder in frames:
        network.drop(holder)
    network.put(top, values, [("joint", 0), above])
    if root not in network.legs:
        root = top
    left = [mode_leg(mode) for mode in range(x.order) if mode not in modes]
    left.insert(position, ("joint", 0))
    network.rename({leg: mode_leg(k) for k, leg in enumerate(left)})
    return network.to_ht(root)
