"""Convolutions of other kinds, whose kernel is written out from its factors and applied whole."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from htf.linalg.backend import context
from htf.nn.layers.factorized._base import Rank
from htf.nn.layers.factorized._layer import Device, Factorized, RankLike, check_type, filled
from htf.nn.layers.factorized._routes import RECONSTRUCTED
from htf.nn.layers.factorized.choice import check_format, kernel_format

_NAMES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class WholeKernel(Factorized):
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

    _plain_type: ClassVar[type[Any]]

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
        # On the meta device: torch checks the arguments, and later says how the layer is applied.
        spec = self._plain_type(*arguments, **named, device="meta")
        for name, value in plain_arguments(spec).items():
            if name != "bias":
                setattr(self, name, value)
        self.shape = tuple(spec.weight.shape)
        self._start(kernel_format(format, self.shape), rank, spec.bias is not None, seed, device, dtype)
        # Of no part in the layer's state.
        object.__setattr__(self, "_spec", spec.requires_grad_(False))

    @classmethod
    def from_plain(
        cls,
        layer: nn.Module,
        format: str = "ht",
        *,
        rank: RankLike | None = None,
        energy: float | None = None,
        size: int | None = None,
    ) -> Self:
        """Decompose the weight of a plain layer; see `htf.nn.FactorizedLinear.from_plain`."""
        check_type(layer, cls._plain_type)
        blank = cls(**plain_arguments(layer), format=format, rank=1, seed=0, **context(layer.weight))
        return blank._decompose(layer, rank, energy, size)

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        return self.shape

    def _another(self, rank: Rank) -> Self:
        return type(self)(**plain_arguments(self), format=self.format, rank=rank, seed=0, **context(self.factors[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the plain layer."""
        self.applies = RECONSTRUCTED
        found: Tensor = self._spec._conv_forward(x, self._computed_weight(), self.bias)  # type: ignore[operator, union-attr]
        return found

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The plain layer."""
        factors = [factor.detach().to(torch.float64) for factor in self.factors]
        whole = skip_init(self._plain_type, **plain_arguments(self), **context(self.factors[0]))
        return filled([whole], [self._layout.dense(factors)], self)

    def extra_repr(self) -> str:
        """The arguments."""
        told = (f"{name}={value!r}" for name, value in plain_arguments(self).items())
        return f"{', '.join(told)}, format={self.format}, rank={self.rank}"


class FactorizedConv1d(WholeKernel):
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

    _plain_type = nn.Conv1d


class FactorizedConv3d(WholeKernel):
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

    _plain_type = nn.Conv3d


class _Transposed(WholeKernel):
    _apply_kernel: ClassVar[Any]

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

    _plain_type, _apply_kernel = nn.ConvTranspose1d, staticmethod(functional.conv_transpose1d)


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

    _plain_type, _apply_kernel = nn.ConvTranspose2d, staticmethod(functional.conv_transpose2d)


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

    _plain_type, _apply_kernel = nn.ConvTranspose3d, staticmethod(functional.conv_transpose3d)


def plain_arguments(layer: Any) -> dict[str, Any]:
    """Those of torch's layer."""
    named = {name: getattr(layer, name) for name in _NAMES}
    if isinstance(layer, _Transposed | nn.modules.conv._ConvTransposeNd):
        named["output_padding"] = layer.output_padding
    return named | {"bias": layer.bias is not None}
