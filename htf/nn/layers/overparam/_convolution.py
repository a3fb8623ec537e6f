"""What over-parameterized convolutions of any dimension share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import skip_init

from htf._checks import natural, positive
from htf.nn.layers.overparam._arguments import channels_of_chain, check_intervals, check_plain, connected
from htf.nn.layers.overparam._composition import CONVOLUTIONS, ConvChain, Sizes
from htf.nn.layers.overparam.base import Overparam, Seed

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
Size = int | Sequence[int]


class OverparamConv(Overparam):
    """A chain of convolutions; see `OverparamConv2d`."""

    dims: ClassVar[int]
    plain_type: ClassVar[type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        depth: int = 2,
        width: int | Sequence[int] | None = None,
        kernel_sizes: Sequence[Size] | None = None,
        residual: int | Sequence[int] = (),
        batch_norm: bool = False,
        seed: Seed = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        ends = positive("in_channels", in_channels), positive("out_channels", out_channels)
        depth, groups = positive("depth", depth), positive("groups", groups)
        for name, count in zip(("in_channels", "out_channels"), ends, strict=True):
            if count % groups:
                raise ValueError(f"{name} is {count}; expected a multiple of groups = {groups}")
        kernel = _spread("kernel_size", kernel_size, self.dims, positive)
        kernels = _check_kernels(kernel_sizes, kernel, depth)
        free = _free_widths(ends, kernels, prod(kernel), groups)
        intervals = check_intervals(residual, depth)
        channels = channels_of_chain(ends, depth, width, free, groups)
        layout = connected(ConvChain(channels, kernels, groups), intervals)
        stride = _spread("stride", stride, self.dims, positive)
        dilation = _spread("dilation", dilation, self.dims, positive)
        padding = _check_padding(padding, padding_mode, stride, self.dims)
        margins = _margins(padding, kernel, dilation)
        super().__init__(layout, intervals, bias=bias, batch_norm=batch_norm, seed=seed, device=device, dtype=dtype)
        self.in_channels, self.out_channels = ends
        self.kernel_size, self.kernel_sizes = kernel, kernels
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.padding_mode = groups, padding_mode
        larger = [k for k, sizes in enumerate(kernels) if prod(sizes) > 1]
        self._strided = larger[-1] if larger else 0
        self._margins = margins

    @classmethod
    def from_plain(
        cls,
        layer: nn.Conv1d | nn.Conv2d | nn.Conv3d,
        depth: int = 2,
        *,
        width: int | Sequence[int] | None = None,
        kernel_sizes: Sequence[Size] | None = None,
        residual: int | Sequence[int] = (),
        batch_norm: bool = False,
        start: str = "same",
        seed: Seed = None,
    ) -> Self:
        """A layer in the place of a plain one; see `OverparamLinear.from_plain`.

        Parameters
        ----------
        layer : torch.nn.Conv1d, Conv2d or Conv3d
            Of the dimensions of the class.
        depth, width, kernel_sizes, residual, batch_norm
            See the class.
        start : str
            "same" or "random".  The same weight needs kernel sizes of which one at most is larger than 1.
        seed : int or torch.Generator, optional

        Raises
        ------
        TypeError, ValueError
            As `OverparamLinear.from_plain`.
        """
        check_plain(layer, cls.plain_type, start)
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            depth=depth,
            width=width,
            kernel_sizes=kernel_sizes,
            residual=residual,
            batch_norm=batch_norm,
            seed=seed,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )._start_from(layer, start)

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = CONVOLUTIONS[self.dims]
        if self.padding_mode == "zeros":
            return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return convolve(self._padded(x), weight, bias, self.stride, 0, self.dilation, self.groups)

    def _padded(self, x: Tensor) -> Tensor:
        return pad(x, self._margins, "constant" if self.padding_mode == "zeros" else self.padding_mode)

    def _link(self, place: int, x: Tensor, factor: Tensor) -> Tensor:
        stride = self.stride if place == self._strided else 1
        return CONVOLUTIONS[self.dims](x, factor, None, stride, 0, self.dilation, self.groups)

    def _normalized(self, norm: nn.Module, y: Tensor) -> Tensor:
        return norm(y) if y.ndim == self.dims + 2 else norm(y[None])[0]

    def _skipped(self, x: Tensor, start: int, stop: int, like: Tensor) -> Tensor:
        kernel = self._layout.kernel_of(start, stop)
        strides = self.stride if start <= self._strided < stop else (1,) * self.dims
        kept = []
        for size, dilation, stride, length in zip(
            kernel, self.dilation, strides, like.shape[-self.dims :], strict=True
        ):
            first = dilation * (size - 1) // 2
            kept.append(slice(first, first + stride * (length - 1) + 1, stride))
        index: tuple[Any, ...] = (..., *kept)
        return x[index]

    def _can_part(self, cut: int) -> bool:
        # "same" is the padding of a layer's own kernel, and the first of two has all of the padding.
        return super()._can_part(cut) and (self.padding != "same" or self._layout.taps(cut, self.depth) == 1)

    def _plain_layer(self, start: int, stop: int, weight: Tensor, bias: Tensor | None) -> nn.Module:
        layer = skip_init(
            self.plain_type,
            self._layout.channels[start],
            self._layout.channels[stop],
            self._layout.kernel_of(start, stop),
            self.stride if start <= self._strided < stop else 1,
            0 if start else self.padding,
            self.dilation,
            self.groups,
            bias is not None,
            "zeros" if start else self.padding_mode,
            device=weight.device,
            dtype=weight.dtype,
        )
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return layer

    def _of_widths(self, widths: Sequence[int]) -> Self:
        factor, bias = self.factors[0], self.bias is not None or self.batch_norm
        return type(self)(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias,
            self.padding_mode,
            depth=len(widths) + 1,
            width=widths,
            seed=0,
            device=factor.device,
            dtype=factor.dtype,
        )

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        text = f"{self.in_channels}, {self.out_channels}, "
        text += ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{text}, bias={self.bias is not None}, kernel_sizes={self.kernel_sizes}, " + super().extra_repr()


def _spread(name: str, value: Any, dims: int, check: Callable[[str, object], int]) -> Sizes:
    """One number per dimension."""
    if not isinstance(value, Iterable):
        return (check(name, value),) * dims
    found = tuple(check(f"{name}[{k}]", each) for k, each in enumerate(value))
    if len(found) != dims:
        raise ValueError(f"{name} has {len(found)} entries; expected {dims}, one per dimension")
    return found


def _check_kernels(kernel_sizes: Sequence[Size] | None, kernel: Sizes, depth: int) -> tuple[Sizes, ...]:
    dims = len(kernel)
    if kernel_sizes is None:
        return (kernel, *[(1,) * dims] * (depth - 1))
    if not isinstance(kernel_sizes, Iterable):
        raise TypeError(f"kernel_sizes is {kernel_sizes!r}; expected one size per factor")
    found = tuple(_spread(f"kernel_sizes[{k}]", sizes, dims, positive) for k, sizes in enumerate(kernel_sizes))
    if len(found) != depth:
        raise ValueError(f"kernel_sizes has {len(found)} entries; expected {depth}, the depth")
    composed = ConvChain((), found).kernel
    if composed != kernel:
        raise ValueError(f"kernel_sizes compose to {composed}; expected kernel_size = {kernel}")
    return found


def _free_widths(ends: tuple[int, int], kernels: tuple[Sizes, ...], taps: int, groups: int) -> list[int]:
    before, after = (count // groups for count in ends)
    larger = [k for k, sizes in enumerate(kernels) if prod(sizes) > 1]
    first = larger[0] if larger else 0
    behind, ahead = groups * min(after, before * taps), groups * min(before, after * taps)
    return [behind if place >= first else ahead for place in range(len(kernels) - 1)]


def _check_padding(padding: Size | str, padding_mode: str, stride: Sizes, dims: int) -> Sizes | str:
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode is {padding_mode!r}; expected one of {', '.join(PADDING_MODES)}")
    if not isinstance(padding, str):
        return _spread("padding", padding, dims, natural)
    if padding not in {"same", "valid"}:
        raise ValueError(f'padding is {padding!r}; expected numbers, "same" or "valid"')
    if padding == "same" and prod(stride) > 1:
        raise ValueError(f'padding is "same", which a stride of {stride} does not have; expected a stride of 1')
    return padding


def _margins(padding: Any, kernel: Sizes, dilation: Sizes) -> list[int]:
    """Widths of the border in the order of `torch.nn.functional.pad`: the last dimension first."""
    if padding == "valid":
        return [0] * 2 * len(kernel)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return [side for width in reversed(padding) for side in (width, width)]
