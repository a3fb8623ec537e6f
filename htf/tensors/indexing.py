"""Entries and slices of HT tensors by NumPy's rules."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from htf.linalg.backend import Array, Backend, backend_of, host_array, host_indices
from htf.linalg.dense import joint_values, joint_values_each
from htf.tensors._blocks import Schedule, schedule_of, stacked
from htf.tensors.contraction import without_modes
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tensors.reshaping import diagonal, ht_permute

# Entries that are held at once, of the rows of all frames and of a product with a transfer tensor: 32 MB in doubles.
_CHUNK_ENTRIES = 2**22
# Rows beyond which a node's arithmetic outweighs the overhead of its steps.
_ROWS_BY_BLOCKS = 64


def ht_entries(ht_tensor: HTTensor | RawHT, indices: Array) -> Array:
    """Entries at index tuples.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    indices : array of integers, (batch, order)
        NumPy's, the factors' backend's, or nested sequences; negative ones count from the end.

    Returns
    -------
    array
        (batch,), or (batch, outputs).

    Raises
    ------
    IndexError, TypeError, ValueError
        For indices out of range, not integers, or not of shape (batch, order).

    See Also
    --------
    htf.tensors.ht_getitem : indices and slices by NumPy's rules.
    htf.tensors.ht_sample : index tuples drawn by the entries.

    Notes
    -----
    O(N r³) multiplications an entry, O(N r²) where the factors of a node are vectors.  Gradients flow to the factors.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((2,) * 60, rank=2, random_state=0)  # 2⁶⁰ entries
    >>> indices = np.random.default_rng(0).integers(0, 2, (1000, 60))
    >>> htf.tensors.ht_entries(x, indices).shape
    (1000,)
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    # Indices are small and decide about shapes, so they are read on the host, whatever backend they come from.
    rows = host_indices(indices, "indices")
    if rows.ndim != 2 or rows.shape[1] != x.order:
        raise ValueError(f"indices has shape {rows.shape}; expected (batch, {x.order})")
    columns = [_check_range(rows[:, mode], x.dims[mode], mode) for mode in range(x.order)]
    # At high orders, the rows of the frames outweigh any product.
    held = sum(x.rank) + max(prod(tuple(f.shape[1:])) for f in x.factors)
    step = max(_CHUNK_ENTRIES // held, 1)
    chunks = [
        root_rows(B, x, [f[c[start : start + step]] for f, c in zip(x.factors, columns, strict=False)])
        for start in range(0, max(len(rows), 1), step)
    ]
    values = chunks[0] if len(chunks) == 1 else B.concatenate(chunks, 0)
    return values[:, 0] if x.outputs == 1 else values


def root_rows(B: Backend, x: HTTensor, rows: Sequence[Array]) -> Array:
    """Contract rows of the leaves' frames, (batch, rank) each, up to the root: (batch, outputs)."""
    schedule = schedule_of([x]) if rows[0].shape[0] <= _ROWS_BY_BLOCKS else None
    if schedule is not None:
        return rows_by_blocks(B, schedule, x, rows)
    values: list[Any] = list(rows)
    for node in x.tree.inner_nodes:
        group = x.tree.children(node)
        values.append(joint_values(B, x.factors[node], [values[c] for c in group]))
        for child in group:
            values[child] = None
    return values[-1]


def rows_by_blocks(B: Backend, schedule: Schedule, x: HTTensor, rows: Sequence[Array]) -> Array:
    """`root_rows` with one array per block."""
    values: list[Array] = []
    for block in schedule:
        own = stacked(B, x.factors if block.children else rows, block)
        values.append(
            joint_values_each(B, own, [below.take(B, values) for below in block.below]) if block.children else own
        )
    return values[-1][0]


def _check_range(column: np.ndarray, dim: int, mode: int) -> np.ndarray:
    if column.size and (column.min() < -dim or column.max() >= dim):
        worst = column[(column < -dim) | (column >= dim)].flat[0]
        raise IndexError(f"index {worst} is out of range for mode {mode} with dimension {dim}")
    return np.where(column < 0, column + dim, column)


def ht_getitem(ht_tensor: HTTensor | RawHT, key: Any) -> Any:
    """Entries and slices by NumPy's rules: ``x[key]``.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    key : int, slice, Ellipsis, array of integers or booleans, or a tuple of these
        One per axis of ``ht_tensor.shape``; axes left out are kept whole.  A slice that keeps one of several outputs
        drops their axis, as one output has none.

    Returns
    -------
    array or HTTensor
        Integers and index arrays for all modes give values, of the shape to which the arrays broadcast.  Otherwise the
        result is an HTTensor: integers remove their modes, slices and one array select along theirs, and several arrays
        together become one mode, where NumPy puts it.

    Raises
    ------
    IndexError
        For indices out of range, too many of them, arrays that do not broadcast, ``None``, an empty selection, arrays
        of two or more axes beside whole modes, whose joint mode would have several axes, or an array for the outputs
        beside whole modes and other indices.

    See Also
    --------
    htf.tensors.ht_entries : entries at index tuples.

    Notes
    -----
    Integers, slices and a single array touch their leaves alone.  Several arrays bring their modes together in the tree
    first, for which ranks may grow, see `ht_change_tree`.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> x[1, 2, 3].shape, x[1].shape, x[:, ::2, [0, 3]].shape
    ((), (5, 6), (4, 3, 2))
    """
    x = as_ht(ht_tensor)
    keys = [_normalized(k, x.shape[axis], axis) for axis, k in enumerate(_expand(key, x.ndim))]
    advanced = [axis for axis, k in enumerate(keys) if isinstance(k, np.ndarray)]
    arrays = [axis for axis in advanced if keys[axis].ndim > 0]
    if len(advanced) == x.ndim or (x.outputs > 1 and advanced == list(range(x.order)) and keys[-1] == slice(None)):
        return _values(x, keys)
    if x.outputs > 1:
        if x.order in arrays and len(advanced) > 1:
            raise IndexError("an index array for the outputs goes with an index for every mode, or with none")
        x = _with_outputs(x, keys[-1])
        if x.order in advanced and x.order not in arrays and arrays and advanced[-2] != x.order - 1:
            raise IndexError("an integer for the outputs beside an index array needs one for the last mode too")
        keys = keys[: x.order]
        advanced = [axis for axis in advanced if axis < x.order]
        arrays = [axis for axis in arrays if axis < x.order]
        if len(advanced) == x.order:
            return _values(x, keys)
    if len(arrays) > 1:
        return _jointly(x, keys, arrays)
    if arrays and keys[arrays[0]].ndim > 1:
        raise IndexError(
            f"the index array of mode {arrays[0]} has {keys[arrays[0]].ndim} axes; beside whole modes it can have one"
        )
    selected = _selected(x, keys)
    if arrays and advanced != list(range(advanced[0], advanced[-1] + 1)):
        # NumPy counts integers beside an array as arrays, and puts what comes of separated ones first.
        mine = sum(not isinstance(k, np.ndarray) for k in keys[: arrays[0]])
        return ht_permute(selected, [mine, *(mode for mode in range(selected.order) if mode != mine)])
    return selected


def _with_outputs(x: HTTensor, key: Any) -> HTTensor:
    if isinstance(key, np.ndarray) and key.ndim == 0:
        key = slice(int(key), int(key) + 1)
    elif isinstance(key, np.ndarray) and key.ndim > 1:
        raise IndexError(f"the index array of the outputs has {key.ndim} axes; beside whole modes it can have one")
    chosen = np.arange(x.outputs)[key].copy()
    if not chosen.size:
        raise IndexError("the index of the outputs selects nothing")
    return HTTensor._of(x.tree, [*x.factors[:-1], x.factors[-1][..., chosen]])


def _expand(key: Any, order: int) -> list[Any]:
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is None for k in keys):
        raise IndexError("the index holds None; an HT tensor takes no new axes by indexing")
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexError("the index holds several Ellipses; expected one at most")
    if len(keys) - len(dots) > order:
        raise IndexError(f"too many indices: {len(keys) - len(dots)} for {order} modes")
    at = dots[0] if dots else len(keys)
    whole = [slice(None)] * (order - len(keys) + len(dots))
    return keys[:at] + whole + keys[at + len(dots) :]


