"""Linear layers whose weight matrix is a tensor in a format of low rank."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from htf._checks import positive
from htf.linalg.backend import context
from htf.nn.layers.drop_in import autocast_dtype
from htf.nn.layers.factorized._layer import Device, RankLike, filled
from htf.nn.layers.factorized._paths import contract
from htf.nn.layers.factorized._routes import RECONSTRUCTED, linear_labels, linear_route
from htf.nn.layers.factorized.tensorized import ShapeLike, Tensorized


class FactorizedLinear(Tensorized):
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
    shape : ((out_1, ...), (in_1, ...)) or int, optional
        The modes, or into how many factors above 1 of least sum each side is split, such as 3: 784 = 7·8·14 and
        128 = 4·4·8, or fewer for numbers with fewer prime factors.  By default, where the rank is a share, the modes of
        the quickest step, see Notes; otherwise 3.
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
    A forward pass either contracts the factors to the weight, or the input with factor after factor, in the order of
    fewest operations that opt_einsum finds; whichever takes less time for the batch at hand, counted in operations,
    numbers read and written, and products.  The backward pass takes about twice as much either way.  Under
    torch.compile and torch.export it is always the weight.

    Few and large modes make few and large products: of 784 x 512 features with a tenth of the weights, a step of HT on
    modes (4·128, 4·196) takes a third of the time of one on (8·8·8, 7·8·14).  So where the rank is a share, the modes
    are chosen for the share: among two modes a side, of 4 at least where there are such factors, and three balanced
    ones, those of the least counted time for a batch of 64.  Only those are candidates with which the factors still
    have 95 % of the degrees of freedom that they have on the balanced modes (their numbers less the squares of the
    ranks, which are changes of bases).  Weights of trained and of random layers are approximated better on them; what
    is a Kronecker product of the balanced modes is not: give the shape for it.  A state_dict of a layer that was made
    when the balanced modes were the default is loaded with them.

    Factors are Gaussian, of a variance that gives the weight's entries that of nn.Linear in expectation.

    References
    ----------
    .. [1] A. Novikov et al., "Tensorizing neural networks", NeurIPS 2015.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.FactorizedLinear(784, 128, format="ht", rank=0.05, seed=0)
    >>> layer.shape
    ((4, 32), (4, 196))
    >>> layer(torch.zeros(2, 784)).shape, layer.applies
    (torch.Size([2, 128]), 'factor by factor')
    """

    _plain_type, _names = nn.Linear, ("in_features", "out_features", "bias")
    _timed = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        format: str = "ht",
        rank: RankLike = 0.5,
        shape: ShapeLike | None = None,
        seed: int | Generator | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = positive("in_features", in_features)
        self.out_features = positive("out_features", out_features)
        self._tensorize(format, rank, shape, bias, seed, device, dtype)

    @property
    def _plain_shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

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
