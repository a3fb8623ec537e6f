"""Products of HT tensors with matrices and vectors, sums over modes, contractions of two HT tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from htf._checks import listed
from htf.linalg.backend import Array, adjoint, backend_of, is_complex, promoted
from htf.linalg.dense import joint_values_each, mode_product
from htf.linalg.scaling import divided, each_divided, each_ordinary, exponents, with_scale
from htf.linalg.underflow import certificate, size_of
from htf.tensors._blocks import Schedule, schedule_of, stacked, unscaled_first
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
    htf.tensors.ht_multi_mode_dot : along several modes at once.
    htf.tensors.ht_contract : with vectors.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> htf.tensors.ht_mode_dot(x, np.ones((3, 5)), mode=1).shape
    (4, 3, 6)
    >>> htf.tensors.ht_mode_dot(x, np.ones(5), mode=1).shape  # a vector removes the mode
    (4, 6)
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

    See Also
    --------
    htf.tensors.ht_mode_dot : along one mode.
    htf.tensors.ht_contract : with vectors.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> smooth = np.full((2, 4), 0.25), np.ones(6)
    >>> htf.tensors.ht_multi_mode_dot(x, smooth, modes=[0, 2]).shape
    (2, 5)
    """
    x = as_ht(ht_tensor)
    operands = listed("matrices_or_vectors", matrices_or_vectors, "a sequence of arrays, one a mode")
    modes = range(x.order) if modes is None else listed("modes", modes, "a sequence of integers, one an operand")
    if len(modes) != len(operands):
        raise ValueError(f"there are {len(operands)} matrices for {len(modes)} modes")
    numbers = [check_mode(mode, x.order) for mode in modes]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"modes is {list(modes)}; expected each mode once")
    B = backend_of(x.factors[0])
    factors = list(x.factors)
    removed: dict[int, Array] = {}
    for operand, mode in zip(operands, numbers, strict=True):
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


