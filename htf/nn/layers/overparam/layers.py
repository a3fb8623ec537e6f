"""Linear layers and convolutions in the place of one that are products of several: over-parameterized layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from htf._checks import positive
from htf.nn.layers.overparam._arguments import channels_of_chain, check_intervals, check_plain, connected
from htf.nn.layers.overparam._composition import ConvChain
from htf.nn.layers.overparam._convolution import OverparamConv
from htf.nn.layers.overparam.base import Overparam, Seed


class OverparamLinear(Overparam):
    r"""A linear layer whose weight is a product, :math:`y = W_L \cdots W_1 x + b`, in place of `torch.nn.Linear`.

    Gradient descent on the factors prefers products of low rank, the more the deeper [1]_ [2]_.  Trained through the
    product: it is computed from the factors in the order of fewest multiplications, then applied once.  Outputs and
    gradients are those of applying the factors in turn, and what is kept for the backward pass is that of one layer.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        One vector at the end: those between the factors would add nothing to it.
    depth : int
        Factors L.
    width : int or sequence of int, optional
        Hidden widths from the input on, L - 1 of them, one standing for all; None for ``min(in_features,
        out_features)``, which leaves the rank free.
    residual : int or sequence of int
        Intervals n of residual connections: state m, the output of :math:`W_m`, gets state m - n added, for m = n,
        2n and so on up to L; -1 for L.
    batch_norm : bool
        Whether batch normalization follows each factor, before residual connections.  Then training mode runs the
        chain, and evaluation mode the effective weight with running statistics folded in.
    seed : int or torch.Generator, optional
        Of the initialization, which is the same on every device; None draws from torch's global generator.
    device, dtype : optional

    Attributes
    ----------
    factors : ParameterList
        From the input on; :math:`W_l` is (:math:`d_l`, :math:`d_{l-1}`).
    bias : Parameter or None
    weight : Tensor
        The effective weight, (out_features, in_features).
    effective_bias : Tensor or None
        With the shifts of batch normalization.
    depth : int
    widths, residual : tuple of int
    norms : ModuleList or None
    training_path : str
        "effective weight", or "chain" with batch normalization.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.overparameterize : puts such layers into a model.
    htf.nn.OverparamConv2d : convolutions.
    htf.collapse : plain layers again.

    Notes
    -----
    Initialization: Gaussian factors of equal Frobenius norms in expectation, which gradient flow keeps [1]_, such that
    entries of the product have the variance of `torch.nn.Linear`'s, 1 / (3 in_features); the bias is uniform within
    ± 1 / √in_features, as there.  Residual connections add identities to that.  Batch normalization takes out the scale
    of what goes through it in training mode; in evaluation mode, before any training, the variance holds.

    `load_state_dict` also takes the state of the plain layer, and splits its weight as ``from_plain`` does.

    Composing costs the multiplications of the product of the factors, the same for any batch: little where the samples
    of a batch, and for convolutions their pixels, outnumber the hidden channels.  Of small batches through wide layers,
    `chain` costs less.  In evaluation mode it is done at every call too; `plain` does it once.

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018, theorem 1.
    .. [2] M. Huh, H. Mobahi, R. Zhang, B. Cheung, P. Agrawal, P. Isola, "The low-rank simplicity bias in deep
       networks", TMLR 2023.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.OverparamLinear(20, 10, depth=3, seed=0)
    >>> layer(torch.ones(5, 20)).shape, layer.weight.shape
    (torch.Size([5, 10]), torch.Size([10, 20]))
    >>> layer.plain()
    Linear(in_features=20, out_features=10, bias=True)
    """

    norm_type = nn.BatchNorm1d

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        depth: int = 2,
        width: int | Sequence[int] | None = None,
        residual: int | Sequence[int] = (),
        batch_norm: bool = False,
        seed: Seed = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        ends = positive("in_features", in_features), positive("out_features", out_features)
        depth = positive("depth", depth)
        channels = channels_of_chain(ends, depth, width, [min(ends)] * (depth - 1), groups=1)
        intervals = check_intervals(residual, depth)
        layout = connected(ConvChain(channels, ((),) * depth), intervals)
        super().__init__(layout, intervals, bias=bias, batch_norm=batch_norm, seed=seed, device=device, dtype=dtype)
        self.in_features, self.out_features = ends

    @classmethod
    def from_plain(
        cls,
        layer: nn.Linear,
        depth: int = 2,
        *,
        width: int | Sequence[int] | None = None,
        residual: int | Sequence[int] = (),
        batch_norm: bool = False,
        start: str = "same",
        seed: Seed = None,
    ) -> Self:
        """A layer in the place of a plain one, on its device, in its dtype and mode.

        Parameters
        ----------
        layer : torch.nn.Linear
        depth, width, residual, batch_norm
            See the class.
        start : str
            "same": balanced factors that compose to the layer's weight, and its bias; hidden channels beyond the rank
            are fed nothing at first, but can be woken by gradients.  With batch normalization, outputs are the same in
            evaluation mode.  "random": an initialization of its own.
        seed : int or torch.Generator, optional
            Of an initialization, and of what leaves hidden channels beyond the rank.

        Raises
        ------
        TypeError
            If `layer` is not a `torch.nn.Linear` with a weight of its own: quantized, scripted, parametrized, not yet
            initialized, or of another kind.
        ValueError
            If a width is below the rank of the weight, residual connections cross, or an argument does not fit.

        Examples
        --------
        >>> import torch, htf
        >>> plain = torch.nn.Linear(8, 6)
        >>> layer = htf.nn.OverparamLinear.from_plain(plain, depth=3, seed=0)
        >>> torch.allclose(layer(torch.eye(8)), plain(torch.eye(8)), atol=1e-5)
        True
        """
        check_plain(layer, nn.Linear, start)
        return cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            depth=depth,
            width=width,
            residual=residual,
            batch_norm=batch_norm,
            seed=seed,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )._start_from(layer, start)

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return linear(x, weight, bias)

    def _padded(self, x: Tensor) -> Tensor:
        return x

    def _link(self, place: int, x: Tensor, factor: Tensor) -> Tensor:
        return linear(x, factor)

    def _normalized(self, norm: nn.Module, y: Tensor) -> Tensor:
        return norm(y.reshape(-1, y.shape[-1])).view(y.shape)

    def _skipped(self, x: Tensor, start: int, stop: int, like: Tensor) -> Tensor:
        return x

    def _plain_layer(self, start: int, stop: int, weight: Tensor, bias: Tensor | None) -> nn.Module:
        layer = skip_init(
            nn.Linear, weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype
        )
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        return layer

    def _of_widths(self, widths: Sequence[int]) -> Self:
        factor, bias = self.factors[0], self.bias is not None or self.batch_norm
        return type(self)(
            self.in_features,
            self.out_features,
            bias,
            depth=len(widths) + 1,
            width=widths,
            seed=0,
            device=factor.device,
            dtype=factor.dtype,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            + super().extra_repr()
        )


class OverparamConv2d(OverparamConv):
    r"""A convolution that is a chain of them without nonlinearities, in place of `torch.nn.Conv2d`.

    As `OverparamLinear`, trained through the composed kernel: one convolution of the activations, whatever the depth.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in `torch.nn.Conv2d`.  The input is padded before the first factor only, every factor is dilated and grouped,
        and the stride is that of the last factor whose kernel is larger than 1: so the chain is the convolution with
        the composed kernel exactly, up to the border.
    depth : int
        Factors.
    width : int or sequence of int, optional
        Hidden channels, multiples of the groups; None for the smaller of out_channels and in_channels · taps (before
        a larger kernel: of in_channels and out_channels · taps), in each group, which leaves the weight free if one
        kernel is larger than 1.
    kernel_sizes : sequence of int or tuple, optional
        Of the factors, from the input on, with :math:`1 + \sum_l (k_l - 1)` = kernel_size in each dimension;
        None for (kernel_size, 1, ..., 1).
    residual : int or sequence of int
        As in `OverparamLinear`: a state is added through the identity at the centre of the kernel that it leaps over,
        with its stride, so that sizes fit as they would with padding.
    batch_norm, seed, device, dtype
        As in `OverparamLinear`.

    Attributes
    ----------
    factors : ParameterList
        From the input on, (out, in / groups, \*kernel).
    kernel_sizes : tuple of tuple of int
        Of the factors.
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        As in `torch.nn.Conv2d`.
    bias, weight, effective_bias, depth, widths, residual, norms, training_path
        As in `OverparamLinear`.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.overparameterize : puts such layers into a model.
    htf.nn.OverparamConv1d, htf.nn.OverparamConv3d, htf.nn.OverparamLinear : other layers.
    htf.collapse : plain layers again.

    Notes
    -----
    Initialization as in `OverparamLinear`.  With several kernels larger than 1, middle taps of the product are sums of
    more terms than outer ones: then it is the mean of the variance over the taps that is the plain layer's.

    ``from_plain`` and the state of a plain layer need kernel sizes of which one at most is larger than 1; else only
    ``start="random"``.

    References
    ----------
    .. [1] S. Guo, J. M. Alvarez, M. Salzmann, "ExpandNets: linear over-parameterization to train compact convolutional
       networks", NeurIPS 2020.
    .. [2] M. Huh, H. Mobahi, R. Zhang, B. Cheung, P. Agrawal, P. Isola, "The low-rank simplicity bias in deep
       networks", TMLR 2023.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.OverparamConv2d(3, 16, 5, padding=2, depth=3, kernel_sizes=(3, 3, 1), seed=0)
    >>> layer(torch.ones(2, 3, 8, 8)).shape, layer.weight.shape
    (torch.Size([2, 16, 8, 8]), torch.Size([16, 3, 5, 5]))
    """

    dims = 2
    plain_type = nn.Conv2d
    norm_type = nn.BatchNorm2d


class OverparamConv1d(OverparamConv):
    """`OverparamConv2d` with one dimension, in place of `torch.nn.Conv1d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in `torch.nn.Conv1d`, with what `OverparamConv2d` says of them.
    depth, width, kernel_sizes, residual, batch_norm, seed, device, dtype
        As in `OverparamConv2d`; kernel sizes are integers, or have one entry.

    Attributes
    ----------
    factors, kernel_sizes, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        As in `OverparamConv2d`.
    bias, weight, effective_bias, depth, widths, residual, norms, training_path
        As in `OverparamLinear`.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.nn.OverparamConv2d, htf.nn.OverparamConv3d, htf.nn.OverparamLinear : other layers.
    htf.overparameterize : puts such layers into a model.

    Examples
    --------
    >>> import torch, htf
    >>> layer = htf.nn.OverparamConv1d(4, 8, 5, padding=2, depth=3, seed=0)
    >>> layer(torch.ones(2, 4, 16)).shape, [tuple(factor.shape) for factor in layer.factors]
    (torch.Size([2, 8, 16]), [(8, 4, 5), (8, 8, 1), (8, 8, 1)])
    >>> layer.plain()
    Conv1d(4, 8, kernel_size=(5,), stride=(1,), padding=(2,))
    """

    dims = 1
    plain_type = nn.Conv1d
    norm_type = nn.BatchNorm1d


class OverparamConv3d(OverparamConv):
    """`OverparamConv2d` with three dimensions, in place of `torch.nn.Conv3d`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        As in `torch.nn.Conv3d`, with what `OverparamConv2d` says of them.
    depth, width, kernel_sizes, residual, batch_norm, seed, device, dtype
        As in `OverparamConv2d`; kernel sizes are integers, or have three entries.

    Attributes
    ----------
    factors, kernel_sizes, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        As in `OverparamConv2d`.
    bias, weight, effective_bias, depth, widths, residual, norms, training_path
        As in `OverparamLinear`.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.nn.OverparamConv1d, htf.nn.OverparamConv2d, htf.nn.OverparamLinear : other layers.
    htf.overparameterize : puts such layers into a model.

    Examples
    --------
    >>> import torch, htf
    >>> plain = torch.nn.Conv3d(2, 4, 3)
    >>> layer = htf.nn.OverparamConv3d.from_plain(plain, depth=2, seed=0)
    >>> x = torch.ones(1, 2, 5, 5, 5)
    >>> layer(x).shape, torch.allclose(layer(x), plain(x), atol=1e-5)
    (torch.Size([1, 4, 3, 3, 3]), True)
    """

    dims = 3
    plain_type = nn.Conv3d
    norm_type = nn.BatchNorm3d
