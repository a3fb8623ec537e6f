"""Initializers of factorization networks.

An initializer is called once per run and block of alike matrices, as ``init(layout, block, generator)``, and
returns the block's matrices, shape ``(len(block.nodes), block.rows, block.columns)``; any function of that form will
do.  The layout is the run's own, so a run starts the same alone or among others.

A deep linear network has a `Chain` for a layout, whose blocks are its layers.  An initializer whose layers are drawn
jointly has a method ``chain(layout, generator)``, called once per run, that returns all matrices, W_1 first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from htf.engine.layout import Block, Layout


@dataclass(frozen=True)
class Chain:
    """Shapes of the matrices of a deep linear network W_L···W_1, which has no tree.

    Attributes
    ----------
    sizes : tuple of int
        d_0, ..., d_L; W_l is d_l x d_{l-1}.
    """

    sizes: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """One block per layer, W_1 first; layer l is its node and its level."""
        layers = enumerate(zip(self.sizes[1:], self.sizes, strict=False), 1)
        return tuple(Block((layer,), layer, rows, columns) for layer, (rows, columns) in layers)


Initializer = Callable[[Layout | Chain, Block, Generator | None], Tensor]


@runtime_checkable
class JointInitializer(Protocol):
    """An initializer that draws all layers of a deep linear network at once."""

    def chain(self, layout: Chain, generator: Generator | None) -> list[Tensor]:
        """The matrices of one run, W_1 first."""
        ...


def gaussian(mean: float = 0.0, std: float = 1e-2) -> Initializer:
    """Independent Gaussian entries, the papers' initialization.

    Parameters
    ----------
    mean, std : float
        Of every entry; `std` is at least 0.
    """
    if not std >= 0:
        raise ValueError(f"std is {std}; expected at least 0")

    def init(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        return mean + std * _normal(block, generator)

    return init


def balanced(scale: float = 1e-2) -> Initializer:
    """Near-zero start with an unbalancedness of zero, which gradient flow keeps.

    In a tensor factorization all vectors of each local component have equal norms (Razin, Maman & Cohen 2022,
    lemma 1).  In a deep linear network W_{l+1}^T W_{l+1} = W_l W_l^T, to rounding (Arora et al. 2019, procedure 1).

    Parameters
    ----------
    scale : float
        In a tensor factorization, the norm of each local component's vectors at the root; where widths change from
        level to level, the norms below change with the square root of their ratio.  In a deep linear network, the
        Frobenius norm of the end matrix.

    Notes
    -----
    On a tree, rows and columns of Gaussian matrices are rescaled in turn (Sinkhorn) until all norms agree to rounding.

    For a deep linear network the SVD :math:`U S V^T` of a Gaussian end matrix, cut to the smallest width, is spread
    over the layers: :math:`W_L = U S^{1/L}`, :math:`W_1 = S^{1/L} V^T` and :math:`S^{1/L}` between, padded with zeros.
    Hidden units beyond the rank of the end matrix are zero, as balance demands, and gradient descent leaves them so.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.
    .. [2] S. Arora, N. Cohen, N. Golowich, W. Hu, "A convergence analysis of gradient descent for deep linear neural
       networks", ICLR 2019.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected above 0")
    return _Balanced(scale)


