"""Problems: what is observed of a tensor, and what a recovery of it is judged by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from htf._repr import brief
from htf.datasets._archives import write_arrays
from htf.datasets._arguments import children_of
from htf.datasets._planting import dense_tensor, in_torch
from htf.datasets._problem_checks import check_problem
from htf.tree import DimensionTree


@dataclass(frozen=True, eq=False, kw_only=True)
class _Problem:
    tree: DimensionTree
    shape: tuple[int, ...]
    values: Tensor = field(repr=False)
    target: Tensor | None = field(default=None, repr=False)
    teacher: Any = field(default=None, repr=False)
    settings: Mapping[str, Any]

    @property
    def order(self) -> int:
        """Number of modes."""
        return len(self.shape)

    def describe(self) -> dict[str, Any]:
        """All settings, as JSON can hold them: shape, teacher, ranks, tree, counts, norm, noise, seed."""
        return dict(self.settings)

    def reconstruction_error(self, estimate: Any) -> Tensor:
        r"""Relative error over all entries, :math:`\|W - W^*\| / \|W^*\|` with the planted tensor :math:`W^*`.

        Parameters
        ----------
        estimate : HTTensor, CPTensor, TuckerTensor, TTTensor, dense array, HTNetwork or CPNetwork
            Of the problem's shape; a network of one run.

        Returns
        -------
        Tensor
            (); no gradients flow.

        Raises
        ------
        TypeError, ValueError
            If the problem has no dense target, or `estimate` is something else, or of another shape.
        """
        if self.target is None:
            raise ValueError("the problem has no dense target; a completion problem's test_error judges by entries")
        dense = dense_tensor(in_torch("estimate", estimate, self.target.dtype, self.target.device))
        if tuple(dense.shape) != self.shape:
            raise ValueError(f"estimate has shape {tuple(dense.shape)}; the problem has {self.shape}")
        return (dense - self.target).norm() / self.target.norm()


@dataclass(frozen=True, eq=False, kw_only=True)
class CompletionProblem(_Problem):
    """Some entries of a tensor, and others to be predicted from them.

    Attributes
    ----------
    tree : DimensionTree
        The one that was asked for, or that an HT teacher has; otherwise the balanced one.
    shape : tuple of int
    indices : Tensor
        (m, order) int64, the observed entries.
    values : Tensor
        (m,), what was observed there, noise included.
    test_indices : Tensor
        (k, order) int64; none of them is observed.
    test_values : Tensor
        (k,), without noise where the tensor was planted.
    target : Tensor or None
        The planted tensor, dense; None if it would have more than 2²⁴ entries, or is not known.
    teacher : HTTensor, CPTensor, Tensor or None
        The planted tensor in its own format.
    settings : mapping
        What `describe` returns.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not match, no entry is observed, an index is out of range, an entry is there twice,
        observed or for testing, or a value is no finite number.  The message names the argument.

    See Also
    --------
    htf.datasets.tensor_completion : planted problems.
    htf.datasets.completion_from_file : entries of one's own.
    htf.ht_completion : fits entries by hierarchical Tucker tensors.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=0.5, seed=0)
    >>> problem.indices.shape, problem.values.shape, problem.test_indices.shape
    (torch.Size([108, 3]), torch.Size([108]), torch.Size([108, 3]))
    >>> zero = torch.zeros(6, 6, 6, dtype=torch.float64)
    >>> float(problem.reconstruction_error(zero)), float(problem.test_error(problem.test_values))
    (1.0, 0.0)

    Entries of one's own are a problem too:

    >>> own = htf.datasets.CompletionProblem(
    ...     tree=htf.DimensionTree.balanced(2), shape=(2, 2), settings={},
    ...     indices=torch.tensor([[0, 0], [0, 1], [1, 0]]), values=torch.tensor([1.0, 2.0, 2.0]),
    ...     test_indices=torch.tensor([[1, 1]]), test_values=torch.tensor([4.0]),
    ... )
    >>> float(own.test_error(torch.tensor([3.0])))
    0.25
    """

    indices: Tensor = field(repr=False)
    test_indices: Tensor = field(repr=False)
    test_values: Tensor = field(repr=False)

    __repr__ = brief

    def __post_init__(self) -> None:
        observed, test = (self.indices, self.values), (self.test_indices, self.test_values)
        object.__setattr__(self, "shape", check_problem(self.tree, self.shape, observed, test, self.target))

    def test_error(self, outputs: Tensor) -> Tensor:
        """Relative root mean square error at the test entries.

        Parameters
        ----------
        outputs : Tensor
            (k,), or (k, runs): what a network returns for `test_indices`.

        Returns
        -------
        Tensor
            (), or (runs,): the norm of the difference over that of `test_values`; no gradients flow.

        Raises
        ------
        ValueError
            If shapes do not match, or there are no test entries.
        """
        if not len(self.test_values):
            raise ValueError("the problem has no test entries")
        if outputs.ndim not in (1, 2) or len(outputs) != len(self.test_values):
            raise ValueError(
                f"outputs has shape {tuple(outputs.shape)}; expected ({len(self.test_values)},) or "
                f"({len(self.test_values)}, runs)"
            )
        expected = self.test_values if outputs.ndim == 1 else self.test_values[:, None]
        return (outputs.detach() - expected).norm(dim=0) / self.test_values.norm()

    def save(self, path: str | Path) -> None:
        """Write entries, split, tree and settings to an npz file with a checksum, which `completion_from_file` reads.

        The planted tensor is not in it; its settings and seed are, from which it can be made again.

        Parameters
        ----------
        path : str or Path
            Ending in .npz.  Written beside and then renamed, so that a file of that name is replaced whole or not at
            all.

        Raises
        ------
        ValueError
            For another ending.
        OSError
            If the file cannot be written; what was there is kept.

        Examples
        --------
        >>> import tempfile, htf
        >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=100, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     problem.save(f"{folder}/problem.npz")
        ...     again = htf.datasets.completion_from_file(f"{folder}/problem.npz")
        >>> bool((again.indices == problem.indices).all()), again.test_values.shape
        (True, torch.Size([116]))
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"path is {str(path)!r}; expected one that ends in .npz")
        about = {"settings": self.describe(), "children": children_of(self.tree)}
        # Doubles hold the values of every dtype, and NumPy does not have every dtype.
        arrays: dict[str, Any] = {
            "indices": self.indices.cpu().numpy(),
            "values": self.values.cpu().double().numpy(),
            "test_indices": self.test_indices.cpu().numpy(),
            "test_values": self.test_values.cpu().double().numpy(),
            "shape": np.array(self.shape, dtype=np.int64),
            "about": np.array(json.dumps(about)),
        }
        write_arrays(path, arrays)


