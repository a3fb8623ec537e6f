"""Tensor train."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

from tensorly.decomposition import tensor_train
from torch import Tensor

from htf.linalg.backend import current_backend
from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Labels
from htf.nn.layers.factorized._stages import COLUMNS, IN, OUT, ROWS, Chain, Stage


@dataclass(frozen=True)
class TTFormat(Format):
    """A train of cores (r_k, dimensions of its modes, r_{k+1}); the rank is (1, r_1, ..., 1), as in TensorLy.

    Parameters
    ----------
    dims : tuple of int
    sites : tuple of tuples of int
        The modes of each core.
    """

    sites: tuple[tuple[int, ...], ...]

    name: ClassVar[str] = "tt"

    @cached_property
    def labels(self) -> tuple[Labels, ...]:
        """Core after core."""
        return tuple((self.order + k, *modes, self.order + k + 1) for k, modes in enumerate(self.sites))

    @cached_property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """The modes of all cores in front; none at the ends."""
        inner = [tuple(mode for modes in self.sites[:k] for mode in modes) for k in range(1, len(self.sites))]
        return (), *inner, ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        """1×1, height × width between few channels, 1×1; or the middle as 1 × width and height × 1."""
        at = {modes[0]: k for k, modes in enumerate(self.sites)}
        bonds = range(self.order, self.order + len(self.bounds))
        first = Stage((at[IN],), bonds[3], IN)
        last = Stage((at[OUT],), OUT, bonds[1])
        whole = Stage((at[ROWS], at[COLUMNS]), bonds[1], bonds[3], True, True)
        split = (
            Stage((at[COLUMNS],), bonds[2], bonds[3], columns=True),
            Stage((at[ROWS],), bonds[1], bonds[2], rows=True),
        )
        return (first, whole, last), (first, *split, last)

    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        merged = tensor.permute(*(mode for modes in self.sites for mode in modes))
        merged = merged.reshape([prod(self.dims[mode] for mode in modes) for modes in self.sites])
        with current_backend("pytorch", tensor.device):
            cores = list(tensor_train(merged, list(rank)))
        return [
            core.reshape(core.shape[0], *(self.dims[mode] for mode in modes), core.shape[-1])
            for core, modes in zip(cores, self.sites, strict=True)
        ]
