"""The TensorLy backend that serves an array, found from the array itself.

Functions here take NumPy arrays, PyTorch tensors or those of any other backend of TensorLy, whatever
`tensorly.set_backend` was told last, and never change that setting.  So they ask for the backend object and call
its methods, which are the functions that ``tl.*`` would dispatch to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import tensorly as tl
import torch
from tensorly.backend import BackendManager
from torch.autograd import forward_ad

Array = Any  # an array of any backend: NumPy, PyTorch, JAX, ...
Backend = Any  # tensorly.backend.core.Backend, which has no annotations

_PACKAGES = {
    "numpy": "numpy",
    "torch": "pytorch",
    "jax": "jax",
    "jaxlib": "jax",
    "cupy": "cupy",
    "tensorflow": "tensorflow",
    "paddle": "paddle",
}


@cache
def _named(name: str) -> Backend:
    # Loading a backend makes its object; only set_backend would make it the current one.  One that is loaded is kept.
    return BackendManager._loaded_backends.get(name) or BackendManager.load_backend(name)


_NAMES = ("float32", "float64", "complex64", "complex128")
# Dtypes that all algorithms here compute with; LAPACK has nothing for halves, and nothing was tried with longer floats.
_REAL = "a real floating type, float32 or float64"
_SUPPORTED = "float32, float64, complex64 or complex128"


@cache
def _of_type(kind: type) -> Backend | str | None:
    """The backend of arrays of a type, None where there is none, or why arrays of it are refused."""
    if issubclass(kind, np.ma.MaskedArray):
        return "whose mask would be lost; expected a plain array, or for missing entries ht_completion_masked"
    if issubclass(kind, np.matrix):
        return "whose products are those of matrices; expected a plain array, as numpy.asarray gives it"
    if issubclass(kind, np.ndarray) and kind not in (np.ndarray, np.memmap):
        return "which may compute by rules of its own; expected a plain array, as numpy.asarray gives it"
    if _is_sparse(kind):
        return "which is sparse; expected a dense array, as its method todense or toarray gives it"
    for base in kind.__mro__:
        name = _PACKAGES.get(base.__module__.split(".")[0])
        if name is not None:
            return _named(name)
    return None


def _is_sparse(kind: type) -> bool:
    return any(base.__module__.split(".")[0] == "sparse" or "scipy.sparse" in base.__module__ for base in kind.__mro__)


def backend_of(array: Array, name: str = "array") -> Backend:
    """The backend of an array; a TypeError that calls it `name` where there is none."""
    kind: type = type(array)
    backend = _of_type(kind)
    if isinstance(backend, str):
        raise TypeError(f"{name} is a {kind.__name__}, {backend}")
    if backend is None or not hasattr(array, "shape"):
        raise TypeError(
            f"{name} is a {kind.__name__}; expected an array of one of TensorLy's backends (NumPy, PyTorch, ...)"
        )
    return backend


def check_array(array: Array, name: str, *, real: bool = False) -> Backend:
    """The backend of a dense float32, float64, complex64 or complex128 array; a TypeError that says what came instead.

    With `real`, complex ones are refused too.
    """
    backend = backend_of(array, name)
    if isinstance(array, np.generic):
        raise TypeError(f"{name} is a number of type {type(array).__name__}; expected an array")
    _check_layout(array, name)
    _check_entries(array, name)
    _check_dtype(array, name)
    if real and is_complex(array):
        raise TypeError(f"{name} has dtype {array.dtype}; expected {_REAL}")
    return backend


def check_like(array: Array) -> None:
    """An array `like` that gives results their backend, dtype and device: any that may be a factor, of any shape."""
    check_alike([array], "like")
    _check_entries(array, "like")


def check_numbers(array: Array, name: str) -> Backend:
    """The backend of a dense array of numbers of any precision, which is going to be computed in double."""
    backend = backend_of(array, name)
    _check_layout(array, name)
    _check_entries(array, name)
    if not _is_number(array):
        raise TypeError(f"{name} has dtype {array.dtype}; expected numbers")
    return backend


def check_tensor(tensor: Any, name: str) -> None:
    """A TypeError for what is no PyTorch tensor with entries to read: other types, sparse tensors, the meta device."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a tensor of PyTorch")
    _check_layout(tensor, name)
    _check_entries(tensor, name)


def host_array(array: Any, name: str) -> np.ndarray:
    """Indices, masks and the like, read on the host, as NumPy arrays: from any backend or nested sequences."""
    kind: type = type(array)
    reason = _of_type(kind)
    # Only the entries of matrices are read here.
    if isinstance(reason, str) and not isinstance(array, np.matrix):
        raise TypeError(f"{name} is a {kind.__name__}, {reason}")
    if isinstance(array, torch.Tensor):
        _check_layout(array, name)
        _check_entries(array, name)
        # NumPy has no bfloat16, nor any smaller float, nor conjugates that are flags.
        array = array.detach().cpu().resolve_conj().resolve_neg()
        array = array.double() if array.is_floating_point() else array
    try:
        return np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name} has rows of several lengths; expected one") from error


