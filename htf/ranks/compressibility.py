"""How few parameters the layers of a trained network need: their weights in tensor formats, to a noise on data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from htf._checks import finite, positive
from htf._modes import evaluated
from htf._repr import brief
from htf.nn import FactorizedConv2d, FactorizedLinear

_LAYERS: dict[type[nn.Module], Any] = {nn.Linear: FactorizedLinear, nn.Conv2d: FactorizedConv2d}
FORMATS = ("matrix", "tucker", "tt", "ht", "cp")


@dataclass(frozen=True)
class LayerCompressibility:
    """How few parameters the weight of a layer needs.

    Attributes
    ----------
    name, kind : str
        Of the layer.
    parameters : int
        Numbers in its weight, without bias.
    kept : dict of str to int
        The least numbers found in each format whose outputs differ by at most the noise; those of the plain weight
        where no smaller ones do.
    spectral_norm, stable_rank : float
        Of the weight as a matrix of outputs against the rest.

    See Also
    --------
    htf.ranks.compressibility : measures all layers of a network.

    Examples
    --------
    >>> import torch, htf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> _ = model[0].weight.data.copy_(torch.randn(32, 2) @ torch.randn(2, 16))  # of rank 2
    >>> x = torch.randn(100, 16)
    >>> first, last = htf.ranks.compressibility(model, x, noise=0.01, formats=["matrix", "tt"]).layers
    >>> first.name, first.parameters, first.effective, first.format
    ('0', 512, 96, 'matrix')
    >>> last.format  # nothing smaller than the plain weight will do
    ''
    """

    name: str
    kind: str
    parameters: int
    kept: Mapping[str, int]
    spectral_norm: float
    stable_rank: float

    __repr__ = brief

    @property
    def format(self) -> str:
        """The format that needs the fewest; "" if none needs fewer than the plain weight."""
        least = min(self.kept, key=lambda name: self.kept[name])
        return least if self.kept[least] < self.parameters else ""

    @property
    def effective(self) -> int:
        """The fewest numbers of all formats."""
        return min(self.kept.values())


@dataclass(frozen=True)
class Compressibility:
    """How few parameters a network needs, layer by layer; ``print`` shows a table.

    Attributes
    ----------
    noise : float
    layers : tuple of LayerCompressibility
        Layers that were looked at, in the order of the model.
    others : int
        Parameters that were not looked at: biases, norms, other layers.

    See Also
    --------
    htf.ranks.compressibility : measures it.
    htf.ranks.LayerCompressibility : a row of it.

    Examples
    --------
    >>> import torch, htf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> _ = model[0].weight.data.copy_(torch.randn(32, 2) @ torch.randn(2, 16))  # of rank 2
    >>> found = htf.ranks.compressibility(model, torch.randn(100, 16), noise=0.01, formats=["matrix"])
    >>> found.parameters, found.effective_parameters
    (676, 260)
    >>> round(found.bound(samples=60_000), 2)  # on the gap between train and test error
    0.22
    >>> print(found)
    layer  type    weights  matrix   share   norm
    0      Linear      512      96   18.8%   31.9
    2      Linear      128     128  100.0%  0.699
    260 of 676 parameters at a noise of 0.01
    """

    noise: float
    layers: tuple[LayerCompressibility, ...]
    others: int

    __repr__ = brief

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        return self.others + sum(layer.parameters for layer in self.layers)

    @property
    def effective_parameters(self) -> int:
        """Each layer in the format that needs the fewest, and all others as they are."""
        return self.others + sum(layer.effective for layer in self.layers)

    def bound(self, samples: int, *, bits: int = 32, confidence: float = 0.95) -> float:
        r"""Bound on the gap between train and test error of the compressed network.

        .. math:: \sqrt{\frac{q \, b \log 2 + \log(1 / \delta)}{2 m}}

        holds with probability :math:`1 - \delta` for all networks of q numbers of b bits at once, by Hoeffding's
        inequality and a union bound, with q the `effective_parameters`.  The choice of format and rank is not paid for:
        a few bits for each layer.

        Parameters
        ----------
        samples : int
            m, in training.
        bits : int
            b, of each number.
        confidence : float
            :math:`1 - \delta`.

        Returns
        -------
        float
            Above 1 it says nothing, as it does wherever a network has more parameters than samples.

        References
        ----------
        .. [1] S. Arora, R. Ge, B. Neyshabur, Y. Zhang, "Stronger generalization bounds for deep nets via a compression
           approach", ICML 2018, theorem 2.1.

        Examples
        --------
        >>> import htf
        >>> found = htf.ranks.Compressibility(noise=0.1, layers=(), others=1000)
        >>> [round(found.bound(samples, bits=8), 2) for samples in (10_000, 1_000_000)]
        [0.53, 0.05]
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence is {confidence}; expected between 0 and 1")
        numbers = self.effective_parameters * positive("bits", bits)
        return math.sqrt((numbers * math.log(2) - math.log(1 - confidence)) / (2 * positive("samples", samples)))

    @property
    def spectral_complexity(self) -> float:
        r"""The capacity :math:`\prod_l \|W_l\|_2^2 \sum_l \|W_l\|_F^2 / \|W_l\|_2^2` of spectral-norm bounds.

        Such bounds on the gap grow like its square root over margin and root of samples, for layers in a row without
        biases; a convolution's norm is that of its kernel as a matrix, by which the operator's is bounded but for the
        number of places of the kernel.

        References
        ----------
        .. [1] B. Neyshabur, S. Bhojanapalli, N. Srebro, "A PAC-Bayesian approach to spectrally-normalized margin bounds
           for neural networks", ICLR 2018, theorem 1.
        """
        product = math.prod(layer.spectral_norm**2 for layer in self.layers)
        return product * sum(layer.stable_rank for layer in self.layers)

    def __str__(self) -> str:
        formats = list(self.layers[0].kept)
        head = ["layer", "type", "weights", *formats, "share", "norm"]
        rows = [
            [
                layer.name or "(itself)",
                layer.kind,
                f"{layer.parameters:,}",
                *(f"{layer.kept[name]:,}" for name in formats),
                f"{layer.effective / layer.parameters:.1%}",
                f"{layer.spectral_norm:.3g}",
            ]
            for layer in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

        def line(cells: list[str]) -> str:
            left = [cell.ljust(width) for cell, width in zip(cells[:2], widths, strict=False)]
            return "  ".join([*left, *(c.rjust(w) for c, w in zip(cells[2:], widths[2:], strict=True))])

        total = f"{self.effective_parameters:,} of {self.parameters:,} parameters at a noise of {self.noise:g}"
        return "\n".join([line(head), *map(line, rows), total])


def compressibility(
    model: nn.Module,
    inputs: Tensor,
    *,
    noise: float = 0.1,
    formats: Sequence[str] = ("matrix", "tucker", "tt", "ht"),
    trials: int = 8,
) -> Compressibility:
    r"""The fewest parameters that the layers of a network keep in tensor formats, for a given noise at their outputs.

    For each linear layer and 2-D convolution of one group, with weight W and inputs x as they come to it on the data,
    the smallest factorization :math:`\tilde W` is looked for with

    .. math:: \|\tilde W x - W x\|_F \le \mathrm{noise} \, \|W x\|_F .

    Parameters
    ----------
    model : nn.Module
        In evaluation mode meanwhile; not changed.
    inputs : Tensor
        A batch that the model takes; some hundred samples do.
    noise : float
        Above 0 and below 1.
    formats : sequence of {"matrix", "tucker", "tt", "ht", "cp"}
        As of `htf.nn.FactorizedLinear` and `FactorizedConv2d`.  "cp" takes far longer than the others.
    trials : int
        Sizes that are tried for a layer and format, by bisection of their logarithm, as if the noise fell with every
        larger size: n numbers are told apart to a factor of ``n ** (1 / 2**trials)``, 5 % for a million weights and 8
        trials.

    Returns
    -------
    Compressibility

    Raises
    ------
    ValueError, TypeError
        If the noise is not above 0 and below 1, a format is unknown or named twice, the model has no such layer that
        the data reach, or gives it NaN or infinite values; the message names it.

    See Also
    --------
    htf.ranks.Compressibility : what it returns.
    htf.factorize : makes the smaller network.

    Notes
    -----
    Weights are approximated in the Frobenius norm, in float64, and judged on the data; a decomposition that knew the
    inputs' covariance would keep somewhat fewer.  Noises of layers add up on their way through a network: this measures
    layers, not how good the compressed network is (`htf.factorize` makes one).

    Takes `trials` decompositions of each layer in each format.

    References
    ----------
    .. [1] J. Li, Y. Sun, J. Su, T. Suzuki, F. Huang, "Understanding generalization in deep learning via tensor
       methods", AISTATS 2020.

    Examples
    --------
    >>> import torch, htf
    >>> layer = torch.nn.Linear(64, 64, bias=False)
    >>> weight = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> _ = layer.weight.data.copy_(weight @ weight.mT)
    >>> found = htf.ranks.compressibility(layer, torch.eye(64), noise=1e-3, formats=["matrix"])
    >>> found.parameters, found.effective_parameters  # rank 3: 3 * (64 + 64) numbers
    (4096, 384)
    """
    if not 0 < finite("noise", noise) < 1:
        raise ValueError(f"noise is {noise}; expected above 0 and below 1")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    formats, trials = _checked(formats), positive("trials", trials)
    seen = _inputs_of_layers(model, inputs)
    if not seen:
        raise ValueError(
            "model has no linear layer or 2-D convolution of one group that the data reach; expected one to compress"
        )
    layers = []
    for name, (layer, x) in seen.items():
        if not bool(x.isfinite().all()):
            raise ValueError(f"layer {name or 'model'} gets inputs that are NaN or infinite; expected finite ones")
        layers.append(_of_layer(name, layer, x, noise, formats, trials))
    looked_at = sum(layer.parameters for layer in layers)
    return Compressibility(float(noise), tuple(layers), sum(p.numel() for p in model.parameters()) - looked_at)


def _checked(formats: Sequence[str]) -> tuple[str, ...]:
    given = (formats,) if isinstance(formats, str) else tuple(formats)
    if not given or len(set(given)) < len(given) or set(given) - set(FORMATS):
        raise ValueError(f"formats is {formats!r}; expected some of {', '.join(FORMATS)}, each once")
    return given


@torch.no_grad()
def _inputs_of_layers(model: nn.Module, inputs: Tensor) -> dict[str, tuple[nn.Module, Tensor]]:
    """Layers by name with all inputs that come to them, in the order of the model; each once."""
    found: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.setdefault(layer, []).append(given[0].detach().reshape(-1, *given[0].shape[1:]))

    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) in _LAYERS and getattr(module, "groups", 1) == 1
    }
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers.values()]
    try:
        with evaluated(model):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # A layer that is called twice may get inputs of two sizes, as convolutions take; the first of each size is enough.
    return {
        name: (layer, torch.cat([x for x in found[layer] if x.shape[1:] == found[layer][0].shape[1:]]))
        for name, layer in layers.items()
        if layer in found
    }


