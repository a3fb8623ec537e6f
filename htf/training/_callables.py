"""Descriptions of functions of a user's own, by which a checkpoint of another function is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from htf.training.digests import digest

# Characters of a digest.
SHORT = 12


def describe_callable(given: Any) -> str:
    """Name of a function, with the values that it holds: of its closure, defaults, partial arguments, or attributes.

    Functions within functions, and lambdas, are known by their code too, as names do not tell them apart.  Values are
    numbers, strings, arrays, and other functions; what may change while a training goes on, such as lists, is not one.
    An object whose class has a `repr` of its own is known by that; one that keeps a state between steps by its class.
    """
    values = ", ".join(f"{name}={text}" for name, text in _values(given) if text is not None)
    return _name(given) + (f"({values})" if values else "")


def _name(given: Any) -> str:
    if isinstance(given, partial):
        return f"partial of {describe_callable(given.func)}"
    if isinstance(given, MethodType):
        return f"{given.__func__.__qualname__} of {describe_callable(given.__self__)}"
    if isinstance(given, FunctionType):
        return given.__qualname__ + (f" {_code(given.__code__)}" if "<" in given.__qualname__ else "")
    if isinstance(given, type) or hasattr(given, "__qualname__"):
        return str(given.__qualname__)
    text = repr(given)
    # An address in memory would differ in the next process.
    return type(given).__qualname__ if " at 0x" in text else text


def _values(given: Any) -> Iterator[tuple[str, str | None]]:
    if isinstance(given, partial):
        yield from ((str(k), _text(value)) for k, value in enumerate(given.args))
        yield from ((name, _text(value)) for name, value in sorted(given.keywords.items()))
    elif isinstance(given, FunctionType):
        code = given.__code__
        for name, cell in zip(code.co_freevars, given.__closure__ or (), strict=True):
            try:
                yield name, _text(cell.cell_contents)
            except ValueError:  # assigned later, as by a function that calls itself
                continue
        defaults = given.__defaults__ or ()
        names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
        yield from ((name, _text(value)) for name, value in zip(names, defaults, strict=True))
        yield from ((name, _text(value)) for name, value in sorted((given.__kwdefaults__ or {}).items()))
    elif not isinstance(given, type | MethodType) and not hasattr(given, "load_state") and " at 0x" in repr(given):
        held = getattr(given, "__dict__", {})
        yield from ((name, _text(value)) for name, value in sorted(held.items()) if not name.startswith("_"))


def _text(value: Any) -> str | None:
    """A value that does not change, or None for others."""
    if isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | np.generic | None):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(_text(part) or type(part).__name__ for part in value)})"
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return f"array {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()[:SHORT]}"
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        return f"tensor {tuple(value.shape)} {digest(value.detach().resolve_conj().resolve_neg())[:SHORT]}"
    if isinstance(value, FunctionType | partial):
        return describe_callable(value)
    return None


def _code(code: CodeType) -> str:
    """Digest of what a function does, wherever it is written."""
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    text = repr((code.co_code, constants, code.co_names))
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]
