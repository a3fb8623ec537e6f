"""Starts of non-negative networks whose columns are distributions: densities that know their data a little."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from htf._random import rand, randn
from htf.engine.layout import Block, Layout

LEAVES = ("categorical", "binomial")
# What a distribution at the start leaves to values that no sample shows.
UNSEEN = 0.01
# Levels, of all, beyond which two values are as different as any.
REACH = 0.25
# Share of the identity in inner matrices.
IDENTITY = 0.8
# Share of the uniform distribution in binomial leaves: what is far from all their means is not beyond all floats.
OUTLIERS = 1e-3
# Standard deviation of the rows of the noise beside identities.
MIXING = 0.3


def distributions(
    samples: Tensor, *, contrast: float = 5.0, leaf: str = "categorical", squared: bool = False
) -> Distributions:
    r"""Start with distributions as columns, near the product of the modes' own distributions.

    Component r, of whatever node, is given a random sample.  In column r of leaf matrices the frequencies of the mode's
    values, :math:`p_k`, are tilted towards the sample's value v, to :math:`p_k \exp(-c \min(4 |k - v| / d, 1))` for
    dimension d.  Inner matrices are four parts of the identity and one of columns drawn uniformly from all
    distributions, and the root's columns are even: the start is near a mixture of products.

    Parameters
    ----------
    samples : Tensor
        (n, order) integers.
    contrast : float
        The tilt c, at least 0.
    leaf : str
        "categorical", or "binomial" for the binomial distributions of the same means.
    squared : bool
        For outputs that are to be squared: leaf columns are the square roots of distributions, and inner matrices the
        identity and normal noise.

    Returns
    -------
    callable
        An `init` of `HTNetwork`.

    Raises
    ------
    ValueError
        If `contrast` is negative, `leaf` unknown, or `samples` of another shape; when a network is made, if samples do
        not fit it.

    See Also
    --------
    htf.training.ExpectationMaximization : what it is a start of.
    htf.models.TensorDensity : an estimator.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 3, (50, 4), generator=torch.Generator().manual_seed(0))
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 3, 2, init=htf.nn.init.distributions(x), seed=0)
    >>> [bool(torch.allclose(w.sum(-2), torch.ones(()))) for w in net.weights]
    [True, True, True]
    """
    if not contrast >= 0:
        raise ValueError(f"contrast is {contrast}; expected at least 0")
    if leaf not in LEAVES:
        raise ValueError(f"leaf is {leaf!r}; expected one of {', '.join(LEAVES)}")
    if samples.ndim != 2 or not len(samples):
        raise ValueError(f"samples has shape {tuple(samples.shape)}; expected (n, order) with at least one sample")
    return Distributions(samples, contrast, leaf, squared)


@dataclass(frozen=True, eq=False)
class Distributions:
    """The start that `distributions` describes."""

    samples: Tensor
    contrast: float
    leaf: str
    squared: bool

    def tree(self, layout: Layout, generator: Generator | None, shared: bool = False) -> list[Tensor]:
        """The matrices of one run, per block."""
        order = layout.tree.order
        if self.samples.shape[1] != order:
            raise ValueError(f"samples has {self.samples.shape[1]} columns; the network has order {order}")
        samples = self.samples.cpu()
        chosen = (rand((max(layout.widths),), generator) * len(samples)).long()
        found = []
        for block in layout.blocks:
            if block.level and self.squared:
                drawn = randn((len(block.nodes), block.rows, block.columns), generator) * (MIXING / block.rows**0.5)
                root = block.nodes == (layout.tree.root,)
                found.append(
                    drawn + 1 if root else drawn + torch.eye(*drawn.shape[1:], dtype=drawn.dtype, device="cpu")
                )
                continue
            if block.level:
                drawn = -rand((len(block.nodes), block.rows, block.columns), generator).clamp(min=1e-12).log()
                drawn = drawn / drawn.sum(1, keepdim=True)
                unit = torch.eye(block.rows, block.columns, dtype=drawn.dtype, device="cpu")
                matrices = (1 - IDENTITY) * drawn + IDENTITY * unit
                if block.nodes == (layout.tree.root,):
                    matrices = torch.ones_like(drawn)
            else:
                columns = chosen[: block.columns]
                matrices = torch.stack([self._leaf(block, samples[:, node], columns, node) for node in block.nodes])
            if shared:
                matrices = matrices.mean(0, keepdim=True).expand_as(matrices)
            matrices = matrices / matrices.sum(1, keepdim=True)
            if not block.level and self.leaf == "binomial":
                matrices = binomial(binomial_means(matrices), block.rows)
            if self.squared:
                matrices = matrices.sqrt()
            found.append(matrices)
        return found

    def __call__(self, layout: object, block: Block, generator: Generator | None) -> Tensor:
        raise TypeError("distributions are drawn for all of a tree at once")

    def _leaf(self, block: Block, values: Tensor, chosen: Tensor, node: int) -> Tensor:
        values = values.long()
        if int(values.min()) < 0 or int(values.max()) >= block.rows:
            raise ValueError(f"samples of mode {node} are not from 0 to {block.rows - 1}, its dimension less 1")
        frequency = torch.bincount(values, minlength=block.rows).double() / len(values)
        frequency = (1 - UNSEEN) * frequency + UNSEEN / block.rows
        far = (torch.arange(block.rows, device="cpu")[:, None] - values[chosen]).abs() / (REACH * block.rows)
        return frequency[:, None] * (-self.contrast * far.clamp(max=1)).exp()


def binomial_means(counts: Tensor) -> Tensor:
    """Probabilities of success of binomial distributions from counts of values.

    Parameters
    ----------
    counts : Tensor
        (..., rows, columns).

    Returns
    -------
    Tensor
        (..., 1, columns); NaN for columns without counts.
    """
    rows = counts.shape[-2]
    values = torch.arange(rows, device=counts.device, dtype=counts.dtype)
    means = (counts * values[:, None]).sum(-2, keepdim=True) / (counts.sum(-2, keepdim=True) * max(rows - 1, 1))
    eps = torch.finfo(counts.dtype).eps
    return means.clamp(eps, 1 - eps)


def without_outliers(counts: Tensor, columns: Tensor) -> Tensor:
    """Counts (..., rows, columns) of what binomial columns explain by their binomial part."""
    return counts * (1 - OUTLIERS / columns.shape[-2] / columns).clamp(min=0)


def binomial(success: Tensor, rows: int) -> Tensor:
    """Columns of binomial probabilities of 0 to rows - 1 successes, with a small share of the uniform distribution.

    Parameters
    ----------
    success : Tensor
        (..., 1, columns), above 0 and below 1.
    rows : int

    Returns
    -------
    Tensor
        (..., rows, columns), each at least `OUTLIERS` / rows.
    """
    k = torch.arange(rows, device=success.device, dtype=torch.float64)
    n = rows - 1
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    p = success.double()
    found = (ways[:, None] + k[:, None] * p.log() + (n - k)[:, None] * (-p).log1p()).exp()
    return ((1 - OUTLIERS) * found + OUTLIERS / rows).to(success.dtype)
