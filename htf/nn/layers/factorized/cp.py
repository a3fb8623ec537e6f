"""CP format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensorly.decomposition import parafac
from torch import Generator, Tensor

from htf.linalg.backend import backend_of, current_backend
from htf.linalg.dense import left_singular
from htf.nn.layers.factorized._base import Format, Rank
from htf.nn.layers.factorized._paths import Labels
from htf.nn.layers.factorized._search import ROUNDING
from htf.nn.layers.factorized._stages import COLUMNS, IN, OUT, ROWS, Chain, Stage

_SWEEPS = 50  # of alternating least squares, at most
_OPERATIONS = 1e10  # of a fit, at most, but for three sweeps
_STALLED = 1e-5  # relative error gained by a sweep below which they end


@dataclass(frozen=True)
class CPFormat(Format):
    """A sum of r outer products: per mode a matrix (dimension, r); the rank is (r,).

    Fits are by alternating least squares from the leading singular vectors of every mode, and may be far from the best.
    """

    name: ClassVar[str] = "cp"

    @property
    def labels(self) -> tuple[Labels, ...]:
        """(mode, r)."""
        return tuple((mode, self.order) for mode in self.modes)

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """CP rank is that of no matricization."""
        return ()

    @property
    def bounds(self) -> Rank:
        """All dimensions but the largest, which suffices for every tensor."""
        return (math.prod(self.dims) // max(self.dims),)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """1×1, height × width in every channel by itself, 1×1 (Lebedev et al. 2015); or 1 × width and height × 1."""
        bond = self.order
        first, last = Stage((IN,), bond, IN), Stage((OUT,), OUT, bond)
        whole = Stage((ROWS, COLUMNS), bond, None, True, True)
        split = Stage((ROWS,), bond, None, rows=True), Stage((COLUMNS,), bond, None, columns=True)
        return (first, whole, last), (first, *split, last)

    def freedom(self, rank: Rank) -> int:
        """As for other formats; what leaves the tensor alone are scales of a component's vectors."""
        return self.size(rank) - rank[0] * (self.order - 1)

    def lowered(self, rank: Sequence[int]) -> Rank:
        """Ranks within the bound."""
        return (min(rank[0], self.bounds[0]),)

    def _decomposed(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        generator = Generator().manual_seed(0)
        start = []
        for mode in self.modes:
            matrix = tensor.movedim(mode, 0).reshape(self.dims[mode], -1)
            vectors = left_singular(backend_of(matrix), matrix)[0][:, : rank[0]]
            # Where a mode is smaller than the rank, further columns are random.
            missing = (self.dims[mode], rank[0] - vectors.shape[1])
            drawn = torch.randn(missing, generator=generator, dtype=torch.float64, device="cpu").to(tensor)
            start.append(torch.cat([vectors, drawn / self.dims[mode] ** 0.5], 1))
        return self._refitted(tensor, start)

    def _refitted(self, tensor: Tensor, start: list[Tensor]) -> list[Tensor]:
        rank = start[0].shape[1]
        sweeps = int(min(max(_OPERATIONS / (2 * tensor.numel() * rank * self.order), 3), _SWEEPS))
        with current_backend("pytorch", tensor.device):
            # A ridge at rounding level keeps the equations of collinear components solvable.
            _, factors = parafac(tensor, rank, n_iter_max=sweeps, init=(None, start), tol=_STALLED, l2_reg=1e-12)
        return list(factors)

    def for_error(self, tensor: Tensor, tol: float, limit: Rank | None = None) -> list[Tensor] | None:
        """By doubling the rank, then bisection; None where factors would hold more numbers than the tensor."""
        most = min(max(tensor.numel() // sum(self.dims), 1), (limit or self.bounds)[0])
        rank = 1
        while True:
            found = self.decompose(tensor, (rank,))
            if self.error(tensor, found) <= max(tol, ROUNDING):
                break
            if rank == most:
                return None
            rank = min(2 * rank, most)
        low, high = rank // 2, rank
        while high - low > 1 and rank > 1:
            middle = (low + high) // 2
            fit = self.decompose(tensor, (middle,))
            if self.error(tensor, fit) <= max(tol, ROUNDING):
                high, found = middle, fit
            else:
                low = middle
        return found

    def for_size(self, tensor: Tensor, size: float, limit: Rank | None = None) -> list[Tensor] | None:
        """The highest rank that fits."""
        rank = self.of_size(size)
        return None if rank is None else self.decompose(tensor, rank)

    def truncated(
        self,
        factors: Sequence[Tensor],
        *,
        tol: float | None = None,
        rank: Rank | None = None,
        size: float | None = None,
    ) -> list[Tensor] | None:
        """The components of largest norm, fitted again; the fewest that meet a tolerance are found by bisection."""
        high = factors[0].shape[1]
        if tol is None:
            rank = rank or self.of_size(size or 0)
            return None if rank is None else self._of_components(factors, min(rank[0], high))
        tensor = self.dense(factors)
        found, low = None, 0
        while high - low > 1:
            middle = (low + high) // 2
            fit = self._of_components(factors, middle)
            if self.error(tensor, fit) <= tol:
                high, found = middle, fit
            else:
                low = middle
        return found

    def _of_components(self, factors: Sequence[Tensor], count: int) -> list[Tensor]:
        norms = torch.stack([f.norm(dim=0) for f in factors]).prod(0)
        largest = norms.argsort(descending=True)[:count].sort().values
        tensor = self.dense(factors)
        norm = tensor.norm()
        if not norm > 0:
            return [f[:, largest] for f in factors]
        scale = norm ** (1 / self.order)
        return self._balanced(self._refitted(tensor / norm, [f[:, largest] / scale for f in factors]), norm)
