"""Sizes of the entries of an HT tensor, which are no HT tensor themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from htf.linalg.backend import Array, backend_of
from htf.tensors.ht_tensor import HTTensor

if TYPE_CHECKING:
    from htf.tensors.extremes import ExtremeIndex, ExtremeValue


class Modulus:
    """Sizes of the entries of an HT tensor: ``abs(x)``.

    They have no low rank in general, so little can be done with all of them: even powers (``abs(x) ** 2`` is an
    `HTTensor`), their extremes, their norm, and those of some entries.  ``htf.apply(numpy.abs, x)`` approximates them.

    Attributes
    ----------
    tensor : HTTensor
    shape : tuple of int
        As of the tensor.

    See Also
    --------
    htf.apply : ``htf.apply(numpy.abs, x)``, an approximation as an HT tensor.
    htf.tensors.ht_argmax : with ``size=True``, the same search.

    Examples
    --------
    >>> import htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> sizes = abs(x)
    >>> bool(sizes[1, 2, 3] == abs(x[1, 2, 3])), bool(abs(sizes.max() - abs(x.to_tensor()).max()) < 1e-12)
    (True, True)
    >>> (sizes**2).rank  # an HTTensor
    (4, 4, 4, 4, 1)
    """

    __array_ufunc__ = None

    def __init__(self, tensor: HTTensor) -> None:
        self.tensor, self.shape = tensor, tensor.shape

    def __repr__(self) -> str:
        return f"sizes of the entries of an {self.tensor!r}"

    def __pow__(self, exponent: int) -> HTTensor:
        if isinstance(exponent, int) and not isinstance(exponent, bool) and exponent >= 0 and exponent % 2 == 0:
            return (self.tensor.conj() * self.tensor).real ** (exponent // 2)
        raise TypeError(
            f"abs(x) ** {exponent!r} is no HT tensor; expected an even exponent, or "
            f"htf.apply(lambda entries: abs(entries) ** {exponent!r}, x)"
        )

    def __getitem__(self, key: Any) -> Array | Modulus:
        found = self.tensor[key]
        return Modulus(found) if isinstance(found, HTTensor) else backend_of(found).abs(found)

    def entries(self, indices: Array) -> Array:
        """Sizes of the entries at index tuples, one per row; see `ht_entries`."""
        found = self.tensor.entries(indices)
        return backend_of(found).abs(found)

    def norm(self) -> Array:
        """Frobenius norm; see `ht_norm`."""
        return self.tensor.norm()

    def to_tensor(self) -> Array:
        """The dense array of all sizes; see `ht_to_tensor`."""
        dense = self.tensor.to_tensor()
        return backend_of(dense).abs(dense)

    def argmax(self, **options: Any) -> ExtremeIndex:
        """Where the largest entry in size is; see `ht_argmax`."""
        from htf.tensors.extremes import ht_argmax

        return ht_argmax(self.tensor, size=True, **options)

    def argmin(self, **options: Any) -> ExtremeIndex:
        """Where the smallest entry in size is; see `ht_argmin`."""
        from htf.tensors.extremes import ht_argmin

        return ht_argmin(self.tensor, size=True, **options)

    def max(self, **options: Any) -> ExtremeValue:
        """Size of the largest entry, and how certain that is; see `ht_argmax`."""
        return self.argmax(**options).entry

    def min(self, **options: Any) -> ExtremeValue:
        """Size of the smallest entry, and how certain that is; see `ht_argmin`."""
        return self.argmin(**options).entry
