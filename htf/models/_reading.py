"""Samples, labels and weights as users hold them: tensors, arrays, tables, sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from htf.linalg.backend import check_tensor

# Integers of torch for which it has hardly any function.
_HARDLY = (torch.uint16, torch.uint32, torch.uint64)


def plain(name: str, given: Any) -> Any:
    """Bring a tensor to the CPU and to a dtype that all functions take; return whatever else was given as it is.

    Raises
    ------
    TypeError, ValueError
        For tensors that are sparse or hold nothing, and for arrays that mask some of their entries: NumPy drops the
        masks.
    """
    if isinstance(given, Tensor):
        check_tensor(given, name)
        found = given.detach().cpu().resolve_conj().resolve_neg()
        if found.is_floating_point() and found.dtype.itemsize <= 2 and found.dtype != torch.float16:
            return found.float()  # every number of bfloat16, and of 8 bits, is one
        return _signed(found.numpy()) if found.dtype in _HARDLY else found
    if isinstance(given, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(given).sum())
        if masked:
            remedy = (
                "numpy.ma.getdata(x) with missing=numpy.ma.getmaskarray(x), where missing values can be told"
                if name == "x"
                else "an array without a mask"
            )
            raise ValueError(f"{name} is a masked array of which {masked} entries are masked; expected {remedy}")
        return np.ma.getdata(given)
    return given


def numbers(name: str, given: Any) -> Tensor:
    """Real numbers on the CPU, of whatever container."""
    if hasattr(given, "toarray"):
        raise TypeError(f"{name} is a sparse matrix; expected a dense array, such as that of its toarray()")
    found = plain(name, given)
    if not isinstance(found, Tensor):
        try:
            array = np.asarray(found)
        except ValueError as error:
            raise ValueError(f"{name} cannot be read as an array: {error}") from error
        if array.dtype.kind == "O":
            array = _of_objects(name, array)
        if array.dtype.kind == "c":
            raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {array.dtype}; expected numbers")
        if array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        found = _signed(array)
        found = torch.from_numpy(np.ascontiguousarray(found)) if isinstance(found, np.ndarray) else found
    if found.is_complex():
        raise ValueError(f"Complex data not supported: {name} has dtype {found.dtype}")
    return found


def _of_objects(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if any(isinstance(value, complex | np.complexfloating) for value in array.flat):
        raise ValueError(f"Complex data not supported: {name} holds some")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} holds objects that are no numbers: {error}") from error


def _signed(array: np.ndarray[Any, Any]) -> Any:
    """Unsigned integers of more than a byte as signed ones, or as floats where they are too large; others as is."""
    if array.dtype.kind != "u" or array.dtype.itemsize == 1:
        return array
    large = array.size and int(array.max()) > np.iinfo(np.int64).max
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float64 if large else np.int64)))


def class_labels(y: Any) -> Any:
    """Labels of samples for NumPy to read; a ValueError for those of which some are masked."""
    found = plain("y", y)
    return found.numpy() if isinstance(found, Tensor) else found


def classes_of(labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The classes, sorted, and the number of that of each label, or a TypeError for labels that cannot be sorted."""
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(f"y holds labels of type {' and '.join(kinds)}; expected labels of one type") from error
    return classes, codes.reshape(-1)


def expected_classes(classes: Any, known: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """The argument `classes` of `partial_fit`, sorted: at least two, and those of the first call at later ones.

    Raises
    ------
    ValueError
        For others.
    """
    if classes is None:
        if known is None:
            raise ValueError("classes is None at the first call of partial_fit; expected all that will come")
        return known
    given = np.asarray(class_labels(list(classes) if isinstance(classes, range | set | frozenset) else classes))
    if given.ndim != 1:
        raise ValueError(f"classes has shape {given.shape}; expected (classes,)")
    found = classes_of(given)[0]
    if known is not None and not np.array_equal(found, known):
        raise ValueError(f"classes are {found.tolist()}; at the first call they were {known.tolist()}")
    if len(found) < 2:
        raise ValueError(f"classes holds {len(found)} class(es), {found.tolist()}; expected at least 2")
    return found


def classes_for_files(classes: np.ndarray[Any, Any]) -> list[Any]:
    """Classes as JSON can hold them, from which NumPy makes those of their dtype again, or a TypeError."""
    if classes.dtype.kind in "mM":
        return [int(value) for value in classes.astype(np.int64)]
    found = [value.item() if isinstance(value, np.generic) else value for value in classes.tolist()]
    for value in found:
        if not isinstance(value, bool | int | float | str):
            raise TypeError(
                f"classes_ holds {value!r}, a {type(value).__name__}; a file can hold numbers, booleans and strings"
            )
    return found


def same_kind(labels: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> None:
    """A ValueError for strings that are to be compared with classes that are none, or the other way around."""
    if len(labels) and _text(labels) != _text(classes):
        raise ValueError(
            f"y holds labels such as {labels[0]!r}; the classes that were fitted are such as {classes[0]!r}"
        )


def _text(labels: np.ndarray[Any, Any]) -> bool:
    return isinstance(labels[0], str)


def mean_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations along the first axis, in double precision, at any size of values."""
    values = values.double()
    largest = values.abs().amax(0)
    # Powers of two change no bit of what is within range.
    power = torch.frexp(largest)[1] - 1
    factor = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), power), 1.0)
    scaled = values / factor
    return scaled.mean(0) * factor, scaled.std(0, correction=0) * factor
