"""A density that can be asked for likelihoods, samples and missing values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from sklearn.base import DensityMixin
from torch import Generator, Tensor, nn

from htf._checks import natural, positive
from htf.models._born import ObservedGramians, draw_squared, samples_at_once
from htf.models._estimator import all_or_nothing, sample_weights
from htf.models._levels import Levels, read
from htf.models._probabilistic import Probabilistic
from htf.nn.networks.gramians import log_norm
from htf.tree import DimensionTree

# Entries of the largest tensor over which an expectation is summed exactly.
SUMMED = 2**16


class Estimate(float):
    """A number with the standard error of its estimation, 0 where it is exact.

    Attributes
    ----------
    standard_error : float
    """

    standard_error: float

    def __new__(cls, value: float, standard_error: float = 0.0) -> Self:
        """Make one."""
        made = super().__new__(cls, value)
        made.standard_error = standard_error
        return made

    def __reduce__(self) -> Any:
        return type(self), (float(self), self.standard_error)

    def __repr__(self) -> str:
        error = f" ± {self.standard_error:.2g}" if self.standard_error else ""
        return f"{float(self)!r}{error}"


class TensorDensity(DensityMixin, Probabilistic):  # type: ignore[misc]
    r"""A probability tensor in hierarchical format, fitted to images or tables of discrete values, or of real numbers.

    Leaves of the tree are distributions over the values of a pixel or feature, inner nodes mix products of their
    children's distributions, and the entry of the tensor is the probability: nothing is to be normalized, and any set
    of values can be summed over.

    Parameters
    ----------
    levels : int
        Values that a pixel can take.  Integers below it are taken as they are, bytes beyond it and real numbers are put
        into so many levels of equal width.
    width : int
        Components of every inner node.
    patch : int
        For images, the pixels that are joined first, patch × patch; four patches at every further level.
    seed : int
        Of the start, of the order of samples, and of a share for validation.
    leaf : str
        "categorical"; "binomial", of one parameter per component in place of `levels`, for values that are counts or
        intensities; or "gaussian" for real numbers, of which leaves mix `components` normal distributions.
    format : str
        "ht"; "cp", a mixture of products; or "tt", the linear tree.
    tree : DimensionTree, optional
        Of the pixels, row by row, or features; by default a grid for images and the balanced one for tables.
    squared : bool
        Let the probability be the square of a signed tensor over its sum (a Born machine).
    epochs, batch_size : int
    lr : float, optional
        Share of a batch in a step of expectation maximization, by default 0.3; Adam's rate, 0.01, with `squared`.
    schedule : str or callable
        Of `lr`; see `htf.training.Training`.
    smoothing : float
        Observations that are added to each value of every distribution, as in Laplace's rule.
    patience : int, optional
        Epochs without a better likelihood of the validation samples after which to stop.
    dtype : torch.dtype, optional
        float32 by default.
    device : str or torch.device, optional
        "auto" takes a GPU if there is one.
    out : str or Path, optional
        Folder of the training, which goes on from there after an interrupt.
    progress : bool
        Show a bar with the time left.
    components : int
        Normal distributions of each feature, for Gaussian leaves.

    Attributes
    ----------
    network_ : HTNetwork
        Also as `network`.  Columns of its matrices have sums of 1; with `squared`, the squares of its outputs have.
        For Gaussian leaves its entries are the probabilities of choices of their components.
    leaves_ : NormalLeaves or None
        Means and deviations of Gaussian leaves, of standardized values.
    history_ : History
        Losses of epochs, in nats, and what was measured of the validation samples; of standardized values for Gaussian
        leaves.
    n_features_in_ : int
        Pixels or features.

    See Also
    --------
    htf.models.GenerativeClassifier : classes by Bayes' rule.
    htf.plotting.plot_completions, htf.plotting.plot_learned : pictures.
    htf.models.load : a saved model.
    htf.training.objectives.likelihood, htf.training.ExpectationMaximization : what it is trained by.

    Notes
    -----
    Answers are tensors where tensors are asked for, else NumPy arrays.  Real numbers beyond those that were fitted
    belong to the outermost levels; integers from `levels` on are refused.  For Gaussian leaves, likelihoods, entropies
    and bits are those of densities, which may exceed 1, and no standard deviation falls below a fiftieth of its
    feature's.

    References
    ----------
    .. [1] O. Sharir, R. Tamari, N. Cohen, A. Shashua, "Tensorial mixture models", 2016.
    .. [2] Z.-Y. Han et al., "Unsupervised generative modeling using matrix product states", Phys. Rev. X 8 (2018); S.
       Cheng et al., "Tree tensor networks for generative modeling", Phys. Rev. B 99 (2019): squared tensors.

    Examples
    --------
    >>> import math
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (500, 6), generator=torch.Generator().manual_seed(0))
    >>> x[:, 3] = x[:, 0]
    >>> density = htf.models.TensorDensity(levels=2, width=4, epochs=20, batch_size=50, device="cpu").fit(x)
    >>> missing = torch.zeros(1, 6, dtype=torch.bool).index_fill(1, torch.tensor([3]), True)
    >>> int(density.most_probable(torch.ones(1, 6, dtype=torch.long), missing=missing)[0, 3])
    1
    >>> density.sample(3, seed=0).shape, bool(density.mutual_information([3]) > 0.8 * math.log(2))
    (torch.Size([3, 6]), True)
    """

    _flags = ("squared",)

    def __init__(
        self,
        levels: int = 256,
        width: int = 64,
        *,
        patch: int = 2,
        seed: int = 0,
        leaf: str = "categorical",
        format: str = "ht",
        tree: DimensionTree | None = None,
        squared: bool = False,
        epochs: int = 20,
        batch_size: int = 256,
        lr: float | None = None,
        schedule: Any = "cosine",
        smoothing: float = 0.05,
        patience: int | None = None,
        dtype: torch.dtype | None = None,
        device: Any = "auto",
        out: Any = None,
        progress: bool = False,
        components: int = 8,
    ) -> None:
        self.levels = levels
        self.width = width
        self.patch = patch
        self.seed = seed
        self.leaf = leaf
        self.format = format
        self.tree = tree
        self.squared = squared
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.smoothing = smoothing
        self.patience = patience
        self.dtype = dtype
        self.device = device
        self.out = out
        self.progress = progress
        self.components = components

    @all_or_nothing
    def fit(self, x: Any, y: Any = None, *, validation: Any = None, sample_weight: Any = None) -> Self:
        """Fit to samples.

        Parameters
        ----------
        x : array or Tensor
            (samples, height, width) or (samples, features).
        y : ignored
        validation : float, array or Tensor, optional
            A share of the samples, or others: the epoch at which they are most likely is kept.
        sample_weight : array or Tensor, optional
            (samples,) of at least 0.

        Returns
        -------
        TensorDensity
            Itself.

        Raises
        ------
        TypeError, ValueError
            For a setting or data that do not fit; the message names what came and what was expected.
        KeyboardInterrupt
            After which the estimator has the best parameters so far.
        """
        self._check_parameters()
        given = read(x)
        weights = sample_weights(sample_weight, len(given.values))
        self.levels_ = self._codes_of(given.values)
        kept: tuple[Tensor, Tensor | None] | None = None
        split = self._split(validation, len(given.values))
        if split is not None:
            train, rest = split
            kept = self.levels_.encode(given.values[rest]), None
            weights = None if weights is None else weights[train]
            given = type(given)(given.values[train], None, given.as_tensor, given.shape)
        elif validation is not None:
            kept = self.levels_.encode(read(validation, shape=given.shape).values), None
        self._fit(given, None, 1, weights, kept)
        return self

    @all_or_nothing
    def partial_fit(self, x: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch at a constant rate, going on from where the last call, or `fit`, ended.

        Parameters
        ----------
        x, y, sample_weight
            As for `fit`.  The first samples decide the levels of values, or their scale, and the start.

        Returns
        -------
        TensorDensity
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`; for samples of another shape than before.
        """
        self._check_parameters()
        given = self._more(x)
        self._learn_more(given, None, 1, sample_weights(sample_weight, len(given.values)))
        return self

    def _settle(self, model: nn.Module) -> None:
        super()._settle(model)
        if self._made("squared"):
            with torch.no_grad():
                # Spread over all matrices, as the factor is beyond all floats.
                share = (-log_norm(self.network_).double() / (2 * self.network_.tree.n_nodes)).exp()
                for weight in self.network_.weights:
                    weight.mul_(share.to(weight))

    # -- likelihoods ----------------------------------------------------------------------------------

    def log_prob(self, x: Any, missing: Any = None) -> Any:
        """Log-likelihoods of samples, in nats.

        Parameters
        ----------
        x : array or Tensor
            (samples, height, width) or (samples, features), as fitted.
        missing : array or Tensor of bool, optional
            Of the shape of `x`, True where a value is not known, NaN or other: it is summed over.

        Returns
        -------
        array or Tensor
            (samples,) float64; -inf for what is impossible, 0 for a sample of which nothing is known.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError, ValueError
            For samples of another shape or range, NaN that is not marked, or a mask of another shape.

        Examples
        --------
        >>> import torch, htf
        >>> x = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0))
        >>> density = htf.models.TensorDensity(levels=2, width=4, epochs=3, device="cpu").fit(x)
        >>> every = torch.cartesian_prod(*[torch.arange(2)] * 4)
        >>> round(density.log_prob(every).exp().sum().item(), 4)  # probabilities of all 16 samples
        1.0
        >>> missing = torch.tensor([[False, False, True, True]])
        >>> pair = density.log_prob(torch.tensor([[1, 0, -1, -1]]), missing)  # two values are summed over
        >>> bool(abs(pair.exp() - density.log_prob(every).exp()[8:12].sum()) < 1e-6)
        True
        """
        given, indices, gone = self._read(x, missing)
        return self._answer(self._log_prob(indices, gone), given.as_tensor)

    def score_samples(self, x: Any) -> Any:
        """As `log_prob`, by the name that scikit-learn's densities give it."""
        return self.log_prob(x)

    def score(self, x: Any, y: Any = None) -> float:
        """Mean log-likelihood of samples, in nats."""
        _, indices, _ = self._read(x)
        return float(self._log_prob(indices, None).mean())

    def bits_per_dim(self, x: Any) -> float:
        """Mean negative log-likelihood of samples in bits, over the number of pixels or features."""
        return -self.score(x) / (self.n_features_in_ * math.log(2))

    @torch.no_grad()
    def _log_prob(self, indices: Tensor, missing: Tensor | None) -> Tensor:
        if not self._made("squared"):
            return self._log_outputs(indices, missing)[:, 0]
        norm = float(log_norm(self.network_))
        if missing is None or not bool(missing.any()):
            return 2 * self._log_outputs(indices, None)[:, 0] - norm
        found = []
        size, device = samples_at_once(self.network_), self.network_.device
        for k in range(0, len(indices), size):
            x, gone = (t[k : k + size].to(device) for t in (indices, missing))
            found.append(ObservedGramians(self.network_, x, gone).log.cpu())
        return torch.cat(found) - norm

    # -- samples and completions ----------------------------------------------------------------------

    def sample(self, n: int = 1, given: Any = None, missing: Any = None, seed: int | Generator | None = None) -> Any:
        """Draw samples, all of them or what is missing given the rest.

        Parameters
        ----------
        n : int
        given : array or Tensor, optional
            One sample, or several.
        missing : array or Tensor of bool
            Of the shape of `given`, True for the values to be drawn.
        seed : int or torch.Generator, optional
            By default torch's global generator.

        Returns
        -------
        array or Tensor
            (n, height, width) or (n, features); with several samples `given`, (samples, n, ...).

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError, ValueError
            If one of `given` and `missing` comes alone, as `log_prob` for what does not fit, and if what is given has
            the probability 0.

        Notes
        -----
        From the root down: a component is drawn, then one of each child; O(nodes · width) per sample, and O(nodes ·
        width²) where some values are given.  With `squared`, value by value, O(nodes · width³).

        Examples
        --------
        >>> import torch, htf
        >>> x = torch.randint(0, 3, (200, 4), generator=torch.Generator().manual_seed(0))
        >>> x[:, 1] = x[:, 0]
        >>> density = htf.models.TensorDensity(levels=3, width=4, smoothing=1e-6, device="cpu").fit(x)
        >>> density.sample(5, seed=0).shape
        torch.Size([5, 4])
        >>> known = torch.tensor([[0, -1, -1, -1], [2, -1, -1, -1]])
        >>> drawn = density.sample(10, given=known, missing=known < 0, seed=0)
        >>> drawn.shape, drawn[:, :, 1].unique(dim=1).tolist()  # feature 1 repeats feature 0
        (torch.Size([2, 10, 4]), [[0], [2]])
        """
        self._check_fitted()
        n = positive("n", n)
        generator = seed if isinstance(seed, Generator) or seed is None else _seeded(seed)
        if (given is None) != (missing is None):
            alone = "given" if missing is None else "missing"
            raise ValueError(f"{alone} comes alone; expected given and missing, or neither of them")
        if given is None:
            blank = torch.zeros(n, self.n_features_in_, dtype=torch.int16, device="cpu")
            drawn = self._sampled(blank, torch.ones_like(blank, dtype=torch.bool), generator, free=True)
            return self._answer(self.levels_.decode(drawn).view(n, *self.shape_), self._tensors)
        single = getattr(given, "ndim", None) == len(self.shape_)
        found, indices, gone = self._read(*((given[None], missing[None]) if single else (given, missing)))
        assert gone is not None
        indices, gone = indices.repeat_interleave(n, 0), gone.repeat_interleave(n, 0)
        drawn = self._sampled(indices, gone, generator)
        repeated = type(found)(found.values.repeat_interleave(n, 0), gone, found.as_tensor, found.shape)
        values = self._completed(repeated, drawn, gone)
        return self._answer(values.view(*(() if single else (-1,)), n, *self.shape_), found.as_tensor)

    @torch.no_grad()
    def _sampled(self, indices: Tensor, missing: Tensor, generator: Generator | None, free: bool = False) -> Tensor:
        if not self._made("squared"):
            outputs = torch.zeros(len(indices), dtype=torch.long, device="cpu")
            return self._draw(outputs, generator, *(() if free else (indices, missing)))
        size, device, found = samples_at_once(self.network_), self.network_.device, []
        for k in range(0, len(indices), size):
            x, gone = (t[k : k + size].to(device) for t in (indices, missing))
            found.append(draw_squared(self.network_, x, gone, generator).cpu())
        return torch.cat(found)

    @torch.no_grad()
    def most_probable(self, x: Any, missing: Any) -> Any:
        """Complete samples by max-product.

        Parameters
        ----------
        x : array or Tensor
            As for `log_prob`.
        missing : array or Tensor of bool
            Of the shape of `x`, True for the values to be found.

        Returns
        -------
        array or Tensor
            Of the shape of `x`.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As `log_prob`; also for a sample whose known values are impossible, and with `squared`, where products of
            maxima mean nothing.

        Notes
        -----
        The values and the components of all nodes are the most probable ones together, exactly.  The values alone are
        the most probable ones where each can come from one choice of components only, such as at width 1; in general
        to find those is NP-hard.  O(nodes · width²) per sample.
        """
        given, indices, gone = self._read(x, missing)
        if self._made("squared"):
            raise ValueError(
                "squared is True; expected a density of mixtures: a square has no most probable choice of them"
            )
        if gone is None:
            raise ValueError("missing is None; expected a mask, True for the values to be found")
        levels = self._most_probable(indices.new_zeros(len(indices), dtype=torch.long), indices, gone)
        return self._answer(self._completed(given, levels, gone).view(-1, *self.shape_), given.as_tensor)

    # -- information ----------------------------------------------------------------------------------

    def entropy(self, samples: int = 10_000, seed: int | Generator | None = 0) -> Estimate:
        """Entropy of the density, in nats.

        Parameters
        ----------
        samples : int
            Drawn where the tensor has more than 2¹⁶ entries; otherwise the entropy is summed exactly.
        seed : int, torch.Generator or None

        Returns
        -------
        Estimate
            A float with the attribute `standard_error`.
        """
        return self._expectation(lambda x: -self._log_prob(x, None), samples, seed)

    def mutual_information(
        self, modes: int | Iterable[int], samples: int = 10_000, seed: int | Generator | None = 0
    ) -> Estimate:
        """Mutual information of some pixels or features with all the others, in nats.

        Parameters
        ----------
        modes : int or iterable of int
            Numbers of pixels, row by row, or of features; ``density.network.tree.modes(node)`` for those of a node.
        samples, seed
            As for `entropy`.

        Returns
        -------
        Estimate
            A float with the attribute `standard_error`.

        Raises
        ------
        IndexError, ValueError
            For modes out of range, none or all of them.
        """
        self._check_fitted()
        order = self.n_features_in_
        chosen = sorted({operator.index(m) for m in (modes if isinstance(modes, Iterable) else [modes])})
        if not chosen or len(chosen) == order:
            raise ValueError(f"modes holds {'none' if not chosen else 'all'} of {order}; expected some, but not all")
        if chosen[0] < 0 or chosen[-1] >= order:
            raise IndexError(f"modes holds {chosen[0] if chosen[0] < 0 else chosen[-1]}; there are 0 to {order - 1}")
        inside = torch.zeros(order, dtype=torch.bool, device="cpu")
        inside[chosen] = True

        def information(x: Tensor) -> Tensor:
            apart = [self._log_prob(x, mask.expand(len(x), -1)) for mask in (inside, ~inside)]
            return self._log_prob(x, None) - apart[0] - apart[1]

        return self._expectation(information, samples, seed)

    def _expectation(self, of: Callable[[Tensor], Tensor], samples: int, seed: Any) -> Estimate:
        self._check_fitted()
        order = self.n_features_in_
        if isinstance(self.levels_, Levels) and order * math.log(self.levels_.levels) <= math.log(SUMMED) + 1e-9:
            axes = [torch.arange(self.levels_.levels, dtype=torch.int16, device="cpu")] * order
            x = torch.cartesian_prod(*axes)
            log = self._log_prob(x, None)
            possible = log > -math.inf
            return Estimate(float((log[possible].exp() * of(x[possible])).sum()))
        samples = positive("samples", samples)
        if samples < 2:
            raise ValueError(f"samples is {samples}; expected at least 2, for a standard error")
        generator = seed if isinstance(seed, Generator) or seed is None else _seeded(seed)
        blank = torch.zeros(samples, order, dtype=torch.int16, device="cpu")
        x = self._sampled(blank, torch.ones_like(blank, dtype=torch.bool), generator, free=True)
        x = x.to(torch.int16) if isinstance(self.levels_, Levels) else x
        values = of(x)
        return Estimate(float(values.mean()), float(values.std() / math.sqrt(samples)))


def _seeded(seed: Any) -> Generator:
    return Generator().manual_seed(natural("seed", seed))
