"""Convolutions whose kernel is a tensor in a format of low rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from htf._checks import natural, positive
from htf.linalg.backend import context
from htf.nn.layers.factorized._base import Rank
from htf.nn.layers.factorized._layer import Device, Factorized, RankLike, check_type, filled
from htf.nn.layers.factorized._routes import BY_FACTORS, RECONSTRUCTED, conv_route, smallest_chain
from htf.nn.layers.factorized._stages import Geometry
from htf.nn.layers.factorized.choice import check_format, kernel_format


class FactorizedConv2d(Factorized):
    """A convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in nn.Conv2d.
    format : {"ht", "tt", "tucker", "cp", "matrix"}
        Of the kernel with the modes (out, in, rows, columns).  "ht": hierarchical Tucker on the tree ((out, in), (rows,
        columns)); "tt": a train in the order (out, rows, columns, in); "tucker" [1]_, "cp" [2]_: over all modes;
        "matrix": out against all others, which is a convolution to few channels and one of 1×1.
    rank : int, float or sequence of int
        As in `FactorizedLinear`.
    seed : int or torch.Generator, optional
    device, dtype : optional

    Attributes
    ----------
    factors, bias, format, rank, applies
        As in `FactorizedLinear`.
    shape : (out, in, rows, columns)

    Raises
    ------
    ValueError, TypeError
        As `FactorizedLinear`; and for what nn.Conv2d refuses.

    See Also
    --------
    htf.factorize : puts such layers into a model.
    htf.nn.FactorizedLinear, htf.nn.FactorizedConv1d, htf.nn.FactorizedConv3d : other layers.
    htf.nn.OverparamConv2d : more factors, not fewer parameters.

    Notes
    -----
    A forward pass either contracts the factors to the kernel and convolves once, or convolves factor by factor: 1×1
    convolutions for the channels around small ones over rows and columns (in every channel by itself for "cp").  The
    sequence with the fewest operations for the images at hand is taken; how fast each kind of convolution runs, and
    memory, are not counted.  Under torch.compile and torch.export, and with several groups, whose kernel is one tensor
    (out, in / groups, rows, columns), it is always the kernel.

    References
    ----------
    .. [1] Y.-D. Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
       applications", ICLR 2016.
    .. [2] V. Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015.

    Examples
    --------
    >>> import htf
    >>> layer = htf.nn.FactorizedConv2d(64, 64, 3, padding=1, format="tt", rank=8, seed=0)
    >>> layer.rank, layer.plain_size, sum(p.numel() for p in layer.parameters())
    ((1, 8, 8, 8, 1), 36928, 1472)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        format: str = "ht",
        rank: RankLike = 0.5,
        seed: int | Generator | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = (
            positive("in_channels", in_channels),
            positive("out_channels", out_channels),
        )
        self.kernel_size = _pair("kernel_size", kernel_size, positive)
        self.stride = _pair("stride", stride, positive)
        self.padding = padding if isinstance(padding, str) else _pair("padding", padding, natural)
        self.dilation = _pair("dilation", dilation, positive)
        self.groups, self.padding_mode = positive("groups", groups), padding_mode
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"{name} is {channels}; expected a multiple of groups = {self.groups}")
        # torch checks the names, and what goes with them.
        nn.Conv2d(1, 1, 1, self.stride, self.padding, padding_mode=padding_mode, device="meta")  # type: ignore[arg-type]
        self.shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._geometry = Geometry(self.stride, self.padding, self.dilation, padding_mode)
        self._start(kernel_format(check_format(format), self.shape), rank, bias, seed, device, dtype)

    @classmethod
    def from_plain(
        cls,
        layer: nn.Conv2d,
        format: str = "ht",
        *,
        rank: RankLike | None = None,
        energy: float | None = None,
        size: int | None = None,
    ) -> Self:
        """Decompose the kernel of a plain layer, by exactly one of three measures.

        Parameters
        ----------
        layer : nn.Conv2d
            Its bias, device, dtype, mode and ``requires_grad`` are kept.
        format, rank, energy, size
            As in `FactorizedLinear.from_plain`.

        Raises
        ------
        TypeError, ValueError
            As `FactorizedLinear.from_plain`.
        """
        check_type(layer, nn.Conv2d)
        blank = cls(**_arguments(layer), format=format, rank=1, seed=0, **context(layer.weight))
        return blank._decompose(layer, rank, energy, size)

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        return self.shape

    def _another(self, rank: Rank) -> Self:
        return type(self)(**_arguments(self), format=self.format, rank=rank, seed=0, **context(self.factors[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, height, width) to (n, out_channels, height', width'); without n too."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, {self.in_channels}, height, width)")
        batch = x.shape[0] if x.ndim == 4 else 1
        layout, geometry = self._layout, self._geometry
        number, groups = None, self.groups
        # Where torch compiles or exports, sizes are symbols, whose costs cannot be compared.
        known = not torch.compiler.is_compiling() and all(isinstance(size, int) for size in (batch, *x.shape[-2:]))
        if known and groups == 1:
            number = conv_route(layout, self.rank, geometry, batch, (x.shape[-2], x.shape[-1]))
        if number is None:
            self.applies = RECONSTRUCTED
            return geometry.convolve(x, self._computed_weight(), self.bias, groups)
        self.applies = BY_FACTORS
        factors, sizes, chain = list(self.factors), layout.sizes(self.rank), layout.chains[number]
        for stage in chain:
            bias = self.bias if stage is chain[-1] else None
            kernel = stage.kernel(factors, layout.labels)
            x = geometry.along(stage.rows, stage.columns).convolve(x, kernel, bias, stage.groups(sizes))
        return x

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """One nn.Conv2d, or a sequence of them where that has fewer parameters."""
        factors = [factor.detach().to(torch.float64) for factor in self.factors]
        number = smallest_chain(self._layout, self.rank) if self.groups == 1 else None
        bias = self.bias is not None
        if number is None:
            whole = skip_init(nn.Conv2d, **_arguments(self), **context(self.factors[0]))
            return filled([whole], [self._layout.dense(factors)], self)
        chain, sizes = self._layout.chains[number], self._layout.sizes(self.rank)
        layers, kernels = [], []
        for stage in chain:
            after, before, *kernel_size = stage.kernel_shape(sizes)
            groups, last = stage.groups(sizes), stage is chain[-1]
            part = self._geometry.along(stage.rows, stage.columns)
            moves = (part.stride, part.padding, part.dilation)
            layers.append(
                skip_init(
                    nn.Conv2d,
                    before * groups,
                    after,
                    tuple(kernel_size),
                    *moves,
                    groups,
                    bias and last,
                    part.padding_mode,
                    **context(self.factors[0]),
                )
            )
            kernels.append(stage.kernel(factors, self._layout.labels))
        return filled(layers, kernels, self)

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode}, format={self.format}, rank={self.rank}"
        )


def _pair(name: str, value: object, check: Callable[[str, object], int]) -> tuple[int, int]:
    """One integer for both axes, or one each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        number = check(name, value)
        return number, number
    if len(value) != 2:
        raise ValueError(f"{name} is {value}; expected one integer or two")
    return check(f"{name}[0]", value[0]), check(f"{name}[1]", value[1])


def _arguments(layer: nn.Conv2d | FactorizedConv2d) -> dict[str, Any]:
    """Those of nn.Conv2d."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}
