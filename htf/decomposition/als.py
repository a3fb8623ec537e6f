"""Alternating least squares: the best hierarchical Tucker tensor of given ranks, from a good one."""

from __future__ import annotations

import math
from math import prod
from typing import Never

from htf._checks import by_name, positive
from htf.decomposition._units import times_unit
from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.linalg.backend import Array, Backend, adjoint, all_finite, check_array, conj, constant, promoted, square
from htf.linalg.dense import matricize, mode_product, orthonormal, tall
from htf.linalg.scaling import frobenius, power_of_two
from htf.tensors.ht_tensor import HTTensor, as_ht
from htf.tensors.orthogonal import orthogonalized
from htf.tensors.rank import RankLike, check_tolerance
from htf.tree import DimensionTree

# Squared errors below this many units of rounding error are not computed as differences of squares.
_CANCELLED = 1e3


def ht_als(
    tensor: Array,
    *positional: Never,
    rank: RankLike | float | str | None = None,
    tree: DimensionTree | None = None,
    init: HTTensor | None = None,
    n_iter_max: int = 50,
    tol: float = 1e-8,
    return_errors: bool = False,
) -> HTTensor | tuple[HTTensor, list[float]]:
    """Fit an HT tensor of given ranks to a dense one by alternating least squares.

    Parameters
    ----------
    tensor : array
        As in `hierarchical_tucker`.
    rank : int, float, "same", sequence or mapping of int, optional
        Ranks; needed unless there is `init`.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    init : HTTensor, optional
        Where to start, in place of the hierarchical singular value decomposition; its ranks are kept.
    n_iter_max : int
        Sweeps at most.
    tol : float
        Stop when a sweep lowers the relative error by less.  Ranks for a given error are what `hierarchical_tucker`
        finds; its result can be `init`.
    return_errors : bool
        Return the relative error before the first sweep and after each, too.

    Returns
    -------
    HTTensor, or (HTTensor, list of float)
        With orthonormal frames.  Errors never rise.

    Raises
    ------
    ValueError, TypeError
        As `hierarchical_tucker`, and if `init` has another shape, or not just one of `init` and `rank` is given.

    See Also
    --------
    htf.hierarchical_tucker : the decomposition that it starts from, near the optimum in one pass.
    htf.ht_completion : fits to some entries.

    Notes
    -----
    With the tensor orthogonalized towards a node, the best factor there is the projection of the dense tensor on all
    others, so no system is solved.  A sweep goes down and up the tree once and takes about as many multiplications as
    twice a projection on the root's children, O(n^N r); the decomposition it starts from is within √(2N-3) of the
    optimum.

    References
    ----------
    .. [1] S. Holtz, T. Rohwedder, R. Schneider, "The alternating linear scheme for tensor optimization in the tensor
       train format", SIAM J. Sci. Comput. 34 (2012).

    Examples
    --------
    >>> import htf, numpy as np
    >>> dense = np.random.default_rng(0).normal(size=(6, 6, 6, 6))
    >>> x, errors = htf.ht_als(dense, rank=3, return_errors=True)
    >>> x.rank, errors[-1] <= errors[0], all(later <= earlier for earlier, later in zip(errors, errors[1:]))
    ((3, 3, 3, 3, 3, 3, 1), True, True)
    """
    by_name("ht_als", positional, "rank", "tol")
    B = check_array(tensor, "tensor")
    positive("n_iter_max", n_iter_max)
    tol = check_tolerance(tol) or 0.0
    unit = power_of_two(B, tensor)
    if unit != 1:
        tensor = tensor / unit
    if init is None:
        if rank is None:
            raise ValueError("rank and init are None; expected ranks, or a tensor that has them")
        x = hierarchical_tucker(tensor, rank=rank, tree=tree)
    else:
        if rank is not None or tree is not None:
            raise ValueError("init is given beside rank or tree; it has ranks and a tree of its own")
        if not all_finite(B, tensor):
            raise ValueError("tensor has NaN or infinite entries")
        x, _ = orthogonalized(as_ht(init))
        # A complex start has complex frames; the fit to a real tensor is then complex too.
        first, tensor = promoted([x.factors[0], tensor], "init and the tensor")
        if first.dtype != x.dtype:
            x = x.to(first.dtype)
        if x.shape != tuple(tensor.shape):
            raise ValueError(f"init has shape {x.shape}; the tensor has {tuple(tensor.shape)}")
    sweep = _Sweep(B, B.reshape(tensor, (*x.dims, x.outputs)), x)
    errors = [sweep.error()]
    for _ in range(n_iter_max):
        sweep.run()
        errors.append(sweep.error())
        if errors[-2] - errors[-1] < tol:
            break
    fitted = times_unit(HTTensor._of(x.tree, sweep.factors), unit)
    return (fitted, errors) if return_errors else fitted


