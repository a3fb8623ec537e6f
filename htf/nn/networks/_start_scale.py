"""Sizes of the outputs of a network at its start, from its inputs: how they are measured, and how they are set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from htf._moments import Moments
from htf.engine.layout import Layout

# Samples from which sizes are measured, at most.
SAMPLES = 1024


def nearly_constant(moments: Moments) -> Tensor:
    """Vectors w, one a mode, whose products ⟨w, φ⟩ vary least around 1.

    Parameters
    ----------
    moments : Moments
        Moments of modes of one dimension, (modes, dim) and (modes, dim, dim).

    Returns
    -------
    Tensor
        (modes, dim), with E⟨w, φ⟩² = 1.

    Notes
    -----
    Least squares, drawn a little towards the solution for all modes together (a pixel that never changed may do so in
    the next image), which is drawn towards a multiple of (1, ..., 1).
    """
    mean, second = moments.mean, moments.second
    pooled_mean, pooled = mean.mean(0), second.mean(0)
    dim = len(pooled_mean)
    eye = pooled.trace() / dim * torch.eye(dim, dtype=pooled.dtype, device=pooled.device)
    total = pooled.sum()
    w = torch.ones_like(pooled_mean) * (pooled_mean.sum() / total if total > 0 else 0)
    w = w + torch.linalg.solve(pooled + 1e-6 * eye, pooled_mean - pooled @ w)
    w = w + torch.linalg.solve(second + 1e-2 * eye, (mean - second @ w).unsqueeze(-1)).squeeze(-1)
    size = torch.einsum("nd,nde,ne->n", w, second, w)
    # Vectors of mean zero are near no constant: the direction in which they are largest.
    lost = size < 1e-6
    w = torch.where(lost.unsqueeze(-1), torch.linalg.eigh(second).eigenvectors[..., -1], w)
    return w / torch.einsum("nd,nde,ne->n", w, second, w).sqrt().unsqueeze(-1)


def outputs(layout: Layout, matrices: Sequence[Tensor], vectors: Tensor) -> tuple[Tensor, float]:
    """Outputs of one run in float64, node by node, at any scale.

    Parameters
    ----------
    layout : Layout
    matrices : sequence of Tensor
        Per block, (nodes, rows, columns); without the root's, where it adds.
    vectors : Tensor
        (samples, order, dim).

    Returns
    -------
    values, log_rms : Tensor, float
        (samples, outputs), divided by their root mean square, and its logarithm; zeros and -inf if they are all zero.

    Notes
    -----
    O(samples · Σ rows · columns).
    """
    total = 0.0

    def scaled(value: Tensor) -> Tensor:
        nonlocal total
        size = float(torch.linalg.vector_norm(value)) / math.sqrt(value.numel())
        total += math.log(size) if size else -math.inf
        return value / size if size else value

    def mixed(node: int, value: Tensor) -> Tensor:
        block, position = layout.place[node]
        return value @ matrices[block][position] if block < len(matrices) else value.sum(1, keepdim=True)

    columns, found = vectors.unbind(1), dict[int, Tensor]()
    for node in layout.tree.inner_nodes:
        product: Tensor | None = None
        for number, child in enumerate(layout.tree.children(node)):
            below = found.pop(child) if child in found else mixed(child, columns[child][:, : layout.dims[child]])
            product = below if product is None else product * below
            # A few factors of the size of 1 stay in range.
            product = scaled(product) if number % 4 == 3 else product
        assert product is not None
        found[node] = scaled(mixed(node, product))
    return found[layout.tree.root], total


def typical_log_rms(values: Tensor, log_rms: float) -> float:
    """Logarithm of the root mean square of `outputs`, as samples of log-normal size have it.

    The rms itself is decided by the few largest samples, and differs from one batch to the next.
    """
    logs = values[:, 0].abs().clamp(min=1e-300).log()
    ranks = (torch.arange(len(logs), dtype=logs.dtype, device=logs.device) + 0.5) / len(logs)
    spread = (2 * logs.std(correction=0) * torch.special.ndtri(ranks)).logsumexp(0) - math.log(len(logs))
    return log_rms + float(logs.mean() + spread / 2)
