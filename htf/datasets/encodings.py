"""From grey images to what a factorization reads: integer indices, or a vector per pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot as unit_vectors

from htf.tensors._backend import check_tensor


def quantize(images: Tensor, levels: int = 2, maximum: int = 255) -> Tensor:
    """Round pixels to `levels` grey levels.

    Parameters
    ----------
    images : Tensor
        (n, height, width), integers from 0 to `maximum`.
    levels : int
        Dimension of each mode, at least 2.
    maximum : int

    Returns
    -------
    Tensor
        (n, height * width) uint8 or int64 indices, row by row.

    Raises
    ------
    ValueError
        For fewer than 2 levels, or pixels below 0 or above `maximum`.
    TypeError
        For images of a floating type.
    """
    if levels < 2:
        raise ValueError(f"levels is {levels}; expected at least 2")
    check_tensor(images, "images")
    if images.dtype.is_floating_point:
        raise TypeError(f"images has dtype {images.dtype}; expected integers from 0 to {maximum}")
    _check_range(images, maximum)
    values = torch.round(images.float() / maximum * (levels - 1))
    return values.to(torch.uint8 if levels <= 256 else torch.int64).flatten(1)


def _check_range(images: Tensor, maximum: int) -> None:
    if images.dtype.is_complex:
        raise TypeError(f"images has dtype {images.dtype}; expected real numbers from 0 to {maximum}")
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= maximum:
        raise ValueError(f"images range from {images.min()} to {images.max()}; expected 0 to maximum, {maximum}")


def _unit(images: Tensor, maximum: int) -> Tensor:
    check_tensor(images, "images")
    _check_range(images, maximum)
    return images.flatten(1).float() / maximum


def affine(images: Tensor, maximum: int = 255) -> Tensor:
    """Encode a pixel x in [0, 1] as (1, x).

    Parameters
    ----------
    images : Tensor
        (n, height, width), from 0 to `maximum`, by which they are divided.
    maximum : int

    Returns
    -------
    Tensor
        (n, height * width, 2) float32, pixels row by row.

    Raises
    ------
    ValueError
        For pixels below 0 or above `maximum`.
    """
    x = _unit(images, maximum)
    return torch.stack([torch.ones_like(x), x], dim=2)


def trigonometric(images: Tensor, maximum: int = 255) -> Tensor:
    """Encode a pixel x in [0, 1] as (cos πx/2, sin πx/2), a vector of length 1.

    Parameters
    ----------
    images : Tensor
        (n, height, width), from 0 to `maximum`, by which they are divided.
    maximum : int

    Returns
    -------
    Tensor
        (n, height * width, 2) float32, pixels row by row.

    Raises
    ------
    ValueError
        For pixels below 0 or above `maximum`.
    """
    angle = _unit(images, maximum) * (math.pi / 2)
    return torch.stack([angle.cos(), angle.sin()], dim=2)


def one_hot(indices: Tensor, levels: int) -> Tensor:
    """Encode indices as unit vectors.

    Parameters
    ----------
    indices : Tensor
        (n, order) integers from 0 to levels - 1.
    levels : int

    Returns
    -------
    Tensor
        (n, order, levels) float32, 1 at the index and 0 elsewhere.

    Raises
    ------
    IndexError
        If an index is below 0 or not below `levels`.
    TypeError
        For indices that are no tensor of integers.
    """
    check_tensor(indices, "indices")
    if indices.dtype.is_floating_point or indices.dtype.is_complex:
        raise TypeError(f"indices has dtype {indices.dtype}; expected integers")
    if indices.numel() and int(indices.max()) >= levels:
        raise IndexError(f"indices reach {int(indices.max())}; levels is {levels}")
    if indices.numel() and int(indices.min()) < 0:
        raise IndexError(f"indices reach {int(indices.min())}; expected 0 to {levels - 1}")
    return unit_vectors(indices.long(), levels).float()
