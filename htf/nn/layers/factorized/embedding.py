"""Embeddings whose table is a tensor in a format of low rank."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils import skip_init

from htf._checks import positive
from htf.linalg.backend import context
from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._layer import Device, RankLike, filled
from htf.nn.layers.factorized._paths import contract, operations
from htf.nn.layers.factorized._routes import BY_FACTORS, RECONSTRUCTED
from htf.nn.layers.factorized.tensorized import ShapeLike, Tensorized


class FactorizedEmbedding(Tensorized):
    """An embedding whose table is a tensor in a format of low rank.

    Parameters
    ----------
    num_embeddings, embedding_dim, padding_idx
        As in nn.Embedding.  Positions of `padding_idx` give no gradients.
    format, rank, shape, seed, device, dtype
        As in `htf.nn.FactorizedLinear`, of a matrix (num_embeddings, embedding_dim); by default with 3 modes a side.

    Attributes
    ----------
    factors, format, rank, shape, applies
        As in `htf.nn.FactorizedLinear`.

    Raises
    ------
    ValueError, TypeError
        As `htf.nn.FactorizedLinear`, and for what nn.Embedding refuses.

    See Also
    --------
    htf.factorize : puts such layers into a model.
    htf.nn.FactorizedLinear : the formats, and linear layers.

    Notes
    -----
    Either the rows that are asked for are contracted from rows of the factors, or the table is written out, whichever
    takes fewer operations.  A row has no parameters of its own, so every step changes all rows.

    References
    ----------
    .. [1] O. Hrinchuk et al., "Tensorized embedding layers", Findings of EMNLP 2020.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedEmbedding(10_000, 64, format="tt", rank=16, seed=0)
    >>> layer(torch.tensor([[3, 14], [15, 92]])).shape, layer.applies
    (torch.Size([2, 2, 64]), 'factor by factor')
    >>> layer.plain_size, sum(p.numel() for p in layer.parameters())
    (640000, 23360)
    """

    _plain_type, _names = nn.Embedding, ("num_embeddings", "embedding_dim", "padding_idx")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        format: str = "ht",
        rank: RankLike = 0.5,
        shape: ShapeLike | None = None,
        seed: int | Generator | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = positive("num_embeddings", num_embeddings)
        self.embedding_dim = positive("embedding_dim", embedding_dim)
        if padding_idx is not None and not -self.num_embeddings <= padding_idx < self.num_embeddings:
            raise ValueError(f"padding_idx is {padding_idx}; expected one of {self.num_embeddings} rows")
        self.padding_idx = None if padding_idx is None else padding_idx % self.num_embeddings
        self._tensorize(format, rank, shape, False, seed, device, dtype)

    @classmethod
    def arguments_of(cls, layer: Any) -> dict[str, Any]:
        """Arguments of nn.Embedding.

        Raises
        ------
        ValueError
            For `max_norm`, `scale_grad_by_freq` and `sparse`, which are about rows of the table.
        """
        for name in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(layer, name, None):
                raise ValueError(f"{name} is {getattr(layer, name)}; a factorized table has no rows of its own for it")
        return super().arguments_of(layer)

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        return self.num_embeddings, self.embedding_dim

    @property
    def _variance(self) -> float:
        return 1.0

    def forward(self, indices: Tensor) -> Tensor:
        """(...) integers to (..., embedding_dim)."""
        count, outs = indices.numel() if not torch.compiler.is_compiling() else None, len(self.shape[0])
        direct = isinstance(count, int) and _by_rows(self._layout, self.rank, outs, count)
        self.applies = BY_FACTORS if direct else RECONSTRUCTED
        if not direct:
            return embedding(indices, self._computed_weight(), self.padding_idx)
        flat = indices.reshape(-1)
        if bool(((flat < 0) | (flat >= self.num_embeddings)).any()):
            raise IndexError(f"indices has entries outside of 0 to {self.num_embeddings - 1}")
        given, wanted = _row_labels(self._layout, outs)
        digits: list[Tensor] = []
        left = flat
        for dim in reversed(self.shape[0]):
            digits.insert(0, left % dim)
            left = left // dim
        rows = []
        for factor, own in zip(self.factors, self._layout.labels, strict=True):
            at = [axis for axis, label in enumerate(own) if label < outs]
            rows.append(factor.index_select(at[0], digits[own[at[0]]]) if at else factor)
        found = contract(rows, given, wanted).reshape(*indices.shape, self.embedding_dim)
        if self.padding_idx is None:
            return found
        return torch.where((indices == self.padding_idx)[..., None], found.detach(), found)

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """One nn.Embedding; for format "matrix" one and an nn.Linear where they have fewer parameters."""
        factors = [factor.detach().to(torch.float64) for factor in self.factors]
        like = context(self.factors[0])
        if self.format == "matrix" and self._layout.size(self.rank) < prod(self._plain_shape):
            first = skip_init(nn.Embedding, self.num_embeddings, self.rank[0], self.padding_idx, **like)
            last = skip_init(nn.Linear, self.rank[0], self.embedding_dim, bias=False, **like)
            return filled([first, last], [factors[0], factors[1].T], self)
        whole = skip_init(nn.Embedding, self.num_embeddings, self.embedding_dim, self.padding_idx, **like)
        return filled([whole], [self._layout.dense(factors).reshape(self._plain_shape)], self)


def _row_labels(layout: Format, outs: int) -> tuple[Any, Any]:
    """Labels of the factors with the modes of the rows in one label, and those of the rows that come out."""
    batch = layout.order + len(layout.bounds)
    given = tuple(tuple(batch if label < outs else label for label in own) for own in layout.labels)
    return given, (batch, *layout.modes[outs:])


@lru_cache(maxsize=4096)
def _by_rows(layout: Format, rank: Rank, outs: int, count: int) -> bool:
    """Whether so many rows cost less than the table."""
    if count == 0:
        return False
    given, wanted = _row_labels(layout, outs)
    sizes = layout.sizes(rank) | {wanted[0]: count}
    shapes = tuple(tuple(sizes[label] for label in own) for own in given)
    return operations(shapes, given, wanted) < operations(layout.shapes(rank), layout.labels, layout.modes)
