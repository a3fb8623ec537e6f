"""Sums, products, inner products and norms of HT tensors, without leaving the format."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from htf.linalg.backend import (
    Array,
    Backend,
    asarray,
    backend_of,
    conj,
    constant,
    eye,
    is_complex,
    needs_gradient,
    real_part,
    scalar,
    zeros,
)
from htf.linalg.dense import mode_product, mode_products, swapped
from htf.linalg.scaling import all_divided, divided, each_divided, each_ordinary, exponents, frobenius, root, with_scale
from htf.linalg.threads import small_rank, views
from htf.linalg.underflow import certificate
from htf.tensors._blocks import Schedule, schedule_of, stacked, unscaled_first, unstacked
from htf.tensors.ht_tensor import HTTensor, RawHT, alike, as_ht, pair
from htf.tensors.orthogonal import orthogonal_sum
from htf.tensors.overlaps import frame_overlap
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
    schedule = None if full else _schedule_of_pair(x, y)
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


def ht_inner(first: HTTensor | RawHT, second: HTTensor | RawHT) -> Array:
    """Inner product: the sum of the products of all entries, the first tensor's conjugated.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        Tensors of one tree and shape.

    Returns
    -------
    0-dimensional array
        Complex where one of the tensors is.  Gradients flow to both.

    Raises
    ------
    ValueError, TypeError
        Where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_norm : the root of the inner product with itself.
    htf.tensors.ht_tensordot : over some modes.
    htf.tensors.ht_distance : accurate for nearly equal tensors.

    Notes
    -----
    O(N n r² + N r⁴) multiplications: overlaps of the two tensors' frames, from the leaves to the root.  A power of two
    is divided out at every node, so that only the result itself can leave the range of its dtype: it is ±inf beyond it
    and 0 below.

    A difference of two nearly equal tensors loses half of the digits here; `ht_distance` does not.

    Conjugation is that of ``numpy.vdot`` and of TensorLy's norms and least squares, so that ``ht_inner(x, x)`` is the
    square of the norm.  ``tensorly.tenalg.inner`` conjugates nothing: that is ``ht_inner(x.conj(), y)``, or
    `ht_tensordot` over all modes.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.random_ht((4, 5, 6), rank=3, random_state=1)
    >>> np.allclose(htf.tensors.ht_inner(x, y), (x.to_tensor() * y.to_tensor()).sum())
    True
    """
    x, y = pair(first, second)
    plain = _plain_inner(x, y)
    return with_scale(backend_of(x.factors[0]), *_inner(x, y)) if plain is None else plain


def _plain_inner(x: HTTensor, y: HTTensor) -> Array | None:
    """Inner product without any scaling; None where that may have gone out of range on the way."""
    B, tree = backend_of(x.factors[0]), x.tree
    first: Sequence[Array] = x.factors
    second: Sequence[Array] = y.factors
    if not unscaled_first(tree) and _schedule_of_pair(x, y) is not None:
        return None
    bound = certificate(B, first if x is y else [*first, *second])
    if bound is None:
        return None
    rank = max(*x.rank, *y.rank)
    small = B.backend_name == "pytorch" and rank <= small_rank() and not bound.recorded
    if small:
        second = views(second)
        first = second if x is y else views(first)
        C = backend_of(second[0])
    else:
        C = B
    overlaps: list[Array] = []
    with np.errstate(all="ignore"):
        for node in range(tree.root):
            a, b = first[node], second[node]
            overlap = frame_overlap(C, tree, node, a, b, overlaps)
            overlaps.append(overlap)
            # How much leaves can enlarge errors elsewhere is in their overlaps, smaller than the frames.
            if node < tree.order:
                bound.add((overlap,))
            elif x is y:
                bound.add((a,), 2)
            else:
                bound.add((a, b))
            if node % 8 == 7 and bound.hopeless():
                return None
        a, b = first[-1], second[-1]
        bound.add((a, b))
        for axis, child in enumerate(tree.children(tree.root)):
            b = mode_product(C, b, overlaps[child], axis)
        value = C.sum(conj(a) * b)
    widest = max([f.ndim for f in first])
    multiplications = tree.n_nodes * (widest * float(rank) ** (widest + 1) + max(x.dims) * rank**2)
    if not bound.holds(abs(complex(constant(value)) if is_complex(value) else float(constant(value))), multiplications):
        return None
    return asarray(B, value, x.factors[0]) if small else value


def _inner(x: HTTensor, y: HTTensor) -> tuple[Array, Array]:
    """Inner product without the powers of two that are divided out, and the sum of their exponents."""
    B, tree = backend_of(x.factors[0]), x.tree
    schedule = _schedule_of_pair(x, y)
    if schedule is not None:
        return _inner_by_blocks(B, schedule, x, y)
    factors, powers = all_divided(B, x.factors if x is y else [*x.factors, *y.factors])
    exponent = B.sum(exponents(B, powers)) * (2 if x is y else 1)
    pairs = list(zip(factors[: tree.n_nodes], factors[-tree.n_nodes :], strict=True))
    overlaps: list[Array] = []
    scales: list[Array] = []
    for node in range(tree.root):
        overlap, scale = divided(B, frame_overlap(B, tree, node, *pairs[node], overlaps))
        overlaps.append(overlap)
        scales.append(scale)
    a, b = pairs[-1]
    for axis, child in enumerate(tree.children(tree.root)):
        b = mode_product(B, b, overlaps[child], axis)
    return B.sum(conj(a) * b), exponent + (B.sum(exponents(B, B.stack(scales))) if scales else 0)


def _schedule_of_pair(x: HTTensor, y: HTTensor) -> Schedule | None:
    return schedule_of([x] if x is y else [x, y])


def _inner_by_blocks(B: Backend, schedule: Schedule, x: HTTensor, y: HTTensor) -> tuple[Array, Array]:
    overlaps: list[Array] = []
    powers: list[Array] = []
    value: Array = None
    for block in schedule:
        (a,), power = each_ordinary(B, [stacked(B, x.factors, block)])
        (b,), other = ([a], power) if x is y else each_ordinary(B, [stacked(B, y.factors, block)])
        powers += [each for each in (power, other) if each is not None]
        left = conj(a)
        for axis, below in enumerate(block.below):
            b = mode_products(B, b, below.take(B, overlaps), axis)
        if block.above is None:
            value = B.sum(left * b)
            break
        rank, other_rank = a.shape[-1], b.shape[-1]
        # (nodes, rank of x, rank of y)
        overlap = B.matmul(
            swapped(B.reshape(left, (len(block.nodes), -1, rank))), B.reshape(b, (len(block.nodes), -1, other_rank))
        )
        overlap, power = each_divided(B, overlap)
        overlaps.append(overlap)
        powers.append(power)
    return value, B.sum(exponents(B, B.concatenate(powers, 0)))


def ht_norm(ht_tensor: HTTensor | RawHT) -> Array:
    """Frobenius norm.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    0-dimensional array

    See Also
    --------
    htf.tensors.ht_inner, htf.tensors.ht_distance
    htf.ranks.log_norm : its logarithm, at any order.

    Notes
    -----
    The root of `ht_inner` of the tensor with itself, as costly and as differentiable; at zero the derivative is zero,
    as that of `torch.linalg.vector_norm`.  Right to rounding at every scale, as the square itself is not formed.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> np.allclose(htf.tensors.ht_norm(x), np.linalg.norm(x.to_tensor()))
    True
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    plain = _plain_inner(x, x)
    plain = None if plain is None else real_part(plain)
    if plain is not None and plain > 0:
        return B.sqrt(plain)
    square, exponent = _inner(x, x)
    square = real_part(square)
    half = exponent // 2
    return with_scale(B, root(B, square * B.where(exponent > 2 * half, half * 0 + 2, half * 0 + 1)), half)


