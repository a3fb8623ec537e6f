"""Which TensorLy backend serves an array, found from the array itself.

Functions here take NumPy arrays, PyTorch tensors or those of any other backend of TensorLy, whatever
`tensorly.set_backend` was told last, and never change that setting.  So they ask for the backend object and call
its methods, which are the functions that ``tl.*`` would dispatch to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


@cache
def _of_type(kind: type) -> Backend | None:
    for base in kind.__mro__:
        name = _PACKAGES.get(base.__module__.split(".")[0])
        if name is not None:
            return _named(name)
    return None


def backend_of(array: Array, name: str = "array") -> Backend:
    """The backend of an array; a TypeError that calls it `name` where there is none."""
    kind: type = type(array)
    backend = _of_type(kind)
    if backend is None or not hasattr(array, "shape"):
        raise TypeError(f"{name} is a {type(array).__name__}; expected an array of one of TensorLy's backends")
    return backend


def real_number(value: Any, like: Array) -> Any:
    """A number to scale `like` with, without changing its dtype; None for anything else, truth values among them."""
    if isinstance(value, bool):
        return None
    if not isinstance(value, int | float):
        dtype = str(getattr(value, "dtype", ""))
        if getattr(value, "shape", None) != () or not ("int" in dtype or "float" in dtype):
            return None
    # A float has no gradient, so tensors stay what they are; NumPy's numbers have none, but bring their dtype along.
    own = not isinstance(value, int | float | np.generic | np.ndarray) and backend_of(value) is backend_of(like)
    return value if own else float(value)


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
            if not _is_floating(array):
                raise TypeError(f"{name} has dtype {array.dtype}; expected a real floating type")
            continue
        if backend_of(array, name) is not backend_of(first):
            raise TypeError(f"{name} mixes {type(first).__name__} and {type(array).__name__}; expected one backend")
        if array.dtype != first.dtype:
            raise TypeError(f"{name} mixes dtypes {first.dtype} and {array.dtype}; expected one")
        if _is_torch(array) and array.device != first.device:
            raise ValueError(f"{name} is partly on {first.device} and partly on {array.device}; expected one device")


def _is_floating(array: Array) -> bool:
    return "float" in str(array.dtype)


def _is_torch(array: Array) -> bool:
    return backend_of(array).backend_name == "pytorch"


def needs_gradient(array: Array) -> bool:
    """Whether autograd records what is done to the array, backward or forward."""
    if not _is_torch(array):
        return False
    return array.requires_grad or forward_ad.unpack_dual(array).tangent is not None


def constant(array: Array) -> Array:
    """The array without its gradient history."""
    return array.detach() if _is_torch(array) else array


def asarray(backend: Backend, values: Any, like: Array) -> Array:
    """NumPy values as an array beside `like`: its backend, dtype and device."""
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

    What TensorLy makes of PyTorch tensors is then on `device`, if one is given, whatever PyTorch's default is.
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
