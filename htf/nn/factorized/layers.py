"""Linear layers and convolutions whose weight is a tensor in a format of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from htf._checks import natural, positive
from htf.nn._stand_in import autocast_dtype
from htf.nn.factorized._base import Rank
from htf.nn.factorized._layer import Device, Factorized, RankLike, check_type, filled
from htf.nn.factorized._paths import contract
from htf.nn.factorized._routes import BY_FACTORS, RECONSTRUCTED, conv_route, linear_labels, linear_route, smallest_chain
from htf.nn.factorized._stages import Geometry
from htf.nn.factorized.choice import check_format, check_shape, kernel_format, matrix_format
from htf.tensors._backend import context


class FactorizedLinear(Factorized):
    """A linear layer whose weight matrix is a tensor in a format of low rank.

    Parameters
    ----------
    in_features, out_features, bias
        As in nn.Linear.
    format : {"ht", "tt", "tucker", "cp", "matrix"}
        Of the weight as a tensor with the modes (out_1, ..., out_k, in_1, ..., in_k).  "ht": hierarchical Tucker on the
        tree that joins out_i with in_i first; "tt": a train of cores of out_i and in_i together [1]_; "tucker", "cp":
        over all modes; "matrix": a product of two matrices.
    rank : int, float or sequence of int
        The rank everywhere, or less where the shape allows no more; a share in (0, 1] of the weight's numbers that the
        factors hold at most (rank 1 at least); or one entry per bond: "matrix", "cp": (r,); "tucker": per mode; "tt":
        between the cores, with 1 at both ends; "ht": per node of the tree, with 1 at the root.
    shape : ((out_1, ...), (in_1, ...)), optional
        The modes.  By default three factors each with the least sum, such as 784 = 7·8·14 and 128 = 4·4·8; fewer for
        numbers with fewer prime factors.
    seed : int or torch.Generator, optional
        None draws from torch's global generator.
    device, dtype : optional

    Attributes
    ----------
    factors : ParameterList
        See the format's class for their shapes.
    bias : Parameter or None
    format : str
    rank : tuple of int
    shape : ((out_1, ...), (in_1, ...))
    applies : {"reconstructed", "factor by factor"}
        What the last forward pass did; None before the first.

    Raises
    ------
    ValueError, TypeError
        For a format that does not exist, a rank above its bound, a share outside (0, 1], or a shape that does not
        multiply to the features.

    Notes
    -----
    A forward pass either contracts the factors to the weight, or the input with factor after factor, in the order that
    opt_einsum finds; whichever takes fewer operations for the batch at hand.  The backward pass takes about twice as
    many either way; the memory of what lies between is not counted.  Under torch.compile it is always the weight.

    Factors are Gaussian, of a variance that gives the weight's entries that of nn.Linear in expectation.

    References
    ----------
    .. [1] A. Novikov et al., "Tensorizing neural networks", NeurIPS 2015.

    Examples
    --------
    >>> layer = FactorizedLinear(784, 128, format="ht", rank=0.05, seed=0)
    >>> layer.shape
    ((4, 4, 8), (7, 8, 14))
    >>> layer(torch.zeros(2, 784)).shape, layer.applies
    (torch.Size([2, 128]), 'factor by factor')
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        format: str = "ht",
        rank: RankLike = 0.5,
        shape: Sequence[Sequence[int]] | None = None,
        seed: int | Generator | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = (
            positive("in_features", in_features),
            positive("out_features", out_features),
        )
        self.shape = check_shape(check_format(format), shape, self.out_features, self.in_features)
        self._start(matrix_format(format, self.shape), rank, bias, seed, device, dtype)

    @classmethod
    def from_plain(
        cls,
        layer: nn.Linear,
        format: str = "ht",
        *,
        rank: RankLike | None = None,
        energy: float | None = None,
        size: int | None = None,
        shape: Sequence[Sequence[int]] | None = None,
    ) -> Self:
        """Decompose the weight of a plain layer, by exactly one of three measures.

        Parameters
        ----------
        layer : nn.Linear
            Its bias, device, dtype, mode and ``requires_grad`` are kept.
        format, shape
            As in the constructor.
        rank : int, float or sequence of int, optional
            As in the constructor, but ranks are lower where the weight's are, and for a share they follow the weight's
            singular values.
        energy : float, optional
            Share in (0, 1] of the weight's squared norm that is kept: one minus the squared relative error.
        size : int, optional
            The largest number of parameters of the factors.

        Raises
        ------
        TypeError
            If the layer is no nn.Linear, or of a subclass.
        ValueError
            For other than one measure, one that cannot be met, or a weight with NaN or infinite entries.

        Notes
        -----
        In float64, by singular value decompositions; Tucker is refined by orthogonal iteration, CP fitted by
        alternating least squares, which takes long for high ranks and may miss better fits.
        """
        check_type(layer, nn.Linear)
        blank = cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            format=format,
            rank=1,
            shape=shape,
            seed=0,
            **context(layer.weight),
        )
        return blank._decompose(layer, rank, energy, size)

    @property
    def _plain_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def _another(self, rank: Rank) -> Self:
        shape = None if self.format == "matrix" else self.shape
        bias = self.bias is not None
        return type(self)(
            self.in_features,
            self.out_features,
            bias,
            format=self.format,
            rank=rank,
            shape=shape,
            seed=0,
            **context(self.factors[0]),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} features; expected {self.in_features}")
        batch, outs = math.prod(x.shape[:-1]), len(self.shape[0])
        # Under torch.compile numbers of samples are symbols, whose costs cannot be compared.
        compiling = torch.compiler.is_dynamo_compiling()
        self.applies = RECONSTRUCTED if compiling else linear_route(self._layout, self.rank, outs, batch)
        if self.applies == RECONSTRUCTED:
            return linear(x, self.weight, self.bias)
        given, wanted = linear_labels(self._layout, outs)
        tensors, lower = [x.reshape(batch, *self.shape[1]), *self.factors], autocast_dtype(x.device.type)
        if lower is not None:
            # As torch does before its own products.
            tensors = [each if each.dtype == torch.float64 else each.to(lower) for each in tensors]
        y = contract(tensors, (given, *self._layout.labels), wanted)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """One nn.Linear; for format "matrix" two of them where they have fewer parameters."""
        factors = [factor.detach().to(torch.float64) for factor in self.factors]
        bias, weights = self.bias is not None, [self._layout.dense(factors).reshape(self._plain_shape)]
        if self.format == "matrix" and self._layout.size(self.rank) < weights[0].numel():
            weights = factors[::-1]
        layers = [
            skip_init(
                nn.Linear,
                weight.shape[1],
                weight.shape[0],
                bias=bias and weight is weights[-1],
                **context(self.factors[0]),
            )
            for weight in weights
        ]
        return filled(layers, weights, self)

    def extra_repr(self) -> str:
        """The arguments."""
        bias = self.bias is not None
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, "
            f"format={self.format}, rank={self.rank}, shape={self.shape}"
        )


