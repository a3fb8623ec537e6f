"""The hierarchical Tucker format: leaf frames and transfer tensors on a dimension tree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import tensorly as tl
import torch
from tensorly._factorized_tensor import FactorizedTensor

from htf._checks import check_index
from htf.linalg.backend import (
    Array,
    backend_of,
    cast,
    check_alike,
    complex_dtype,
    context,
    is_complex,
    needs_gradient,
    promoted,
    scalar,
    to_numpy,
)
from htf.tree import DimensionTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.tensors.extremes import ExtremeIndex, ExtremeValue
    from htf.tensors.modulus import Modulus

RawHT = tuple[DimensionTree, Sequence[Array]]
Modes = int | Sequence[int] | None


class HTTensor(FactorizedTensor):  # type: ignore[misc]
    r"""A tensor in hierarchical Tucker (HT) format.

    Node t of the tree has a frame :math:`U_t`, whose columns span the column space of the matricization in the modes of
    t. Frames of leaves are stored; those of inner nodes follow from their children's by transfer tensors,

    .. math:: (U_t)_{:, k} = \sum_{i_1, \dots, i_m} (B_t)_{i_1 \dots i_m k} \bigotimes_{j=1}^m (U_{c_j})_{:, i_j},

    and the frame of the root is the tensor.

    Parameters
    ----------
    ht_tensor : (DimensionTree, sequence of arrays) or HTTensor
        The tree, and one array per node of it, in the order of its nodes: frames (dimension × rank) for the leaves,
        transfer tensors (ranks of the children in order × own rank) for the others.  Arrays of any backend of TensorLy,
        float32, float64, complex64 or complex128, of one precision and device.  They are kept as they are, not copied,
        but for real ones beside complex ones, which are made complex.

    Attributes
    ----------
    tree : DimensionTree
    factors : list of arrays
        As given.
    shape : tuple of int
        Shape of the dense tensor: a dimension per mode, and the root's rank behind them where it is not 1.
    rank : tuple of int
        Rank of every node, the root's (1, or the number of outputs) last: ``x.rank[node]``.

    Raises
    ------
    TypeError, ValueError
        Where a factor does not fit its neighbours, a mode is empty, or dtypes or devices are mixed; the message
        names the node.

    See Also
    --------
    htf.hierarchical_tucker, htf.cross_approximation, htf.ht_completion : make one of arrays, functions, entries.
    htf.random_ht : a random one.
    htf.save, htf.load : files.

    Notes
    -----
    ``tree, factors = x`` unpacks the raw form that every ``ht_*`` function takes too.  ``x[...]`` reads entries and
    slices by NumPy's rules, see `ht_getitem`.  With dimension n and ranks r on a binary tree there are O(N n r + N r³)
    parameters.

    ``torch.save`` writes them, by themselves or in a state of one's own, and ``torch.load`` reads them with
    ``weights_only=True`` once ``htf.tensors`` has been imported (``from htf import HTTensor``), for factors of PyTorch;
    for those of other backends there are `htf.save` and `htf.load`, which execute nothing either.

    HT tensors are nodes of PyTorch's pytrees, so ``torch.func`` differentiates with respect to a whole tensor.

    Real and complex tensors combine as NumPy's do: what comes of a pair is complex.  Inner products conjugate the first
    tensor, norms and Gramians accordingly; products with matrices, vectors and other HT tensors (`ht_tensordot`)
    conjugate nothing.  A conversion that would lose an imaginary part is refused.  Gradients are in PyTorch's
    convention, the direction of steepest ascent of a real loss.

    References
    ----------
    .. [1] W. Hackbusch, S. Kühn, "A new scheme for the tensor representation", J. Fourier Anal. Appl. 15 (2009).
    .. [2] L. Grasedyck, "Hierarchical singular value decomposition of tensors", SIAM J. Matrix Anal. Appl. 31 (2010).

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=3, random_state=0)
    >>> x.shape, x.rank
    ((4, 5, 6), (3, 3, 3, 3, 1))
    >>> (x + x).round(tol=1e-12).rank
    (3, 3, 3, 3, 1)
    """

    tree: DimensionTree
    factors: list[Array]
    shape: tuple[int, ...]
    rank: tuple[int, ...]

    def __init__(self, ht_tensor: HTTensor | RawHT) -> None:
        self.shape, self.rank = _validate_ht_tensor(ht_tensor)
        tree, factors = ht_tensor
        self.tree, self.factors = tree, list(factors)
        if len({is_complex(factor) for factor in self.factors}) == 2:
            self.factors = promoted(self.factors, "factors")

    @classmethod
    def _of(cls, tree: DimensionTree, factors: Sequence[Array]) -> HTTensor:
        """Without the checks, for results that fit by construction."""
        self = cls.__new__(cls)
        self.tree, self.factors = tree, list(factors)
        self.shape, self.rank = _shape_and_rank(tree, self.factors)
        return self

    # -- TensorLy's protocol --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        yield self.tree
        yield self.factors

    def __len__(self) -> int:
        return 2

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise TypeError("the truth value of an HTTensor is ambiguous; compare norms")

    def __repr__(self) -> str:
        labels = {node: f"rank {rank}" for node, rank in enumerate(self.rank)}
        for mode in range(self.order):
            labels[mode] = f"dimension {self.factors[mode].shape[0]}, " + labels[mode]
        head = f"HTTensor of shape {_brief(self.shape)}, {self.n_parameters:,} parameters, {self.dtype}"
        return head + "\n" + self.tree.format(labels, max_lines=40)

    def to_tensor(self) -> Array:
        """The dense tensor; see `ht_to_tensor`."""
        from htf.tensors.dense import ht_to_tensor

        return ht_to_tensor(self)

    def to_unfolded(self, mode: int) -> Array:
        """The unfolding by one mode; see `ht_to_unfolded`."""
        from htf.tensors.dense import ht_to_unfolded

        return ht_to_unfolded(self, mode)

    def to_vec(self) -> Array:
        """The dense tensor as a vector; see `ht_to_vec`."""
        from htf.tensors.dense import ht_to_vec

        return ht_to_vec(self)

    def norm(self) -> Array:
        """Frobenius norm; see `ht_norm`."""
        from htf.tensors.inner import ht_norm

        return ht_norm(self)

    def mode_dot(self, matrix_or_vector: Array, mode: int) -> HTTensor | Array:
        """Product with a matrix or vector along a mode; see `ht_mode_dot`."""
        from htf.tensors.contraction import ht_mode_dot

        return ht_mode_dot(self, matrix_or_vector, mode)

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def order(self) -> int:
        """Number of modes."""
        return self.tree.order

    @property
    def ndim(self) -> int:
        """Number of axes of the dense tensor: the order, and one more where the root has several outputs."""
        return len(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension of each mode."""
        return self.shape[: self.tree.order]

    @property
    def outputs(self) -> int:
        """Rank of the root: the number of tensors that share all other factors."""
        return self.rank[-1]

    @property
    def n_parameters(self) -> int:
        """Number of entries of all factors."""
        return sum(prod(tuple(f.shape)) for f in self.factors)

    @property
    def size(self) -> int:
        """Number of entries of the dense tensor."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the factors take."""
        return sum(prod(tuple(f.shape)) * int(f.itemsize) for f in self.factors)

    @property
    def compression(self) -> float:
        """How many entries of the dense tensor there are for one of the factors'."""
        # Of integers, as there may be more entries than floats can count.
        return float(Fraction(self.size, self.n_parameters)) if self.size < 2**1000 else math.inf

    @property
    def dtype(self) -> Any:
        """Type of the entries."""
        return self.factors[0].dtype

    @property
    def device(self) -> Any:
        """Where PyTorch factors are; None for backends without devices."""
        return context(self.factors[0]).get("device")

    @property
    def requires_grad(self) -> bool:
        """Whether autograd records operations on any factor."""
        return any(needs_gradient(f) for f in self.factors)

    # -- moving ----------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> HTTensor:
        """Factors of another dtype or on another device.

        PyTorch factors take what ``torch.Tensor.to`` takes; for other backends the one argument is a dtype.

        Raises
        ------
        TypeError
            For a real dtype of a complex tensor, see `real`, and for a dtype that is not supported.
        """
        on_torch = context(self.factors[0]).get("device") is not None
        # An entry tells what becomes of all; NumPy and PyTorch drop imaginary parts with no more than a warning.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = self.factors[0][:1, :1]
            first = first.to(*args, **kwargs) if on_torch else first.astype(*args, **kwargs)
        check_alike([first], "the tensor")
        self._keep_imaginary(is_complex(first), f"in {first.dtype}")
        factors = [f.to(*args, **kwargs) if on_torch else f.astype(*args, **kwargs) for f in self.factors]
        return HTTensor._of(self.tree, factors)

    def _keep_imaginary(self, kept: bool, where: str) -> None:
        if is_complex(self.factors[0]) and not kept:
            raise TypeError(
                f"the tensor has dtype {self.dtype}, and {where} its imaginary part would be lost; take x.real, or the "
                "squares of the sizes with abs(x) ** 2"
            )

    def to_backend(self, name: str, **kwargs: Any) -> HTTensor:
        """A copy with the factors in another backend of TensorLy, without gradient history.

        Parameters
        ----------
        name : str
            "numpy", "pytorch", "jax", ...
        kwargs
            Passed to that backend's ``tensor``, for example ``device``.

        Raises
        ------
        TypeError
            For a real dtype of a complex tensor.

        See Also
        --------
        htf.HTTensor.to : another dtype or device of the same backend, through which gradients flow.
        """
        target = tl.backend.BackendManager.load_backend(name)
        if "dtype" in kwargs:
            self._keep_imaginary("complex" in str(kwargs["dtype"]), f"in {kwargs['dtype']}")
        return HTTensor._of(self.tree, [target.tensor(to_numpy(f), **kwargs) for f in self.factors])

    def requires_grad_(self, requires_grad: bool = True) -> HTTensor:
        """Have autograd record operations on every factor (PyTorch), in place."""
        if not hasattr(self.factors[0], "requires_grad_"):
            raise TypeError(f"factors are {type(self.factors[0]).__name__}; only PyTorch tensors record gradients")
        for factor in self.factors:
            factor.requires_grad_(requires_grad)
        return self

    def detach(self) -> HTTensor:
        """The same factors without gradient history."""
        return HTTensor._of(self.tree, [f.detach() if hasattr(f, "detach") else f for f in self.factors])

    def copy(self) -> HTTensor:
        """A copy with factors of its own; gradients flow through it."""
        B = backend_of(self.factors[0])
        return HTTensor._of(self.tree, [B.copy(f) for f in self.factors])

    def __reduce__(self) -> tuple[Any, ...]:
        return HTTensor, ((self.tree, list(self.factors)),)

    def __copy__(self) -> HTTensor:
        return HTTensor._of(self.tree, self.factors)

    def draw(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the tree with edges as thick as their ranks, and the ranks; see `htf.plotting.draw_tree`.

        Up to order 16 leaves are labelled with mode and rank, above it only nodes of four modes or more, with the rank.
        """
        ranks = dict(enumerate(self.rank[:-1]))
        small = self.order <= 16
        labels = {
            node: f"mode {node}\nrank {rank}" if node < self.order else rank
            for node, rank in ranks.items()
            if small or len(self.tree.modes(node)) >= 4
        }
        return self.tree.draw(ax, **{"widths": ranks, "labels": labels, **kwargs})

    # -- arithmetic ------------------------------------------------------------------------------------

    # NumPy and PyTorch would otherwise take HT tensors apart as sequences, entry by entry.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The dense tensor as a NumPy array, within the size limit of `ht_to_tensor`."""
        from htf.tensors.protocols import as_numpy

        return as_numpy(self, dtype, copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's arithmetic; other ufuncs say what to call."""
        from htf.tensors.protocols import array_ufunc

        return array_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy's functions of what HT tensors have methods for; others say what to call."""
        from htf.tensors.protocols import array_function

        return array_function(function, args, kwargs)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """PyTorch's functions of what HT tensors have methods for; others say what to call."""
        from htf.tensors.protocols import torch_function

        return torch_function(function, args, kwargs or {})

    def __add__(self, other: object) -> HTTensor:
        from htf.tensors.arithmetic import ht_add
        from htf.tensors.scalars import ht_add_scalar

        if isinstance(other, HTTensor):
            return ht_add(self, other)
        return ht_add_scalar(self, other) if self._is_scalar(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> HTTensor:
        return self + -other if isinstance(other, HTTensor) or self._is_scalar(other) else NotImplemented  # type: ignore[operator]

    def __rsub__(self, other: object) -> HTTensor:
        return -self + other if self._is_scalar(other) else NotImplemented

    def __neg__(self) -> HTTensor:
        return self * -1

    def __pos__(self) -> HTTensor:
        return self

    def __abs__(self) -> Modulus:
        from htf.tensors.modulus import Modulus

        return Modulus(self)

    def __pow__(self, exponent: int) -> HTTensor:
        from htf.tensors.scalars import ht_power

        return ht_power(self, exponent)

    def __mul__(self, other: object) -> HTTensor:
        from htf.tensors.arithmetic import ht_hadamard, ht_scale

        if isinstance(other, HTTensor):
            return ht_hadamard(self, other)
        return ht_scale(self, other) if self._is_scalar(other) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> HTTensor:
        if isinstance(other, HTTensor):
            raise TypeError("quotients have no low rank; htf.apply(numpy.divide, x, y) approximates them")
        if not self._is_scalar(other):
            return NotImplemented
        number = scalar(other, self.factors[-1])
        if isinstance(number, float | complex) and number == 0:
            raise ZeroDivisionError("division of an HTTensor by zero")
        x = self.beside_number(number)
        # Not times 1 / number, which PyTorch's integers and NumPy's singles give in single precision.
        return HTTensor._of(self.tree, [*x.factors[:-1], x.factors[-1] / number])

    def __rtruediv__(self, other: object) -> HTTensor:
        raise TypeError("inverses have no low rank; htf.apply(lambda entries: 1.0 / entries, x) approximates them")

    def _is_scalar(self, other: object) -> bool:
        """Whether to add or multiply with something; a TypeError for arrays, which would take HT tensors apart."""
        if scalar(other, self.factors[-1]) is not None:
            return True
        if hasattr(other, "shape") and not hasattr(other, "factors"):
            raise TypeError(
                f"an HTTensor is combined with a {type(other).__name__} of shape {tuple(other.shape)}; expected a "
                "number or another HTTensor, as hierarchical_tucker makes one of an array"
            )
        return False

    def beside_number(self, number: Any) -> HTTensor:
        """The tensor in the dtype that it has beside a number: complex beside a complex one."""
        makes_complex = isinstance(number, complex) or (hasattr(number, "dtype") and is_complex(number))
        if not makes_complex or is_complex(self.factors[0]):
            return self
        dtype = complex_dtype(self.factors[0])
        return HTTensor._of(self.tree, [cast(f, dtype) for f in self.factors])

    def conj(self) -> HTTensor:
        """Complex conjugate; see `ht_conj`."""
        from htf.tensors.complex_parts import ht_conj

        return ht_conj(self)

    @property
    def real(self) -> HTTensor:
        """Real part; see `ht_real`."""
        from htf.tensors.complex_parts import ht_real

        return ht_real(self)

    @property
    def imag(self) -> HTTensor:
        """Imaginary part; see `ht_imag`."""
        from htf.tensors.complex_parts import ht_imag

        return ht_imag(self)

    def inner(self, other: HTTensor | RawHT) -> Array:
        """Inner product; see `ht_inner`."""
        from htf.tensors.inner import ht_inner

        return ht_inner(self, other)

    def outer(self, other: HTTensor | RawHT) -> HTTensor:
        """Outer product; see `ht_outer`."""
        from htf.tensors.arithmetic import ht_outer

        return ht_outer(self, other)

    # -- entries and contractions ----------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """Entries and slices by NumPy's rules; see `ht_getitem`."""
        from htf.tensors.indexing import ht_getitem

        return ht_getitem(self, key)

    def entries(self, indices: Array) -> Array:
        """Entries at index tuples, one per row; see `ht_entries`."""
        from htf.tensors.indexing import ht_entries

        return ht_entries(self, indices)

    def sum(self, axis: Modes = None, *, modes: Modes = None) -> HTTensor | Array:
        """Sum over some modes, or all; see `ht_sum`.  `modes` is another name of `axis`."""
        from htf.tensors.contraction import ht_sum

        return ht_sum(self, axis if modes is None else modes)

    def mean(self, axis: Modes = None) -> HTTensor | Array:
        """Mean over some modes, or all; see `ht_mean`."""
        from htf.tensors.contraction import ht_mean

        return ht_mean(self, axis)

    def argmax(self, **options: Any) -> ExtremeIndex:
        """Where the largest entry is, and how certain that is; see `ht_argmax`."""
        from htf.tensors.extremes import ht_argmax

        return ht_argmax(self, **options)

    def argmin(self, **options: Any) -> ExtremeIndex:
        """Where the smallest entry is, and how certain that is; see `ht_argmin`."""
        from htf.tensors.extremes import ht_argmin

        return ht_argmin(self, **options)

    def max(self, **options: Any) -> ExtremeValue:
        """The largest entry, and how certain that is; see `ht_argmax`."""
        return self.argmax(**options).entry

    def min(self, **options: Any) -> ExtremeValue:
        """The smallest entry, and how certain that is; see `ht_argmin`."""
        return self.argmin(**options).entry

    def sample(
        self,
        count: int,
        random_state: Any = None,
        by: str = "squares",
        given: Mapping[int, Any] | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Index tuples drawn by squares of entries, or by entries; see `ht_sample`."""
        from htf.tensors.sampling import ht_sample

        return ht_sample(self, count, random_state, by, given, **options)

    def contract(self, vectors: Mapping[int, Array] | Sequence[Array | None]) -> HTTensor | Array:
        """Contract modes with vectors, one a mode; see `ht_contract`."""
        from htf.tensors.contraction import ht_contract

        return ht_contract(self, vectors)

    def tensordot(self, other: HTTensor | RawHT, modes: tuple[Sequence[int], Sequence[int]]) -> HTTensor | Array:
        """Contract modes with those of another HT tensor; see `ht_tensordot`."""
        from htf.tensors.contraction import ht_tensordot

        return ht_tensordot(self, other, modes)

    def relative_error(self, array: Array) -> float:
        """Error relative to the norm of an array, in memory or read block by block; see `ht_relative_error`."""
        from htf.tensors.comparison import ht_relative_error

        return ht_relative_error(self, array)

    # -- shape and tree --------------------------------------------------------------------------------

    def permute(self, modes: Sequence[int]) -> HTTensor:
        """Modes in another order; see `ht_permute`."""
        from htf.tensors.reshaping import ht_permute

        return ht_permute(self, modes)

    def reshape(self, shape: int | Sequence[int], arity: int | None = None) -> HTTensor:
        """Modes split into finer ones, or merged; see `ht_reshape`."""
        from htf.tensors.reshaping import ht_reshape

        return ht_reshape(self, shape, arity)

    def change_tree(self, tree: DimensionTree, tol: float = 0.0) -> HTTensor:
        """The same tensor on another tree; see `ht_change_tree`."""
        from htf.tensors.retree import ht_change_tree

        return ht_change_tree(self, tree, tol)

    def move_root(self, node: int) -> HTTensor:
        """The same tensor with the root on the edge above a node; see `ht_move_root`."""
        from htf.tensors.retree import ht_move_root

        return ht_move_root(self, node)

    # -- orthogonality and truncation ------------------------------------------------------------------

    def orthogonalize(self) -> HTTensor:
        """Orthonormal frames at every node but the root; see `ht_orthogonalize`."""
        from htf.tensors.orthogonal import ht_orthogonalize

        return ht_orthogonalize(self)

    def singular_values(self) -> dict[int, Array]:
        """Singular values of the matricization of every node; see `ht_singular_values`."""
        from htf.tensors.orthogonal import ht_singular_values

        return ht_singular_values(self)

    def round(
        self, rank: int | Sequence[int] | Mapping[int, int] | None = None, tol: float | None = None, **kwargs: Any
    ) -> HTTensor:
        """Truncate to lower ranks, or to a tolerance; see `ht_round`."""
        from htf.tensors.rounding import ht_round

        return ht_round(self, rank=rank, tol=tol, **kwargs)


def _unflatten(factors: Any, tree: DimensionTree) -> HTTensor:
    # Transforms put whatever they compute with in the place of arrays, so nothing is checked, nor read more than there
    # is.
    self = HTTensor.__new__(HTTensor)
    self.tree, self.factors = tree, list(factors)
    if all(hasattr(f, "shape") and len(f.shape) for f in self.factors):
        self.shape, self.rank = _shape_and_rank(tree, self.factors)
    return self


# Checked where they are made, and made of nothing but numbers and tensors, so files of them are safe to load.
torch.serialization.add_safe_globals([HTTensor, DimensionTree])

torch.utils._pytree.register_pytree_node(
    HTTensor, lambda x: (list(x.factors), x.tree), _unflatten, serialized_type_name="htf.HTTensor"
)


def _brief(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"({shape[0]}, {shape[1]}, …, {shape[-1]}) ({len(shape)} axes)"


def _shape_and_rank(tree: DimensionTree, factors: Sequence[Array]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = tuple(int(f.shape[-1]) for f in factors)
    shape = tuple(int(f.shape[0]) for f in factors[: tree.order])
    return (shape if rank[-1] == 1 else (*shape, rank[-1])), rank


def _validate_ht_tensor(ht_tensor: HTTensor | RawHT) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and rank of an HT tensor or of its raw form, or an error that names the node at fault."""
    if isinstance(ht_tensor, HTTensor):
        return ht_tensor.shape, ht_tensor.rank
    try:
        tree, factors = ht_tensor
        factors = list(factors)
    except (TypeError, ValueError) as error:
        raise TypeError(f"ht_tensor is a {type(ht_tensor).__name__}; expected (tree, factors)") from error
    if not isinstance(tree, DimensionTree):
        raise TypeError(f"the tree is a {type(tree).__name__}; expected a DimensionTree")
    if len(factors) != tree.n_nodes:
        raise ValueError(f"there are {len(factors)} factors; the tree has {tree.n_nodes} nodes, one factor each")
    for node, factor in enumerate(factors):
        backend_of(factor, f"factor of node {node}")
        expected = 2 if node < tree.order else len(tree.children(node)) + 1
        if len(factor.shape) != expected:
            kind = "frame, (dimension, rank)" if node < tree.order else "transfer tensor, (ranks of children, own rank)"
            raise ValueError(f"factor of node {node} has shape {tuple(factor.shape)}; expected a {kind}")
        if prod(tuple(factor.shape)) == 0:
            what = f"mode {node} is empty" if node < tree.order and factor.shape[0] == 0 else "a rank is 0"
            raise ValueError(f"factor of node {node} has shape {tuple(factor.shape)}: {what}")
    for node in tree.inner_nodes:
        for axis, child in enumerate(tree.children(node)):
            if factors[node].shape[axis] != factors[child].shape[-1]:
                raise ValueError(
                    f"node {child} has rank {factors[child].shape[-1]}, but axis {axis} of the transfer tensor of its "
                    f"parent {node} has length {factors[node].shape[axis]}"
                )
    promoted(factors, "factors")
    return _shape_and_rank(tree, factors)


def as_ht(ht_tensor: HTTensor | RawHT) -> HTTensor:
    """An HT tensor from one or from its raw form, checked."""
    return ht_tensor if isinstance(ht_tensor, HTTensor) else HTTensor(ht_tensor)


def alike(*tensors: HTTensor) -> list[HTTensor]:
    """HT tensors of one backend, dtype and device: real ones are made complex beside complex ones."""
    firsts = promoted([x.factors[0] for x in tensors], "the pair of tensors")
    return [
        x if x.dtype == first.dtype else HTTensor._of(x.tree, [cast(f, first.dtype) for f in x.factors])
        for x, first in zip(tensors, firsts, strict=True)
    ]


def pair(first: HTTensor | RawHT, second: HTTensor | RawHT) -> tuple[HTTensor, HTTensor]:
    """Two HT tensors that can be combined: of one tree and shape, on one device and in one dtype, see `alike`."""
    x, y = as_ht(first), as_ht(second)
    if x.tree != y.tree:
        raise ValueError(
            "the tensors have different trees; bring one to the tree of the other with y.change_tree(x.tree)"
        )
    if x.shape != y.shape:
        raise ValueError(f"the tensors have shapes {_brief(x.shape)} and {_brief(y.shape)}; expected equal ones")
    x, y = alike(x, y)
    return x, y


def check_mode(mode: SupportsIndex, order: int) -> int:
    """A mode as a number from 0; negative ones count from the last."""
    index = check_index("mode", mode)
    if not -order <= index < order:
        raise IndexError(f"mode is {index}; the tensor has modes 0 to {order - 1}")
    return index % order
