"""Sums and products of HT tensors, without leaving the format."""

from __future__ import annotations

from collections.abc import Container, Sequence

from htf.linalg.backend import Array, Backend, backend_of, eye, scalar, zeros
from htf.linalg.dense import mode_product
from htf.tensors._blocks import Schedule, schedule_of, stacked, unstacked
from htf.tensors.ht_tensor import HTTensor, RawHT, alike, as_ht, pair
from htf.tree import DimensionTree


def ht_add(*ht_tensors: HTTensor | RawHT) -> HTTensor:
    """Sum of HT tensors of one tree and shape: ranks add.

    Parameters
    ----------
    *ht_tensors : HTTensor or (tree, factors)
        One or more.

    Returns
    -------
    HTTensor
        Exact, with the frames of all summands side by side; a leaf whose rank would exceed its dimension gets the
        identity as its frame.  O(N R³) entries for ranks R = Σ r are written; to round the sum anyway, `ht_round_sum`
        spares forming it.

    Raises
    ------
    ValueError, TypeError
        Without any tensor, or where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_round_sum : the rounded sum, without forming it.
    htf.tensors.ht_add_scalar : a number added to every entry.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.random_ht((4, 5, 6), rank=1, random_state=1)
    >>> total = htf.tensors.ht_add(x, y)  # or x + y
    >>> total.rank, bool(abs(total[1, 2, 3] - x[1, 2, 3] - y[1, 2, 3]) < 1e-12)
    ((3, 3, 3, 3, 1), True)
    """
    if not ht_tensors:
        raise ValueError("there is nothing to add; expected at least one tensor")
    summands = addable(ht_tensors)
    first = summands[0]
    if len(summands) == 1:
        return first
    B, tree = backend_of(first.factors[0]), first.tree
    full = outgrown(tree, first.dims, [sum(ranks) for ranks in zip(*(x.rank for x in summands), strict=True)])
    schedule = None if full else schedule_of(summands)
    if schedule is not None:
        return _sum_by_blocks(B, schedule, summands)
    factors = []
    for node in range(tree.n_nodes):
        parts = _absorbing(B, tree, node, [x.factors for x in summands], full)
        if node in full:
            factors.append(eye(B, first.dims[node], first.factors[node]))
        elif node < tree.order:
            # A tree of one mode has its tensor at the leaf.
            factors.append(B.concatenate(parts, 1) if node != tree.root else sum(parts[1:], parts[0]))
        else:
            shared = {axis for axis, child in enumerate(tree.children(node)) if child in full}
            if node == tree.root:
                shared.add(len(parts[0].shape) - 1)
            factors.append(block_diagonal(B, parts, shared))
    return HTTensor._of(tree, factors)


def _sum_by_blocks(B: Backend, schedule: Schedule, summands: Sequence[HTTensor]) -> HTTensor:
    found = []
    for block in schedule:
        parts = [stacked(B, x.factors, block) for x in summands]
        if not block.children:
            found.append(B.concatenate(parts, 2))
            continue
        # The first axis is that of the nodes.
        shared = {0} if block.above is not None else {0, len(parts[0].shape) - 1}
        found.append(block_diagonal(B, parts, shared))
    return HTTensor._of(summands[0].tree, unstacked(B, schedule, found))


def addable(ht_tensors: Sequence[HTTensor | RawHT]) -> list[HTTensor]:
    """HT tensors of one tree and shape, checked; all complex if one is."""
    tensors = [as_ht(x) for x in ht_tensors]
    for other in tensors[1:]:
        pair(tensors[0], other)
    return alike(*tensors)


def outgrown(tree: DimensionTree, dims: Sequence[int], ranks: Sequence[int]) -> set[int]:
    """Leaves whose ranks would exceed their dimensions: they get the identity, and their parents the frames."""
    return {leaf for leaf in tree.leaves if leaf != tree.root and ranks[leaf] > dims[leaf]}


