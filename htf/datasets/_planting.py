"""Tensors to be recovered: planted ones of known rank, or a factorization that is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Generator, Tensor

from htf._checks import positive
from htf._random import place, randn
from htf.datasets._arguments import check_dtype, check_shape, children_of, is_number
from htf.datasets._entries import LARGEST_TARGET
from htf.linalg.backend import Array, backend_of
from htf.linalg.dense import joint_values
from htf.ranks.edges import log_norm
from htf.tensors.conversion import tt_to_ht, tucker_to_ht
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import root_rows
from htf.tensors.random import random_ht
from htf.tensors.rank import RankLike, as_tree, feasible, rank_bounds, spread_rank
from htf.tree import DimensionTree

_PLANTED = ("matrix", "cp", "ht")
# A tensor is scaled at one factor, which has to stay within the range of doubles.
_LARGEST_LOG_SCALE = 600.0
# Numbers held at once while entries or measurements are computed: about 32 MB in doubles.
_CHUNK_ENTRIES = 2**22


@dataclass(frozen=True)
class Planted:
    """A tensor in float64 on the CPU, however it is held."""

    shape: tuple[int, ...]
    tree: DimensionTree
    teacher: HTTensor | CPTensor | Tensor
    target: Tensor | None
    rms: float
    settings: dict[str, Any]

    def entries(self, indices: Tensor) -> Tensor:
        """Entries at index tuples, (count,)."""
        if self.target is not None:
            return self.target[tuple(indices.T)]
        if isinstance(self.teacher, HTTensor):
            return self.teacher.entries(indices)
        weights, factors = self.teacher
        return _in_chunks(
            indices, len(weights), lambda part: _sum_products(weights, [f[part[:, m]] for m, f in enumerate(factors)])
        )

    def measured(self, vectors: Tensor) -> Tensor:
        """The tensor contracted with a vector per mode, (count,)."""

        def of(part: Tensor) -> Tensor:
            rows = [part[:, mode, :dim] for mode, dim in enumerate(self.shape)]
            if isinstance(self.teacher, Tensor):
                return joint_values(backend_of(part), self.teacher[..., None], rows)[:, 0]
            if not isinstance(self.teacher, HTTensor):
                weights, factors = self.teacher
                return _sum_products(weights, [row @ f for row, f in zip(rows, factors, strict=True)])
            x = self.teacher
            return root_rows(backend_of(part), x, [row @ f for row, f in zip(rows, x.factors, strict=False)])[:, 0]

        if isinstance(self.teacher, HTTensor):
            width = max(prod(tuple(f.shape[1:])) for f in self.teacher.factors)
        elif isinstance(self.teacher, Tensor):
            width = self.teacher[0].numel()
        else:
            width = len(self.teacher[0])
        return _in_chunks(vectors, width, of)

    def cast(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Values in the dtype of the problem, if it can hold them."""
        result = values.to(dtype)
        # At high order single entries are far below the norm, or above it; Gaussian ones are never zero otherwise.
        if not bool(result.isfinite().all()) or (self.settings["teacher"] in _PLANTED and not bool(result.any())):
            raise ValueError(
                f"dtype is {dtype}, whose range the values leave: a tensor of order {len(self.shape)} needs another "
                "norm, or a wider dtype"
            )
        return result