def ht_contract(ht_tensor: HTTensor | RawHT, vectors: Mapping[int, Array] | Sequence[Array | None]) -> HTTensor | Array:
    """Contract modes with vectors: weighted sums, and with the weights of a quadrature rule, integrals.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    vectors : sequence of arrays (dimension,) or None, or mapping from mode to array
        A sequence has one vector a mode, and None for a mode that is kept.

    Returns
    -------
    HTTensor
        Of the modes that are left; an array, () or (outputs,), where none is.

    Raises
    ------
    ValueError
        If a vector has not one axis of its mode's dimension, a mode comes twice (as -1 and as the last), or a sequence
        has not as many items as there are modes.
    IndexError, TypeError
        As in `ht_multi_mode_dot`.

    See Also
    --------
    htf.tensors.ht_sum, htf.tensors.ht_mean : all weights alike.
    htf.tensors.ht_multi_mode_dot : with matrices.

    Notes
    -----
    Complex vectors are not conjugated.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> x.contract([np.ones(4), None, np.ones(6)]).shape
    (5,)
    >>> bool(np.isclose(x.contract([np.ones(n) for n in x.shape]), x.sum()))
    True
    """
    if not isinstance(vectors, Mapping):
        order = as_ht(ht_tensor).order
        given = listed("vectors", vectors, "a vector or None for each mode, or a mapping of modes to vectors")
        if len(given) != order:
            raise ValueError(
                f"there are {len(given)} vectors for {order} modes; expected one each, None to keep a mode"
            )
        vectors = {mode: vector for mode, vector in enumerate(given) if vector is not None}
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
        All by default.  Negative ones count from the last mode; several outputs are not summed.

    Returns
    -------
    HTTensor
        Of the modes that are left; an array, () or (outputs,), where none is.

    Raises
    ------
    ValueError, IndexError, TypeError
        For a mode that comes twice, that the tensor does not have, or that is no integer.

    See Also
    --------
    htf.tensors.ht_mean : means.
    htf.tensors.ht_contract : sums with weights.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((2,) * 60, rank=2, random_state=0)  # 2⁶⁰ entries
    >>> htf.tensors.ht_sum(x, modes=range(1, 60)).shape
    (2,)
    >>> bool(np.isclose(htf.tensors.ht_sum(x), x.sum(range(1, 60)).sum()))
    True
    """
    x, numbers = _of_modes(ht_tensor, modes)
    B = backend_of(x.factors[0])
    return without_modes(x, {mode: B.sum(x.factors[mode], 0) for mode in numbers})


def ht_mean(ht_tensor: HTTensor | RawHT, modes: int | Sequence[int] | None = None) -> HTTensor | Array:
    """Mean over some modes.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    modes : int or sequence of int, optional
        As in `ht_sum`.

    Returns
    -------
    HTTensor or array
        As of `ht_sum`.  Means are taken mode by mode, so no number of entries is too large.

    Raises
    ------
    ValueError, IndexError, TypeError
        As `ht_sum`.

    See Also
    --------
    htf.tensors.ht_sum : sums.
    htf.tensors.ht_contract : means with weights.

    Examples
    --------
    >>> import htf
    >>> x = htf.cross_approximation(lambda i: i.sum(1), (10,) * 8, random_state=0)
    >>> round(float(htf.tensors.ht_mean(x)), 6)  # of the sum of 8 digits
    36.0
    """
    x, numbers = _of_modes(ht_tensor, modes)
    B = backend_of(x.factors[0])
    return without_modes(x, {mode: B.sum(x.factors[mode], 0) / x.dims[mode] for mode in numbers})


def _of_modes(ht_tensor: HTTensor | RawHT, modes: int | Sequence[int] | None) -> tuple[HTTensor, list[int]]:
    """The tensor, and modes as numbers from 0, each once."""
    x = as_ht(ht_tensor)
    chosen = range(x.order) if modes is None else _listed_modes(modes)
    numbers = [check_mode(mode, x.order) for mode in chosen]
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"modes is {modes}; expected each mode once")
    return x, numbers


def _listed_modes(modes: Any) -> list[Any]:
    """Modes as a list, of one from a number."""
    # Arrays without axes look iterable and are not.
    return list(modes) if isinstance(modes, Iterable) and getattr(modes, "shape", None) != () else [modes]


def without_modes(x: HTTensor, vectors: Mapping[int, Array]) -> HTTensor | Array:
    """Put a vector (rank,) in the place of some leaves' frames, and drop the nodes that are left with one child."""
    if not vectors:
        return x
    B = backend_of(x.factors[0])
    if len(vectors) == x.order:
        factors = [*(B.reshape(vectors[mode], (1, -1)) for mode in range(x.order)), *x.factors[x.order :]]
        schedule = schedule_of([x])
        value = _plain_value(x, factors) if schedule is None or unscaled_first(x.tree) else None
        if value is None:
            value = _scaled_value(x, factors) if schedule is None else _value_by_blocks(schedule, factors)
        return value[0, 0] if x.outputs == 1 else value[0]
    network = Network.of(x)
    for mode, vector in vectors.items():
        network.put(mode, vector, [leg for leg in network.legs[mode] if leg != ("mode", mode)])
    left = [mode for mode in range(x.order) if mode not in vectors]
    network.rename({("mode", mode): ("mode", k) for k, mode in enumerate(left)})
    return network.to_ht(x.tree.root)


def _plain_value(x: HTTensor, factors: Sequence[Array]) -> Array | None:
    """Factors with a row (1, rank) for each leaf contracted to (1, outputs); None where that may be out of range."""
    B = backend_of(factors[0])
    bound = certificate(B, factors)
    if bound is None:
        return None
    parts: list[Array] = list(factors[: x.order])
    with np.errstate(all="ignore"):
        bound.add(factors)
        for node in x.tree.inner_nodes:
            part = factors[node]
            for axis, child in enumerate(x.tree.children(node)):
                part = mode_product(B, part, parts[child], axis)
            parts.append(B.reshape(part, (1, -1)))
        size = size_of(parts[-1])
    multiplications = sum(prod(tuple(f.shape)) for f in factors)
    return parts[-1] if bound.holds(size, multiplications) else None


