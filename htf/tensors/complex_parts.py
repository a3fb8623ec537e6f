"""Conjugates, real parts and imaginary parts of HT tensors."""

from __future__ import annotations

from htf.linalg.backend import Array, Backend, backend_of, conjugated, eye, is_complex
from htf.linalg.dense import mode_product
from htf.tensors.arithmetic import outgrown
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht


def ht_conj(ht_tensor: HTTensor | RawHT) -> HTTensor:
    """Complex conjugate; a real tensor is returned as it is.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    HTTensor
        Of the conjugate factors, and so of the same ranks.

    See Also
    --------
    htf.tensors.ht_real, htf.tensors.ht_imag

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0, dtype=np.complex128)
    >>> np.allclose(htf.tensors.ht_conj(x).to_tensor(), x.to_tensor().conj())
    True
    """
    x = as_ht(ht_tensor)
    if not is_complex(x.factors[0]):
        return x
    return HTTensor._of(x.tree, [conjugated(factor) for factor in x.factors])


def ht_real(ht_tensor: HTTensor | RawHT) -> HTTensor:
    """Real part; a real tensor is returned as it is.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    HTTensor
        Real, exact, of at most twice the ranks: a frame holds the real and the imaginary parts of the complex one side
        by side.  A leaf whose rank would exceed its dimension gets the identity as its frame.  `ht_round` finds the
        lowest ranks.

    See Also
    --------
    htf.tensors.ht_imag, htf.tensors.ht_conj
    htf.tensors.ht_round : the lowest ranks.

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0, dtype=np.complex128)
    >>> real = htf.tensors.ht_real(x)  # or x.real
    >>> x.rank, real.rank, np.allclose(real.to_tensor(), x.to_tensor().real)
    ((2, 2, 2, 2, 1), (4, 4, 4, 4, 1), True)
    """
    x = as_ht(ht_tensor)
    return _part(x, 0) if is_complex(x.factors[0]) else x


def ht_imag(ht_tensor: HTTensor | RawHT) -> HTTensor:
    """Imaginary part; zeros for a real tensor.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)

    Returns
    -------
    HTTensor
        Real, exact, of at most twice the ranks, as that of `ht_real`.

    See Also
    --------
    htf.tensors.ht_real, htf.tensors.ht_conj

    Examples
    --------
    >>> import htf, numpy as np
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0, dtype=np.complex128)
    >>> again = x.real + 1j * htf.tensors.ht_imag(x)
    >>> bool(htf.tensors.ht_distance(again, x) < 1e-12 * x.norm())
    True
    """
    x = as_ht(ht_tensor)
    return _part(x, 1) if is_complex(x.factors[0]) else x * 0


def _part(x: HTTensor, part: int) -> HTTensor:
    """The real part (0) or the imaginary part (1) of a complex tensor.

    With u = u₀ + i u₁ for columns of the children's frames, part p of B u v is the sum of part p of i^(s + t) B times
    u_s v_t, which is a real transfer tensor of twice the size along every axis.
    """
    B, tree = backend_of(x.factors[0]), x.tree
    full = outgrown(tree, x.dims, [2 * rank for rank in x.rank])
    factors = []
    for node, factor in enumerate(x.factors):
        if node in full:
            factors.append(eye(B, x.dims[node], factor.real))
            continue
        for axis, child in enumerate(tree.children(node)):
            if child in full:
                factor = mode_product(B, factor, x.factors[child], axis)
            else:
                factor = B.concatenate([factor, 1j * factor], axis)
        if node == tree.root:
            factors.append(_taken(B, factor, part))
        else:
            factors.append(B.concatenate([_taken(B, factor, 0), _taken(B, factor, 1)], len(factor.shape) - 1))
    return HTTensor._of(tree, factors)


def _taken(B: Backend, array: Array, part: int) -> Array:
    # A copy, as both are views of every other number in memory.
    return B.copy(array.imag if part else array.real)
