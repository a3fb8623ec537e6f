"""HT tensors written out: dense tensors, unfoldings and vectors."""

from __future__ import annotations

from math import prod

from htf.linalg.backend import Array, backend_of
from htf.linalg.dense import mode_product
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht, check_mode

# Entries of the largest tensor that is written out; beyond it a request is a slip, not a wish.
LARGEST_DENSE = 2**32


def ht_to_tensor(ht_tensor: HTTensor | RawHT) -> Array:
    """The dense tensor of an HT tensor.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    array
        Of shape ``ht_tensor.shape``: with a last axis for the outputs where the root's rank is not 1.

    Raises
    ------
    ValueError
        If it would have more than 2³² entries.

    See Also
    --------
    htf.tensors.ht_to_unfolded, htf.tensors.ht_to_vec : other shapes.
    htf.tensors.ht_entries, htf.tensors.ht_getitem : some entries.

    Notes
    -----
    O(r) multiplications per entry, most of them at the root.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> dense = htf.tensors.ht_to_tensor(x)  # or x.to_tensor()
    >>> dense.shape, bool(abs(dense[1, 2, 3] - x[1, 2, 3]) < 1e-12)
    ((4, 5, 6), True)
    """
    x = as_ht(ht_tensor)
    if prod(x.shape) > LARGEST_DENSE:
        raise ValueError(
            f"the tensor has {float(prod(x.shape)):.1e} entries, too many for a dense one; "
            "read the ones you need by index"
        )
    B = backend_of(x.factors[0])
    parts = list(x.factors)
    for node in x.tree.inner_nodes:
        part = parts[node]
        for axis, child in enumerate(x.tree.children(node)):
            part = mode_product(B, part, parts[child], axis)
            parts[child] = None
        parts[node] = B.reshape(part, (-1, part.shape[-1]))
    walk = x.tree.modes(x.tree.root)
    tensor = B.reshape(parts[-1], (*(x.dims[mode] for mode in walk), x.outputs))
    if walk != tuple(range(x.order)):
        tensor = B.transpose(tensor, (*(walk.index(mode) for mode in range(x.order)), x.order))
    return B.reshape(tensor, x.shape)


def ht_to_unfolded(ht_tensor: HTTensor | RawHT, mode: int) -> Array:
    """The dense unfolding of an HT tensor by one mode, (dimension, product of the others).

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
    mode : int

    Returns
    -------
    array
        Columns in the order of the other modes, the last running fastest (the outputs, where there are several).

    Raises
    ------
    ValueError, IndexError, TypeError
        As `ht_to_tensor`, and for what is no mode of the tensor or no integer.

    See Also
    --------
    htf.tensors.ht_to_tensor, htf.tensors.ht_to_vec : other shapes.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> htf.tensors.ht_to_unfolded(x, mode=1).shape
    (5, 24)
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    tensor = B.moveaxis(ht_to_tensor(x), check_mode(mode, x.order), 0)
    return B.reshape(tensor, (tensor.shape[0], -1))


def ht_to_vec(ht_tensor: HTTensor | RawHT) -> Array:
    """The dense tensor of an HT tensor as a vector, the last mode running fastest.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    array
        One axis, of as many entries as the dense tensor has.

    Raises
    ------
    ValueError
        As `ht_to_tensor`.

    See Also
    --------
    htf.tensors.ht_to_tensor, htf.tensors.ht_to_unfolded : other shapes.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> vector = htf.tensors.ht_to_vec(x)
    >>> vector.shape, bool(abs(vector[6] - x[0, 1, 0]) < 1e-12)
    ((120,), True)
    """
    x = as_ht(ht_tensor)
    return backend_of(x.factors[0]).reshape(ht_to_tensor(x), (-1,))