def plant(
    shape: Sequence[int] | None,
    teacher: Any,
    rank: RankLike | None,
    tree: DimensionTree | None,
    norm: float | None,
    dtype: torch.dtype,
    generator: Generator,
) -> Planted:
    """Draw a tensor of known rank, or take the one that is given, and bring it to a norm."""
    check_dtype(dtype)
    dims = None if shape is None else check_shape(shape)
    if norm is not None and not (is_number(norm) and 0 < norm < math.inf):
        raise ValueError(f"norm is {norm!r}; expected a positive number, or None to leave the tensor as it is")
    if isinstance(teacher, str):
        if teacher not in _PLANTED:
            raise ValueError(f"teacher is {teacher!r}; expected one of {', '.join(_PLANTED)}, or a tensor")
        if dims is None or rank is None:
            name = "shape" if dims is None else "rank"
            raise ValueError(f"{name} is None; a teacher {teacher!r} is drawn, so say of which {name}")
        tree = as_tree(tree, len(dims))
        x, ranks = _drawn(teacher, dims, rank, tree, generator)
        kind = teacher
    else:
        if rank is not None:
            raise ValueError(f"rank is {rank!r}, but teacher is a {type(teacher).__name__}, whose rank is its own")
        x = in_torch("teacher", teacher, torch.float64, "cpu")
        own = tuple(int(dim) for dim in x.shape)
        if dims not in (None, own):
            raise ValueError(f"shape is {dims}; teacher has shape {own}")
        dims = check_shape(own, "teacher's shape")
        tree = as_tree(x.tree if tree is None and isinstance(x, HTTensor) else tree, len(dims))
        kind, ranks = type(teacher).__name__, _rank_of(x)
    target = dense_tensor(x) if prod(dims) <= LARGEST_TARGET or isinstance(x, Tensor) else None
    log_norm = _log_norm(x if target is None else target)
    if not math.isfinite(log_norm):
        what = "zero" if log_norm == -math.inf else "NaN or infinite"
        raise ValueError(f"teacher is {what}; expected a tensor of positive, finite norm")
    if norm is not None:
        log_scale = math.log(norm) - log_norm
        if abs(log_scale) > _LARGEST_LOG_SCALE:
            raise ValueError(f"norm is {norm}, out of reach: that of the tensor is exp({log_norm:.0f})")
        scale = math.exp(log_scale)
        x, log_norm = _scaled(x, scale), math.log(norm)
        target = None if target is None else target * scale
    settings = {
        "shape": list(dims),
        "teacher": kind,
        "rank": ranks,
        "tree": {"order": tree.order, "children": children_of(tree)},
        "norm": None if norm is None else float(norm),
        "dtype": str(dtype).removeprefix("torch."),
    }
    rms = math.exp(log_norm - sum(math.log(dim) for dim in dims) / 2)
    return Planted(dims, tree, x, target, rms, settings)


def _drawn(
    kind: str, dims: tuple[int, ...], rank: RankLike, tree: DimensionTree, generator: Generator
) -> tuple[HTTensor | CPTensor | Tensor, Any]:
    if kind == "ht":
        ranks = _ht_rank(dims, rank, tree)
        # random_ht draws with NumPy, whose seed is drawn here.
        state = int(torch.randint(2**31 - 1, (), generator=generator, device=place(generator)))
        return random_ht(
            dims, ranks, tree, random_state=state, like=torch.empty(0, dtype=torch.float64, device="cpu")
        ), ranks
    rank = positive("rank", rank)
    if kind == "matrix":
        if len(dims) != 2:
            raise ValueError(f"shape is {dims}; a teacher 'matrix' has two modes")
        if prod(dims) > LARGEST_TARGET:
            raise ValueError(f"shape is {dims}, too large for a dense matrix; teacher 'cp' holds it as two factors")
    # No tensor has a higher CP rank than this, and no matrix a higher rank.
    bound = prod(dims) // max(dims)
    if rank > bound:
        raise ValueError(f"rank is {rank}; tensors of shape {dims} have rank {bound} at most")
    factors = [randn((dim, rank), generator) for dim in dims]
    if kind == "matrix":
        return factors[0] @ factors[1].T, rank
    return CPTensor((torch.ones(rank, dtype=torch.float64, device="cpu"), factors)), rank


def _ht_rank(dims: tuple[int, ...], rank: RankLike, tree: DimensionTree) -> list[int]:
    wanted, bounds = spread_rank(tree, rank, 1), rank_bounds(tree, dims)
    ranks = feasible(tree, [b if w is None else min(w, b) for w, b in zip(wanted, bounds, strict=True)])
    lowered = [node for node in tree.edges if (asked := wanted[node]) is not None and ranks[node] < asked]
    # One rank for all nodes holds where the shape allows it: a leaf of dimension 2 says nothing against rank 5 above.
    if lowered and (isinstance(rank, Sequence | Mapping) or len(lowered) == tree.n_nodes - 1):
        node = max(lowered, key=lambda each: ranks[each])
        raise ValueError(
            f"rank is {wanted[node]} at node {node}; the shape, and the ranks of other nodes, allow {ranks[node]} there"
        )
    return ranks


