"""NumPy's and PyTorch's functions called on HT tensors: they work where there is a method, or say what to call.

TensorLy's functions are those of its current backend, so ``tl.norm(x)`` arrives here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from htf.linalg.backend import to_numpy
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.modulus import Modulus

_WAY_OUT = (
    "htf.apply(function, x) takes entrywise functions, x.to_tensor() writes the tensor out where it is small enough"
)


def as_numpy(x: HTTensor, dtype: Any, copy: bool | None) -> np.ndarray:
    """The dense tensor, for ``numpy.asarray``."""
    if x.requires_grad:
        raise TypeError("the tensor records gradients, which NumPy would lose; call numpy.asarray(x.detach())")
    if copy is False:
        raise ValueError("the dense tensor of an HTTensor is made anew; it cannot be had without a copy")
    dense = to_numpy(x.to_tensor())
    if dtype is not None and np.iscomplexobj(dense) and np.dtype(dtype).kind != "c":
        raise TypeError(f"the tensor has dtype {x.dtype}, and in {np.dtype(dtype)} its imaginary part would be lost")
    return dense if dtype is None else dense.astype(dtype)


def array_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Result of a ufunc of NumPy for arguments some of which are HT tensors."""
    name = ufunc.__name__
    if method != "__call__" or options:
        called = name if method == "__call__" else f"{name}.{method}"
        with_options = f" with {', '.join(options)}" if options else ""
        raise TypeError(f"numpy.{called}{with_options} takes no HTTensor; {_WAY_OUT}")
    if name not in _UFUNCS:
        raise TypeError(f"numpy.{name} takes no HTTensor; htf.apply(numpy.{name}, x) approximates what it gives")
    for each in inputs:
        if getattr(each, "shape", ()) and not isinstance(each, HTTensor):
            raise TypeError(
                f"numpy.{name} of an HTTensor and a {type(each).__name__} of shape {tuple(each.shape)}; expected a "
                "number or another HTTensor, as hierarchical_tucker makes one of an array"
            )
    # Numbers of NumPy would come back here.
    return _UFUNCS[name](*(each.item() if isinstance(each, np.generic) else _plain(each) for each in inputs))


def _plain(value: Any) -> Any:
    return value.item() if type(value) is np.ndarray and value.ndim == 0 else value


def array_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Result of a function of NumPy for arguments some of which are HT tensors."""
    name = function.__name__
    if getattr(function, "__module__", "").startswith("numpy.linalg"):
        name = f"linalg.{name}"
    return _called("numpy", name, args, {k: v for k, v in kwargs.items() if v is not np._NoValue})


def torch_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Result of a function of PyTorch for arguments some of which are HT tensors."""
    name = getattr(function, "__name__", repr(function))
    operation = _TORCH_OPERATIONS.get(name)
    if operation is not None and not kwargs:
        return operation(*args)
    names = {"dim": "axis", "keepdim": "keepdims", "p": "ord"}
    return _called("torch", name, args, {names.get(k, k): v for k, v in kwargs.items()})


def _called(package: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    known = _FUNCTIONS.get(name)
    if known is None:
        raise TypeError(f"{package}.{name} takes no HTTensor; {_WAY_OUT}")
    kwargs = {k: v for k, v in kwargs.items() if v is not None and not (k == "keepdims" and not v)}
    try:
        return known(*args, **kwargs)
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "positional argument" not in str(error):
            raise
        given = ", ".join(kwargs) or f"{len(args)} arguments"
        raise TypeError(f"{package}.{name} of an HTTensor does not take {given}; {_WAY_OUT}") from None


def _norm(x: Any, ord: Any = 2, axis: Any = None) -> Any:
    whole = axis is None or (not isinstance(axis, int) and sorted(axis) == list(range(x.ndim)))
    if not whole or ord not in (2, "fro"):
        raise TypeError(
            f"norm of an HTTensor with ord={ord!r} and axis={axis}; expected the Frobenius norm of all modes"
        )
    return x.norm()


def _over_all(x: Any, axis: Any) -> Any:
    """None where an axis names all modes, as TensorLy's PyTorch backend writes them out."""
    everything = isinstance(axis, tuple | list) and sorted(axis) == list(range(len(x.shape)))
    return None if everything else axis


def _sum(x: HTTensor, axis: Any = None) -> Any:
    return x.sum(_over_all(x, axis))


def _mean(x: HTTensor, axis: Any = None) -> Any:
    return x.mean(_over_all(x, axis))


def _no_axis(method: str) -> Callable[..., Any]:
    def call(x: HTTensor | Modulus, axis: Any = None) -> Any:
        if axis is not None:
            raise TypeError(f"{method} of an HTTensor along axis {axis}; expected all modes together")
        return getattr(x, method)()

    return call


def _permute(x: HTTensor, axes: Any = None) -> HTTensor:
    return x.permute(range(x.order)[::-1] if axes is None else axes)


_UFUNCS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**b,
    "negative": lambda x: -x,
    "positive": lambda x: +x,
    "square": lambda x: x * x,
    "absolute": abs,
    "conjugate": lambda x: x.conj(),
}
# Those of PyTorch that come with numbers and tensors of one entry.
_TORCH_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: _swapped(a, b, "__add__", "__radd__"),
    "sub": lambda a, b: _swapped(a, b, "__sub__", "__rsub__"),
    "rsub": lambda a, b: _swapped(b, a, "__sub__", "__rsub__"),
    "mul": lambda a, b: _swapped(a, b, "__mul__", "__rmul__"),
    "abs": abs,
    "neg": lambda x: -x,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "mean": _mean,
    "max": _no_axis("max"),
    "amax": _no_axis("max"),
    "min": _no_axis("min"),
    "amin": _no_axis("min"),
    "argmax": _no_axis("argmax"),
    "argmin": _no_axis("argmin"),
    "linalg.norm": _norm,
    "norm": _norm,
    "vdot": lambda a, b: a.inner(b),
    "tensordot": lambda a, b, axes: a.tensordot(b, axes),
    "transpose": _permute,
    "permute": _permute,
    "reshape": lambda x, shape: x.reshape(shape),
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "conj": lambda x: x.conj(),
    "copy": lambda x: x.copy(),
    "clone": lambda x: x.copy(),
    "shape": lambda x: x.shape,
    "ndim": lambda x: x.ndim,
    "size": lambda x: x.size,
    "iscomplexobj": lambda x: np.dtype(str(x.dtype).rpartition(".")[2]).kind == "c",
    "isrealobj": lambda x: np.dtype(str(x.dtype).rpartition(".")[2]).kind != "c",
}


def _swapped(a: Any, b: Any, method: str, reflected: str) -> Any:
    """Operators called on the HT tensor, as those of PyTorch's tensors would come back here."""
    if isinstance(a, HTTensor):
        return getattr(a, method)(b)
    return getattr(b, reflected)(a)