@dataclass(frozen=True)
class _Balanced:
    scale: float

    def __call__(self, layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if isinstance(layout, Chain):
            raise TypeError("the layers of a balanced chain depend on each other; draw them with `chain`")
        if block.nodes == (layout.tree.root,):
            w = _normal(block, generator)
            return self.scale * w / w.norm(dim=2, keepdim=True)
        columns = torch.tensor([_balanced_norm(layout, n, self.scale) for n in block.nodes], dtype=torch.float64)
        w = _normal(block, generator)
        if block.level:
            w = _sinkhorn(w)
        return w / w.norm(dim=1, keepdim=True) * columns[:, None, None]

    def chain(self, layout: Chain, generator: Generator | None) -> list[Tensor]:
        sizes, rank = layout.sizes, min(layout.sizes)
        end = torch.randn(sizes[-1], sizes[0], generator=generator, dtype=torch.float64)
        u, s, vh = torch.linalg.svd(end, full_matrices=False)
        u, s, vh = u[:, :rank], s[:rank], vh[:rank]
        # Each layer's share of the scale is taken before it is multiplied: a tiny one must not underflow.
        share = (s / s.norm()) ** (1 / len(layout.blocks)) * self.scale ** (1 / len(layout.blocks))
        matrices = [torch.zeros(block.rows, block.columns, dtype=torch.float64) for block in layout.blocks]
        if len(matrices) == 1:
            matrices[0][:] = (u * share) @ vh
            return matrices
        matrices[0][:rank] = share[:, None] * vh
        matrices[-1][:, :rank] = u * share
        for matrix in matrices[1:-1]:
            matrix[:rank, :rank] = share.diag()
        return matrices


def identity(scale: float = 1e-2) -> Initializer:
    """Every layer of a deep linear network a multiple of the identity; where it is not square, of its leading part.

    Parameters
    ----------
    scale : float
        On the diagonals.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected above 0")

    def init(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if not isinstance(layout, Chain):
            raise ValueError("init identity is for matrix factorizations; a network on a tree takes scale_preserving")
        return scale * torch.eye(block.rows, block.columns, dtype=torch.float64).unsqueeze(0)

    return init


def scale_preserving(noise: float = 1.0, mixing: float = 0.1) -> Initializer:
    """Start near the average of R rank-one terms: outputs near 1 at any order, depth and width.

    Leaf entries are 1 plus noise, inner matrices the identity plus noise, the root averages.  The network then begins
    close to a CP factorization whose rank is its width.

    Parameters
    ----------
    noise : float
        Standard deviation of the logarithm of a rank-one term, to first order: leaf entries have standard deviation
        ``noise / sqrt(order)``.
    mixing : float
        Standard deviation of a row of an inner matrix's noise: entries have ``mixing / sqrt(rows)``.
    """
    for name, value in (("noise", noise), ("mixing", mixing)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected at least 0")

    def init(layout: Layout | Chain, block: Block, generator: Generator | None) -> Tensor:
        if isinstance(layout, Chain):
            raise ValueError(
                "init scale_preserving is for trees; a matrix factorization takes gaussian, balanced or identity"
            )
        if block.level == 0:
            leaves = 1 + noise / math.sqrt(layout.tree.order) * _normal(block, generator)
            # Without a root matrix to average the components, their vectors do.
            return leaves * block.columns ** (-1 / layout.tree.order) if layout.root_adds else leaves
        if block.nodes == (layout.tree.root,):
            return torch.full((1, block.rows, block.columns), 1 / block.rows, dtype=torch.float64)
        # Where widths differ, channels are folded onto (or copied to) the parent's in turn.
        eye = torch.zeros(block.rows, block.columns, dtype=torch.float64)
        longer = torch.arange(max(block.rows, block.columns))
        eye[longer % block.rows, longer % block.columns] = 1
        return eye / eye.sum(0) + mixing / math.sqrt(block.rows) * _normal(block, generator)

    return init


BY_NAME: dict[str, Callable[[], Initializer]] = {
    "gaussian": gaussian,
    "balanced": balanced,
    "identity": identity,
    "scale_preserving": scale_preserving,
}


def resolve(init: str | Initializer) -> Initializer:
    """The initializer of a name, or `init` itself if it is callable."""
    if callable(init):
        return init
    if init not in BY_NAME:
        raise ValueError(f"init is {init!r}; known names are {', '.join(sorted(BY_NAME))}, or pass a callable")
    return BY_NAME[init]()


def _normal(block: Block, generator: Generator | None) -> Tensor:
    return torch.randn(len(block.nodes), block.rows, block.columns, generator=generator, dtype=torch.float64)


def _balanced_norm(layout: Layout, node: int, scale: float) -> float:
    """Common norm of the columns of `node`, which is that of the rows of its parent."""
    parent = layout.tree.parent(node)
    assert parent is not None
    norm = scale
    while parent != layout.tree.root:
        rows, columns = layout.shape(parent)
        norm *= math.sqrt(columns / rows)
        parent = layout.tree.parent(parent)
        assert parent is not None
    return norm


def _sinkhorn(w: Tensor) -> Tensor:
    ratio = math.sqrt(w.shape[1] / w.shape[2])  # column norm over row norm
    for _ in range(1000):
        w = w / w.norm(dim=2, keepdim=True)
        norms = w.norm(dim=1, keepdim=True)
        w = w / norms * ratio
        if bool(((norms / ratio - 1).abs() < 1e-13).all()):
            break
    return w
