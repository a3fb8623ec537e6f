"""Leaves that are normal distributions of real numbers, and networks that mix them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from htf._checks import positive
from htf.nn.networks.distributions import Distributions, distributions
from htf.nn.networks.ht import HTNetwork

# Standard deviations that no normal distribution falls below, of the mode's own: a likelihood has no bound otherwise.
SMALLEST = 0.02
# Standard deviations at the start, in distances between neighbouring means.
OVERLAP = 1.0


class NormalLeaves(nn.Module):
    """Normal distributions of the modes' values.

    Parameters
    ----------
    means, deviations : Tensor
        (order, components), the latter above 0.
    smallest : Tensor, optional
        (order,): bounds below which expectation maximization takes no standard deviation; 0 by default.

    Attributes
    ----------
    mean, log_std : Parameter
        (order, components).

    Raises
    ------
    ValueError
        For other shapes, and deviations that are not above 0.

    See Also
    --------
    htf.nn.NormalNetwork : a density with them.
    htf.models.TensorDensity : an estimator, with ``leaf="gaussian"``.

    Examples
    --------
    >>> import torch, htf
    >>> leaves = htf.nn.NormalLeaves.of(torch.linspace(0, 1, 21)[:, None].expand(-1, 2), components=2)
    >>> leaves.mean[0].detach().round(decimals=2).tolist()
    [0.25, 0.75]
    """

    def __init__(self, means: Tensor, deviations: Tensor, smallest: Tensor | None = None) -> None:
        super().__init__()
        if means.ndim != 2 or means.shape != deviations.shape or not bool((deviations > 0).all()):
            raise ValueError(
                f"means and deviations have shapes {tuple(means.shape)} and {tuple(deviations.shape)}; expected "
                "(order, components) of both, and deviations above 0"
            )
        self.mean, self.log_std = nn.Parameter(means.clone()), nn.Parameter(deviations.log())
        self.smallest: Tensor
        self.register_buffer("smallest", means.new_zeros(len(means)) if smallest is None else smallest.to(means))

    @classmethod
    def of(cls, samples: Tensor, components: int, dtype: torch.dtype | None = None) -> NormalLeaves:
        """Means at evenly spaced quantiles of each mode, deviations of about their distances.

        Parameters
        ----------
        samples : Tensor
            (n, order), finite.
        components : int
            Of each mode.
        dtype : torch.dtype, optional
            Of the parameters; torch's default if it is not given.

        Returns
        -------
        NormalLeaves
            Standard deviations are bounded by a fiftieth of the mode's own.

        Raises
        ------
        TypeError, ValueError
            For samples that are not finite or of another shape, and `components` below 1.
        """
        samples = samples.double()
        if samples.ndim != 2 or not len(samples) or not bool(samples.isfinite().all()):
            raise ValueError(f"samples has shape {tuple(samples.shape)}; expected finite numbers (n, order), n above 0")
        at = (torch.arange(positive("components", components), device=samples.device) + 0.5) / components
        means = torch.quantile(samples, at.double(), dim=0).T  # (order, components)
        spread = samples.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        # Where samples repeat, quantiles coincide; a share of the spread keeps their components apart from a point.
        gaps = means.diff(dim=1).mean(1) if components > 1 else spread
        deviations = (OVERLAP * gaps).maximum(spread / components).unsqueeze(1).expand_as(means)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return cls(means.to(dtype), deviations.to(dtype), (SMALLEST * spread).to(dtype))

    def log_densities(self, values: Tensor) -> Tensor:
        """Logarithms of the densities, (n, order, components), of values (n, order); 0 where these are NaN."""
        known = ~values.isnan()
        x = torch.where(known, values, 0.0).to(self.mean.dtype).unsqueeze(-1)
        far = (x - self.mean) * (-self.log_std).exp()
        log = -0.5 * far.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.where(known.unsqueeze(-1), log, 0.0)

    def nearest(self, samples: Tensor) -> Tensor:
        """Numbers of the components with the nearest means, (n, order), of samples (n, order)."""
        found = [(part.unsqueeze(-1).to(self.mean) - self.mean).abs().argmin(-1) for part in samples.split(2048)]
        return torch.cat(found)

    def extra_repr(self) -> str:
        return f"order={len(self.mean)}, components={self.mean.shape[1]}"


class NormalNetwork(nn.Module):
    r"""A density of real numbers: an `HTNetwork` of distributions as columns, over the components of normal leaves.

    .. math:: p(x) = \sum_k W_{k_1 \ldots k_N} \prod_i \mathcal{N}(x_i; \mu_{i k_i}, \sigma_{i k_i}^2)

    for the tensor W of the network.  NaN stands for a value that is not known, and is integrated over.

    Parameters
    ----------
    leaves : NormalLeaves
    network : HTNetwork
        Of one run, whose dims are the number of components.

    Raises
    ------
    ValueError
        If they do not fit each other, and for a network of several runs or shared matrices.

    See Also
    --------
    htf.nn.NormalLeaves : its leaves.
    htf.models.TensorDensity : an estimator, with ``leaf="gaussian"``.

    Notes
    -----
    `htf.training.ExpectationMaximization` fits all of it in closed form; with the network fixed, means and deviations
    can be fitted by any optimizer.

    Examples
    --------
    >>> import torch, htf
    >>> from htf.training import Training, objectives
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> leaves = htf.nn.NormalLeaves.of(x, components=3)
    >>> start = htf.nn.init.distributions(leaves.nearest(x))
    >>> network = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 3, 2, init=start, seed=0)
    >>> density = htf.nn.NormalNetwork(leaves, network)
    >>> objective = objectives.likelihood(x, batch_size=50)
    >>> history = Training(density, objective, optimizer="expectation_maximization", lr=0.5).run(epochs=5)
    >>> bool(history.loss[-1] < history.loss[0])
    True
    """

    def __init__(self, leaves: NormalLeaves, network: HTNetwork) -> None:
        super().__init__()
        shape = (network.order, network.dims[0])
        if network.shared:
            raise ValueError("network has shared=True; expected a matrix of its own at each leaf, as leaves differ")
        if network.runs != 1 or set(network.dims) != {network.dims[0]} or tuple(leaves.mean.shape) != shape:
            raise ValueError(
                f"leaves have shape {tuple(leaves.mean.shape)} and the network has dims {network.dims} and "
                f"{network.runs} runs; expected a mode for each row, as many dims as components, and one run"
            )
        self.leaves, self.network = leaves, network

    @property
    def outputs(self) -> int:
        """Outputs of the network."""
        return self.network.outputs

    def plan(self, values: Tensor) -> Tensor:
        """Values (n, order) are taken as they are."""
        return values

    def log_abs(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Signs and logarithms of the densities of values (n, order), as `HTNetwork.log_abs` has them."""
        log = self.leaves.log_densities(values)
        # Every mode by its largest component, a constant, so that none is below all floats.
        largest = log.detach().amax(-1, keepdim=True)
        sign, found = self.network.log_abs((log - largest).exp())
        return sign, found + largest.sum((1, 2)).view(-1, *[1] * (found.ndim - 1))

    def forward(self, values: Tensor) -> Tensor:
        """Logarithms of the densities."""
        return self.log_abs(values)[1]


def normal_start(leaves: NormalLeaves, samples: Tensor) -> Distributions:
    """An `init` of the network over leaves: `htf.nn.init.distributions` of the nearest components of samples."""
    return distributions(leaves.nearest(samples))
