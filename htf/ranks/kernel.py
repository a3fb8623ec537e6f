"""Gram matrices of the features that networks compute: their effective rank, and an order in which to show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from htf.linalg.backend import check_tensor
from htf.ranks.spectrum import effective_ranks_of


def kernel_matrix(features: Tensor, normalize: bool = True) -> Tensor:
    r"""Gram matrix :math:`K_{ij} = \langle \phi(x_i), \phi(x_j) \rangle` of features, or of their cosines.

    Parameters
    ----------
    features : Tensor, (..., n, width)
        A row for each sample.
    normalize : bool
        Whether rows are divided by their norms first, which makes entries cosines.  A row of zeros stays one.

    Returns
    -------
    Tensor, (..., n, n)
        Gradients flow.

    Raises
    ------
    TypeError, ValueError
        If `features` is no floating tensor of two axes at least, is empty, or has NaN or infinite entries.

    See Also
    --------
    htf.ranks.kernel_effective_rank : its effective rank.
    htf.ranks.cluster_order : an order of samples for pictures of it.

    Examples
    --------
    >>> import torch, htf
    >>> features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    >>> htf.ranks.kernel_matrix(features)
    tensor([[1.0000, 0.0000, 0.7071],
            [0.0000, 1.0000, 0.7071],
            [0.7071, 0.7071, 1.0000]])
    """
    rows = _rows(features, normalize)
    return rows @ rows.mT


def kernel_effective_rank(features: Tensor, normalize: bool = True) -> Tensor:
    r"""Effective rank of the Gram matrix of features: exp of the entropy of its normalized eigenvalues.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = s_i^2 / \sum_j s_j^2

    for the singular values :math:`s_i` of the features, whose squares are the Gram matrix's eigenvalues.

    Parameters
    ----------
    features : Tensor, (..., n, width)
        A row for each sample.
    normalize : bool
        Whether rows are divided by their norms first, as in `kernel_matrix`.

    Returns
    -------
    Tensor, (...,)
        In double precision, between 1 and min(n, width); 0 where all features are 0.  Gradients flow.

    Raises
    ------
    TypeError, ValueError
        As `kernel_matrix`.

    See Also
    --------
    htf.ranks.kernel_matrix : the Gram matrix.
    htf.ranks.effective_rank : of singular values.

    Notes
    -----
    O(n width min(n, width)) each, by the eigenvalues of the smaller of the two Gram matrices.  Gradients are finite at
    repeated eigenvalues; eigenvalues of rounding's size are left out.

    Huh et al. 2023 print the entropy itself, ``kernel_effective_rank(features).log()``.  This is
    `htf.ranks.effective_rank` of the Gram matrix, which is at most that of the features.

    References
    ----------
    .. [1] M. Huh, H. Mobahi, R. Zhang, B. Cheung, P. Agrawal, P. Isola, "The low-rank simplicity bias in deep
       networks", TMLR 2023, arXiv:2103.10427.

    Examples
    --------
    >>> import torch, htf
    >>> round(htf.ranks.kernel_effective_rank(torch.eye(3)).item(), 6)
    3.0
    """
    rows = _rows(features, normalize).double()
    # Effective rank ignores scale; squares of the largest entry then cannot leave the range.
    largest = rows.detach().abs().amax((-2, -1), keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    small = rows @ rows.mT if rows.shape[-2] < rows.shape[-1] else rows.mT @ rows
    values = torch.linalg.eigvalsh(small)
    # Eigenvalues of rounding's size may be negative.
    kept = values.detach() > 1e-15 * small.shape[-1] * values.detach().sum(-1, keepdim=True)
    return effective_ranks_of(torch.where(kept, values, 0.0))


def cluster_order(kernel: Tensor) -> Tensor:
    r"""An order of samples that puts alike ones next to each other, for pictures of kernels.

    Parameters
    ----------
    kernel : Tensor, (n, n)
        A Gram matrix; only :math:`d_{ij}^2 = K_{ii} + K_{jj} - 2 K_{ij}` matters.

    Returns
    -------
    Tensor, (n,)
        A permutation: ``kernel[order][:, order]`` is the kernel in that order.

    Raises
    ------
    TypeError, ValueError
        If `kernel` is no finite, symmetric matrix.

    See Also
    --------
    htf.ranks.kernel_matrix : the Gram matrix of features.

    Notes
    -----
    Leaves of the tree of hierarchical clustering by average linkage, in the order of the least sum of distances between
    neighbours that the tree allows (optimal leaf ordering).  O(n²) memory; O(n³) at worst.

    References
    ----------
    .. [1] Z. Bar-Joseph, D. K. Gifford, T. S. Jaakkola, "Fast optimal leaf ordering for hierarchical clustering",
       Bioinformatics 17 (2001).

    Examples
    --------
    >>> import torch, htf
    >>> kernel = htf.ranks.kernel_matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 1.0], [1.0, 0.1]]))
    >>> order = htf.ranks.cluster_order(kernel)
    >>> order.tolist()  # samples 0 and 2 are alike, 1 and 3 are
    [0, 2, 3, 1]
    >>> picture = kernel[order][:, order]
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    K = _floating("kernel", kernel).detach().cpu().double().numpy()
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"kernel has shape {tuple(kernel.shape)}; expected (n, n)")
    if not np.allclose(K, K.T, rtol=1e-3, atol=1e-3 * float(np.abs(K).max(initial=0))):
        raise ValueError("kernel is not symmetric")
    if len(K) < 3:
        return torch.arange(len(K), device="cpu")
    norms = K.diagonal()
    squares = norms[:, None] + norms - K - K.T
    distances: Any = np.sqrt(np.maximum(squares, 0))
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return torch.from_numpy(leaves_list(tree).astype(np.int64))


def _rows(features: Tensor, normalize: bool) -> Tensor:
    features = _floating("features", features)
    if features.ndim < 2:
        raise ValueError(f"features has shape {tuple(features.shape)}; expected (..., n, width)")
    if not features.numel():
        raise ValueError(f"features has shape {tuple(features.shape)}; expected at least one sample and feature")
    if not normalize:
        return features
    # Scaled by the largest entry before squares are taken, which small features would lose.
    largest = features.detach().abs().amax(-1, keepdim=True)
    scaled = features / torch.where(largest > 0, largest, 1.0)
    return scaled / torch.where(largest > 0, scaled, 1.0).norm(dim=-1, keepdim=True)


def _floating(name: str, tensor: Tensor) -> Tensor:
    check_tensor(tensor, name)
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected a real floating type")
    if not bool(tensor.detach().isfinite().all()):
        raise ValueError(f"{name} has NaN or infinite entries")
    return tensor