@dataclass(frozen=True, eq=False, kw_only=True)
class SensingProblem(_Problem):
    """Measurements of a tensor: its inner products with rank-one tensors.

    Attributes
    ----------
    tree : DimensionTree
        The one that was asked for, or that an HT teacher has; otherwise the balanced one.
    shape : tuple of int
    vectors : Tensor
        (m, order, max dim), the factors of the measurement tensors, as networks read encoded inputs: a mode of smaller
        dimension has zeros behind.
    values : Tensor
        (m,), what was measured, noise included.
    target : Tensor or None
        The planted tensor, dense; None if it would have more than 2²⁴ entries.
    teacher : HTTensor, CPTensor or Tensor
        The planted tensor in its own format.
    settings : mapping
        What `describe` returns.

    See Also
    --------
    htf.datasets.tensor_sensing : makes it.
    htf.datasets.CompletionProblem : entries in place of measurements.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_sensing((4, 5, 6), "cp", rank=2, measurements=100, seed=0)
    >>> net = htf.nn.CPNetwork(problem.shape, rank=2, dtype=problem.values.dtype, seed=0)
    >>> net(problem.vectors).shape, problem.values.shape
    (torch.Size([100, 1]), torch.Size([100]))
    """

    vectors: Tensor = field(repr=False)

    __repr__ = brief
