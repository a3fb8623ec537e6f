"""HT tensors and ConvAC networks: full transfer tensors and diagonal ones."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tree import DimensionTree

# Entries of the largest transfer tensor that a network's matrix is spread out to: 1 GiB in single precision.
_LARGEST_TRANSFER = 2**28


def convac_to_ht(tree: DimensionTree, matrices: Mapping[int, Tensor]) -> HTTensor:
    """The HT tensor of a ConvAC's matrices, exactly.

    Parameters
    ----------
    tree : DimensionTree
    matrices : mapping from node to Tensor
        (dimension or own width, width of the parent); the root's, (width, outputs).

    Returns
    -------
    HTTensor
        The rank of a node is the width of its parent.  Leaf frames are the leaves' matrices; a transfer tensor holds
        its node's matrix on the diagonal of the children's axes, and zeros elsewhere.  Gradients flow to the matrices.

    Raises
    ------
    ValueError
        If a transfer tensor would have more than 2²⁸ entries.
    """
    factors = [matrices[mode] for mode in range(tree.order)]
    for node in tree.inner_nodes:
        matrix, arity = matrices[node], len(tree.children(node))
        width, columns = matrix.shape
        if width**arity * columns > _LARGEST_TRANSFER:
            raise ValueError(
                f"node {node} of width {width} has a transfer tensor of {float(width) ** arity * columns:.1e} entries; "
                f"at most {_LARGEST_TRANSFER:.1e} are written out"
            )
        # Rows of a (width^arity, columns) matrix that lie on the diagonal, and zeros for the others.
        stride = sum(width**k for k in range(arity))
        on_diagonal = torch.arange(width, device=matrix.device) * stride
        spread = torch.zeros(width**arity, columns, dtype=matrix.dtype, device=matrix.device)
        factors.append(spread.index_copy(0, on_diagonal, matrix).view(*(width,) * arity, columns))
    return HTTensor._of(tree, factors)


def ht_to_convac(ht_tensor: HTTensor | RawHT) -> dict[int, Tensor]:
    """Matrices of a ConvAC whose tensor is an HT tensor, exactly.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of PyTorch tensors.

    Returns
    -------
    dict
        From each node to its matrix.  The width of a node is the number of fibres of its transfer tensor, along its own
        rank, that are not zero: the product of its children's ranks in general, the rank where the transfer tensor is
        diagonal.  A network that was turned into an HT tensor is returned as it was, but for widths that no output
        depends on.

    Notes
    -----
    A ConvAC multiplies its children's outputs channel by channel, so each pair (i, j) of the children's columns that
    the transfer tensor uses becomes a channel, and the children's matrices repeat their columns accordingly (Cohen,
    Sharir & Shashua 2016).  Fibres of transfer tensors that are exactly zero make no channels, and get no gradient.
    """
    x = as_ht(ht_tensor)
    if not isinstance(x.factors[0], Tensor):
        raise TypeError(
            f"factors are {type(x.factors[0]).__name__}; a network takes PyTorch tensors, see HTTensor.to_backend"
        )
    matrices: dict[int, Tensor] = {mode: x.factors[mode] for mode in range(x.order)}
    for node in x.tree.inner_nodes:
        factor, group = x.factors[node], x.tree.children(node)
        fibres = factor.reshape(prod(tuple(factor.shape[:-1])), factor.shape[-1])
        used = fibres.detach().ne(0).any(dim=1).nonzero()[:, 0]
        used = used if len(used) else used.new_zeros(1)
        for child, columns in zip(group, torch.unravel_index(used, factor.shape[:-1]), strict=True):
            matrices[child] = matrices[child][:, columns]
        matrices[node] = fibres[used]
    return matrices