def _normalized(key: Any, dim: int, mode: int) -> Any:
    if isinstance(key, slice):
        return key
    array = host_array(key, f"the index of mode {mode}")
    if array.dtype == bool:
        if array.shape != (dim,):
            raise IndexError(f"the mask of mode {mode} has shape {array.shape}; expected ({dim},)")
        array = np.flatnonzero(array)
    elif array.size == 0:
        array = array.astype(np.int64)
    elif array.dtype.kind not in "iu":
        raise IndexError(
            f"the index of mode {mode} is {key!r}; expected integers, a slice, a mask or an array of integers"
        )
    return _check_range(host_indices(array, f"the index of mode {mode}"), dim, mode)


def _values(x: HTTensor, keys: list[Any]) -> Array:
    B = backend_of(x.factors[0])
    arrays = [k for k in keys if isinstance(k, np.ndarray)]
    try:
        joint = np.broadcast_arrays(*arrays)
    except ValueError as error:
        raise IndexError(f"index arrays of shapes {[k.shape for k in arrays]} do not broadcast") from error
    values = ht_entries(x, np.stack([k.reshape(-1) for k in joint[: x.order]], 1))
    if x.outputs == 1:
        return B.reshape(values, joint[0].shape)
    if len(joint) > x.order:
        return B.reshape(values[np.arange(joint[0].size), joint[-1].reshape(-1)], joint[0].shape)
    return B.reshape(values, (*joint[0].shape, x.outputs))


def _selected(x: HTTensor, keys: list[Any]) -> HTTensor:
    factors = list(x.factors)
    removed: dict[int, Array] = {}
    for mode, key in enumerate(keys):
        if isinstance(key, np.ndarray) and key.ndim == 0:
            removed[mode] = x.factors[mode][int(key)]
            continue
        if isinstance(key, slice):
            if key == slice(None):
                continue
            # A copy, as PyTorch takes no negative strides.
            key = np.arange(x.dims[mode])[key].copy()
        if key.size == 0:
            raise IndexError(f"the index of mode {mode} selects nothing; an HT tensor has no empty modes")
        factors[mode] = x.factors[mode][key]
    return without_modes(HTTensor._of(x.tree, factors), removed)


def _jointly(x: HTTensor, keys: list[Any], arrays: list[int]) -> HTTensor:
    """Several index arrays beside slices: one mode that runs along all of them."""
    try:
        length = np.broadcast_shapes(*(keys[mode].shape for mode in arrays))
    except ValueError as error:
        raise IndexError(f"index arrays of shapes {[keys[m].shape for m in arrays]} do not broadcast") from error
    if len(length) != 1:
        raise IndexError(f"the index arrays broadcast to {len(length)} axes; beside whole modes they can have one")
    # An integer beside arrays is an array of equal entries, by NumPy's rules.
    advanced = [mode for mode, k in enumerate(keys) if isinstance(k, np.ndarray)]
    keys = [np.array(np.broadcast_to(k, length)) if mode in advanced else k for mode, k in enumerate(keys)]
    adjacent = advanced == list(range(advanced[0], advanced[-1] + 1))
    return diagonal(_selected(x, keys), advanced, advanced[0] if adjacent else 0)
