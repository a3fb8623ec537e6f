"""A matrix as a product of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.linalg import svd

from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Labels
from htf.nn.layers.factorized._stages import IN, OUT, Chain, Stage


@dataclass(frozen=True)
class MatrixFormat(Format):
    """The first mode against the others: factors (out, r) and (r, in, ...); the rank is (r,)."""

    name: ClassVar[str] = "matrix"

    @property
    def labels(self) -> tuple[Labels, ...]:
        """(out, r) and (r, in, ...)."""
        return (0, self.order), (self.order, *self.modes[1:])

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Rows."""
        return ((0,),)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """A convolution to few channels, and one of 1×1 from them."""
        return ((Stage((1,), self.order, IN, True, True), Stage((0,), OUT, self.order)),)

    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        u, s, vh = svd(tensor.reshape(self.dims[0], -1), full_matrices=False)
        root = s[: rank[0]].sqrt()
        return [u[:, : rank[0]] * root, (root[:, None] * vh[: rank[0]]).reshape(-1, *self.dims[1:])]
