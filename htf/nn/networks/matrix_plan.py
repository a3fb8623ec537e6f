"""Plans of matrix factorizations: which rows and columns a batch of entries has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htf._repr import brief


@dataclass(frozen=True, eq=False)
class MatrixPlan:
    """A batch of entries of a matrix, checked and with its distinct rows and columns found; see `plan`.

    Attributes
    ----------
    dims : (int, int)
        Dimensions of the matrices whose entries they are.
    rows, columns : Tensor
        The distinct ones, in rising order.
    row_of, column_of : Tensor
        (batch,); the place of each sample's row in `rows` and of its column in `columns`.

    See Also
    --------
    htf.nn.MatrixFactorization : its method ``plan`` makes one.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.MatrixFactorization((6, 4), seed=0)
    >>> plan = net.plan(torch.tensor([[5, 0], [2, 3], [5, 3]]))
    >>> plan.rows.tolist(), plan.columns.tolist(), plan.batch
    ([2, 5], [0, 3], 3)
    >>> net(plan).shape  # again and again, without further checks
    torch.Size([3, 1])
    """

    dims: tuple[int, int]
    rows: Tensor
    columns: Tensor
    row_of: Tensor
    column_of: Tensor

    __repr__ = brief

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.row_of)

    @property
    def device(self) -> torch.device:
        """Where the indices are."""
        return self.row_of.device

    def __len__(self) -> int:
        return self.batch