def _absorbing(
    B: Backend, tree: DimensionTree, node: int, tensors: Sequence[Sequence[Array]], full: Container[int]
) -> list[Array]:
    """The factors of a node of several tensors, times the frames of its children in `full`."""
    parts = [factors[node] for factors in tensors]
    for axis, child in enumerate(tree.children(node)):
        if child in full:
            parts = [mode_product(B, p, factors[child], axis) for p, factors in zip(parts, tensors, strict=True)]
    return parts


def block_diagonal(B: Backend, parts: Sequence[Array], shared: Container[int]) -> Array:
    """Tensors along the diagonal of a larger one in all axes but the `shared` ones, where they lie on each other."""
    axes = [axis for axis in range(len(parts[0].shape)) if axis not in shared]
    if not axes:
        return sum(parts[1:], parts[0])
    total = {axis: sum(p.shape[axis] for p in parts) for axis in axes}
    # Padded one axis after the other and concatenated along the first, so that gradients and any backend follow.
    padded = []
    for k, part in enumerate(parts):
        for axis in axes[1:]:
            before = sum(p.shape[axis] for p in parts[:k])
            shape = list(part.shape)
            pieces = []
            for length in (before, None, total[axis] - before - parts[k].shape[axis]):
                if length is None:
                    pieces.append(part)
                elif length:
                    shape[axis] = length
                    pieces.append(zeros(B, tuple(shape), part))
            part = B.concatenate(pieces, axis) if len(pieces) > 1 else part
        padded.append(part)
    return B.concatenate(padded, axes[0])


def ht_scale(ht_tensor: HTTensor | RawHT, factor: float | Array) -> HTTensor:
    """Product with a number; only the root's factor changes.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    factor : float, complex or 0-dimensional array
        A complex number makes a real tensor complex.

    Returns
    -------
    HTTensor

    Raises
    ------
    TypeError, ValueError
        For arrays with axes and what is no number.

    See Also
    --------
    htf.tensors.ht_hadamard : entrywise products of tensors.
    htf.tensors.ht_add_scalar : a number added to every entry.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> twice = htf.tensors.ht_scale(x, 2)  # or 2 * x
    >>> twice.rank == x.rank, bool(abs(twice.norm() - 2 * x.norm()) < 1e-12)
    (True, True)
    """
    x = as_ht(ht_tensor)
    if getattr(factor, "shape", ()) != ():
        raise ValueError(f"factor has shape {tuple(getattr(factor, 'shape', ()))}; expected a number")
    number = scalar(factor, x.factors[-1])
    if number is None:
        raise TypeError(f"factor is {factor!r}; expected a number")
    x = x.beside_number(number)
    return HTTensor._of(x.tree, [*x.factors[:-1], x.factors[-1] * number])


def ht_hadamard(first: HTTensor | RawHT, second: HTTensor | RawHT) -> HTTensor:
    """Entrywise product of HT tensors of one tree and shape: ranks multiply.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)

    Returns
    -------
    HTTensor
        Exact: frames are row-wise, transfer tensors axis-wise Kronecker products.  A leaf whose rank would exceed its
        dimension gets the identity as its frame.  Outputs multiply one by one.

    Raises
    ------
    ValueError, TypeError
        Where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_power : products of a tensor with itself.
    htf.apply : any function of entries, of the lowest ranks.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.random_ht((4, 5, 6), rank=2, random_state=1)
    >>> product = htf.tensors.ht_hadamard(x, y)  # or x * y
    >>> product.rank, np.allclose(product.to_tensor(), x.to_tensor() * y.to_tensor())
    ((4, 4, 4, 4, 1), True)
    """
    x, y = pair(first, second)
    B, tree = backend_of(x.factors[0]), x.tree
    full = outgrown(tree, x.dims, [a * b for a, b in zip(x.rank, y.rank, strict=True)])
    schedule = None if full else schedule_of([x] if x is y else [x, y])
    if schedule is not None:
        found = []
        for block in schedule:
            a, b = stacked(B, x.factors, block), stacked(B, y.factors, block)
            whole = {0, *([] if block.children else [1]), *([len(a.shape) - 1] if block.above is None else [])}
            found.append(_kronecker(B, a, b, whole))
        return HTTensor._of(tree, unstacked(B, schedule, found))
    factors = []
    for node in range(tree.n_nodes):
        if node in full:
            factors.append(eye(B, x.dims[node], x.factors[node]))
            continue
        a, b = _absorbing(B, tree, node, [x.factors, y.factors], full)
        # Axes that are not ranks of both are run through together.
        single = {0} if node < tree.order else {k for k, child in enumerate(tree.children(node)) if child in full}
        if node == tree.root:
            single.add(len(a.shape) - 1)
        factors.append(_kronecker(B, a, b, single))
    return HTTensor._of(tree, factors)


