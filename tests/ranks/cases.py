"""Tensors and networks to take ranks of, and their dense spectra."""

from __future__ import annotations

import math

import numpy as np
import torch
from dense import dense_ht

import htf
from htf.tree import DimensionTree

TREES = {
    "binary": DimensionTree.balanced(5),
    "ternary": DimensionTree.balanced(5, arity=3),
    "flat": DimensionTree.balanced(4, arity=4),
    "linear": DimensionTree.linear(5),
    "crossed": DimensionTree.from_nested(((0, 3), (1, (2, 4)))),
}


def dims_of(tree):
    return (2, 3, 2, 4, 3)[: tree.order]


def ht_tensor(tree, outputs=1, backend="numpy", seed=0):
    x = htf.random_ht(dims_of(tree), 3, tree, outputs=outputs, random_state=seed)
    return x.to_backend(backend) if backend != "numpy" else x


def network(tree, outputs=1, runs=1, width=3, seed=0):
    return htf.nn.HTNetwork(tree, dims_of(tree), width, runs=runs, outputs=outputs, seed=seed, dtype=torch.float64)


def dense(x, run=0):
    """The tensor with an axis for the outputs, as a NumPy array of norm 1."""
    if isinstance(x, htf.nn.HTNetwork):
        values = dense_ht(x.tree, x.dims, x.parameters_for(run)).detach()
    else:
        values = x.to_tensor()
    values = np.asarray(values).reshape((*x.dims, -1))
    return values / np.linalg.norm(values)


def dense_spectrum(tensor, modes):
    """Singular values of the matricization of an array by some of its axes."""
    rest = [axis for axis in range(tensor.ndim) if axis not in modes]
    rows = math.prod(tensor.shape[m] for m in modes)
    return np.linalg.svd(tensor.transpose(*modes, *rest).reshape(rows, -1), compute_uv=False)


def assert_spectrum(found, expected, atol=1e-12):
    """Equal, but for zeros at the end."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    assert found.dtype == np.float64
    size = max(len(found), len(expected))
    padded = [np.pad(s, (0, size - len(s))) for s in (found, expected)]
    np.testing.assert_allclose(*padded, atol=atol)