class _Sweep:
    """One tensor, the factors fitted to it, and what a sweep does to them."""

    def __init__(self, B: Backend, tensor: Array, x: HTTensor) -> None:
        self.B, self.tree, self.factors = B, x.tree, list(x.factors)
        self.norm = float(constant(frobenius(B, tensor)))
        walk = x.tree.modes(x.tree.root)
        # In the order of the tree's walk the modes of every node lie together.
        self.tensor = B.reshape(B.transpose(tensor, (*walk, x.order)), (-1, x.outputs))

    def error(self) -> float:
        """Relative error of the tensor with orthonormal frames whose root is optimal."""
        root = self._projected(self.tree.root, self.tensor)
        self.factors[self.tree.root] = root
        if not self.norm:
            return 0.0
        missing = 1 - float(constant(self.B.sum(square(root)))) / self.norm**2
        if missing > _CANCELLED * float(self.B.eps(root.dtype)):
            return math.sqrt(missing)
        # Of a difference of nearly equal squares nothing is left, so the residual is written out.
        rest = constant(self.tensor) - constant(self._frame(self.tree.root))
        return float(frobenius(self.B, rest)) / self.norm

    def run(self) -> None:
        """Update every node, down from the root and up again."""
        self._update(self.tree.root, self.tensor)

    def _frame(self, node: int) -> Array:
        """The frame of a node written out, (product of its dimensions, rank)."""
        B, part = self.B, self.factors[node]
        for axis, child in enumerate(self.tree.children(node)):
            part = mode_product(B, part, self._frame(child), axis)
        return tall(B, part)

    def _rows(self, node: int) -> int:
        return prod([self.factors[mode].shape[0] for mode in self.tree.modes(node)])

    def _projected(self, node: int, seen: Array, keep: int | None = None) -> Array:
        """Tensor seen from a node, projected on the frames of its children but `keep`."""
        B, group = self.B, self.tree.children(node)
        if not group:
            return seen
        part = B.reshape(seen, (*(self._rows(child) for child in group), seen.shape[-1]))
        for axis, child in enumerate(group):
            if child != keep:
                part = mode_product(B, part, adjoint(self._frame(child)), axis)
        return part

    def _update(self, node: int, seen: Array) -> None:
        """Best factors below a node for `seen`: the dense tensor projected on all that is outside of it."""
        B = self.B
        for axis, child in enumerate(self.tree.children(node)):
            core = self._projected(node, seen)
            rest = matricize(B, core, axis)  # (rank of the child, all others)
            outside, _ = orthonormal(B, rest.T)
            around = self._projected(node, seen, keep=child)
            facing = B.matmul(matricize(B, around, axis), conj(outside))  # (modes of the child, its rank)
            self._update(child, facing)
            # The child's factor is the best one now; its orthonormal part becomes its frame.
            best = self._projected(child, facing)
            frame, _ = orthonormal(B, tall(B, best))
            self.factors[child] = B.reshape(frame, (*best.shape[:-1], frame.shape[1]))
        if node == self.tree.root:
            self.factors[node] = self._projected(node, seen)