def _kronecker(B: Backend, a: Array, b: Array, single: Container[int]) -> Array:
    """Kronecker product along all axes but the `single` ones, along which it is entrywise."""
    left: list[int] = []
    right: list[int] = []
    shape: list[int] = []
    for axis, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)):
        if axis in single:
            left.append(m)
            right.append(n)
            shape.append(m)
        else:
            left += [m, 1]
            right += [1, n]
            shape.append(m * n)
    return B.reshape(B.reshape(a, tuple(left)) * B.reshape(b, tuple(right)), tuple(shape))


def ht_outer(first: HTTensor | RawHT, second: HTTensor | RawHT) -> HTTensor:
    """Outer product: the modes of the first, then those of the second.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        At most one of them with several outputs.

    Returns
    -------
    HTTensor
        Its tree joins the two trees under a new root; all ranks stay as they are, and the two old roots have rank 1.

    Raises
    ------
    ValueError, TypeError
        If both have several outputs, or dtypes, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_tensordot : contracts modes of two tensors.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5), rank=2, random_state=0)
    >>> y = htf.random_ht((6, 7), rank=3, random_state=1)
    >>> product = htf.tensors.ht_outer(x, y)
    >>> product.shape, product.rank  # leaves, the two old roots, the new one
    ((4, 5, 6, 7), (2, 2, 3, 3, 1, 1, 1))
    """
    x, y = alike(as_ht(first), as_ht(second))
    if x.outputs > 1 and y.outputs > 1:
        raise ValueError(f"both tensors have several outputs ({x.outputs} and {y.outputs}); expected one at most")
    B = backend_of(x.factors[0])
    order = x.order + y.order

    def shifted(node: int, tree: DimensionTree, modes: int, inner: int) -> int:
        return node + modes if node < tree.order else node - tree.order + order + inner

    children = [tuple(shifted(c, x.tree, 0, 0) for c in x.tree.children(n)) for n in x.tree.inner_nodes]
    inner = len(children)
    children += [tuple(shifted(c, y.tree, x.order, inner) for c in y.tree.children(n)) for n in y.tree.inner_nodes]
    children.append((shifted(x.tree.root, x.tree, 0, 0), shifted(y.tree.root, y.tree, x.order, inner)))
    factors = [*x.factors[: x.order], *y.factors[: y.order], *x.factors[x.order :], *y.factors[y.order :]]
    outputs = max(x.outputs, y.outputs)
    one = eye(B, outputs, x.factors[0])
    factors.append(B.reshape(one, (x.outputs, y.outputs, outputs)))
    return renumbered(order, children, factors)


def renumbered(order: int, children: Sequence[tuple[int, ...]], factors: Sequence[Array]) -> HTTensor:
    """An HT tensor whose inner nodes are numbered in any bottom-up order, brought to the tree's own numbering."""
    tree = DimensionTree(order, children)
    placed: list[Array] = [None] * tree.n_nodes
    stack = [(tree.root, order + len(children) - 1)]
    while stack:
        node, given = stack.pop()
        placed[node] = factors[given]
        if node >= order:
            stack.extend(zip(tree.children(node), children[given - order], strict=True))
    return HTTensor._of(tree, placed)
