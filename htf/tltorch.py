"""HT weights for tensorly-torch: ``import htf.tltorch`` registers the factorizations "ht" and "complexht" there.

TensorLy's backend stays what it was.  tltorch's own factorizations compute with that backend, which has to be
"pytorch" for them; those of this module do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensorly.backend import BackendManager
from torch import Tensor, nn

from htf._checks import positive
from htf.decomposition.hierarchical_tucker import hierarchical_tucker
from htf.nn.layers.factorized.ht import paired_tree
from htf.tensors.dense import ht_to_tensor
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.inner import ht_norm
from htf.tensors.rank import RankLike, validate_ht_rank
from htf.tree import DimensionTree


@contextmanager
def _backend_kept() -> Iterator[None]:
    """Undo every ``tl.set_backend`` within: of the default for all threads, and of this thread's own choice."""
    local = BackendManager._THREAD_LOCAL_DATA.__dict__
    shared = BackendManager._backend, BackendManager._default_backend
    own = local.get("backend")
    try:
        yield
    finally:
        BackendManager._backend, BackendManager._default_backend = shared
        if own is None:
            local.pop("backend", None)
        else:
            local["backend"] = own


try:
    with _backend_kept():
        # The modules of tltorch set the backend as they are imported.
        from tltorch.factorized_tensors import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            FactorizedTensor,
            TensorizedTensor,
        )
        from tltorch.factorized_tensors.complex_factorized_tensors import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            ComplexHandler,
        )
        from tltorch.utils import FactorList  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "tltorch":
        raise
    raise ImportError(
        "htf.tltorch needs tensorly-torch; install it from a checkout: pip install -c constraints.txt '.[tltorch]'"
    ) from error

__all__ = ["ComplexHTFactorized", "HTFactorized", "HTTensorized", "paired_tree"]

TensorizedShape = Sequence[int | Sequence[int]]


