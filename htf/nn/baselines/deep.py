"""Fully connected networks of any depth, many independent ones at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Generator, Tensor, nn

from htf._checks import positive
from htf._random import Seed, generators, rand, randn
from htf.linalg.chain import chain_product

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "linear": (lambda x: x, 1.0),
    "relu": (torch.relu, math.sqrt(2)),
    "tanh": (torch.tanh, 1.0),
}
"""Each activation, and the gain of a layer that it follows."""


class DeepNetwork(nn.Module):
    r"""Independent fully connected networks :math:`W_L \phi(W_{L-1} \cdots \phi(W_1 x))`, a batched product per layer.

    Parameters
    ----------
    inputs, outputs : int
        Dimensions of the first layer's input and of the last layer's output.
    depth : int
        Layers L with weights; 1 is a linear map.
    width : int
        Of every hidden layer.
    activation : {"linear", "relu", "tanh"}
        After every layer but the last.
    runs : int
        Independent networks.
    init : {"normal", "uniform", "orthogonal"}
        Of each layer's entries; see Notes.
    bias : bool
        Whether layers have biases, which start at zero.
    seed : int, torch.Generator or sequence of int, optional
        One per run makes a run start as it would alone.  None draws from torch's global generator.
    dtype, device : optional
        Of the parameters; torch's defaults if they are not given.

    Attributes
    ----------
    weights : ParameterList
        Per layer from the input on, (runs, out, in).
    biases : ParameterList
        Per layer, (runs, out); empty without biases.
    inputs, outputs, depth, width, runs : int
    activation : str

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.nn.MatrixFactorization : linear networks that are fitted to entries of a matrix.
    htf.ranks.kernel_effective_rank : ranks of its features.

    Notes
    -----
    Entries have variance :math:`g^2 / d_{\text{in}}`, Gaussian or uniform, with the gain g of what follows the layer:
    :math:`\sqrt 2` for ReLU (He et al. 2015), 1 for linear and tanh (Glorot & Bengio 2010) and for the last layer.
    "orthogonal" draws g times a uniformly random matrix of orthonormal rows or columns, of the same variance (Saxe et
    al. 2014).

    O(runs n L width²) multiplications for n inputs.  A loss that is a sum over runs gives each run the gradient that it
    would have alone, so optimizers that act on each entry by itself train all runs independently.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
       2010.
    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.
    .. [3] A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
       linear neural networks", ICLR 2014.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.DeepNetwork(4, 3, depth=5, width=8, activation="relu", runs=100, seed=0)
    >>> x = torch.ones(7, 4)
    >>> net(x).shape, net.features(x).shape
    (torch.Size([100, 7, 3]), torch.Size([100, 7, 8]))
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int,
        width: int,
        *,
        activation: str = "linear",
        runs: int = 1,
        init: str = "normal",
        bias: bool = False,
        seed: Seed = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = positive("inputs", inputs), positive("outputs", outputs)
        self.depth, self.width, self.runs = positive("depth", depth), positive("width", width), positive("runs", runs)
        self.activation = _known("activation", activation, ACTIVATIONS)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}; expected a real floating type")
        sizes = (self.inputs, *(self.width,) * (self.depth - 1), self.outputs)
        self.weights = nn.ParameterList(
            torch.empty(self.runs, rows, columns, dtype=dtype, device=device)
            for rows, columns in zip(sizes[1:], sizes, strict=False)
        )
        self.biases = nn.ParameterList(
            torch.empty(self.runs, rows, dtype=dtype, device=device) for rows in (sizes[1:] if bias else ())
        )
        self.reset_parameters(init, seed)

    @torch.no_grad()
    def reset_parameters(self, init: str = "normal", seed: Seed = None) -> None:
        """Start again; arguments as in the constructor."""
        draw = _DRAWS[_known("init", init, _DRAWS)]
        for run, generator in enumerate(generators(seed, self.runs)):
            for layer, weight in enumerate(self.weights, 1):
                gain = ACTIVATIONS[self.activation][1] if layer < self.depth else 1.0
                # In double precision whatever the dtype, so that runs of any dtype start alike.
                weight[run] = (gain * draw(weight.shape[1], weight.shape[2], generator)).to(weight)
        for bias in self.biases:
            bias.zero_()

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the last layer: the last hidden activations, or at depth 1 the inputs themselves.

        Parameters
        ----------
        x : Tensor
            (n, inputs) for all runs, or (runs, n, inputs), of the network's dtype.

        Returns
        -------
        Tensor
            (runs, n, width), or (runs, n, inputs) at depth 1.
        """
        return self._below(self._check(x), self.depth - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every run.

        Parameters
        ----------
        x : Tensor
            (n, inputs) for all runs, or (runs, n, inputs), of the network's dtype.

        Returns
        -------
        Tensor
            (runs, n, outputs).

        Raises
        ------
        ValueError, TypeError
            If `x` is none of these.
        """
        return self._apply_layer(self.depth - 1, self.features(x))

    def select(self, runs: Tensor) -> DeepNetwork:
        """A network of some of the runs, with copies of their parameters.

        Parameters
        ----------
        runs : Tensor
            Their numbers, or (runs,) of bool; at least one.
        """
        chosen = self.weights[0].detach()[runs]
        if runs.ndim != 1 or not len(chosen):
            raise ValueError(f"runs has shape {tuple(runs.shape)} and chooses {len(chosen)}; expected some of one axis")
        # Not by the constructor, which would draw what is overwritten here.
        other = DeepNetwork.__new__(DeepNetwork)
        nn.Module.__init__(other)
        other.inputs, other.outputs, other.depth, other.width = self.inputs, self.outputs, self.depth, self.width
        other.activation, other.runs = self.activation, len(chosen)
        other.weights = nn.ParameterList(weight.detach()[runs] for weight in self.weights)
        other.biases = nn.ParameterList(bias.detach()[runs] for bias in self.biases)
        return other

    def end_matrices(self) -> Tensor:
        """The products W_L···W_1, (runs, outputs, inputs), of linear networks without biases; gradients flow.

        Raises
        ------
        ValueError
            If the networks are no linear maps.
        """
        if self.activation != "linear" or len(self.biases):
            with_bias = " with biases" if len(self.biases) else ""
            raise ValueError(f"the network is {self.activation}{with_bias}; only linear ones are their matrices")
        return chain_product(list(self.weights)[::-1])

    def _below(self, x: Tensor, layers: int) -> Tensor:
        activation = ACTIVATIONS[self.activation][0]
        for layer in range(layers):
            x = activation(self._apply_layer(layer, x))
        return x

    def _apply_layer(self, layer: int, x: Tensor) -> Tensor:
        transposed = self.weights[layer].mT
        if not len(self.biases):
            return torch.bmm(x, transposed)
        return torch.baddbmm(self.biases[layer][:, None], x, transposed)

    def _check(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; expected a tensor")
        if x.dtype != self.weights[0].dtype:
            raise TypeError(f"x has dtype {x.dtype}; the network has {self.weights[0].dtype}")
        if x.ndim == 2 and x.shape[1] == self.inputs:
            return x.expand(self.runs, *x.shape)
        if x.ndim == 3 and (x.shape[0], x.shape[2]) == (self.runs, self.inputs):
            return x
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (n, {self.inputs}) or ({self.runs}, n, {self.inputs})"
        )

    def extra_repr(self) -> str:
        return (
            f"inputs={self.inputs}, outputs={self.outputs}, depth={self.depth}, width={self.width}, "
            f"activation={self.activation!r}, runs={self.runs}"
        )


def _normal(rows: int, columns: int, generator: Generator | None) -> Tensor:
    return randn((rows, columns), generator) / math.sqrt(columns)


def _uniform(rows: int, columns: int, generator: Generator | None) -> Tensor:
    between = 2 * rand((rows, columns), generator) - 1
    return between * math.sqrt(3 / columns)


def _orthogonal(rows: int, columns: int, generator: Generator | None) -> Tensor:
    """Orthonormal rows or columns, whichever there can be, times what makes the variance 1 / columns."""
    tall = randn((max(rows, columns), min(rows, columns)), generator)
    q, r = torch.linalg.qr(tall)
    # The signs of R's diagonal are QR's choice; without them the matrix is uniformly distributed.
    q = q * r.diagonal().sign()
    return (q if rows >= columns else q.mT) * math.sqrt(max(rows / columns, 1))


_DRAWS: dict[str, Callable[[int, int, Generator | None], Tensor]] = {
    "normal": _normal,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
}


def _known(name: str, value: str, choices: Collection[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
    return value