def ht_distance(first: HTTensor | RawHT, second: HTTensor | RawHT) -> Array:
    """Frobenius norm of the difference, accurate to rounding error of the larger tensor.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        Tensors of one tree and shape.

    Returns
    -------
    0-dimensional array

    Raises
    ------
    ValueError, TypeError
        Where trees, shapes, precisions, devices or backends differ.

    See Also
    --------
    htf.tensors.ht_relative_error : from a dense array.
    htf.tensors.ht_norm, htf.tensors.ht_inner

    Notes
    -----
    The difference is orthogonalized, so that its norm is that of the root: nothing is subtracted that is nearly equal
    but entries.  The norm by inner products would be off by the square root of the rounding error.

    Derivatives are those of inner products, Re ⟨x - y, dx - dy⟩ over the distance: with an error of some
    ε ‖x‖ / ‖x - y‖, and zero where the distance is.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = x + 1e-12 * htf.random_ht((4, 5, 6), rank=1, random_state=1)
    >>> bool(1e-13 < htf.tensors.ht_distance(x, y) / x.norm() < 1e-11)
    True
    """
    x, y = pair(first, second)
    B = backend_of(x.factors[0])
    recorded = B.backend_name == "pytorch" and any(map(needs_gradient, [*x.factors, *y.factors]))
    factors, _, exponent = orthogonal_sum([x.detach(), -y.detach()] if recorded else [x, -y])
    value = with_scale(B, frobenius(B, factors[-1]), exponent)
    if not recorded:
        return value
    # Derivatives of the decomposition would not exist where frames of the two together lack full column rank.
    unit = B.where(value > 0, value, B.zeros_like(value) + 1)
    x, y = x / unit, y / unit
    square = real_part(ht_inner(x, x)) - 2 * real_part(ht_inner(x, y)) + real_part(ht_inner(y, y))
    return value * B.sqrt(1 + square - constant(square))
