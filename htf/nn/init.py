"""Initializers of factorization networks.

An initializer is called once per run and block of alike matrices, as ``init(layout, block, generator)``, and
returns the block's matrices, shape ``(len(block.nodes), block.rows, block.columns)``; any function of that form will
do.  The layout is the run's own, so a run starts the same alone or among others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from htf.engine.layout import Block, Layout

Initializer = Callable[[Layout, Block, Generator | None], Tensor]


def gaussian(mean: float = 0.0, std: float = 1e-2) -> Initializer:
    """Independent Gaussian entries, the papers' initialization.

    Parameters
    ----------
    mean, std : float
        Of every entry; `std` is at least 0.
    """
    if not std >= 0:
        raise ValueError(f"std is {std}; expected at least 0")

    def init(layout: Layout, block: Block, generator: Generator | None) -> Tensor:
        return mean + std * _normal(block, generator)

    return init


def balanced(scale: float = 1e-2) -> Initializer:
    """Near-zero start in which all vectors of each local component have equal norms.

    Then the unbalancedness magnitude is zero, which gradient flow keeps (Razin, Maman & Cohen 2022, lemma 1).

    Parameters
    ----------
    scale : float
        Norm of each local component's vectors at the root; where widths change from level to level, the norms below
        change with the square root of their ratio.

    Notes
    -----
    Rows and columns of Gaussian matrices are rescaled in turn (Sinkhorn) until all norms agree to rounding.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected above 0")

    def init(layout: Layout, block: Block, generator: Generator | None) -> Tensor:
        tree = layout.tree
        if block.nodes == (tree.root,):
            w = _normal(block, generator)
            return scale * w / w.norm(dim=2, keepdim=True)
        columns = torch.tensor([_balanced_norm(layout, n, scale) for n in block.nodes], dtype=torch.float64)
        w = _normal(block, generator)
        if block.level:
            w = _sinkhorn(w)
        return w / w.norm(dim=1, keepdim=True) * columns[:, None, None]

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

    def init(layout: Layout, block: Block, generator: Generator | None) -> Tensor:
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
