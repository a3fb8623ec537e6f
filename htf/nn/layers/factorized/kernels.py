"""Convolutions of all kinds, whose kernel is written out from its factors and applied whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from htf._checks import natural, positive
from htf.linalg.backend import context
from htf.nn.layers.factorized._layer import Device, Factorized, RankLike, filled
from htf.nn.layers.factorized._routes import RECONSTRUCTED
from htf.nn.layers.factorized.choice import check_format, kernel_format

_INTEGERS = {1: "one integer", 2: "one integer or two", 3: "one integer or three"}


class Convolution(Factorized):
    """Base of convolutions of one of torch's types; subclasses say which, and how it is applied.

    Parameters
    ----------
    *arguments, **named
        Those of the plain layer.
    format : {"ht", "tt", "tucker", "cp", "matrix"}
        Of the weight as torch has it, one mode for each of its axes.
    rank, seed, device, dtype
        As in `htf.nn.FactorizedLinear`.

    Attributes
    ----------
    factors, bias, format, rank, applies
        As in `htf.nn.FactorizedLinear`.
    shape : tuple of int
        Of the weight.
    """

    _axes: ClassVar[int]
    _names: ClassVar[tuple[str, ...]] = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
        "bias",
    )

    def __init__(
        self,
        *arguments: Any,
        format: str = "ht",
        rank: RankLike = 0.5,
        seed: int | Generator | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **named: Any,
    ) -> None:
        super().__init__()
        check_format(format)
        given = signature(self._plain_type).bind(*arguments, **named).arguments
        _check_arguments(given, self._axes)
        # On the meta device: torch checks the rest, and later says how the layer is applied.
        spec = self._plain_type(**given, device="meta")
        for name, value in self.arguments_of(spec).items():
            if name != "bias":
                setattr(self, name, value)
        self.shape = tuple(spec.weight.shape)
        self._start(kernel_format(format, self.shape), rank, spec.bias is not None, seed, device, dtype)
        # Of no part in the layer's state.
        object.__setattr__(self, "_spec", spec.requires_grad_(False))

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the plain layer."""
        self.applies = RECONSTRUCTED
        found: Tensor = self._spec._conv_forward(x, self._computed_weight(), self.bias)  # type: ignore[operator, union-attr]
        return found

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The plain layer."""
        factors = [factor.detach().to(torch.float64) for factor in self.factors]
        whole = skip_init(self._plain_type, **self.arguments_of(self), **context(self.factors[0]))
        return filled([whole], [self._layout.dense(factors)], self)


class FactorizedConv1d(Convolution):
    """A 1-D convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in nn.Conv1d.
    format, rank, seed, device, dtype
        As in `htf.nn.FactorizedConv2d`, over the modes (out, in / groups, columns).

    See Also
    --------
    htf.nn.FactorizedConv2d, htf.nn.FactorizedConv3d : other dimensions.
    htf.factorize : puts such layers into a model.

    Notes
    -----
    The kernel is contracted from the factors and applied whole: the layer has fewer parameters, not fewer operations.

    Examples
    --------
    >>> import htf
    >>> layer = htf.nn.FactorizedConv1d(64, 64, 5, format="tt", rank=8, seed=0)
    >>> layer.plain_size, sum(p.numel() for p in layer.parameters())
    (20544, 1408)
    """

    _plain_type, _axes = nn.Conv1d, 1


class FactorizedConv3d(Convolution):
    """A 3-D convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in nn.Conv3d.
    format, rank, seed, device, dtype
        As in `htf.nn.FactorizedConv2d`, over the modes (out, in / groups, depth, rows, columns).

    See Also
    --------
    htf.nn.FactorizedConv1d, htf.nn.FactorizedConv2d : other dimensions.
    htf.factorize : puts such layers into a model.

    Notes
    -----
    The kernel is contracted from the factors and applied whole: the layer has fewer parameters, not fewer operations.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedConv3d(32, 32, 3, padding=1, format="cp", rank=8, seed=0)
    >>> layer(torch.zeros(1, 32, 4, 8, 8)).shape
    torch.Size([1, 32, 4, 8, 8])
    >>> layer.plain_size, sum(p.numel() for p in layer.parameters())
    (27680, 616)
    """

    _plain_type, _axes = nn.Conv3d, 3


class _Transposed(Convolution):
    _apply_kernel: ClassVar[Any]
    _names = (*Convolution._names, "output_padding")

    @property
    def _bias_size(self) -> int:
        return int(self.out_channels)  # type: ignore[arg-type]

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Outputs of the plain layer."""
        spec: Any = self._spec
        self.applies = RECONSTRUCTED
        axes = len(spec.kernel_size)
        padding = spec._output_padding(x, output_size, spec.stride, spec.padding, spec.kernel_size, axes, spec.dilation)
        weight, apply = self._computed_weight(), type(self)._apply_kernel
        found: Tensor = apply(x, weight, self.bias, spec.stride, spec.padding, padding, spec.groups, spec.dilation)
        return found