class FactorizedConv2d(Factorized):
    """A convolution whose kernel is a tensor in a format of low rank.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode
        As in nn.Conv2d.
    groups : 1
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
        As `FactorizedLinear`; and for groups other than 1, or what nn.Conv2d refuses.

    Notes
    -----
    A forward pass either contracts the factors to the kernel and convolves once, or convolves factor by factor: 1×1
    convolutions for the channels around small ones over rows and columns (in every channel by itself for "cp").  The
    sequence with the fewest operations for the images at hand is taken; how fast each kind of convolution runs, and
    memory, are not counted.  Under torch.compile it is always the kernel.

    References
    ----------
    .. [1] Y.-D. Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
       applications", ICLR 2016.
    .. [2] V. Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015.

    Examples
    --------
    >>> layer = FactorizedConv2d(64, 64, 3, padding=1, format="tt", rank=8, seed=0)
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
        if groups != 1:
            raise ValueError(f"groups is {groups}; expected 1, as kernels of several groups are not factorized")
        self.kernel_size = _pair("kernel_size", kernel_size, positive)
        self.stride = _pair("stride", stride, positive)
        self.padding = padding if isinstance(padding, str) else _pair("padding", padding, natural)
        self.dilation = _pair("dilation", dilation, positive)
        # torch checks the names, and what goes with them.
        nn.Conv2d(1, 1, 1, self.stride, self.padding, padding_mode=padding_mode, device="meta")  # type: ignore[arg-type]
        self.groups, self.padding_mode = 1, padding_mode
        self.shape = (self.out_channels, self.in_channels, *self.kernel_size)
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
            Of one group.  Its bias, device, dtype, mode and ``requires_grad`` are kept.
        format, rank, energy, size
            As in `FactorizedLinear.from_plain`.

        Raises
        ------
        TypeError, ValueError
            As `FactorizedLinear.from_plain`; and for several groups.
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
        number = None
        if not torch.compiler.is_dynamo_compiling():
            number = conv_route(layout, self.rank, geometry, batch, (x.shape[-2], x.shape[-1]))
        if number is None:
            self.applies = RECONSTRUCTED
            return geometry.convolve(x, self.weight, self.bias)
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
        number = smallest_chain(self._layout, self.rank)
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
            f"padding={self.padding!r}, dilation={self.dilation}, bias={self.bias is not None}, "
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
