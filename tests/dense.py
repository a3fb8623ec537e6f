"""Dense references, written from the definitions and sharing no code with the library's contractions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import htf


def dense_ht(tree: htf.DimensionTree, dims: tuple[int, ...], matrices: dict[int, Tensor]) -> Tensor:
    """The tensor of ConvAC matrices, shape dims + (outputs,): equation (3) of Razin et al. 2022, node by node."""
    parts: dict[int, Tensor] = {}
    for node in range(tree.n_nodes):
        w = matrices[node]
        if node < tree.order:
            parts[node] = w
            continue
        joint = None
        for child in tree.children(node):
            x = parts[child]
            joint = x if joint is None else torch.einsum("ir,jr->ijr", joint, x).flatten(0, 1)
        parts[node] = joint @ w
    walk = tree.modes(tree.root)
    tensor = parts[tree.root].reshape([dims[m] for m in walk] + [-1])
    return tensor.permute(*[walk.index(m) for m in range(tree.order)], len(walk))


def dense_cp(factors: list[Tensor]) -> Tensor:
    """Sum of outer products of the factors' columns."""
    tensor = factors[0]
    for factor in factors[1:]:
        tensor = torch.einsum("...r,jr->...jr", tensor, factor)
    return tensor.sum(-1)


def all_indices(dims: tuple[int, ...]) -> Tensor:
    """Every index tuple, in the order of a flattened tensor."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(d) for d in dims), indexing="ij"), -1)
    return grid.view(math.prod(dims), len(dims))