@torch.no_grad()
def _of_layer(
    name: str, layer: Any, x: Tensor, noise: float, formats: tuple[str, ...], trials: int
) -> LayerCompressibility:
    size = layer.weight.numel()
    values = torch.linalg.svdvals(layer.weight.detach().double().flatten(1))
    spectral = float(values[0])
    stable = float(values.square().sum() / values[0].square()) if spectral else 0.0
    out = layer(x)
    reach = noise * float((out - layer(torch.zeros_like(x[:1]))).norm())
    kept = {format: _least_size(layer, x, out, reach, format, size, trials) for format in formats}
    return LayerCompressibility(name, type(layer).__name__, size, kept, spectral, stable)


def _least_size(layer: Any, x: Tensor, out: Tensor, reach: float, format: str, size: int, trials: int) -> int:
    """The fewest numbers found of which the layer's outputs are within `reach`."""
    best, low, high = size, 0.0, 1.0  # of log(size), 0 for one number
    for _ in range(trials):
        middle = (low + high) / 2
        smaller = _LAYERS[type(layer)].from_plain(layer, format, rank=size ** (middle - 1))
        numbers = sum(factor.numel() for factor in smaller.factors)
        if float((smaller(x) - out).norm()) <= reach:
            best, high = min(best, numbers), middle
        else:
            low = middle
    return best
