"""Linear layers whose weight matrix is a tensor in a format of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from htf._checks import positive
from htf.linalg.backend import context
from htf.nn.layers.drop_in import autocast_dtype
from htf.nn.layers.factorized._base import Rank
from htf.nn.layers.factorized._layer import Device, Factorized, RankLike, check_type, filled
from htf.nn.layers.factorized._paths import contract
from htf.nn.layers.factorized._routes import RECONSTRUCTED, linear_labels, linear_route
from htf.nn.layers.factorized.choice import check_format, check_shape, matrix_format


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

    See Also
    --------
    htf.factorize : puts such layers into a model.
    htf.nn.FactorizedConv2d, htf.nn.FactorizedEmbedding : other layers.
    htf.nn.OverparamLinear : more factors, not fewer parameters.

    Notes
    -----
    A forward pass either contracts the factors to the weight, or the input with factor after factor, in the order that
    opt_einsum finds; whichever takes fewer operations for the batch at hand.  The backward pass takes about twice as
    many either way; the memory of what lies between is not counted.  Under torch.compile and torch.export it is always
    the weight.

    Factors are Gaussian, of a variance that gives the weight's entries that of nn.Linear in expectation.

    References
    ----------
    .. [1] A. Novikov et al., "Tensorizing neural networks", NeurIPS 2015.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedLinear(784, 128, format="ht", rank=0.05, seed=0)
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
        # Where torch compiles or exports, numbers of samples are symbols, whose costs cannot be compared.
        traced = torch.compiler.is_compiling() or not isinstance(batch, int)
        self.applies = RECONSTRUCTED if traced else linear_route(self._layout, self.rank, outs, batch)
        if self.applies == RECONSTRUCTED:
            return linear(x, self._computed_weight(), self.bias)
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
