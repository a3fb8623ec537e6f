"""Singular values of the matricizations of every node of the tree."""

from __future__ import annotations

from functools import partial

from htf.linalg.backend import Array, Backend, adjoint, constant, eye
from htf.linalg.dense import products_of_others
from htf.ranks.frames import Frames, Ranked
from htf.ranks.spectrum import numerical_rank
from htf.tensors import overlaps
from htf.tensors.orthogonal import ht_singular_values
from htf.tensors.rank import check_tolerance


def spectra(x: Ranked, run: int = 0) -> dict[int, Array]:
    """Singular values of the matricization of every node against the rest, relative to the norm of the tensor.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
        CP is the tree of depth one, whose nodes below the root are the modes.
    run : int
        Which run of a network.

    Returns
    -------
    dict
        From each node but the root to its singular values in double precision, descending, as many as its rank or the
        bound on it.  Their squares add to 1, so no order is too high; multiply by the exponential of `log_norm` for
        absolute values.  All are 0 for a zero tensor.  The axis of several outputs belongs to the rest.

    Raises
    ------
    IndexError
        If `run` is not one of the network's.
    TypeError, ValueError
        If `x` is nothing that has a tree, or has NaN or infinite entries.

    See Also
    --------
    htf.ranks.hierarchical_rank : how many of them are not zero.
    htf.ranks.log_norm : the norm that they are relative to.
    htf.ranks.separation_spectrum : of modes that are no node of the tree.
    htf.tensors.ht_singular_values : absolute values, for HT tensors.

    Notes
    -----
    Accurate to rounding error relative to the largest: no Gramian is taken.  HT tensors are orthogonalized,
    O(N n r² + N r⁴) multiplications (Grasedyck 2010).  In a ConvAC the matricization of a node is U Aᵀ, and U and A,
    which are column-wise Kronecker products, are reduced factor by factor to matrices of at most R rows, O(N R⁴) at any
    arity.

    Gradients flow: for networks they are right at repeated singular values too, for what depends on all of them alike;
    for HT tensors where frames have full rank and singular values are distinct.  Only first derivatives are.

    References
    ----------
    .. [1] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31 (2010).

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), dims=5, width=3, seed=0)
    >>> found = htf.ranks.spectra(net)
    >>> {node: len(values) for node, values in found.items()}  # modes 0 to 3, then the two pairs
    {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 3}
    >>> round((found[4] ** 2).sum().item(), 6)
    1.0
    """
    return spectra_of(Frames.of(x, run))


def log_norm(x: Ranked, run: int = 0) -> Array:
    """Logarithm of the Frobenius norm, at any order.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    run : int
        Which run of a network.

    Returns
    -------
    0-dimensional array
        In double precision, differentiable; -inf for a zero tensor.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `spectra`.

    See Also
    --------
    htf.ranks.spectra : singular values relative to the norm.
    htf.tensors.ht_norm : the norm itself, which may underflow or overflow.

    Examples
    --------
    >>> import htf
    >>> tree = htf.DimensionTree.balanced(1024)
    >>> net = htf.nn.HTNetwork(tree, dims=2, width=2, init=htf.nn.init.gaussian(0.01), seed=0)
    >>> round(htf.ranks.log_norm(net).item() / 1000)  # in thousands: the norm itself is 0 in double precision
    -8
    """
    frames = Frames.of(x, run)
    return overlaps.log_norm(frames.tree, frames.factors, frames.diagonal) + frames.log_scale


def hierarchical_rank(x: Ranked, tol: float | None = None, run: int = 0) -> dict[int, int]:
    """Numerical ranks of the matricizations of every node against the rest.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    tol : float, optional
        Relative to the largest singular value of each node; see `numerical_rank`.
    run : int
        Which run of a network.

    Returns
    -------
    dict
        From each node but the root to its rank.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `spectra`, and for a tolerance that is no number, negative or not finite.

    See Also
    --------
    htf.ranks.spectra : the singular values.
    htf.ranks.separation_rank : of modes that are no node of the tree.
    htf.tensors.ht_round : an HT tensor of these ranks.

    Notes
    -----
    The lowest ranks of an HT tensor on this tree that equals x (Grasedyck 2010).  A ConvAC may need larger widths.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 4, 4, 4), rank=2, random_state=0)
    >>> htf.ranks.hierarchical_rank(x + x)  # stored with rank 4
    {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2}
    """
    check_tolerance(tol)
    return {node: numerical_rank(constant(values), tol) for node, values in spectra(x, run).items()}


def spectra_of(frames: Frames) -> dict[int, Array]:
    """`spectra` of what has been taken apart already."""
    found = _diagonal_spectra(frames) if frames.diagonal else ht_singular_values(frames.normalized().to_ht())
    return {node: _of_norm_one(frames.backend, found[node]) for node in frames.tree.edges}


def _of_norm_one(B: Backend, values: Array) -> Array:
    norm = B.sqrt(B.sum(values * values)) if float(B.max(constant(values))) > 0 else 1.0
    return values / norm


def _diagonal_spectra(frames: Frames) -> dict[int, Array]:
    B, tree = frames.backend, frames.tree
    below: list[Array] = []
    for node, factor in enumerate(frames.factors[:-1]):
        group = tree.children(node)
        if group:
            joint = below[group[0]]
            for child in group[1:]:
                joint = _joined(B, joint, below[child])
            factor = B.matmul(joint, factor)
        below.append(_reduced(B, factor))
    found: dict[int, Array] = {}
    above = {tree.root: eye(B, int(frames.factors[-1].shape[-1]), frames.factors[0])}
    for node in range(tree.root, tree.order - 1, -1):
        group = tree.children(node)
        seen = _reduced(B, B.matmul(above.pop(node), frames.factors[node].T))
        rests = products_of_others(seen, [below[child] for child in group], partial(_joined, B))
        for child, rest in zip(group, rests, strict=True):
            found[child] = B.svd(B.matmul(below[child], rest.T), full_matrices=False)[1]
            if child >= tree.order:
                above[child] = rest
    return found


def _joined(B: Backend, first: Array, second: Array) -> Array:
    """Column-wise Kronecker product, reduced to few rows and divided by a constant."""
    columns = int(first.shape[1])
    product = B.reshape(first, (-1, 1, columns)) * B.reshape(second, (1, -1, columns))
    product = _reduced(B, B.reshape(product, (-1, columns)))
    return product / (float(B.max(B.abs(constant(product)))) or 1.0)


def _reduced(B: Backend, matrix: Array) -> Array:
    """A matrix of no more rows than columns with the same singular values and right singular vectors."""
    if matrix.shape[0] <= matrix.shape[1]:
        return matrix
    # Q is held constant.  A singular value moves by uᵀ dA v, and u lies in the span of Q, so to first order nothing is
    # lost, and no QR of a rank-deficient matrix, whose derivative does not exist, is differentiated.
    Q, _ = B.qr(constant(matrix))
    return B.matmul(adjoint(Q), matrix)
