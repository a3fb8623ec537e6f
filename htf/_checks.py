"""Checks of arguments that are numbers, counts or dimensions."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, SupportsInt, cast

import torch


def warn(message: str) -> None:
    """A UserWarning at the line that called into the library."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def is_truth_value(value: object) -> bool:
    """Whether a value is a bool of Python, NumPy or torch, which also pass for the numbers 0 and 1."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).rpartition(".")[2] == "bool"


def listed(name: str, values: object, expected: str) -> list[Any]:
    """`values` as a list, or an error that names the argument and says what was `expected`."""
    try:
        return list(cast(Iterable[Any], values))
    except TypeError:  # of no sequences, and of arrays without axes
        raise TypeError(f"{name} is {_brief(values)}; expected {expected}") from None


def positive(name: str, value: object) -> int:
    """`value` as an int of at least 1, or an error that names the argument."""
    try:
        # Counts come from NumPy and torch too, so it is the value that decides, not the type.
        number = int(cast(SupportsInt, value))
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or is_truth_value(value) or number != value:
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if number < 1:
        raise ValueError(f"{name} is {number}; expected at least 1")
    return number


def natural(name: str, value: object) -> int:
    """`value` as an int of at least 0, or an error that names the argument."""
    try:
        return 0 if value == 0 and not is_truth_value(value) else positive(name, value)
    except ValueError:
        raise ValueError(f"{name} is {value}; expected 0 or more") from None


def finite(name: str, value: float) -> float:
    """`value` as a float, or an error that names the argument."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # NumPy's and torch's
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return float(value)


def above_zero(name: str, value: float) -> float:
    """`value` as a float above 0, or an error that names the argument."""
    number = finite(name, value)
    if not number > 0:
        raise ValueError(f"{name} is {value if isinstance(value, int | float) else number}; expected above 0")
    return number


def by_name(function: str, positional: Sequence[object], *names: str) -> None:
    """A TypeError that says what to write where arguments were given by position that only names can tell apart."""
    if positional:
        calls = " or ".join(f"{name}={_brief(positional[0])}" for name in names)
        raise TypeError(f"{function} takes its options by name: write {calls}, not {_brief(positional[0])} by position")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else "..."


def check_index(name: str, value: Any, expected: str = "an integer") -> int:
    """An integer of any library, as what counts from 0 is, or an error that names the argument."""
    try:
        # A truth value is a slip, such as that of keepdims in the place of modes.
        number = None if is_truth_value(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} is {value!r}; expected {expected}")
    return number


def check_seed(seed: int) -> int:
    """An integer of at least 0."""
    number = check_index("seed", seed)
    if number < 0:
        raise ValueError(f"seed is {number}; expected 0 or more")
    return number


def check_shape(name: str, shape: object) -> list[Any]:
    """A shape as a list, one dimension a mode, which are not checked themselves."""
    return listed(name, shape, "a sequence of dimensions, one a mode")


def check_dims(dims: int | Sequence[int], order: int) -> tuple[int, ...]:
    """Mode dimensions as a tuple, one integer standing for all modes."""
    if not isinstance(dims, Iterable):
        return (positive("dims", dims),) * order
    spread = tuple(positive(f"dims[{mode}]", dim) for mode, dim in enumerate(dims))
    if len(spread) != order:
        raise ValueError(f"dims has {len(spread)} entries; the tree has {order} modes")
    return spread


def check_dtype(dtype: torch.dtype | None) -> None:
    """A dtype of parameters, None for torch's default."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {dtype!r}; expected real floating point numbers")
