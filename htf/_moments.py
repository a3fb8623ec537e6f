"""Moments of encoded vectors, which a start takes in place of samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htf._random import randn

# Vectors drawn where there are only moments.
DRAWN = 512


@dataclass(frozen=True)
class Moments:
    """First and second moments of the vectors that a network reads.

    Parameters
    ----------
    mean : Tensor
        (dim,) for all modes alike, or (order, dim): E[φ].
    second : Tensor
        (dim, dim) or (order, dim, dim): E[φ φᵀ].

    Raises
    ------
    TypeError, ValueError
        For shapes that do not agree, or entries that are no floats or not finite.

    See Also
    --------
    htf.datasets.encoding_moments : moments of an encoding.
    htf.nn.init.scale_preserving : takes them.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.rand(1000, 6, 1, generator=torch.Generator().manual_seed(0))
    >>> vectors = torch.cat([torch.ones_like(x), x], 2)  # an encoding of one's own
    >>> moments = htf.nn.init.Moments.of(vectors)
    >>> moments.mean.shape, moments.second.shape
    (torch.Size([6, 2]), torch.Size([6, 2, 2]))
    >>> start = htf.nn.init.scale_preserving(inputs=moments)
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(6), 2, 4, init=start, seed=0)
    >>> 0.5 < net(vectors).square().mean().sqrt().item() < 2
    True
    """

    mean: Tensor
    second: Tensor

    def __post_init__(self) -> None:
        for name in ("mean", "second"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} is {kind}; expected a Tensor of floats")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} has entries that are NaN or infinite")
            object.__setattr__(self, name, value.detach().cpu().double())
        if self.mean.ndim not in (1, 2) or self.second.shape != (*self.mean.shape, self.mean.shape[-1]):
            raise ValueError(
                f"mean has shape {tuple(self.mean.shape)} and second {tuple(self.second.shape)}; expected (dim,) and "
                "(dim, dim), or (order, dim) and (order, dim, dim)"
            )

    @classmethod
    def of(cls, vectors: Tensor) -> Moments:
        """Moments of encoded vectors, mode by mode.

        Parameters
        ----------
        vectors : Tensor
            (samples, order, dim) floats.

        Returns
        -------
        Moments
            Of shapes (order, dim) and (order, dim, dim).
        """
        vectors = check_vectors("vectors", vectors).detach().cpu().double()
        return cls(vectors.mean(0), torch.einsum("bnd,bne->nde", vectors, vectors) / len(vectors))

    def drawn(self, order: int, generator: torch.Generator | None) -> Tensor:
        """Gaussian vectors of these moments, independent from mode to mode, (DRAWN, order, dim)."""
        mean = self.mean.expand(order, -1)
        spread, axes = torch.linalg.eigh(self.second - self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2))
        root = (axes * spread.clamp(min=0).sqrt().unsqueeze(-2)).expand(order, -1, -1)
        return mean + torch.einsum("nde,bne->bnd", root, randn((DRAWN, *mean.shape), generator))


def check_vectors(name: str, vectors: Tensor) -> Tensor:
    """Encoded vectors, (samples, order, dim), finite and at least one."""
    if vectors.ndim != 3 or not vectors.numel():
        raise ValueError(f"{name} has shape {tuple(vectors.shape)}; expected (samples, order, dim)")
    if not vectors.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {vectors.dtype}; expected floats")
    if not bool(vectors.isfinite().all()):
        raise ValueError(f"{name} has {int((~vectors.isfinite()).sum())} entries that are NaN or infinite")
    return vectors
