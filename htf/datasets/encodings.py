"""From grey images to what a factorization reads: integer indices, or a vector per pixel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot as unit_vectors

from htf._checks import positive
from htf._moments import Moments
from htf.linalg.backend import check_tensor


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

    See Also
    --------
    htf.datasets.one_hot : indices as unit vectors.
    htf.datasets.affine : pixels as vectors, without rounding.

    Examples
    --------
    >>> import torch, htf
    >>> images = torch.tensor([[[0, 100], [150, 255]]], dtype=torch.uint8)
    >>> htf.datasets.quantize(images, levels=3)
    tensor([[0, 1, 1, 2]], dtype=torch.uint8)
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
    return images.flatten(1).to(torch.get_default_dtype()) / maximum


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
        (n, height * width, 2) of torch's default dtype, pixels row by row.

    Raises
    ------
    ValueError
        For pixels below 0 or above `maximum`.

    See Also
    --------
    htf.datasets.trigonometric : vectors of length 1.
    htf.datasets.complementary : entries that sum to 1.
    htf.datasets.encoding_moments : what a start that preserves scale needs to know of an encoding.

    Examples
    --------
    >>> import torch, htf
    >>> images = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    >>> htf.datasets.affine(images)
    tensor([[[1.0000, 0.0000],
             [1.0000, 0.2000],
             [1.0000, 1.0000]]])
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
        (n, height * width, 2) of torch's default dtype, pixels row by row.

    Raises
    ------
    ValueError
        For pixels below 0 or above `maximum`.

    See Also
    --------
    htf.datasets.affine : (1, x).
    htf.datasets.fourier : more than two terms.
    htf.datasets.encoding_moments : what a start that preserves scale needs to know of an encoding.

    Examples
    --------
    >>> import htf
    >>> images = htf.datasets.load("digits").test_images
    >>> vectors = htf.datasets.trigonometric(images, maximum=16)
    >>> vectors.shape
    torch.Size([364, 64, 2])
    >>> bool((vectors.norm(dim=-1) - 1).abs().max() < 1e-6)
    True
    """
    angle = _unit(images, maximum) * (math.pi / 2)
    return torch.stack([angle.cos(), angle.sin()], dim=2)


def complementary(images: Tensor, maximum: int = 255) -> Tensor:
    """Encode a pixel x in [0, 1] as (1 - x, x), whose entries sum to 1.

    At 0 and 1 it is the one-hot encoding of binary pixels.

    Parameters
    ----------
    images : Tensor
        (n, height, width), from 0 to `maximum`, by which they are divided.
    maximum : int

    Returns
    -------
    Tensor
        (n, height * width, 2) of torch's default dtype, pixels row by row.

    Raises
    ------
    ValueError
        For pixels below 0 or above `maximum`.

    See Also
    --------
    htf.datasets.one_hot : the same for pixels of several levels.
    htf.datasets.affine : (1, x).

    Examples
    --------
    >>> import torch, htf
    >>> images = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    >>> htf.datasets.complementary(images)
    tensor([[[1.0000, 0.0000],
             [0.8000, 0.2000],
             [0.0000, 1.0000]]])
    """
    x = _unit(images, maximum)
    return torch.stack([1 - x, x], dim=2)


