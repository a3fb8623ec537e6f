"""Products of HT tensors with matrices and vectors, sums over modes, contractions of two HT tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from htf.linalg.backend import Array, adjoint, backend_of, is_complex, promoted
from htf.linalg.dense import mode_product
from htf.tensors.ht_tensor import HTTensor, RawHT, alike, as_ht, check_mode
from htf.tensors.network import Network
from htf.tensors.retree import gathered


def ht_mode_dot(ht_tensor: HTTensor | RawHT, matrix_or_vector: Array, mode: int) -> HTTensor | Array:
    """Product with a matrix or a vector along one mode.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    matrix_or_vector : array
        (new dimension, dimension), or (dimension,), which removes the mode.
    mode : int

    Returns
    -------
    HTTensor, or an array where a vector removes the last mode

    Raises
    ------
    ValueError
        If dimensions do not match.

    See Also
    --------
    ht_multi_mode_dot : along several modes at once.
    """
    return ht_multi_mode_dot(ht_tensor, [matrix_or_vector], [mode])


def ht_multi_mode_dot(
    ht_tensor: HTTensor | RawHT,
    matrices_or_vectors: Sequence[Array],
    modes: Sequence[int] | None = None,
    transpose: bool = False,
) -> HTTensor | Array:
    """Products with matrices or vectors along several modes.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    matrices_or_vectors : sequence of arrays
        As in `ht_mode_dot`; modes are those of the tensor as it is given.
    modes : sequence of int, optional
        All by default.
    transpose : bool
        Apply the transposes of the matrices; conjugate ones of complex matrices, as TensorLy does.

    Returns
    -------
    HTTensor or array
        Only leaf frames change: O(n m r) multiplications for each (m × n) matrix.

    Raises
    ------
    ValueError
        If there are not as many operands as modes, a mode comes twice, or an operand does not fit its mode.
    IndexError
        For a mode that the tensor does not have.
    TypeError
        If an operand is of another backend or precision than the tensor, or a mode no integer.  Real and complex ones
        may be mixed.
    """
    x = as_ht(ht_tensor)
    modes = range(x.order) if modes is None else modes
    if len(modes) != len(matrices_or_vectors):
        raise ValueError(f"there are {len(matrices_or_vectors)} matrices for {len(modes)} modes")
    numbers = [check_mode(mode, x.order) for mode in modes]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"modes is {list(modes)}; expected each mode once")
    B = backend_of(x.factors[0])
    factors = list(x.factors)
    removed: dict[int, Array] = {}
    for operand, mode in zip(matrices_or_vectors, numbers, strict=True):
        backend_of(operand, f"the operand of mode {mode}")
        frame, operand = promoted((x.factors[mode], operand), f"the tensor and the operand of mode {mode}")
        if len(operand.shape) == 2 and transpose:
            operand = adjoint(operand)
        if len(operand.shape) not in (1, 2) or operand.shape[-1] != x.dims[mode]:
            raise ValueError(
                f"the operand of mode {mode} has shape {tuple(operand.shape)}; "
                f"expected (m, {x.dims[mode]}) or ({x.dims[mode]},)"
            )
        if len(operand.shape) == 2:
            factors[mode] = B.matmul(operand, frame)
        else:
            removed[mode] = B.matmul(operand, frame)
    if not is_complex(x.factors[0]) and any(map(is_complex, [*factors, *removed.values()])):
        # One complex operand makes the whole tensor complex.
        parts = promoted([*factors, *removed.values()], "the tensor and the operands")
        factors, removed = parts[: len(factors)], dict(zip(removed, parts[len(factors) :], strict=True))
    return without_modes(HTTensor._of(x.tree, factors), removed)


def ht_contract(ht_tensor: HTTensor | RawHT, vectors: Mapping[int, Array]) -> HTTensor | Array:
    """Contract modes with vectors.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    vectors : mapping from mode to array (dimension,)

    Returns
    -------
    HTTensor
        Of the modes that are left; an array, () or (outputs,), where none is.

    Raises
    ------
    ValueError
        If a vector has not one axis of its mode's dimension, or a mode comes twice (as -1 and as the last).
    IndexError, TypeError
        As in `ht_multi_mode_dot`.
    """
    for mode, vector in vectors.items():
        backend_of(vector, f"the vector of mode {mode}")
        if len(vector.shape) != 1:
            raise ValueError(f"the vector of mode {mode} has shape {tuple(vector.shape)}; expected one axis")
    return ht_multi_mode_dot(ht_tensor, list(vectors.values()), list(vectors))


def ht_sum(ht_tensor: HTTensor | RawHT, modes: int | Sequence[int] | None = None) -> HTTensor | Array:
    """Sum over some modes.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    modes : int or sequence of int, optional
        All by default.

    Returns
    -------
    HTTensor
        Of the modes that are left; an array, () or (outputs,), where none is.

    Raises
    ------
    ValueError, IndexError, TypeError
        For a mode that comes twice, that the tensor does not have, or that is no integer.
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    chosen = range(x.order) if modes is None else [modes] if hasattr(modes, "__index__") else modes
    numbers = [check_mode(mode, x.order) for mode in chosen]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"modes is {modes}; expected each mode once")
    return without_modes(x, {mode: B.sum(x.factors[mode], 0) for mode in numbers})


