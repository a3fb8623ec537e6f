"""Regularization of spectra on the edges of a dimension tree, from Gramians: no singular value is differentiated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from htf._checks import above_zero, finite, positive
from htf.nn import Factorization
from htf.nn.networks.gramians import overlaps
from htf.patches.sampling import Patch, check_patches
from htf.ranks.frames import Frames, Ranked, check_edges
from htf.regularizers._base import check_learning
from htf.tree import DimensionTree


class TreeRegularizer(ABC):
    """A term of a loss that falls as ranks on the edges of a tree rise."""

    def __init__(self, weight: float, edges: Iterable[int] | None) -> None:
        self.weight = finite("weight", weight)
        if edges is not None and not isinstance(edges, Iterable):
            raise TypeError(f"edges is {edges!r}; expected several nodes, or None for all")
        self.edges = None if edges is None else tuple(dict.fromkeys(edges))
        if self.edges is not None and not self.edges:
            raise ValueError("edges is empty; expected at least one node, or None for all")
        self._last: Tensor | None = None

    def __call__(self, x: Ranked, *_: object) -> Tensor:
        """The term to add to the loss.

        Parameters
        ----------
        x : HTNetwork, HTTensor, (tree, factors), CPNetwork or CPTensor
            Of PyTorch tensors.
        *_ : object
            Batch, labels and outputs, which other regularizers look at, may be given and are ignored.

        Returns
        -------
        Tensor
            0-dimensional, in double precision: the sum over runs of the mean over edges, times minus the weight.

        Raises
        ------
        IndexError
            If `edges` holds a node that is none below the root.
        TypeError, ValueError
            If `x` is nothing that has a tree, is of another backend, or has NaN or infinite entries.
        RuntimeError
            If `x` is a network that cannot learn: gradients are switched off, or all parameters frozen.
        """
        if isinstance(x, nn.Module):
            check_learning(x)
        parts = [self._measure(*_balanced(below, above)) for below, above in self._sides(x)]
        runs = getattr(x, "runs", 1)
        total = torch.cat([part.flatten() for part in parts]).mean() * runs
        if not bool(total.detach().isfinite()):
            raise ValueError("x has NaN or infinite entries")
        self._last = total.detach() / runs
        return -self.weight * total

    @property
    def last(self) -> float | None:
        """Mean over runs and edges as last computed, without weight and sign: it rises with ranks."""
        return None if self._last is None else float(self._last)

    @abstractmethod
    def _measure(self, spectral: Tensor, nonzero: Tensor) -> Tensor:
        """From matrices similar to ρ on edges, of trace 1 or zero, and which of them are not zero, to (runs, edges)."""

    def _sides(self, x: Ranked) -> Iterator[tuple[Tensor, Tensor]]:
        """Gramians on both sides of edges, each (runs, edges, width, width); runs of a CP network come one by one."""
        stacked = x.stacked_matrices() if isinstance(x, Factorization) else None
        if stacked is not None:
            layout, matrices = stacked
            chosen = set(check_edges(layout.tree, self.edges))
            for nodes, below, above in overlaps(layout, matrices):
                kept = [position for position, node in enumerate(nodes) if node in chosen]
                if len(kept) == len(nodes):
                    yield below, above
                elif kept:
                    yield below[:, kept], above[:, kept]
            return
        for run in range(x.runs if isinstance(x, Factorization) else 1):
            frames = Frames.of(x, run)
            if not isinstance(frames.factors[0], Tensor):
                raise TypeError(f"x holds {type(frames.factors[0]).__name__}; expected PyTorch tensors")
            edges = check_edges(frames.tree, self.edges)
            frame, _ = frames.below(frames.factors, frames.factors)
            rest = frames.above(frames.factors, frames.factors, frame, edges)
            for node in edges:
                yield frame[node][None, None], rest[node][None, None]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(weight={self.weight!r}, edges={self.edges!r})"


class TreeEntropy(TreeRegularizer):
    r"""Promotes, or lowers, the Rényi-2 entropies on the edges of a tree.

    On the edge above a node ν, for the singular values of the matricization and :math:`p_i = \sigma_i^2 / \sum_j
    \sigma_j^2`,

    .. math:: S_\nu = -\log \sum_i p_i^2 = -\log \operatorname{tr} \rho_\nu^2

    is 0 for rank 1, log r for r equal singular values, and ignores the scale of the tensor.  The term is minus the mean
    over edges, summed over the runs of a network.

    Call it as ``reg(network)`` and add what it gives to the loss.

    Parameters
    ----------
    weight : float
        Factor of the term: above 0 ranks are promoted, below 0 lowered.
    edges : iterable of int, optional
        Nodes below the root, each for the edge above it; all by default.  See `separating_edges`.

    Raises
    ------
    TypeError, ValueError
        For a weight that is not finite, and no edges.

    See Also
    --------
    htf.ranks.renyi2_entropies : the same entropies, edge by edge.
    htf.regularizers.TreeLogDet : sees singular values that have yet to rise.
    htf.regularizers.separating_edges : edges between two patches.

    Notes
    -----
    O(N R³) for a network, in one pass up and one down the tree, a few products a level; O(N n r² + N r⁴) for an HT
    tensor.  Only products and sums are differentiated: gradients of any order are right at repeated and zero singular
    values.  A tensor that is zero has entropy 0 and no gradient.

    References
    ----------
    .. [1] Y. Levine, D. Yakira, N. Cohen, A. Shashua, "Deep learning and quantum entanglement: fundamental connections
       with implications to network design", ICLR 2018.

    Examples
    --------
    >>> import torch, htf
    >>> tree = htf.DimensionTree.grid(4, 4)
    >>> edges = htf.regularizers.separating_edges(tree, 4, (0, 0, 1, 1), (3, 3, 1, 1))
    >>> reg = htf.regularizers.TreeEntropy(0.1, edges)
    >>> reg(htf.nn.HTNetwork(tree, 2, 3, seed=0)).backward()
    >>> 0 < reg.last < torch.tensor(3.0).log()
    tensor(True)
    """

    def __init__(self, weight: float = 1.0, edges: Iterable[int] | None = None) -> None:
        super().__init__(weight, edges)

    def _measure(self, spectral: Tensor, nonzero: Tensor) -> Tensor:
        return -torch.log(torch.where(nonzero, (spectral * spectral.mT).sum((-2, -1)), 1.0))


class TreeLogDet(TreeRegularizer):
    r"""Promotes, or lowers, the number of singular values on the edges of a tree that are not small.

    On the edge above a node ν, with :math:`p_i = \sigma_i^2 / \sum_j \sigma_j^2` as for `TreeEntropy`,

    .. math:: D_\nu = \log \det (1 + \rho_\nu / \epsilon) - \log (1 + 1 / \epsilon)
        = \sum_i \log (1 + p_i / \epsilon) - \log (1 + 1 / \epsilon)

    is 0 for rank 1 and grows by about :math:`\log (p_i / \epsilon)` with every singular value above ε.  The term is
    minus the mean over edges, summed over the runs of a network.  Where entropy sees the largest singular values, this
    sees all: its derivative by a singular value that has yet to rise, :math:`1 / \epsilon`, is the largest.

    Call it as ``reg(network)`` and add what it gives to the loss.

    Parameters
    ----------
    weight : float
        Factor of the term: above 0 ranks are promoted, below 0 lowered.
    edges : iterable of int, optional
        Nodes below the root, each for the edge above it; all by default.  See `separating_edges`.
    eps : float
        Share of the squared norm below which a singular value counts little.

    Raises
    ------
    TypeError, ValueError
        For a weight that is not finite, no edges, and `eps` that is not above 0.

    See Also
    --------
    htf.regularizers.TreeEntropy : sees the largest singular values.
    htf.regularizers.separating_edges : edges between two patches.
    htf.ranks.spectra : the singular values.

    Notes
    -----
    As `TreeEntropy`, with a determinant of width × width in place of a trace.

    References
    ----------
    .. [1] M. Fazel, H. Hindi, S. P. Boyd, "Log-det heuristic for matrix rank minimization with applications to Hankel
       and Euclidean distance matrices", ACC 2003.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(8), dims=3, width=3, seed=0)
    >>> reg = htf.regularizers.TreeLogDet(weight=-1.0)  # below 0: ranks are lowered
    >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    >>> for step in range(30):
    ...     optimizer.zero_grad()
    ...     loss = reg(net)  # add it to the loss of the data
    ...     loss.backward()
    ...     optimizer.step()
    >>> round(reg.last, 1), htf.ranks.hierarchical_rank(net, tol=0.1)[8]
    (0.0, 1)
    """

    def __init__(self, weight: float = 1.0, edges: Iterable[int] | None = None, eps: float = 1e-3) -> None:
        super().__init__(weight, edges)
        self.eps = above_zero("eps", eps)

    def _measure(self, spectral: Tensor, nonzero: Tensor) -> Tensor:
        one = torch.eye(spectral.shape[-1], dtype=spectral.dtype, device=spectral.device)
        log_det = torch.linalg.slogdet(one + spectral / self.eps)[1]
        return torch.where(nonzero, log_det - math.log1p(1 / self.eps), 0.0)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, eps={self.eps!r})"


def separating_edges(
    tree: DimensionTree,
    width: int,
    first: Patch | tuple[int, int, int, int],
    second: Patch | tuple[int, int, int, int],
) -> list[int]:
    """The edges of a tree over pixels that have one patch on the one side and another on the other side.

    The ranks there bound the separation rank of the two patches, given the rest of the image.

    Parameters
    ----------
    tree : DimensionTree
        Over the pixels of an image in row-major order.
    width : int
        Pixels in a row of the image.
    first, second : Patch or (top, left, height, width)

    Returns
    -------
    list of int
        Nodes below the root, each for the edge above it, ascending.  The two children of a root stand for the same
        matricization.

    Raises
    ------
    TypeError, ValueError
        If the tree is none of such an image, the patches overlap or leave it, or no edge separates them.

    See Also
    --------
    htf.regularizers.TreeEntropy, htf.regularizers.TreeLogDet : terms on some edges of a tree.
    htf.regularizers.tree_patches : patches that a tree separates.

    Examples
    --------
    >>> import htf
    >>> tree = htf.DimensionTree.grid(4, 4)
    >>> edges = htf.regularizers.separating_edges(tree, 4, (0, 0, 2, 2), (2, 2, 2, 2))  # two quarters of the image
    >>> [tree.modes(node) for node in edges]
    [(0, 1, 4, 5), (10, 11, 14, 15)]
    """
    if tree.order % positive("width", width):
        raise ValueError(f"width is {width}; expected a divisor of the tree's {tree.order} modes")
    pair = check_patches((Patch(*first), Patch(*second)), tree.order // width, width)
    pixels = [
        {i * width + j for i in range(tree.order // width)[p.rows] for j in range(width)[p.columns]} for p in pair
    ]
    # A node has one patch whole and nothing of the other: counts from the leaves up, as nodes have many modes.
    counts = [[int(mode in patch) for mode in tree.leaves] for patch in pixels]
    for each in counts:
        for node in tree.inner_nodes:
            each.append(sum(each[child] for child in tree.children(node)))
    sides = {(len(pixels[0]), 0), (0, len(pixels[1]))}
    found = [node for node in tree.edges if (counts[0][node], counts[1][node]) in sides]
    if not found:
        raise ValueError(f"no edge of the tree separates {pair[0]} from {pair[1]}")
    return found


def _balanced(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices similar to ρ = M G / tr(M G), from the Gramians of the frame and of the rest; which are not zero.

    Columns of both are first scaled to norms alike, by constants: their products are what counts, and columns of
    products of many factors differ by so many orders of magnitude that they would be lost to rounding.
    """
    m, g = (side.detach().diagonal(dim1=-2, dim2=-1).abs().sqrt() for side in (below, above))
    both = (m > 0) & (g > 0)
    scale = (torch.where(both, g, 1.0) / torch.where(both, m, 1.0)).sqrt()
    outer = scale[..., :, None] * scale[..., None, :]
    product = (below * outer) @ (above / outer)
    trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Not "above 0", which would take NaN for zero.
    nonzero = ~(trace.detach() <= 0)
    return product / torch.where(nonzero, trace, 1.0)[..., None, None], nonzero