def fourier(images: Tensor, maximum: int = 255, terms: int = 3) -> Tensor:
    r"""Encode a pixel x in [0, 1] by the first terms of a cosine series, (1, √2 cos πx, √2 cos 2πx, ...).

    The entries are orthonormal over [0, 1]: moments of evenly spread pixels are the identity.

    Parameters
    ----------
    images : Tensor
        (n, height, width), from 0 to `maximum`, by which they are divided.
    maximum : int
    terms : int
        Length of a vector, at least 1; ``functools.partial(fourier, terms=5)`` is an encoder of others.

    Returns
    -------
    Tensor
        (n, height * width, terms) of torch's default dtype, pixels row by row.

    Raises
    ------
    TypeError, ValueError
        For pixels below 0 or above `maximum`, and `terms` that is no integer of at least 1.

    See Also
    --------
    htf.datasets.trigonometric : two terms, of length 1.
    htf.datasets.encoding_moments : moments of an encoding.

    Examples
    --------
    >>> import htf
    >>> images = htf.datasets.load("digits").test_images
    >>> htf.datasets.fourier(images, 16).shape
    torch.Size([364, 64, 3])
    """
    x = _unit(images, maximum)
    angles = x.unsqueeze(2) * (math.pi * torch.arange(1, positive("terms", terms), device=x.device, dtype=x.dtype))
    return torch.cat([torch.ones_like(x).unsqueeze(2), math.sqrt(2) * angles.cos()], 2)


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
        (n, order, levels) of torch's default dtype, 1 at the index and 0 elsewhere.

    Raises
    ------
    IndexError
        If an index is below 0 or not below `levels`.
    TypeError
        For indices that are no tensor of integers.

    See Also
    --------
    htf.datasets.quantize : indices from images.
    htf.datasets.complementary : a soft version for two levels.

    Examples
    --------
    >>> import torch, htf
    >>> indices = torch.tensor([[0, 2], [1, 1]])
    >>> vectors = htf.datasets.one_hot(indices, levels=3)
    >>> vectors[0]
    tensor([[1., 0., 0.],
            [0., 0., 1.]])

    A network gives the same for indices as for their unit vectors:

    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(2), dims=3, width=4, seed=0)
    >>> torch.allclose(net(indices), net(vectors))
    True
    """
    check_tensor(indices, "indices")
    if indices.dtype.is_floating_point or indices.dtype.is_complex:
        raise TypeError(f"indices has dtype {indices.dtype}; expected integers")
    if indices.numel() and int(indices.max()) >= levels:
        raise IndexError(f"indices reach {int(indices.max())}; levels is {levels}")
    if indices.numel() and int(indices.min()) < 0:
        raise IndexError(f"indices reach {int(indices.min())}; expected 0 to {levels - 1}")
    return unit_vectors(indices.long(), levels).to(torch.get_default_dtype())


def encoding_moments(
    encoder: Callable[..., Tensor], images: Tensor | None = None, *, maximum: int = 255, levels: int | None = None
) -> Moments:
    """Moments E[φ] and E[φ φᵀ] of the vectors that an encoder makes, for `htf.nn.init.scale_preserving`.

    Parameters
    ----------
    encoder : callable
        `affine`, `trigonometric`, `complementary`, `fourier`, `one_hot`, or one of your own of the same form.
    images : Tensor, optional
        (n, height, width), as the encoder takes them: moments pixel by pixel.  Without them, pixels are spread evenly
        over [0, 1], or over all `levels`.
    maximum : int
        Of `images`.
    levels : int, optional
        For an encoder of indices, as `one_hot` is: its second argument, in place of `maximum`.

    Returns
    -------
    Moments
        Of shapes (dim,) and (dim, dim); with `images`, (order, dim) and (order, dim, dim).

    Raises
    ------
    ValueError
        For `one_hot` without `levels`.

    See Also
    --------
    htf.nn.init.scale_preserving : the start that takes them.
    htf.datasets.affine, htf.datasets.trigonometric, htf.datasets.one_hot : encoders.

    Notes
    -----
    Evenly spread pixels are integrated by Gauss's rule of 64 points: to rounding for encoders that are smooth.

    Examples
    --------
    >>> import htf
    >>> moments = htf.datasets.encoding_moments(htf.datasets.affine)
    >>> moments.mean
    tensor([1.0000, 0.5000], dtype=torch.float64)
    >>> net = htf.nn.CPNetwork([2] * 784, 16, init=htf.nn.init.scale_preserving(inputs=moments), seed=0)
    """
    if encoder is one_hot and levels is None:
        raise ValueError("levels is None; one_hot needs the number of levels")
    if images is not None:
        return Moments.of(encoder(images, maximum if levels is None else levels))
    if levels is not None:
        vectors = encoder(torch.arange(levels, device="cpu").unsqueeze(1), levels)
        weights = torch.full((levels,), 1 / levels, dtype=torch.float64, device="cpu")
    else:
        nodes, sizes = (torch.from_numpy(found) for found in np.polynomial.legendre.leggauss(64))
        vectors, weights = encoder(((nodes + 1) / 2).view(-1, 1, 1), 1), sizes / 2
    vectors = vectors.flatten(0, 1).double()
    return Moments(weights @ vectors, torch.einsum("n,nd,ne->de", weights, vectors, vectors))
