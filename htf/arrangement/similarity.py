"""How much features say of each other: the weights of the graph that is cut."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Bins of equally many samples into which a feature is sorted for mutual information.
_BINS = 8
SIMILARITIES = ("correlation", "mutual_information")


def similarities(features: Tensor, kind: str) -> np.ndarray:
    """Symmetric weights of at least 0, (features, features), with zeros on the diagonal.

    Parameters
    ----------
    features : Tensor, (samples, features) or (samples, features, dim)
    kind : {"correlation", "mutual_information"}
        Absolute Pearson correlations, of vectors the square roots of the RV coefficients; or the mutual information of
        features sorted into bins, relative to the smaller of the two entropies.

    Notes
    -----
    Features that are constant say nothing of others and are all alike: they have the weight 1 with each other.
    O(features² samples), times the dimension, or the bins, squared.
    """
    vectors = features if features.ndim == 3 else features.unsqueeze(2)
    vectors = vectors - vectors.mean(0)
    spread, largest = vectors.square().mean(0).sum(1).sqrt(), vectors.abs().amax((0, 2))
    varies = spread > 1e-12 * (features.abs().amax(0) if features.ndim == 2 else features.abs().amax((0, 2)))
    varies &= largest > 0
    if kind == "correlation":
        found = _correlations(vectors / torch.where(varies, spread, torch.inf)[:, None])
    else:
        if features.ndim == 3:
            raise ValueError("similarity is 'mutual_information' and features are vectors; expected numbers")
        found = _mutual_information(features)
    both = varies[:, None] & varies
    found = torch.where(both, found, (~varies[:, None] & ~varies).to(found.dtype))
    found = ((found + found.T) / 2).clamp(0, 1)
    found.fill_diagonal_(0)
    return found.cpu().numpy()


def _correlations(vectors: Tensor) -> Tensor:
    samples, count, dim = vectors.shape
    flat = vectors.reshape(samples, count * dim)
    squares = (flat.T @ flat / samples).square_()
    blocks = squares.reshape(count, dim, count, dim).sum((1, 3)) if dim > 1 else squares
    own = blocks.diagonal().sqrt()
    scale = torch.where(own > 0, own, 1.0)
    return (blocks / scale[:, None] / scale).sqrt()


def _mutual_information(features: Tensor) -> Tensor:
    samples, count = features.shape
    bins = min(_BINS, samples)
    # Ties fall into the same bin, whatever their order.
    ordered = features.sort(0).values
    edges = ordered[[samples * k // bins for k in range(1, bins)]]
    codes = (features.unsqueeze(0) >= edges.unsqueeze(1)).sum(0)  # (samples, features)
    flat = torch.nn.functional.one_hot(codes, bins).reshape(samples, count * bins).to(torch.float32)
    joint = (flat.T @ flat).double().reshape(count, bins, count, bins) / samples
    entropy = -torch.special.xlogy(flat.double().mean(0), flat.double().mean(0)).reshape(count, bins).sum(1)
    together = -torch.special.xlogy(joint, joint).sum((1, 3))
    smaller = torch.minimum(entropy[:, None], entropy)
    shared = entropy[:, None] + entropy - together
    return torch.where(smaller > 0, shared / torch.where(smaller > 0, smaller, 1.0), 0.0)