def without_modes(x: HTTensor, vectors: Mapping[int, Array]) -> HTTensor | Array:
    """Put a vector (rank,) in the place of some leaves' frames, and drop the nodes that are left with one child."""
    if not vectors:
        return x
    B = backend_of(x.factors[0])
    if len(vectors) == x.order:
        parts = [B.reshape(vectors[mode], (1, -1)) for mode in range(x.order)]
        for node in x.tree.inner_nodes:
            part = x.factors[node]
            for axis, child in enumerate(x.tree.children(node)):
                part = mode_product(B, part, parts[child], axis)
            parts.append(B.reshape(part, (1, -1)))
        return parts[-1][0, 0] if x.outputs == 1 else parts[-1][0]
    network = Network.of(x)
    for mode, vector in vectors.items():
        network.put(mode, vector, [leg for leg in network.legs[mode] if leg != ("mode", mode)])
    left = [mode for mode in range(x.order) if mode not in vectors]
    network.rename({("mode", mode): ("mode", k) for k, mode in enumerate(left)})
    return network.to_ht(x.tree.root)


def ht_tensordot(
    first: HTTensor | RawHT, second: HTTensor | RawHT, modes: tuple[Sequence[int], Sequence[int]]
) -> HTTensor | Array:
    """Contract modes of one HT tensor with modes of another.

    Parameters
    ----------
    first, second : HTTensor or (tree, factors)
        At most one of them with several outputs.
    modes : (sequence of int, sequence of int)
        Modes of the first, and those of the second that they are contracted with, in the same order.

    Returns
    -------
    HTTensor
        Modes left of the first, then those left of the second; an array where none is.

    Raises
    ------
    ValueError
        If both tensors have several outputs, the two lists are not of one length, a mode comes twice, or the dimensions
        of two modes differ.
    IndexError
        For a mode that its tensor does not have.
    TypeError
        If precisions or backends differ, or a mode is no integer.

    Notes
    -----
    As ``numpy.tensordot`` it conjugates nothing.  Modes that form a subtree of both trees, of the same shape, are
    contracted as they stand, and ranks stay as they are.  Otherwise they are brought together first, see
    `ht_change_tree`; ranks may grow.
    """
    x, y = as_ht(first), as_ht(second)
    x, y = alike(x, y)
    if x.outputs > 1 and y.outputs > 1:
        raise ValueError(f"both tensors have several outputs ({x.outputs} and {y.outputs}); expected one at most")
    left = [check_mode(mode, x.order) for mode in modes[0]]
    right = [check_mode(mode, y.order) for mode in modes[1]]
    if len(left) != len(right) or len(set(left)) != len(left) or len(set(right)) != len(right):
        raise ValueError(f"modes is {modes}; expected two lists of as many modes, each once")
    for a, b in zip(left, right, strict=True):
        if x.dims[a] != y.dims[b]:
            raise ValueError(f"mode {a} has dimension {x.dims[a]}, mode {b} of the second tensor has {y.dims[b]}")
    if not left:
        return x.outer(y)
    return gathered(x, y, left, right)