def _scaled_value(x: HTTensor, factors: Sequence[Array]) -> Array:
    """The same with powers of two divided out, so that only the result itself can leave the range of its dtype."""
    B = backend_of(factors[0])
    pairs = [divided(B, row) for row in factors[: x.order]]
    parts, powers = [part for part, _ in pairs], [power for _, power in pairs]
    for node in x.tree.inner_nodes:
        part, power = divided(B, factors[node])
        powers.append(power)
        for axis, child in enumerate(x.tree.children(node)):
            part = mode_product(B, part, parts[child], axis)
        part, power = divided(B, B.reshape(part, (1, -1)))
        parts.append(part)
        powers.append(power)
    return with_scale(B, parts[-1], B.sum(exponents(B, B.stack(powers))))


def _value_by_blocks(schedule: Schedule, factors: Sequence[Array]) -> Array:
    """`_scaled_value` with one array per block."""
    B = backend_of(factors[0])
    values: list[Array] = []
    powers: list[Array] = []
    for block in schedule:
        (own,), power = each_ordinary(B, [stacked(B, factors, block)])
        powers += [] if power is None else [power]
        if block.children:
            own = joint_values_each(B, own, [below.take(B, values) for below in block.below])
        own, power = each_divided(B, own)
        values.append(own)
        powers.append(power)
    return with_scale(B, values[-1][0], B.sum(exponents(B, B.concatenate(powers, 0))))


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
        If both tensors have several outputs, `modes` is no pair, its lists are not of one length, a mode comes twice,
        or the dimensions of two modes differ.
    IndexError
        For a mode that its tensor does not have.
    TypeError
        If precisions or backends differ, a mode is no integer, or `modes` no pair of sequences.

    See Also
    --------
    htf.tensors.ht_inner : over all modes, the first tensor conjugated.
    htf.tensors.ht_outer : over none.

    Notes
    -----
    As ``numpy.tensordot`` it conjugates nothing.  Modes that form a subtree of both trees, of the same shape, are
    contracted as they stand, and ranks stay as they are.  Otherwise they are brought together first, see
    `ht_change_tree`; ranks may grow.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> y = htf.random_ht((6, 5, 3), rank=2, random_state=1)
    >>> z = htf.tensors.ht_tensordot(x, y, ([1, 2], [1, 0]))
    >>> z.shape, np.allclose(z.to_tensor(), np.einsum("ijk,kjl->il", x.to_tensor(), y.to_tensor()))
    ((4, 3), True)
    """
    x, y = as_ht(first), as_ht(second)
    x, y = alike(x, y)
    if x.outputs > 1 and y.outputs > 1:
        raise ValueError(f"both tensors have several outputs ({x.outputs} and {y.outputs}); expected one at most")
    expected = "two sequences of modes, such as ([0, 1], [0, 1])"
    both = [listed("modes", each, expected) for each in listed("modes", modes, expected)]
    if len(both) != 2:
        raise ValueError(f"modes is {modes}; expected {expected}")
    left, right = ([check_mode(mode, z.order) for mode in each] for z, each in zip((x, y), both, strict=True))
    if len(left) != len(right) or len(set(left)) != len(left) or len(set(right)) != len(right):
        raise ValueError(f"modes is {modes}; expected two lists of as many modes, each once")
    for a, b in zip(left, right, strict=True):
        if x.dims[a] != y.dims[b]:
            raise ValueError(f"mode {a} has dimension {x.dims[a]}, mode {b} of the second tensor has {y.dims[b]}")
    if not left:
        return x.outer(y)
    return gathered(x, y, left, right)
