"""Hierarchical Tucker decomposition of a dense tensor: the hierarchical singular value decomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any, Never

from tensorly.decomposition._base_decomposition import DecompositionMixin

from htf._checks import by_name, natural
from htf._random import check_random_state
from htf.decomposition._projection import to_front
from htf.decomposition._sparse import decompose_sparse, is_sparse
from htf.decomposition._stored import decompose_stored
from htf.decomposition._units import times_unit
from htf.linalg.backend import Array, Backend, adjoint, all_finite, asarray, backend_of, check_floating, conj, constant
from htf.linalg.dense import kept, left_singular, mode_product, orthonormal
from htf.linalg.scaling import power_of_two
from htf.linalg.stored import BLOCK, check_stored, is_stored, loaded, nbytes
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import RankLike, as_tree, check_tolerance, validate_ht_rank
from htf.tensors.rounding import spectra_count
from htf.tree import DimensionTree


def hierarchical_tucker(
    tensor: Array,
    *positional: Never,
    rank: RankLike | float | str | None = None,
    tree: DimensionTree | None = None,
    tol: float | None = None,
    method: str = "leaves-to-root",
    svd: str = "truncated_svd",
    oversampling: int = 10,
    power_iterations: int = 2,
    random_state: Any = None,
) -> HTTensor:
    r"""Decompose a dense tensor into hierarchical Tucker format.

    Parameters
    ----------
    tensor : array
        Of any backend of TensorLy, float32, float64, complex64 or complex128, or of integers, which are computed with
        as float64.  Sparse ones of SciPy and PyTorch are read entry by entry, see below, and large ones in
        memory-mapped files, zarr and dask arrays and HDF5 data sets block by block.  With one axis more than the tree
        has modes, the last one is a batch: its tensors share all frames, and the root has their number as its rank.
    rank : int, float, "same", sequence or mapping of int, optional
        Largest ranks; see `htf.tensors.validate_ht_rank`.  A float is a share of the dense tensor's entries, not an
        error: 1e-3 asks for a thousandth of the parameters, which small tensors do not have at any rank but 1.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    tol : float, optional
        Largest relative error in the Frobenius norm; the lowest ranks for it are chosen node by node.  0 drops only
        what is zero to rounding error.  Given by name, as `rank` is, and at least one of the two.
    method : {"leaves-to-root", "root-to-leaves"}
        Whether a node's singular vectors are those of the tensor as already projected below it, or of the tensor
        itself. The second is far slower and needs more memory; their errors obey the same bound.
    svd : {"truncated_svd", "randomized_svd"}
        "randomized_svd" finds the leading singular vectors from Gaussian sketches, and needs `rank`.
    oversampling, power_iterations : int
        Columns of a sketch above the rank, and passes that sharpen it.
    random_state : int, RandomState or None
        For the sketches.

    Returns
    -------
    HTTensor
        With orthonormal frames.

    Raises
    ------
    ValueError, TypeError
        For an empty mode, NaN or infinite entries, arrays that are not supported, a tree of another order,
        options that do not exist or are given by position, and with neither `rank` nor `tol`.

    See Also
    --------
    htf.HierarchicalTucker : as an estimator.
    htf.ht_als : sweeps that lower the error at given ranks.
    htf.HTStream : arrays that arrive in blocks.
    htf.cross_approximation : from a function, of few entries.
    htf.optimize_tree : the tree with the fewest parameters.

    Notes
    -----
    With :math:`\sigma^{(t)}_i` the singular values of the matricization of node t, the error is at most :math:`(\sum_t
    \sum_{i > r_t} (\sigma^{(t)}_i)^2)^{1/2}`, the sum over the edges with a spectrum of their own, and so at most
    :math:`\sqrt{2N-3}` times that of the best approximation of these ranks on a binary tree (Grasedyck 2010, theorem
    3.11 and remark 3.12).  For `tol`, each edge may drop ``tol`` · norm / √(number of edges).

    Leaves to root: O(n^(N+1)) multiplications, nearly all of them at the first leaf, as each projection shrinks the
    tensor; less than two copies of the tensor are held, and one more where its entries are rescaled (squares would
    leave the range of the dtype) or its axes stand in another order than the tree's leaves.

    Arrays on disk or in chunks are read once along the axis with most of them for `tol`, as by `HTStream`, and as often
    as the tree has levels where `rank` is given; at most a few blocks of 32 MiB are in memory.  For another method or
    svd, or with a batch, they are loaded.

    Sparse arrays are never written out: frames come from random sketches (`oversampling`, `power_iterations`,
    `random_state`), doubled until the error, which follows from the norms, is within `tol`.  O(N nnz k³) for k columns.

    References
    ----------
    .. [1] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31 (2010).
    .. [2] C. Tobler, "Low-rank tensor methods for linear systems and eigenvalue problems", ETH Zürich (2012).
    .. [3] N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM Review 53 (2011).

    Examples
    --------
    >>> import numpy as np, htf
    >>> i, j, k, l = np.ogrid[:8, :8, :8, :8]
    >>> x = htf.hierarchical_tucker(1 / (1.0 + i + j + k + l), tol=1e-6)
    >>> x.shape, x.rank
    ((8, 8, 8, 8), (6, 6, 6, 6, 7, 7, 1))
    """
    by_name("hierarchical_tucker", positional, "rank", "tol")
    sparse, stored = is_sparse(tensor), is_stored(tensor)
    if stored:
        check_stored(tensor, "tensor")
    elif not sparse:
        _, tensor = check_floating(tensor, "tensor")
    if rank is None and tol is None:
        raise ValueError("rank and tol are None; expected rank=..., tol=..., or both (tol=0 loses nothing)")
    if not tensor.shape:
        raise ValueError("tensor has no axes; expected one at least")
    if not isinstance(tree, DimensionTree):
        tree = as_tree(tree, len(tensor.shape))
    dims, outputs = _split_shape(tuple(int(n) for n in tensor.shape), tree)
    tol = check_tolerance(tol)
    plain = outputs == 1 and tree.order > 1 and (method, svd) == ("leaves-to-root", "truncated_svd")
    if sparse and not plain:
        raise ValueError("tensor is sparse; expected two modes or more, no batch, and the default method and svd")
    if stored and (not plain or nbytes(tensor) <= BLOCK):
        _, tensor = check_floating(loaded(tensor), "tensor")
        stored = False
    if not sparse and not stored and not all_finite(backend_of(tensor), tensor):
        raise ValueError("tensor has NaN or infinite entries")
    if svd not in ("truncated_svd", "randomized_svd"):
        raise ValueError(f"svd is {svd!r}; expected 'truncated_svd' or 'randomized_svd'")
    oversampling = natural("oversampling", oversampling)
    power_iterations = natural("power_iterations", power_iterations)
    check_random_state(random_state)
    if svd == "randomized_svd" and rank is None:
        raise ValueError("svd is 'randomized_svd' and rank is None; a sketch needs a rank")
    limit: Sequence[int | None] = [None] * tree.n_nodes
    if rank is not None:
        limit = validate_ht_rank(dims, rank, tree, outputs=outputs)
    if sparse:
        return decompose_sparse(tensor, tree, limit, tol, oversampling, power_iterations, random_state)
    if stored:
        return decompose_stored(tensor, tree, limit, tol)
    B = backend_of(tensor)
    unit = power_of_two(B, tensor)
    if unit != 1:
        tensor = tensor / unit
    norm = float(constant(B.norm(B.reshape(tensor, (-1,)), 2)))
    epsilon = float(B.eps(tensor.dtype))
    # Rounding error grows with the shorter side of a matricization, not with the number of its entries.
    noise = epsilon * max(dims)
    share = noise if tol is None else max(tol / math.sqrt(spectra_count(tree, outputs)), noise)
    sketch = _Sketch(oversampling, power_iterations, random_state) if svd == "randomized_svd" else None
    arguments = (B, B.reshape(tensor, (*dims, outputs)), tree, limit, share * norm, sketch)
    if method == "leaves-to-root":
        x = _leaves_to_root(*arguments, noise * norm)
    elif method == "root-to-leaves":
        x = _root_to_leaves(*arguments)
    else:
        raise ValueError(f"method is {method!r}; expected 'leaves-to-root' or 'root-to-leaves'")
    return times_unit(x, unit)


def _split_shape(shape: tuple[int, ...], tree: DimensionTree) -> tuple[tuple[int, ...], int]:
    if len(shape) not in (tree.order, tree.order + 1):
        raise ValueError(f"tensor has {len(shape)} axes; the tree has {tree.order} modes, and a batch may add one axis")
    for axis, n in enumerate(shape):
        if n == 0:
            raise ValueError(f"mode {axis} of the tensor is empty: its shape is {shape}")
    return (shape, 1) if len(shape) == tree.order else (shape[:-1], shape[-1])


class _Sketch:
    """Leading left singular vectors from the range of a Gaussian sketch (Halko, Martinsson & Tropp 2011)."""

    def __init__(self, oversampling: int, power_iterations: int, random_state: Any) -> None:
        self.oversampling, self.power_iterations = oversampling, power_iterations
        self.rng = check_random_state(random_state)

    def __call__(self, B: Backend, matrix: Array, rank: int) -> tuple[Array, Array]:
        rows, columns = matrix.shape
        width = min(rank + self.oversampling, rows, columns)
        # Real directions serve complex matrices as well.
        Q, _ = orthonormal(B, B.matmul(matrix, asarray(B, self.rng.standard_normal((columns, width)), matrix)))
        for _ in range(self.power_iterations):
            back, _ = orthonormal(B, B.matmul(adjoint(matrix), Q))
            Q, _ = orthonormal(B, B.matmul(matrix, back))
        U, S = left_singular(B, B.matmul(adjoint(Q), matrix))
        return B.matmul(Q, U), S


def _leading(B: Backend, matrix: Array, limit: int | None, tail: float, sketch: _Sketch | None) -> Array:
    """Left singular vectors that are kept."""
    rows, columns = matrix.shape
    if sketch is not None and limit is not None and limit + sketch.oversampling < min(rows, columns):
        U, S = sketch(B, matrix, limit)
    elif rows > columns:
        # Few columns: an orthonormal basis of them first, then the small rest.
        Q, R = orthonormal(B, matrix)
        U, S = left_singular(B, R)
        U = B.matmul(Q, U)
    else:
        U, S = left_singular(B, matrix)
    return U[:, : kept(S, limit, tail)]


def _leaves_to_root(
    B: Backend,
    tensor: Array,
    tree: DimensionTree,
    limit: Sequence[int | None],
    tail: float,
    sketch: _Sketch | None,
    noise: float,
) -> HTTensor:
    pair = tree.children(tree.root) if spectra_count(tree, int(tensor.shape[-1])) < tree.n_nodes - 1 else ()
    # The axes rotate: the node at hand is brought to the front, and its projection goes to the back.  In the order of
    # the tree's walk, children that are processed one after the other stand side by side, so nothing is copied but the
    # result.
    walk = tree.modes(tree.root)
    axes: list[int] = [*walk, -1]
    if tuple(walk) != tuple(range(tree.order)):
        tensor = B.transpose(tensor, (*walk, tree.order))
    factors: list[Array] = [None] * tree.n_nodes
    for level in tree.levels:
        # Each by where its first child, or the leaf itself, lies now.
        for node in sorted(level, key=lambda n: axes.index((*tree.children(n), n)[0])):
            if node == tree.root:
                break
            parts = tree.children(node) or (node,)
            tensor, axes = to_front(B, tensor, axes, parts)
            below = tuple(tensor.shape[: len(parts)])
            rest = tuple(tensor.shape[len(parts) :])
            matrix = B.reshape(tensor, (prod(below), -1))
            # Both children of a binary root have one spectrum, of which the first has dropped what may be dropped.
            again = node in pair and any(factors[child] is not None for child in pair)
            U = _leading(B, matrix, limit[node], noise if again else tail, sketch)
            factors[node] = B.reshape(U, (*below, U.shape[1]))
            tensor = B.reshape(B.matmul(matrix.T, conj(U)), (*rest, U.shape[1]))
            axes = [*axes[len(parts) :], node]
    tensor, axes = to_front(B, tensor, axes, tree.children(tree.root) or (tree.root,))
    factors[tree.root] = tensor
    return HTTensor._of(tree, factors)


def _root_to_leaves(
    B: Backend, tensor: Array, tree: DimensionTree, limit: Sequence[int | None], tail: float, sketch: _Sketch | None
) -> HTTensor:
    walk = tree.modes(tree.root)
    frames: list[Array] = []
    for node in range(tree.root):
        own = tree.modes(node)
        order = (*own, *(mode for mode in (*walk, tree.order) if mode not in own))
        matrix = B.reshape(B.transpose(tensor, order), (prod([tensor.shape[mode] for mode in own]), -1))
        frames.append(_leading(B, matrix, limit[node], tail, sketch))
    top = B.reshape(B.transpose(tensor, (*walk, tree.order)), (-1, tensor.shape[-1]))
    factors: list[Array] = []
    for node, frame in enumerate([*frames, top]):
        group = tree.children(node)
        if group:
            frame = B.reshape(frame, (*(frames[child].shape[0] for child in group), frame.shape[1]))
            for axis, child in enumerate(group):
                frame = mode_product(B, frame, adjoint(frames[child]), axis)
        factors.append(frame)
    if tree.order == 1:
        return HTTensor._of(tree, factors)
    # Frames of a node need not lie in the span of its children's, so after the projections they are not orthonormal.
    return HTTensor._of(tree, factors).orthogonalize()


class HierarchicalTucker(DecompositionMixin):  # type: ignore[misc]
    """Hierarchical Tucker decomposition, as an estimator in TensorLy's manner.

    Parameters
    ----------
    rank, tree, tol, method, svd, oversampling, power_iterations, random_state
        As in `hierarchical_tucker`, by name.

    Attributes
    ----------
    decomposition_ : HTTensor
        Of the last tensor that was fitted.

    See Also
    --------
    htf.hierarchical_tucker : the function.
    htf.HTCompletion : where entries are missing.

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = 1 / (1.0 + np.add.outer(np.arange(8.0), np.add.outer(np.arange(8.0), np.arange(8.0))))
    >>> x = htf.HierarchicalTucker(rank=4).fit_transform(dense)
    >>> x.rank, x.relative_error(dense) < 1e-3
    ((4, 4, 4, 4, 1), True)
    """

    def __init__(
        self,
        *positional: Never,
        rank: RankLike | float | str | None = None,
        tree: DimensionTree | None = None,
        tol: float | None = None,
        method: str = "leaves-to-root",
        svd: str = "truncated_svd",
        oversampling: int = 10,
        power_iterations: int = 2,
        random_state: Any = None,
    ) -> None:
        by_name("HierarchicalTucker", positional, "rank", "tol")
        self.rank, self.tree, self.tol, self.method, self.svd = rank, tree, tol, method, svd
        self.oversampling, self.power_iterations, self.random_state = oversampling, power_iterations, random_state

    def fit_transform(self, tensor: Array) -> HTTensor:
        """Decompose a tensor.

        Parameters
        ----------
        tensor : array

        Returns
        -------
        HTTensor
        """
        self.decomposition_ = hierarchical_tucker(
            tensor,
            rank=self.rank,
            tree=self.tree,
            tol=self.tol,
            method=self.method,
            svd=self.svd,
            oversampling=self.oversampling,
            power_iterations=self.power_iterations,
            random_state=self.random_state,
        )
        return self.decomposition_
