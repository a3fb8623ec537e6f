"""Which tree suits a tensor: the one that needs the fewest parameters for a tolerance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from math import prod
from typing import Any

from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.linalg.backend import Array, Backend, check_array, constant
from htf.linalg.dense import kept, left_singular
from htf.tensors.data_tensor import DataTensor, Encoder, data_tensor
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import check_tolerance
from htf.tree import DimensionTree

# Up to this order all splits of all subsets are compared: 2^(N-1) spectra and 3^N / 2 splits.
_EXHAUSTIVE_ORDER = 8


def optimize_tree(
    tensor: Array | tuple[Any, Any], tol: float, method: str = "auto", *, encoder: Encoder | None = None
) -> DimensionTree:
    """The binary dimension tree on which a dense tensor, or data, take the fewest parameters at a tolerance.

    Parameters
    ----------
    tensor : array, or (features, labels)
        Of order 2 or more.  A pair is data, features (samples, features) or (samples, features, dim) and labels
        (samples,) or None, which stand for their tensor, see `htf.ranks.data_entanglement`: it is never formed.
    tol : float
        Relative error in the Frobenius norm that the decomposition may have.
    method : {"auto", "exhaustive", "greedy"}
        "exhaustive" compares all binary trees by dynamic programming; "greedy" joins the two clusters of modes that
        depend on each other most, again and again; "auto" takes the first up to order 8.
    encoder : callable, optional
        Feature map of data, as for `htf.ranks.data_entanglement`.

    Returns
    -------
    DimensionTree
        For ``hierarchical_tucker(tensor, tree=tree, tol=tol)``.

    Raises
    ------
    ValueError, TypeError
        For a tolerance that is not positive or not below 1, NaN entries, order 1, an unknown method, or features or
        labels that `htf.ranks.data_entanglement` refuses.

    See Also
    --------
    htf.arrange : a tree of many features, by cuts of the graph of their correlations.
    htf.tensors.ht_change_tree : brings a tensor to the tree.

    Notes
    -----
    Ranks are those of the matricizations at ``tol`` · norm / √(2N-3), as in the decomposition.  The rank of a set of
    modes does not depend on the tree it is in, so the fewest parameters of a subtree over a set follow from those of
    its two parts: 2^(N-1) spectra, 3^N / 2 splits.  Greedy: O(N²) spectra of pairs and ever larger clusters; two
    clusters depend on each other as far as the rank of their union is below the product of their ranks (Ballani &
    Grasedyck 2014).  Spectra are taken of the core of a lossless Tucker decomposition, which is smaller than the
    tensor; those of data are of Gram matrices of the samples, O(samples² features + samples³) each.

    References
    ----------
    .. [1] J. Ballani, L. Grasedyck, "Tree adaptive approximation in the hierarchical tensor format", SIAM J. Sci.
       Comput. 36 (2014).

    Examples
    --------
    >>> import numpy as np, htf
    >>> a, b = np.random.default_rng(0).normal(size=(2, 4, 4))
    >>> htf.optimize_tree(np.einsum("ik,jl->ijkl", a, b), tol=1e-8)  # modes 0 and 2 belong together, 1 and 3 too
    DimensionTree(4, [(0, 2), (1, 3), (4, 5)])
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> htf.optimize_tree((x[:, [0, 1, 0, 1]], None), tol=0.2)  # features 0 and 2 are the same, 1 and 3 too
    DimensionTree(4, [(0, 2), (1, 3), (4, 5)])
    """
    if isinstance(tensor, tuple):
        if len(tensor) != 2:
            raise ValueError(f"tensor is a tuple of {len(tensor)}; expected an array, or a pair (features, labels)")
        samples = data_tensor(*tensor, encoder)
        order = samples.order
        _check(order, tol, method)
        of_data = _RanksOfData(samples, tol / math.sqrt(max(2 * order - 3, 1)))
        if method == "exhaustive" or (method == "auto" and order <= _EXHAUSTIVE_ORDER):
            return DimensionTree.from_nested(
                _exhaustive([samples.dim] * order, of_data, of_data(frozenset(range(order))))
            )
        return DimensionTree.from_nested(_greedy(order, of_data))
    if encoder is not None:
        raise TypeError("encoder is given with a tensor; expected one with data, a pair (features, labels), alone")
    B = check_array(tensor, "tensor")
    tensor = constant(tensor)
    order = len(tensor.shape)
    _check(order, tol, method)
    flat = hierarchical_tucker(tensor, tree=DimensionTree.balanced(order, arity=order), tol=0)
    ranks = _Ranks(B, flat, tol / math.sqrt(max(2 * order - 3, 1)))
    dims = [int(n) for n in tensor.shape]
    if method == "exhaustive" or (method == "auto" and order <= _EXHAUSTIVE_ORDER):
        return DimensionTree.from_nested(_exhaustive(dims, ranks))
    return DimensionTree.from_nested(_greedy(order, ranks))


def _check(order: int, tol: float, method: str) -> None:
    if order < 2:
        raise ValueError(f"tensor has order {order}; a tree is chosen from order 2 on")
    if not 0 < (check_tolerance(tol) or 0.0) < 1:
        raise ValueError(f"tol is {tol}; expected a positive relative error below 1, the error of zeros")
    if method not in ("auto", "exhaustive", "greedy"):
        raise ValueError(f"method is {method!r}; expected 'auto', 'exhaustive' or 'greedy'")


class _RanksOfData:
    """Ranks of matricizations of the tensor of data against all other modes and labels, each computed once."""

    def __init__(self, samples: DataTensor, share: float) -> None:
        self.samples, self.share = samples, share
        self.known: dict[frozenset[int], int] = {}

    def __call__(self, modes: frozenset[int]) -> int:
        if modes not in self.known:
            self.known[modes] = kept(self.samples.spectrum(modes).sqrt(), None, self.share)
        return self.known[modes]


class _Ranks:
    """Ranks of matricizations of the core at a tolerance, each computed once."""

    def __init__(self, B: Backend, flat: HTTensor, share: float) -> None:
        self.B, self.core, self.order = B, flat.factors[-1][..., 0], flat.order
        self.tail = share * float(flat.norm())
        self.known: dict[frozenset[int], int] = {}

    def __call__(self, modes: frozenset[int]) -> int:
        rest = [mode for mode in range(self.order) if mode not in modes]
        # A set and its complement have the same spectrum; the name is that of the one without the last mode.
        key = modes if self.order - 1 not in modes else frozenset(rest)
        if key not in self.known:
            own = sorted(modes)
            small, large = sorted((own, rest), key=lambda side: prod([self.core.shape[m] for m in side]))
            matrix = self.B.reshape(
                self.B.transpose(self.core, (*small, *large)), (prod([self.core.shape[m] for m in small]), -1)
            )
            self.known[key] = kept(left_singular(self.B, matrix)[1], None, self.tail)
        return self.known[key]


def _exhaustive(dims: list[int], rank: Callable[[frozenset[int]], int], top: int = 1) -> Any:
    """Nested modes of the cheapest tree whose root has so many outputs."""
    order = len(dims)
    everything = frozenset(range(order))
    cost: dict[frozenset[int], int] = {}
    nested: dict[frozenset[int], Any] = {}
    for mode in range(order):
        own = frozenset([mode])
        cost[own], nested[own] = dims[mode] * rank(own), mode
    for size in range(2, order + 1):
        for modes in itertools.combinations(range(order), size):
            whole = frozenset(modes)
            above = top if whole == everything else rank(whole)
            best = None
            # The part with the first mode names the split, so that each is met once.
            for count in range(size - 1):
                for others in itertools.combinations(modes[1:], count):
                    part = frozenset((modes[0], *others))
                    rest = whole - part
                    total = cost[part] + cost[rest] + above * rank(part) * rank(rest)
                    if best is None or total < best[0]:
                        best = (total, part, rest)
            assert best is not None
            cost[whole] = best[0]
            nested[whole] = (nested[best[1]], nested[best[2]])
    return nested[everything]


def _greedy(order: int, rank: Callable[[frozenset[int]], int]) -> Any:
    clusters: dict[frozenset[int], Any] = {frozenset([mode]): mode for mode in range(order)}
    while len(clusters) > 2:
        first, second = min(
            itertools.combinations(clusters, 2),
            # Equals are joined smallest first, which keeps the tree flat.
            key=lambda pair: (rank(pair[0] | pair[1]) / (rank(pair[0]) * rank(pair[1])), len(pair[0] | pair[1])),
        )
        clusters[first | second] = (clusters.pop(first), clusters.pop(second))
    return tuple(clusters.values())