def in_torch(name: str, x: Any, dtype: torch.dtype, device: torch.device | str | None) -> HTTensor | CPTensor | Tensor:
    """A copy in PyTorch of whatever stands for a tensor, as one of three formats."""

    def convert(array: Array) -> Tensor:
        if not isinstance(array, Tensor):
            array = torch.from_numpy(np.array(backend_of(array, name).to_numpy(array)))
        if array.is_complex():
            raise TypeError(f"{name} has dtype {array.dtype}; expected real numbers")
        return array.detach().to(device, dtype, copy=True)

    if isinstance(x, torch.nn.Module) and hasattr(x, "to_tensor"):
        runs = getattr(x, "runs", 1)
        if runs != 1:
            raise ValueError(f"{name} is a network of {runs} runs; pass one of them, network.to_tensor(run)")
        # A CPTensor or an HTTensor; annotations of modules know nothing of their methods.
        network: Any = x
        x = network.to_tensor()
    if isinstance(x, HTTensor):
        if x.outputs != 1:
            raise ValueError(f"{name} has {x.outputs} outputs; expected a tensor of one")
        return HTTensor((x.tree, [convert(factor) for factor in x.factors]))
    if isinstance(x, CPTensor):
        factors = [convert(factor) for factor in x.factors]
        weights = factors[0].new_ones(factors[0].shape[1]) if x.weights is None else convert(x.weights)
        return CPTensor((weights, factors))
    if isinstance(x, TuckerTensor):
        return tucker_to_ht((convert(x.core), [convert(factor) for factor in x.factors]))
    if isinstance(x, TTTensor):
        return tt_to_ht([convert(core) for core in x.factors])
    if isinstance(x, Tensor | np.ndarray):
        return convert(x)
    raise TypeError(
        f"{name} is a {type(x).__name__}; expected an HTTensor, CPTensor, TuckerTensor, TTTensor, dense array or "
        "network, or the name of a kind that is drawn"
    )


def dense_tensor(x: HTTensor | CPTensor | Tensor) -> Tensor:
    """The tensor written out."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, HTTensor):
        return x.to_tensor()
    weights, factors = x
    # Two halves of the modes and one product: no more is held than a factor for either half, and the tensor.
    middle = len(factors) // 2
    left, right = (_khatri_rao(half) for half in (factors[:middle], factors[middle:]))
    return ((left * weights) @ right.T).reshape(tuple(int(f.shape[0]) for f in factors))


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, None] * factor).flatten(0, 1)
    return product


def _log_norm(x: HTTensor | CPTensor | Tensor) -> float:
    if isinstance(x, Tensor):
        largest = float(x.abs().max())
        if not 0 < largest < math.inf:
            return -math.inf if largest == 0 else math.nan
        # Squares of large or small entries would leave the range.
        return math.log(largest) + math.log(float((x / largest).norm()))
    if not all(bool(f.isfinite().all()) for f in (x.factors if isinstance(x, HTTensor) else [x[0], *x[1]])):
        return math.nan
    return float(log_norm(x))


def _scaled(x: HTTensor | CPTensor | Tensor, scale: float) -> HTTensor | CPTensor | Tensor:
    if isinstance(x, HTTensor | Tensor):
        return x * scale
    weights, factors = x
    return CPTensor((weights * scale, factors))


def _rank_of(x: HTTensor | CPTensor | Tensor) -> Any:
    if isinstance(x, Tensor):
        return None
    return list(x.rank) if isinstance(x, HTTensor) else int(x.rank)


def _sum_products(weights: Tensor, rows: Sequence[Tensor]) -> Tensor:
    product = rows[0] * weights
    for row in rows[1:]:
        product = product * row
    return product.sum(1)


def _in_chunks(rows: Tensor, width: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([compute(part) for part in rows.split(max(_CHUNK_ENTRIES // max(width, 1), 1))])