def host_indices(array: Any, name: str) -> np.ndarray:
    """Integers on the host; empty sequences count as such."""
    numbers = host_array(array, name)
    if numbers.size == 0 and numbers.dtype.kind == "f":
        return numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{name} have dtype {getattr(array, 'dtype', numbers.dtype)}; expected integers")
    if numbers.dtype.kind == "u" and numbers.size and int(numbers.max()) > np.iinfo(np.int64).max:
        raise IndexError(f"{name} hold {int(numbers.max())}, which is out of range")
    return numbers.astype(np.int64, copy=False)


def scalar(value: Any, like: Array) -> Any:
    """A number to scale `like` with, without changing its precision; None for anything else, truth values among them.

    A complex number makes real arrays complex.
    """
    if isinstance(value, bool):
        return None
    if not isinstance(value, int | float | complex) and (getattr(value, "shape", None) != () or not _is_number(value)):
        return None
    # A float has no gradient, so tensors stay what they are; NumPy's numbers have none, but bring their dtype along.
    own = not isinstance(value, int | float | complex | np.generic | np.ndarray)
    if own and backend_of(value) is backend_of(like):
        return value
    number = value if isinstance(value, int | float | complex) else value.item()
    return complex(number) if isinstance(number, complex) else float(number)


def context(array: Array) -> dict[str, Any]:
    """dtype, and device where there is one; unlike ``tl.context`` it says nothing about gradients."""
    device = getattr(array, "device", None)
    # NumPy and JAX arrays have a device attribute too, but their constructors in TensorLy take none.
    return {"dtype": array.dtype, "device": device} if _is_torch(array) else {"dtype": array.dtype}


def check_alike(arrays: Iterable[Array], name: str) -> None:
    """A TypeError or ValueError if arrays differ in backend, dtype or device; `name` says whose they are."""
    first: Array = None
    for array in arrays:
        if first is None:
            first = array
            backend_of(array, name)
            _check_layout(array, name)
            _check_dtype(array, name)
            continue
        if backend_of(array, name) is not backend_of(first):
            raise TypeError(f"{name} mixes {type(first).__name__} and {type(array).__name__}; expected one backend")
        _check_layout(array, name)
        if array.dtype != first.dtype:
            raise TypeError(f"{name} mixes dtypes {first.dtype} and {array.dtype}; expected one")
        if _is_torch(array) and array.device != first.device:
            raise ValueError(f"{name} is partly on {first.device} and partly on {array.device}; expected one device")


def _check_layout(array: Array, name: str) -> None:
    if isinstance(array, torch.Tensor) and (array.is_nested or array.layout != torch.strided):
        kind = "a nested tensor" if array.is_nested else f"a tensor of layout {array.layout}"
        raise TypeError(f"{name} is {kind}; expected a dense one, as to_dense or to_padded_tensor gives it")


def _check_entries(array: Array, name: str) -> None:
    if isinstance(array, torch.Tensor) and array.device.type == "meta":
        raise TypeError(f"{name} is on the meta device, where tensors have no entries; expected one on a real device")


def _check_dtype(array: Array, name: str) -> None:
    # Names are equal on all backends but for a prefix; that of a byte order that is not the machine's is another.
    if str(array.dtype).rpartition(".")[2] not in _NAMES:
        raise TypeError(f"{name} has dtype {array.dtype}; expected {_SUPPORTED}{_remedy(array.dtype)}")


def _is_number(value: Array) -> bool:
    """Whether the dtype is one of integers, floats or complex numbers."""
    return _is_real(value) or (not isinstance(value, np.ma.MaskedArray) and is_complex(value))


def _is_real(value: Array) -> bool:
    """Whether the dtype is one of integers or floats."""
    if isinstance(value, torch.Tensor):
        return not value.dtype.is_complex and value.dtype != torch.bool
    return not isinstance(value, np.ma.MaskedArray) and getattr(value.dtype, "kind", "") in "iuf"


def _remedy(dtype: Any) -> str:
    """Conversion from a dtype to another one, where that loses nothing."""
    if isinstance(dtype, np.dtype) and dtype.kind in "fc" and not dtype.isnative:
        return f" in the machine's byte order: array.astype({dtype.newbyteorder('=').name!r})"
    return ""


def _is_torch(array: Array) -> bool:
    return backend_of(array).backend_name == "pytorch"


def needs_gradient(array: Array) -> bool:
    """Whether autograd records what is done to the array, backward or forward."""
    if not _is_torch(array):
        return False
    return array.requires_grad or forward_ad.unpack_dual(array).tangent is not None


def is_complex(array: Array) -> bool:
    """Whether an array has a complex dtype."""
    if type(array) is np.ndarray:
        return array.dtype.kind == "c"
    return array.is_complex() if isinstance(array, torch.Tensor) else "complex" in str(array.dtype)


def conj(array: Array) -> Array:
    """The complex conjugate; real arrays are returned as they are.  PyTorch's is lazy, see `to_numpy`."""
    return array.conj() if is_complex(array) else array


