"""Convolutions whose kernel is a tensor in a format of low rank."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from htf.linalg.backend import context
from htf.nn.layers.factorized._layer import Device, RankLike, filled
from htf.nn.layers.factorized._routes import BY_FACTORS, RECONSTRUCTED, conv_route, smallest_chain
from htf.nn.layers.factorized._stages import Geometry, Pair
from htf.nn.layers.factorized.kernels import Convolution


class FactorizedConv2d(Convolution):
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

    in_channels: int
    groups: int
    stride: Pair
    padding: Pair | str
    dilation: Pair
    _plain_type, _axes = nn.Conv2d, 2

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
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode),
            format=format,
            rank=rank,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        self._geometry = Geometry(self.stride, self.padding, self.dilation, padding_mode)

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
        number = smallest_chain(self._layout, self.rank) if self.groups == 1 else None
        if number is None:
            return super().plain()
        factors, bias = [factor.detach().to(torch.float64) for factor in self.factors], self.bias is not None
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
