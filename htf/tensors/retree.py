"""Change of the dimension tree of a tensor, or of the place of its root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from htf._checks import check_index
from htf.linalg.backend import Array, backend_of
from htf.linalg.dense import mode_product
from htf.tensors.arithmetic import renumbered
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.network import OUTPUTS, Leg, Network
from htf.tensors.overlaps import frame_product
from htf.tensors.rank import as_tree, check_tolerance
from htf.tree import DimensionTree


def ht_change_tree(ht_tensor: HTTensor | RawHT, tree: DimensionTree, tol: float = 0.0) -> HTTensor:
    """Bring a tensor to another dimension tree.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    tree : DimensionTree
        A tree of the same order.
    tol : float
        Relative tolerance to round to at the end; 0 drops nothing but rounding error.

    Returns
    -------
    HTTensor
        Nodes that both trees have keep their ranks.  A new node's rank is that of its matricization, which the old
        ranks bound by products: trees that have little in common can make it large.

    Raises
    ------
    ValueError
        If orders differ.

    See Also
    --------
    htf.tensors.ht_move_root : the same tree with another root.
    htf.optimize_tree : the tree with the fewest parameters.

    Notes
    -----
    Subtrees are put together from the leaves up.  What a node joins is carried to one place edge by edge, each step
    contracting two neighbours and splitting them anew by an SVD: O(r⁶) a step on binary trees of rank r.  Where
    gradients are recorded nothing is dropped, so that they are exact, and new ranks are the products that shapes allow.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((3, 3, 3, 3), rank=2, random_state=0)
    >>> y = htf.tensors.ht_change_tree(x, htf.DimensionTree.interleaved(4))
    >>> x.rank, y.rank, bool(htf.tensors.ht_distance(y.change_tree(x.tree), x) < 1e-10 * x.norm())
    ((2, 2, 2, 2, 2, 2, 1), (2, 2, 2, 2, 4, 4, 1), True)
    """
    x = as_ht(ht_tensor)
    tol = check_tolerance(tol) or 0.0
    tree = as_tree(tree, x.order)
    if tree != x.tree:
        x = _changed(x, tree)
    return x.round(tol=tol) if tol else x


def _changed(x: HTTensor, tree: DimensionTree) -> HTTensor:
    network = Network.of(x)
    network.simplify(x.tree.root)
    centred = not x.requires_grad
    legs: list[Leg] = [network.mode(mode) for mode in range(x.order)]
    for node in tree.inner_nodes[:-1]:
        group = [legs[child] for child in tree.children(node)]
        vertex, bond = network.join(group, centred)
        legs.append(bond)
        network.units[bond] = vertex
    wanted = [legs[child] for child in tree.children(tree.root)]
    if len(set(wanted)) < len(wanted):
        # Two subtrees face each other across one bond: the root goes in between.
        return _reordered(network.to_ht(network.insert_on(wanted[0])), tree)
    root = network.outer(wanted[0])
    tops = set(network.units.values())
    for spare in [vertex for vertex in network.legs if vertex != root and vertex not in tops]:
        network.absorb(spare, network.path(spare, root)[1])
    return _reordered(network.to_ht(root), tree)


def _reordered(x: HTTensor, tree: DimensionTree) -> HTTensor:
    """Children in the order of another tree that joins the same sets of modes."""
    if x.tree == tree:
        return x
    factors: list[Array] = []
    B = backend_of(x.factors[0])
    for node in range(tree.n_nodes):
        mine = x.tree.node(tree.modes(node))
        factor = x.factors[mine]
        if node >= tree.order:
            own = x.tree.children(mine)
            axes = [own.index(x.tree.node(tree.modes(child))) for child in tree.children(node)]
            if axes != sorted(axes):
                factor = B.transpose(factor, (*axes, len(axes)))
        factors.append(factor)
    return HTTensor._of(tree, factors)


def ht_move_root(ht_tensor: HTTensor | RawHT, node: int) -> HTTensor:
    """Move the root of a tensor to the edge above a node.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    node : int
        Any node but the root.

    Returns
    -------
    HTTensor
        Its root joins the modes of `node` with all others.  No rank changes, and no arithmetic is done: transfer
        tensors are turned round.  Only several outputs have to be carried to the new root, for which ranks on the way
        may grow.

    Raises
    ------
    IndexError
        If `node` is the root, or no node of the tree.
    TypeError
        If it is no integer.

    See Also
    --------
    htf.tensors.ht_change_tree : to any other tree.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((3, 3, 3, 3), rank=2, random_state=0)
    >>> y = htf.tensors.ht_move_root(x, 0)  # the root joins mode 0 with all others
    >>> [y.tree.modes(child) for child in y.tree.children(y.tree.root)], max(y.rank)
    ([(0,), (1, 2, 3)], 2)
    """
    x = as_ht(ht_tensor)
    node = check_index("node", node)
    if not 0 <= node < x.tree.root:
        raise IndexError(f"node is {node}; expected one of the nodes 0 to {x.tree.root - 1} below the root")
    network = Network.of(x)
    root = network.insert_on(("bond", node))
    if x.outputs > 1:
        network.move(OUTPUTS, x.tree.root, root, centred=not x.requires_grad)
    elif len(x.tree.children(x.tree.root)) == 2:
        # The old root is a matrix now; contract it away from the new one, so that the edge stays in the middle.
        old = x.tree.root
        away = [v for v in network.neighbours(old) if v != root]
        network.absorb(old, away[0] if away else root)
    inward = [leg for leg in network.legs[root] if node in network.holders(leg)]
    rest = [leg for leg in network.legs[root] if leg not in inward]
    network.arrays[root] = network.arranged(root, inward + rest)
    network.legs[root] = inward + rest
    return network.to_ht(root)


# -- contraction of two tensors over modes that form a subtree ------------------------------------------


def gathered(x: HTTensor, y: HTTensor, left: list[int], right: list[int]) -> HTTensor | Array:
    """Contract modes `left` of x with modes `right` of y; see `ht_tensordot`."""
    # One form for both subtrees, written with the modes of x: one that is there already, if any.
    to_left, to_right = dict(zip(right, left, strict=True)), dict(zip(left, right, strict=True))
    if x.tree.find(left) is not None:
        form = nested(x.tree, x.tree.node(left), {mode: mode for mode in left})
    elif y.tree.find(right) is not None:
        form = nested(y.tree, y.tree.node(right), to_left)
    else:
        form = nested(DimensionTree.balanced(len(left)), 2 * len(left) - 2, dict(enumerate(left)))
    x, top_x = _with_subtree(x, left, form)
    y, top_y = _with_subtree(y, right, nested(x.tree, top_x, to_right))
    return _contracted(x, top_x, y, top_y)


def nested(tree: DimensionTree, node: int, names: Mapping[int, int]) -> Any:
    """A subtree in nested form, its modes under other names."""
    built: dict[int, Any] = {}
    for current in _descendants(tree, node):
        group = tree.children(current)
        built[current] = tuple(built[child] for child in group) if group else names[current]
    return built[node]


def restricted(tree: DimensionTree, modes: set[int]) -> Any:
    """The tree in nested form without the other modes, and without the nodes that joined nothing else."""
    built: list[Any] = [mode if mode in modes else None for mode in tree.leaves]
    for node in tree.inner_nodes:
        parts = [built[child] for child in tree.children(node) if built[child] is not None]
        built.append(None if not parts else parts[0] if len(parts) == 1 else tuple(parts))
    return built[tree.root]


def _with_subtree(x: HTTensor, modes: Sequence[int], form: Any) -> tuple[HTTensor, int]:
    """The tensor with a node of these modes and of this nested form right below the root, or as the root."""
    if len(modes) == x.order:
        x = x.change_tree(DimensionTree.from_nested(form)) if x.order > 1 else x
        return x, x.tree.root
    node = x.tree.find(modes)
    if node is not None and _has_form(x.tree, node, form):
        moved = x.move_root(node)
    else:
        others = restricted(x.tree, set(range(x.order)) - set(modes))
        moved = x.change_tree(DimensionTree.from_nested((form, others)))
    return moved, moved.tree.node(modes)


def _has_form(tree: DimensionTree, node: int, form: Any) -> bool:
    """Check whether a node is of a nested form; without recursion, as trees can be a thousand levels deep."""
    pairs = [(node, form)]
    for current, part in pairs:
        group = tree.children(current)
        if not isinstance(part, tuple):
            if part != current:
                return False
        elif len(part) != len(group):
            return False
        else:
            pairs.extend(zip(group, part, strict=True))
    return True


def _descendants(tree: DimensionTree, node: int) -> list[int]:
    found = [node]
    for current in found:
        found.extend(tree.children(current))
    return sorted(found)


def _contracted(x: HTTensor, top_x: int, y: HTTensor, top_y: int) -> HTTensor | Array:
    B = backend_of(x.factors[0])
    # Both subtrees have the same form, so their nodes correspond in the order of a walk.
    twin = dict(_walk_together(x.tree, top_x, y.tree, top_y))
    overlaps: dict[int, Array] = {}
    for node in _descendants(x.tree, top_x):
        a, b = x.factors[node], y.factors[twin[node]]
        overlaps[node] = frame_product(B, x.tree, node, a, b, overlaps)
    joint = overlaps[top_x]  # (rank of x's subtree, rank of y's)
    parts: list[Array] = []
    for z, top in ((x, top_x), (y, top_y)):
        if top == z.tree.root:
            parts.append(None)
            continue
        own = z.factors[-1]
        axis = z.tree.children(z.tree.root).index(top)
        parts.append(B.moveaxis(own, axis, 0))  # (subtree, rest, outputs)
    outputs = max(x.outputs, y.outputs)
    if parts[0] is None and parts[1] is None:
        return joint[0, 0] if outputs == 1 else B.reshape(joint, (-1,))
    if parts[0] is None or parts[1] is None:
        z, top, part = (y, top_y, parts[1]) if parts[0] is None else (x, top_x, parts[0])
        seen = joint.T if parts[0] is None else joint  # (subtree of z, outputs of the other)
        root = mode_product(B, part, seen.T, 0)  # (outputs of the other, rest, outputs of z)
        root = B.reshape(B.moveaxis(root, 1, 0), (root.shape[1], outputs))
        return _topped([(z, top)], root)
    root = mode_product(B, parts[0], joint.T, 0)  # (subtree of y, rest of x, outputs)
    root = B.matmul(
        B.reshape(root, (root.shape[0], -1)).T, B.reshape(parts[1], (parts[1].shape[0], -1))
    )  # (rest of x, outputs of x; rest of y, outputs of y)
    rows, columns = parts[0].shape[1], parts[1].shape[1]
    root = B.reshape(root, (rows, x.outputs, columns, y.outputs))
    root = B.reshape(B.moveaxis(root, 1, 2), (rows, columns, outputs))
    return _topped([(x, top_x), (y, top_y)], root)


def _walk_together(a: DimensionTree, node_a: int, b: DimensionTree, node_b: int) -> list[tuple[int, int]]:
    pairs = [(node_a, node_b)]
    for one, other in pairs:
        pairs.extend(zip(a.children(one), b.children(other), strict=True))
    return pairs


def _topped(rests: Sequence[tuple[HTTensor, int]], root: Array) -> HTTensor:
    """Below one root, what two tensors (or one) have besides a contracted subtree."""
    order = sum(z.order - len(z.tree.modes(top)) for z, top in rests)
    children: list[tuple[int, ...]] = []
    leaves: list[Array] = []
    inner: list[Array] = []
    tops = []
    for z, top in rests:
        (rest,) = (c for c in z.tree.children(z.tree.root) if c != top)
        number: dict[int, int] = {}
        for mode in sorted(z.tree.modes(rest)):
            number[mode] = len(leaves)
            leaves.append(z.factors[mode])
        for node in _descendants(z.tree, rest):
            if node >= z.order:
                children.append(tuple(number[c] for c in z.tree.children(node)))
                number[node] = order + len(inner)
                inner.append(z.factors[node])
        tops.append(number[rest])
    if len(rests) == 2:
        children.append(tuple(tops))
        return renumbered(order, children, [*leaves, *inner, root])
    # One rest: its top becomes the root.
    factors = [*leaves, *inner]
    B = backend_of(root)
    factors[tops[0]] = mode_product(B, factors[tops[0]], root.T, len(factors[tops[0]].shape) - 1)
    return renumbered(order, children, factors)