def adjoint(matrix: Array) -> Array:
    """The conjugate transpose of a matrix."""
    return matrix.T.conj() if is_complex(matrix) else matrix.T


def conjugated(array: Array) -> Array:
    """The complex conjugate, written out: what becomes a factor may be handed on to NumPy."""
    array = conj(array)
    return array.resolve_conj() if isinstance(array, torch.Tensor) else array


def square(array: Array) -> Array:
    """Squares of the sizes of entries, real and differentiable at zero."""
    if not is_complex(array):
        return array**2
    return array.real**2 + array.imag**2


def real_part(array: Array) -> Array:
    """The real part, for what is real but for rounding."""
    return array.real if is_complex(array) else array


def to_numpy(array: Array) -> np.ndarray:
    """The entries on the host, without gradient history."""
    if isinstance(array, torch.Tensor):
        # Conjugates and imaginary parts of conjugates are flags on the memory of others until they are resolved.
        array = array.detach().cpu().resolve_conj().resolve_neg()
        return np.asarray(array.numpy())
    return np.asarray(backend_of(array).to_numpy(array))


def complex_dtype(array: Array) -> Any:
    """The complex dtype of an array's precision."""
    if is_complex(array):
        return array.dtype
    B = backend_of(array)
    return B.complex64 if str(array.dtype).endswith("float32") else B.complex128


def in_double(array: Array) -> Array:
    """The array in double precision."""
    B = backend_of(array)
    return cast(array, B.complex128 if is_complex(array) else B.float64)


def cast(array: Array, dtype: Any) -> Array:
    """The array in another dtype, through which gradients flow."""
    return array.to(dtype) if isinstance(array, torch.Tensor) else array.astype(dtype)


def promoted(arrays: Sequence[Array], name: str) -> list[Array]:
    """Arrays of one backend, dtype and device: real ones made complex where others are, by NumPy's rules.

    Raises
    ------
    TypeError, ValueError
        As `check_alike`, for what differs by more than that.
    """
    given = list(arrays)
    for array in given:
        backend_of(array, name)
    if len({is_complex(array) for array in given}) == 2:
        for array in given:
            check_alike([array], name)
        # The highest precision among them: complex64 beside float64 gives complex128.
        double = any(str(array.dtype).endswith(("float64", "complex128")) for array in given)
        B = backend_of(next(array for array in given if is_complex(array)))
        dtype = B.complex128 if double else B.complex64
        if all(backend_of(array) is B for array in given):
            given = [array if array.dtype == dtype else cast(array, dtype) for array in given]
    check_alike(given, name)
    return given


def constant(array: Array) -> Array:
    """The array without its gradient history."""
    return array.detach() if _is_torch(array) else array


def asarray(backend: Backend, values: Any, like: Array) -> Array:
    """NumPy values as an array beside `like`: its backend, dtype and device."""
    if not is_complex(like) and np.iscomplexobj(values):
        raise TypeError(f"values are complex, and in {like.dtype} their imaginary part would be lost")
    if isinstance(values, np.ndarray):
        values = np.asarray(values, order="C")  # PyTorch takes no negative strides
    # TensorLy's constructor for PyTorch would go by way of the default device.
    return torch.tensor(values, **context(like)) if _is_torch(like) else backend.tensor(values, **context(like))


def eye(backend: Backend, size: int, like: Array) -> Array:
    """The identity matrix beside `like`."""
    return backend.eye(size, **context(like))


def zeros(backend: Backend, shape: tuple[int, ...], like: Array) -> Array:
    """Zeros beside `like`."""
    return backend.zeros(shape, **context(like))


def all_finite(backend: Backend, array: Array) -> bool:
    """Whether no entry is NaN or infinite; one pass."""
    # NaN compares as false.
    return bool(backend.all(backend.abs(constant(array)) < float("inf")))


@contextmanager
def current_backend(name: str, device: torch.device | None = None) -> Iterator[None]:
    """TensorLy's backend for this thread; `tl.backend_context` would make the old one every thread's on its way out.

    New PyTorch tensors of TensorLy are then on `device`, if one is given, whatever PyTorch's default is.
    """
    local = BackendManager._THREAD_LOCAL_DATA.__dict__
    before = local.get("backend")
    tl.set_backend(name, local_threadsafe=True)
    try:
        with nullcontext() if device is None else device:
            yield
    finally:
        if before is None:
            local.pop("backend", None)
        else:
            local["backend"] = before


def check_floating(array: Array, name: str) -> tuple[Backend, Array]:
    """The backend of an array and the array, integers as float64, checked as by `check_array`."""
    backend_of(array, name)
    if isinstance(array, torch.Tensor):
        whole = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    else:
        whole = not isinstance(array, np.generic) and getattr(array.dtype, "kind", "") in "iu"
    if whole:
        _check_layout(array, name)
        _check_entries(array, name)
        array = array.to(torch.float64) if isinstance(array, torch.Tensor) else array.astype(np.float64)
    return check_array(array, name), array
