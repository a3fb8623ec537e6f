"""Tucker format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensorly.decomposition import tucker
from torch import Tensor

from htf.linalg.backend import current_backend
from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Labels
from htf.nn.layers.factorized._stages import IN, OUT, Chain, Stage

_SWEEPS = 4  # of orthogonal iteration; further ones gain little on what singular vectors start with


@dataclass(frozen=True)
class TuckerFormat(Format):
    """A core (r_1, ..., r_N) and per mode a matrix (dimension, r_k); the rank is (r_1, ..., r_N)."""

    name: ClassVar[str] = "tucker"

    @property
    def labels(self) -> tuple[Labels, ...]:
        """The core's, then the matrices'."""
        return tuple(self.order + mode for mode in self.modes), *((mode, self.order + mode) for mode in self.modes)

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Single modes."""
        return tuple((mode,) for mode in self.modes)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """1×1, the core's convolution between few channels, 1×1 (Kim et al. 2016)."""
        before, after = self.order + IN, self.order + OUT
        core = Stage((0, 3, 4), after, before, True, True)
        return ((Stage((1 + IN,), before, IN), core, Stage((1 + OUT,), OUT, after)),)

    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        with current_backend("pytorch", tensor.device):
            core, matrices = tucker(tensor, list(rank), n_iter_max=_SWEEPS, init="svd")
        return [core, *matrices]
