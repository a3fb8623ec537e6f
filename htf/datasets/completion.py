"""A planted tensor to be recovered from some of its entries, or from linear measurements.

These are the problems on which the implicit regularization of factorizations is studied: matrices, CP tensors and
hierarchical tensors of known rank, of which gradient descent sees a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from htf._checks import positive
from htf._random import randn
from htf.datasets._arguments import check_dtype, check_noise, check_shape, children_of, default_device, seeded
from htf.datasets._entries import draw_entries, split_sizes
from htf.datasets._entry_files import check_entries, read_csv, read_npz, testing_count
from htf.datasets._planting import in_torch, plant
from htf.datasets.problems import CompletionProblem, SensingProblem
from htf.tensors.rank import RankLike, as_tree
from htf.tree import DimensionTree


def tensor_completion(
    shape: Sequence[int] | None = None,
    teacher: Any = "ht",
    rank: RankLike | None = None,
    *,
    observed: int | float,
    tree: DimensionTree | None = None,
    norm: float | None = None,
    noise: float = 0.0,
    test: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> CompletionProblem:
    """Plant a tensor and observe some of its entries.

    Parameters
    ----------
    shape : sequence of int, optional
        Dimension of each mode, two of them at least; optional where `teacher` is a tensor.
    teacher : {"ht", "cp", "matrix"} or a tensor
        "ht": Gaussian leaf frames and full Gaussian transfer tensors, see `random_ht`; "cp": Gaussian factors of `rank`
        components; "matrix": the product of two Gaussian factors, for two modes.  Or what is to be recovered itself: an
        HTTensor, a CPTensor, TuckerTensor or TTTensor of TensorLy, a dense array, an HTNetwork or CPNetwork of one run.
        It is copied.
    rank : int, or for "ht" a sequence or mapping of int
        Of the planted tensor; an int is the rank of every node of the tree at which the shape allows it.  Left out
        where `teacher` is a tensor.
    observed : int or float
        Entries to observe, or the fraction of all: drawn uniformly without replacement.
    tree : DimensionTree, optional
        Of the "ht" teacher, and of the problem.  Default is that of a teacher in HT, Tucker or tensor train format,
        otherwise ``DimensionTree.balanced``.
    norm : float, optional
        Frobenius norm to which the planted tensor is scaled; None leaves it as drawn.  The papers take 64 for 4,096
        entries, whose root mean square then is 1.
    noise : float
        Standard deviation of the Gaussian noise on observed values, relative to the root mean square of all entries.
        Test values have none.
    test : int, optional
        Test entries, drawn from those that are not observed.  None: all of these, if the tensor has at most 2²⁰
        entries, otherwise 16,384 or as many as there are.  0 for none.
    seed : int
        All randomness comes from it: the tensor, then the entries, then the noise, so that problems that differ in
        `observed` or `noise` have the same tensor.
    dtype : torch.dtype
        Of all values; everything is drawn and computed in float64 first.
    device : optional
        Torch's default device if it is not given.

    Returns
    -------
    CompletionProblem

    Raises
    ------
    TypeError, ValueError
        For fewer than two modes, an unknown teacher, one of another shape, several outputs or runs, zero, or NaN; a
        rank below 1 or above what the shape allows; more entries than there are, or none left to test on; a norm that
        is not positive, or a negative noise; values that all underflow, or overflow.  The message names the argument.

    See Also
    --------
    htf.datasets.CompletionProblem : what it returns.
    htf.datasets.tensor_sensing : measurements in place of entries.
    htf.datasets.completion_from_file : entries of one's own.

    References
    ----------
    .. [1] N. Razin, N. Cohen, "Implicit regularization in deep learning may not be explainable by norms", NeurIPS 2020.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.
    .. [3] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8, 8, 8), "ht", rank=5, observed=2048, norm=64)
    >>> problem.indices.shape, problem.test_values.shape, float(problem.target.norm().round(decimals=9))
    (torch.Size([2048, 4]), torch.Size([2048]), 64.0)
    """
    noise, device = check_noise(noise), default_device(device)
    generator = seeded(seed)
    planted = plant(shape, teacher, rank, tree, norm, dtype, generator)
    count, tested = split_sizes(planted.shape, observed, test)
    drawn = draw_entries(planted.shape, count + tested, generator)
    values = planted.entries(drawn)
    seen = values[:count]
    if noise:
        seen = seen + noise * planted.rms * randn((count,), generator)
    settings = {
        "problem": "completion",
        **planted.settings,
        "observed": count,
        "test": tested,
        "noise": noise,
        "seed": int(seed),
    }
    return CompletionProblem(
        tree=planted.tree,
        shape=planted.shape,
        indices=drawn[:count].to(device),
        values=planted.cast(seen, dtype).to(device),
        test_indices=drawn[count:].to(device),
        test_values=values[count:].to(device, dtype),
        target=None if planted.target is None else planted.target.to(device, dtype),
        teacher=in_torch("teacher", planted.teacher, dtype, device),
        settings=settings,
    )


def tensor_sensing(
    shape: Sequence[int] | None = None,
    teacher: Any = "ht",
    rank: RankLike | None = None,
    *,
    measurements: int,
    tree: DimensionTree | None = None,
    norm: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> SensingProblem:
    r"""Plant a tensor and measure its inner products with random rank-one tensors.

    Parameters
    ----------
    shape, teacher, rank, tree, norm, seed, dtype, device
        As in `tensor_completion`.
    measurements : int
        How many.
    noise : float
        Standard deviation of the Gaussian noise on the values, relative to their own, which is the root mean square of
        the tensor's entries.

    Returns
    -------
    SensingProblem
        The measurement tensors are outer products of vectors with independent Gaussian entries of variance 1 over the
        mode's dimension, so their expected square norm is 1.

    Raises
    ------
    TypeError, ValueError
        As `tensor_completion`, and for fewer than one measurement.

    See Also
    --------
    htf.datasets.SensingProblem : what it returns.
    htf.datasets.tensor_completion : entries in place of measurements.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_sensing((4, 5, 6), "cp", rank=2, measurements=100, norm=1)
    >>> problem.vectors.shape, problem.values.shape
    (torch.Size([100, 3, 6]), torch.Size([100]))
    """
    measurements, noise = positive("measurements", measurements), check_noise(noise)
    generator, device = seeded(seed), default_device(device)
    planted = plant(shape, teacher, rank, tree, norm, dtype, generator)
    dims = torch.tensor(planted.shape, device="cpu")
    vectors = randn((measurements, len(dims), int(dims.max())), generator)
    vectors = vectors * (torch.arange(int(dims.max()), device="cpu") < dims[:, None]) / dims[:, None].sqrt()
    values = planted.measured(vectors)
    if noise:
        values = values + noise * planted.rms * randn((measurements,), generator)
    settings = {
        "problem": "sensing",
        **planted.settings,
        "measurements": measurements,
        "noise": noise,
        "seed": int(seed),
    }
    return SensingProblem(
        tree=planted.tree,
        shape=planted.shape,
        vectors=vectors.to(device, dtype),
        values=planted.cast(values, dtype).to(device),
        target=None if planted.target is None else planted.target.to(device, dtype),
        teacher=in_torch("teacher", planted.teacher, dtype, device),
        settings=settings,
    )


def diverging_completion(
    dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> CompletionProblem:
    r"""A 2×2 matrix to be completed, on which every norm is driven to infinity, and the rank is not.

    .. math:: W = \begin{pmatrix} ? & 1 \\ 1 & 0 \end{pmatrix}

    With the unobserved entry w the determinant is -1, whatever w is.  A matrix factorization of depth 2 or more that
    starts balanced with a positive determinant keeps it positive under gradient flow, so as its loss goes to 0,
    :math:`|w|` grows without bound, and every norm and quasi-norm of W with it, although w = 0 has the least Frobenius,
    spectral and nuclear norms among the completions; the effective rank falls to 1, the infimum over completions.  A
    start with a negative determinant need not diverge.  `htf.dynamics.norm_lower_bound` says how large norms must be.

    Parameters
    ----------
    dtype : torch.dtype
    device : optional
        Torch's default device if it is not given.

    Returns
    -------
    CompletionProblem
        Three observed entries, none for testing, and no target.

    Raises
    ------
    TypeError
        If `dtype` is no floating type.

    See Also
    --------
    htf.dynamics.norm_lower_bound : how large norms must be at a loss.
    htf.plotting.plot_norms_and_rank : norms and effective rank while the loss falls.

    References
    ----------
    .. [1] N. Razin, N. Cohen, "Implicit regularization in deep learning may not be explainable by norms", NeurIPS 2020,
       section 3.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.diverging_completion()
    >>> problem.indices.tolist(), problem.values.tolist()
    ([[0, 1], [1, 0], [1, 1]], [1.0, 1.0, 0.0])
    """
    check_dtype(dtype)
    device = default_device(device)
    tree = DimensionTree.balanced(2)
    return CompletionProblem(
        tree=tree,
        shape=(2, 2),
        indices=torch.tensor([[0, 1], [1, 0], [1, 1]], device=device),
        values=torch.tensor([1.0, 1.0, 0.0], dtype=dtype, device=device),
        test_indices=torch.zeros(0, 2, dtype=torch.int64, device=device),
        test_values=torch.zeros(0, dtype=dtype, device=device),
        settings={
            "problem": "completion",
            "name": "diverging",
            "shape": [2, 2],
            "tree": {"order": 2, "children": children_of(tree)},
            "observed": 3,
            "test": 0,
            "dtype": str(dtype).removeprefix("torch."),
        },
    )


def completion_from_file(
    path: str | Path,
    shape: Sequence[int] | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    *,
    tree: DimensionTree | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> CompletionProblem:
    r"""A completion problem from a file with indices and values of entries.

    Parameters
    ----------
    path : str or Path
        A .csv file, with a row per entry: its indices, counted from 0, then its value; a first row without any number
        is a header.  Or an .npz file with the arrays `indices` (m, order) and `values` (m,), and optionally `shape`;
        nothing in it is unpickled.  Or one that `CompletionProblem.save` wrote.
    shape : sequence of int, optional
        Dimension of each mode; the file's by default, otherwise one more than the highest index.
    test_fraction : float, optional
        Part of the entries, drawn at random, that is for testing: 0.1 by default.  A file that was saved from a problem
        has its own split.
    seed : int
        For the split.
    tree : DimensionTree, optional
        The saved one by default, otherwise ``DimensionTree.balanced``.
    dtype : torch.dtype
    device : optional
        Torch's default device if it is not given.

    Returns
    -------
    CompletionProblem
        Without teacher and target.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError, TypeError
        For a file with another ending, a damaged or an empty one; for rows of unequal length, indices that are no
        integers, negative, out of range or there twice, values that are no finite numbers: the message names file and
        row.  For a split that leaves one of its parts empty.

    See Also
    --------
    htf.datasets.CompletionProblem : what it returns.
    htf.ht_completion : fits entries that are at hand as arrays.

    Examples
    --------
    >>> import htf
    >>> from pathlib import Path
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "entries.csv"
    ...     written = path.write_text("user,film,stars\n0,0,5\n0,1,3\n1,1,4\n")
    ...     problem = htf.datasets.completion_from_file(path, test_fraction=0.34)
    >>> problem.shape, len(problem.values), len(problem.test_values)
    ((2, 2), 2, 1)
    """
    path = Path(path)
    check_dtype(dtype)
    readers = {".csv": read_csv, ".npz": read_npz}
    if path.suffix not in readers:
        raise ValueError(f"path is {str(path)!r}; expected a file that ends in .csv or .npz")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    entries = readers[path.suffix](path)
    asked = None if shape is None else check_shape(shape)
    if None not in (asked, entries.shape) and asked != entries.shape:
        raise ValueError(f"shape is {asked}; {path} says {entries.shape}")
    dims = check_entries(entries, asked or entries.shape)
    tree = as_tree(entries.tree if tree is None else tree, len(dims))
    indices, values = torch.from_numpy(entries.indices), torch.from_numpy(entries.values)
    if entries.observed is not None:
        if test_fraction is not None:
            raise ValueError(f"test_fraction is {test_fraction}; {path} has a split of its own, leave it out")
        count = entries.observed
        settings = entries.settings
    else:
        test_fraction = 0.1 if test_fraction is None else test_fraction
        count = len(values) - testing_count(test_fraction, len(values), path)
        order = torch.randperm(len(values), generator=seeded(seed), device="cpu")
        indices, values = indices[order], values[order]
        settings = {
            "problem": "completion",
            "file": path.name,
            "shape": list(dims),
            "tree": {"order": tree.order, "children": children_of(tree)},
            "observed": count,
            "test": len(values) - count,
            "seed": int(seed),
        }
    device = default_device(device)
    values = values.to(device, dtype)
    return CompletionProblem(
        tree=tree,
        shape=dims,
        indices=indices[:count].to(device),
        values=values[:count],
        test_indices=indices[count:].to(device),
        test_values=values[count:],
        settings=settings,
    )
