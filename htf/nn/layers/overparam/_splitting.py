"""Factors that compose to a given weight."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from htf.nn.layers.overparam._composition import ConvChain, centred_identity

RANDOM_INSTEAD = 'start="random" begins with a weight of its own'


def split(chain: ConvChain, weight: Tensor, slack: float) -> tuple[list[Tensor], list[Tensor]]:
    r"""Balanced factors of a weight: of :math:`W = U S V^T`, rows by inputs and taps, each has a share of S.

    Parameters
    ----------
    chain : ConvChain
        Of at most one kernel larger than 1, whose connections do not cross.
    weight : Tensor
        Of its composed shape.
    slack : float
        Largest singular value that may be lost where a width is below the rank, relative to the largest of all.

    Returns
    -------
    factors : list of Tensor
        Per factor (groups, out / groups, in / groups, \*kernel).
    carried : list of Tensor
        Per hidden state (groups, channels / groups): the channels in use.  Those of others are zero on every input, so
        that the factors that read them may have any weights there.

    Raises
    ------
    ValueError
        If the chain has no such factors.

    Notes
    -----
    A connection from the first state to the last is subtracted from the weight; then the product falls into pieces at
    the states over which no connection leaps, and each piece is split in turn.
    """
    if (0, chain.depth) in chain.connections:
        weight = weight - centred_identity(weight, chain.groups)
        inner = tuple(each for each in chain.connections if each != (0, chain.depth))
        chain = ConvChain(chain.channels, chain.kernels, chain.groups, inner)
    if chain.depth == 1:
        return [weight.reshape(chain.groups, -1, *weight.shape[1:])], []
    cuts = chain.free_cuts(0, chain.depth)
    if not cuts:
        raise ValueError(f"residual connections cross, and the weight is not split under them; {RANDOM_INSTEAD}")
    bounds = [0, *cuts, chain.depth]
    parts = [chain.part(start, stop) for start, stop in pairwise(bounds)]
    pieces, carried = _pieces(parts, weight, slack)
    factors: list[Tensor] = []
    states: list[Tensor] = []
    for part, piece, after in zip(parts, pieces, [*carried, None], strict=True):
        inner_factors, inner_states = split(part, piece.reshape(part.shape(0, part.depth)), slack)
        factors += inner_factors
        states += inner_states if after is None else [*inner_states, after]
    return factors, states


def _pieces(parts: Sequence[ConvChain], weight: Tensor, slack: float) -> tuple[list[Tensor], list[Tensor]]:
    """One weight for each part, (groups, out / groups, in / groups, taps), and the channels in use between them."""
    groups = parts[0].groups
    larger = [k for k, part in enumerate(parts) if part.taps(0, part.depth) > 1]
    if len(larger) > 1:
        sizes = [part.kernel for part in parts]
        raise ValueError(
            f"kernel_sizes are {sizes}: a weight is split into factors of at most one larger than 1; {RANDOM_INSTEAD}"
        )
    centre = larger[0] if larger else 0
    shares = [part.depth for part in parts]
    widths = [part.channels[-1] // groups for part in parts]
    taps = prod(weight.shape[2:])
    kernel = weight.reshape(groups, -1, weight.shape[1], taps)
    pieces: list[Tensor] = []
    carried: list[Tensor] = []
    if centre:
        rows = kernel.transpose(2, 3).flatten(1, 2)
        *pieces, rest = _balanced(rows, [*shares[:centre], sum(shares[centre:])], widths[:centre], slack, carried)
        kernel = rest.unflatten(1, (-1, taps)).transpose(2, 3)
    columns = kernel.shape[2]
    first, *later = _balanced(kernel.flatten(2), shares[centre:], widths[centre:-1], slack, carried)
    pieces = [piece[..., None] for piece in pieces]
    return [*pieces, first.unflatten(2, (columns, taps)), *(piece[..., None] for piece in later)], carried


def _balanced(
    matrices: Tensor, shares: Sequence[int], widths: Sequence[int], slack: float, carried: list[Tensor]
) -> list[Tensor]:
    """Factors of each matrix, (groups, rows, columns), from the right; adds the channels in use to `carried`."""
    if len(shares) == 1:
        return [matrices]
    # LAPACK is several times faster on a tall matrix than on the same one lying.
    V, S, Uh = torch.linalg.svd(matrices.mT, full_matrices=False)
    U, Vh = Uh.mT, V.mT
    narrowest = min(widths)
    largest = float(S.max())
    rank = int(S.gt(slack * largest).sum(-1).max())
    if narrowest < rank:
        raise ValueError(
            f"width is {narrowest * len(S)}; expected at least {rank * len(S)}, the rank of the weight"
            + (f" in {len(S)} groups" if len(S) > 1 else "")
            + f" that the factors share; {RANDOM_INSTEAD}"
        )
    # What is below rounding error in double precision is no direction of the weight.
    used = S.gt(largest * torch.finfo(S.dtype).eps * max(matrices.shape[1:]))
    used[:, narrowest:] = False
    S = torch.where(used, S, 0)
    roots = [S ** (share / sum(shares)) for share in shares]
    factors = [_fit(roots[0][..., None] * Vh, widths[0], Vh.shape[2])]
    for root, before, after in zip(roots[1:-1], widths[:-1], widths[1:], strict=True):
        factors.append(_fit(torch.diag_embed(root), after, before))
    factors.append(_fit(U * roots[-1][:, None, :], U.shape[1], widths[-1]))
    carried.extend(_fit(used[:, None].to(S.dtype), 1, width)[:, 0] > 0 for width in widths)
    return factors


def _fit(matrices: Tensor, rows: int, columns: int) -> Tensor:
    """Cut off what exceeds rows and columns, and fill with zeros."""
    return pad(matrices, (0, columns - matrices.shape[2], 0, rows - matrices.shape[1]))