class FactorizedConvTranspose1d(_Transposed):
    """A transposed 1-D convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode
        As in nn.ConvTranspose1d.
    format, rank, seed, device, dtype
        As in `htf.nn.FactorizedConv2d`, over the modes (in, out / groups, columns).

    See Also
    --------
    htf.nn.FactorizedConvTranspose2d, htf.nn.FactorizedConvTranspose3d : other dimensions.
    htf.factorize : puts such layers into a model.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedConvTranspose1d(32, 16, 4, stride=2, padding=1, format="tt", rank=8, seed=0)
    >>> layer(torch.zeros(1, 32, 10)).shape  # twice as long
    torch.Size([1, 16, 20])
    >>> layer.plain_size, sum(p.numel() for p in layer.parameters())
    (2064, 656)
    """

    _plain_type, _axes, _apply_kernel = nn.ConvTranspose1d, 1, staticmethod(functional.conv_transpose1d)


class FactorizedConvTranspose2d(_Transposed):
    """A transposed 2-D convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode
        As in nn.ConvTranspose2d.
    format, rank, seed, device, dtype
        As in `htf.nn.FactorizedConv2d`, over the modes (in, out / groups, rows, columns).

    See Also
    --------
    htf.nn.FactorizedConvTranspose1d, htf.nn.FactorizedConvTranspose3d : other dimensions.
    htf.factorize : puts such layers into a model.

    Examples
    --------
    >>> import torch, htf
    >>> plain = torch.nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
    >>> layer = htf.nn.FactorizedConvTranspose2d.from_plain(plain, "tucker", rank=0.25)
    >>> layer(torch.zeros(1, 32, 8, 8)).shape, sum(p.numel() for p in layer.parameters()) < layer.plain_size / 3
    (torch.Size([1, 16, 16, 16]), True)
    """

    _plain_type, _axes, _apply_kernel = nn.ConvTranspose2d, 2, staticmethod(functional.conv_transpose2d)


class FactorizedConvTranspose3d(_Transposed):
    """A transposed 3-D convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode
        As in nn.ConvTranspose3d.
    format, rank, seed, device, dtype
        As in `htf.nn.FactorizedConv2d`, over the modes (in, out / groups, depth, rows, columns).

    See Also
    --------
    htf.nn.FactorizedConvTranspose1d, htf.nn.FactorizedConvTranspose2d : other dimensions.
    htf.factorize : puts such layers into a model.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedConvTranspose3d(32, 16, 2, stride=2, format="cp", rank=8, seed=0)
    >>> layer(torch.zeros(1, 32, 2, 4, 4)).shape
    torch.Size([1, 16, 4, 8, 8])
    >>> layer.plain_size, sum(p.numel() for p in layer.parameters())
    (4112, 448)
    """

    _plain_type, _axes, _apply_kernel = nn.ConvTranspose3d, 3, staticmethod(functional.conv_transpose3d)


def _check_arguments(given: dict[str, Any], axes: int) -> None:
    """Sizes and strides that torch takes as they are."""
    for name in ("in_channels", "out_channels", "groups"):
        positive(name, given.get(name, 1))
    for name, check in (
        ("kernel_size", positive),
        ("stride", positive),
        ("dilation", positive),
        ("padding", natural),
        ("output_padding", natural),
    ):
        if not (name == "padding" and isinstance(given.get(name), str)):
            _check_per_axis(name, given.get(name, 1), check, axes)
    groups = given.get("groups", 1)
    for name in ("in_channels", "out_channels"):
        if given[name] % groups:
            raise ValueError(f"{name} is {given[name]}; expected a multiple of groups = {groups}")


def _check_per_axis(name: str, value: object, check: Callable[[str, object], int], axes: int) -> None:
    """One integer for all axes, or one each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        check(name, value)
        return
    if len(value) != axes:
        raise ValueError(f"{name} is {value}; expected {_INTEGERS[axes]}")
    for axis, each in enumerate(value):
        check(f"{name}[{axis}]", each)
