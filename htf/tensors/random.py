"""Random HT tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import tensorly as tl

from htf._checks import check_dims, check_shape, positive
from htf._random import check_random_state
from htf.linalg.backend import Array, asarray, backend_of, check_alike, is_complex
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.rank import RankLike, as_tree, validate_ht_rank, wanted_and_feasible
from htf.tree import DimensionTree


def random_ht(
    shape: Sequence[int],
    rank: RankLike | float | str,
    tree: DimensionTree | None = None,
    full: bool = True,
    orthogonal: bool = False,
    random_state: Any = None,
    outputs: int = 1,
    like: Array | None = None,
    capped: bool = True,
    **context: Any,
) -> HTTensor:
    """A random HT tensor with Gaussian factors.

    Parameters
    ----------
    shape : sequence of int
        Dimension of each mode; the last one may be the number of outputs, where the tree has a mode less.
    rank : int, float, "same", sequence or mapping of int
        See `validate_ht_rank`.
    tree : DimensionTree, optional
        ``DimensionTree.balanced`` by default.
    full : bool
        False for transfer tensors that are zero off the diagonal of the children's ranks, as a ConvAC's are.
    orthogonal : bool
        Orthonormal frames below the root.
    random_state : int, RandomState or None
    outputs : int
        Rank of the root.
    like : array, optional
        One whose backend, dtype and device the factors take; otherwise TensorLy's current backend and `context`.
    capped : bool
        False keeps ranks that are asked for node by node, or by an int, above their bounds.
    **context
        dtype, device: as TensorLy's constructors take them.

    Returns
    -------
    HTTensor
        The variance of its entries is 1, at any order: factors have the standard deviation (ranks summed over)^(-1/2).
        Factors of a complex dtype have independent real and imaginary parts of half the variance.

    See Also
    --------
    htf.tensors.validate_ht_rank : what `rank` may be.
    htf.datasets.tensor_completion : problems with a random tensor in them.

    Examples
    --------
    >>> import htf, torch
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> x.shape, x.rank
    ((4, 5, 6), (2, 2, 2, 2, 1))
    >>> htf.random_ht((4,) * 50, rank=3, tree=htf.DimensionTree.linear(50), random_state=0).n_parameters  # not 4⁵⁰
    1905
    >>> like = torch.zeros((), dtype=torch.float32)
    >>> htf.random_ht((4, 5, 6), rank=2, random_state=0, like=like).dtype
    torch.float32
    """
    if like is not None:
        check_alike([like], "like")
    shape = check_shape("shape", shape)
    if isinstance(tree, DimensionTree) and len(shape) == tree.order + 1 and outputs == 1:
        shape, outputs = shape[:-1], shape[-1]
    tree = as_tree(tree, len(shape), "shape")
    dims, outputs = check_dims(shape, tree.order), positive("outputs", outputs)
    if capped:
        ranks = validate_ht_rank(dims, rank, tree, outputs=outputs)
    else:
        wanted, feasible = wanted_and_feasible(tree, dims, rank, outputs)
        ranks = tuple(f if w is None else w for w, f in zip(wanted, feasible, strict=True))
    rng = check_random_state(random_state)
    complex_numbers = is_complex(like if like is not None else tl.tensor(np.zeros(1), **context))

    def gaussian(*shape: int) -> np.ndarray:
        real: np.ndarray = rng.standard_normal(shape)
        return (real + 1j * rng.standard_normal(shape)) / math.sqrt(2) if complex_numbers else real

    factors = []
    for node in range(tree.n_nodes):
        group = tree.children(node)
        below = (dims[node],) if not group else tuple(ranks[c] for c in group)
        values = gaussian(*below, ranks[node])
        if group and not full:
            width = min(below)
            kept = gaussian(width, ranks[node]) / math.sqrt(width)
            values = values * 0
            for r in range(width):
                values[(r,) * len(group)] = kept[r]
        elif group:
            values = values / math.sqrt(prod(below))
        if like is not None:
            factors.append(asarray(backend_of(like), values, like))
        else:
            factors.append(tl.tensor(values, **context))
    x = HTTensor._of(tree, factors)
    return x.orthogonalize() if orthogonal else x