class HTFactorized(FactorizedTensor, name="HT"):  # type: ignore[misc,call-arg,unused-ignore]
    """A tensor in HT format as a module of tensorly-torch.

    Parameters
    ----------
    tree : DimensionTree
    factors : sequence of Tensor
        Leaf frames and transfer tensors, as in `HTTensor`.  Parameters are registered as such; other tensors as
        buffers, with whatever gradient history they have.

    Attributes
    ----------
    tree : DimensionTree
    factors : FactorList
        tltorch's list of parameters.
    shape, rank : tuple of int
        As those of `HTTensor`.
    order : int
        Number of modes.

    Raises
    ------
    TypeError, ValueError
        Where factors do not fit the tree.

    See Also
    --------
    htf.tltorch.HTTensorized : matrices, for tltorch's layers.
    htf.HTTensor : the format.

    Examples
    --------
    >>> import htf.tltorch
    >>> from tltorch import FactorizedTensor
    >>> weight = FactorizedTensor.new((4, 5, 6), rank=3, factorization="ht").normal_(0, 0.1)
    >>> weight.rank
    (3, 3, 3, 3, 1)
    """

    def __init__(self, tree: DimensionTree, factors: Sequence[Tensor]) -> None:
        super().__init__()
        self._hold(HTTensor((tree, factors)))

    def _hold(self, ht: HTTensor) -> None:
        self.tree, self.factors, self.rank = ht.tree, FactorList(ht.factors), ht.rank
        self.shape, self.order = ht.shape, ht.order

    @classmethod
    def new(
        cls,
        shape: Sequence[int],
        rank: RankLike | float | str = "same",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        tree: DimensionTree | None = None,
        fixed_rank_modes: Sequence[int] | None = None,
    ) -> HTFactorized:
        """A tensor whose parameters are not filled yet; `normal_` fills them.

        Parameters
        ----------
        shape : sequence of int
        rank : "same", float, int, sequence or mapping of int
            See `htf.tensors.validate_ht_rank`.
        device, dtype : optional
            Of the parameters.
        tree : DimensionTree, optional
            ``DimensionTree.balanced`` by default.
        fixed_rank_modes : None
            What tltorch's convolutions pass on; HT ranks are fixed by a mapping as `rank`.

        Raises
        ------
        TypeError, ValueError
            Where `rank` or `tree` does not fit the shape, or `fixed_rank_modes` is not None.
        """
        if fixed_rank_modes is not None:
            raise ValueError(f"fixed_rank_modes is {fixed_rank_modes}; expected None, and a mapping of nodes as rank")
        tree = DimensionTree.balanced(len(shape)) if tree is None else tree
        return cls(tree, _empty_factors(shape, rank, tree, device, dtype))

    @classmethod
    def from_tensor(
        cls, tensor: Tensor, rank: RankLike | float | str = "same", tree: DimensionTree | None = None, **kwargs: Any
    ) -> HTFactorized:
        """Decompose a dense tensor.

        Parameters
        ----------
        tensor : Tensor
        rank, tree
            As in `new`.
        **kwargs
            For `htf.decomposition.hierarchical_tucker`.
        """
        tree = DimensionTree.balanced(tensor.ndim) if tree is None else tree
        return cls(tree, _decomposed(tensor, rank, tree, **kwargs))

    def init_from_tensor(self, tensor: Tensor, **kwargs: Any) -> HTFactorized:
        """Take the factors of a dense tensor's decomposition, at this tensor's ranks or less where less is exact.

        Parameters
        ----------
        tensor : Tensor
            Of the shape of this one (the tensor's, not the matrix's).
        **kwargs
            For `htf.decomposition.hierarchical_tucker`.

        Raises
        ------
        ValueError
            If the shape is another.
        """
        if tuple(tensor.shape) != self.ht.shape:
            raise ValueError(f"tensor has shape {tuple(tensor.shape)}; expected {self.ht.shape}")
        tensor = tensor.to(self.factors[0])
        shape = self.shape  # a matrix has another one than its tensor
        self._hold(HTTensor._of(self.tree, _decomposed(tensor, self.rank, self.tree, **kwargs)))
        self.shape = shape
        return self

    def transduct(self, new_dim: int, mode: int = 0, new_factor: Tensor | None = None) -> HTFactorized:
        """Add a mode, in place: the tensor is repeated along it, or weighted by a factor.

        Parameters
        ----------
        new_dim : int
            Dimension of the new mode.
        mode : int
            Where the new mode is inserted.
        new_factor : Tensor, optional
            Frame of the new mode, (new_dim, rank of the leaf that it is joined with): the weight of each of that leaf's
            components along the new mode.  Ones by default.

        Returns
        -------
        HTFactorized
            This one.  The new leaf is joined with that of the mode which follows it (the last, for a new last mode), in
            a node that multiplies their components one by one, as CP does.

        Raises
        ------
        IndexError, TypeError, ValueError
            If there is no such place, for a factor of another shape, and for tensorized matrices.
        """
        if isinstance(self, TensorizedTensor):
            raise TypeError("a tensorized matrix has no mode to add; transduct takes a factorized tensor")
        new_dim = positive("new_dim", new_dim)
        if not 0 <= mode <= self.order:
            raise IndexError(f"mode is {mode}; expected 0 to {self.order}")
        old, tree = list(self.factors), self.tree
        partner = min(mode, self.order - 1)
        rank = self.rank[partner]
        like = old[partner]
        if new_factor is None:
            new_factor = torch.ones(new_dim, rank)
        if tuple(new_factor.shape) != (new_dim, rank):
            raise ValueError(f"new_factor has shape {tuple(new_factor.shape)}; expected {(new_dim, rank)}")
        joint = torch.zeros(rank, rank, rank)
        joint[(torch.arange(rank),) * 3] = 1
        frame, joint = (nn.Parameter(part.to(like.device, like.dtype)) for part in (new_factor.detach(), joint))
        moved = [leaf + (leaf >= mode) for leaf in tree.leaves]
        grown = DimensionTree.from_nested(_with_leaf(tree.nested, partner, moved, mode))
        factors: list[Any] = [None] * grown.n_nodes
        for leaf in tree.leaves:
            factors[moved[leaf]] = old[leaf]
        factors[mode] = frame
        factors[grown.node((mode, moved[partner]))] = joint
        for node in tree.inner_nodes:
            modes = [moved[leaf] for leaf in tree.modes(node)]
            factors[grown.node([*modes, mode] if moved[partner] in modes else modes)] = old[node]
        self._hold(HTTensor((grown, factors)))
        return self

    @property
    def name(self) -> str:
        """Name of the factorization; to neuraloperator, that of a dense one."""
        return _Name(self._name)

    @property
    def ht(self) -> HTTensor:
        """The tensor as an `HTTensor` that shares the parameters."""
        return HTTensor._of(self.tree, list(self.factors))

    @property
    def decomposition(self) -> tuple[DimensionTree, list[Tensor]]:
        """The tree and the factors, which every ``ht_*`` function takes."""
        return self.tree, list(self.factors)

    def to_tensor(self) -> Tensor:
        """The dense tensor; gradients flow."""
        return ht_to_tensor(self.ht)

    @torch.no_grad()
    def normal_(self, mean: float = 0, std: float = 1) -> HTFactorized:
        """Draw Gaussian factors, scaled so that the entries of the dense tensor have a root mean square of `std`.

        Parameters
        ----------
        mean : 0
            As everywhere in tltorch.
        std : float
            Of the reconstruction; all factors share the scale evenly.

        Raises
        ------
        ValueError
            If `mean` is not 0, or `std` negative or not finite.
        """
        super().normal_(mean, std)
        if not 0 <= std < math.inf:
            raise ValueError(f"std is {std}; expected a finite number of at least 0")
        for factor in self.factors:
            # Sums over the children's ranks keep the variance, so that norms stay in range at any order.
            fan_in = math.prod(factor.shape[:-1]) if factor.ndim > 2 else 1
            factor.normal_(0, fan_in**-0.5)
        actual = float(ht_norm(self.ht)) / math.sqrt(math.prod(self.ht.shape))
        for factor in self.factors:
            factor.mul_((std / actual) ** (1 / len(self.factors)))
        return self

    def __getitem__(self, indices: Any) -> Any:
        """Entries and slices by NumPy's rules, see `htf.tensors.ht_getitem`; tensors stay in this format."""
        found = self.ht[indices]
        return type(self)(found.tree, found.factors) if isinstance(found, HTTensor) else found


class ComplexHTFactorized(ComplexHandler, HTFactorized, name="ComplexHT"):  # type: ignore[misc,call-arg,unused-ignore]
    """A complex tensor in HT format with real parameters: pairs of real and imaginary parts, as tltorch keeps them.

    Parameters
    ----------
    tree, factors
        As in `HTFactorized`, complex.

    See Also
    --------
    htf.tltorch.HTFactorized : real tensors.

    Examples
    --------
    >>> import htf.tltorch, torch
    >>> from tltorch import FactorizedTensor
    >>> weight = FactorizedTensor.new((4, 5, 6), rank=3, factorization="complexht").normal_(0, 0.1)
    >>> weight.to_tensor().dtype, next(weight.parameters()).dtype
    (torch.complex64, torch.float32)
    """

    @classmethod
    def new(
        cls,
        shape: Sequence[int],
        rank: RankLike | float | str = "same",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = torch.cfloat,
        tree: DimensionTree | None = None,
        fixed_rank_modes: Sequence[int] | None = None,
    ) -> ComplexHTFactorized:
        """As `HTFactorized.new`, with complex64 as the default dtype."""
        return super().new(shape, rank, device, dtype, tree, fixed_rank_modes)


class HTTensorized(HTFactorized, TensorizedTensor, name="HT"):  # type: ignore[misc,call-arg,unused-ignore]
    """A matrix, or a batch of them, whose tensorization is in HT format; for ``tltorch.FactorizedLinear``.

    Parameters
    ----------
    tree : DimensionTree
        Over the modes (out_1, ..., out_k, in_1, ..., in_k), batch modes in front of them.
    factors : sequence of Tensor
        As in `HTFactorized`.
    tensorized_shape : sequence of int or of sequences of int
        ((out_1, ..., out_k), (in_1, ..., in_k)); an integer is a mode that is not tensorized, such as a batch's.

    Attributes
    ----------
    shape : tuple of int
        Of the matrix; `tensor_shape` is that of the tensor.

    See Also
    --------
    htf.tltorch.HTFactorized : tensors.
    htf.nn.FactorizedLinear : a layer of this library that contracts factor by factor.

    Notes
    -----
    tltorch knows which factorizations it can contract with an input, and has no way to tell it of another: for HT,
    ``implementation="factorized"`` does what ``"reconstructed"`` does.

    Examples
    --------
    >>> import htf.tltorch
    >>> from tltorch import FactorizedLinear
    >>> layer = FactorizedLinear((4, 4), (2, 8), factorization="ht", rank=4)
    >>> layer.weight.tree.nested
    ((0, 2), (1, 3))
    """

    def __init__(self, tree: DimensionTree, factors: Sequence[Tensor], tensorized_shape: TensorizedShape) -> None:
        super().__init__(tree, factors)
        self.tensorized_shape = tuple(s if isinstance(s, int) else tuple(s) for s in tensorized_shape)
        if self.tensor_shape != self.ht.shape:
            raise ValueError(f"tensorized_shape is {tensorized_shape}; the factors have dimensions {self.ht.shape}")
        self.shape = tuple(s if isinstance(s, int) else math.prod(s) for s in self.tensorized_shape)

    @classmethod
    def new(  # type: ignore[override]
        cls,
        tensorized_shape: TensorizedShape,
        rank: RankLike | float | str = "same",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        tree: DimensionTree | None = None,
    ) -> HTTensorized:
        """A matrix whose parameters are not filled yet; `normal_` fills them.

        Parameters
        ----------
        tensorized_shape : sequence of int or of sequences of int
            See the class.
        rank, device, dtype
            As in `HTFactorized.new`.
        tree : DimensionTree, optional
            `paired_tree` by default.
        """
        tree = paired_tree(tensorized_shape) if tree is None else tree
        return cls(tree, _empty_factors(_flat(tensorized_shape), rank, tree, device, dtype), tensorized_shape)

    @classmethod
    def from_tensor(  # type: ignore[override]
        cls,
        tensor: Tensor,
        tensorized_shape: TensorizedShape,
        rank: RankLike | float | str = "same",
        tree: DimensionTree | None = None,
        **kwargs: Any,
    ) -> HTTensorized:
        """Decompose a dense tensor of the modes (out_1, ..., out_k, in_1, ..., in_k).

        Parameters
        ----------
        tensor : Tensor
        tensorized_shape, rank, tree
            As in `new`.
        **kwargs
            For `htf.decomposition.hierarchical_tucker`.
        """
        tree = paired_tree(tensorized_shape) if tree is None else tree
        return cls(tree, _decomposed(tensor, rank, tree, **kwargs), tensorized_shape)

    def __getitem__(self, indices: Any) -> Any:
        """Outer indexing of the matrix, as everywhere in tltorch: each index selects along its own axis.

        Axes that are tensorized stay so where they are kept whole; a selection along one becomes a single mode.
        """
        indices = indices if isinstance(indices, tuple) else (indices,)
        if len(indices) > len(self.tensorized_shape):
            raise IndexError(f"there are {len(indices)} indices; the matrix has {len(self.tensorized_shape)} axes")
        found: Any = self.ht
        kept: list[int | Sequence[int]] = list(self.tensorized_shape[len(indices) :])
        # From the last axis on, so that the modes of those in front keep their numbers.
        for axis in range(len(indices) - 1, -1, -1):
            shape = self.tensorized_shape[axis]
            if _is_whole(indices[axis]):
                kept.insert(0, shape)
                continue
            index = _unravelled(indices[axis], shape)
            start = len(_flat(self.tensorized_shape[:axis]))
            found = found[(slice(None),) * start + index]
            if not isinstance(index[0], int):
                kept.insert(0, len(index[0]))
        return HTTensorized(found.tree, found.factors, kept) if isinstance(found, HTTensor) else found

    def view(self, *shape: Any) -> Tensor:
        """The dense matrix in another shape, as ``tltorch.FactorizedEmbedding`` asks for it."""
        matrix: Tensor = self.to_matrix()
        return matrix.reshape(*shape)


class _Name(str):
    """Name of a factorization that is contracted as a dense one.

    neuraloperator chooses how to contract a weight by what its name in lower case ends on, and refuses names that it
    does not know; what is dense to it, it asks for `to_tensor`.
    """

    __slots__ = ()

    def lower(self) -> str:
        return _Name(super().lower())

    def endswith(self, *arguments: Any) -> bool:
        return arguments == ("dense",) or super().endswith(*arguments)


def _empty_factors(
    dims: Sequence[int],
    rank: RankLike | float | str,
    tree: DimensionTree,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> list[nn.Parameter]:
    ranks = validate_ht_rank(dims, rank, tree)
    shapes = [(dims[node], ranks[node]) for node in tree.leaves]
    shapes += [(*(ranks[c] for c in tree.children(node)), ranks[node]) for node in tree.inner_nodes]  # type: ignore[misc]
    return [nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) for shape in shapes]


def _decomposed(tensor: Tensor, rank: RankLike | float | str, tree: DimensionTree, **kwargs: Any) -> list[nn.Parameter]:
    x = hierarchical_tucker(tensor.detach(), rank=rank, tree=tree, **kwargs)
    return [nn.Parameter(factor.contiguous()) for factor in x.factors]


def _with_leaf(nested: Any, partner: int, moved: Sequence[int], mode: int) -> Any:
    """A nested tree with its modes renumbered, and a new one beside one of them."""
    if isinstance(nested, tuple):
        return tuple(_with_leaf(child, partner, moved, mode) for child in nested)
    return (mode, moved[nested]) if nested == partner else moved[nested]


def _flat(tensorized_shape: TensorizedShape) -> tuple[int, ...]:
    return tuple(d for s in tensorized_shape for d in ((s,) if isinstance(s, int) else s))


def _is_whole(index: Any) -> bool:
    # tltorch writes () for a whole axis too.
    return (isinstance(index, slice) and index == slice(None)) or (isinstance(index, tuple) and index == ())


def _unravelled(index: Any, shape: int | Sequence[int]) -> tuple[Any, ...]:
    """An index, slice or list of indices along an axis, as one per mode of the axis."""
    size = shape if isinstance(shape, int) else math.prod(shape)
    if isinstance(index, slice):
        index = list(range(*index.indices(size)))
    single = not isinstance(index, Iterable) or (isinstance(index, Tensor) and index.ndim == 0)
    numbers = [int(i) for i in ([index] if single else index)]
    for number in numbers:
        if not -size <= number < size:
            raise IndexError(f"index is {number}; the axis has {size} entries")
    digits: list[list[int]] = []
    left = [number % size for number in numbers]
    for dim in reversed((shape,) if isinstance(shape, int) else shape):
        digits.insert(0, [number % dim for number in left])
        left = [number // dim for number in left]
    return tuple(d[0] for d in digits) if single else tuple(digits)
