"""Regression on tables and images by one multilinear network on a tree."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from htf.models._encoded import EncodedEstimator
from htf.models._estimator import all_or_nothing, sample_weights, samples_and_targets
from htf.models._reading import mean_and_spread
from htf.models._reading import numbers as as_numbers
from htf.training.objectives import regression
from htf.tree import DimensionTree


class TensorRegressor(RegressorMixin, EncodedEstimator):  # type: ignore[misc]
    """Predict numbers by a tensor network: a function that is multilinear in the vectors (1, feature), or of patches.

    Of a table, that is a polynomial of degree 1 in each feature, with all interactions, whose coefficients make up a
    tensor of low hierarchical rank.

    Parameters
    ----------
    format, patch, stride, width, tree, dropout, shifts, flips, epochs, batch_size, lr, weight_decay, noise, patience
        As for `TensorClassifier`.
    seed, device, out, progress
        As for `TensorClassifier`.

    Attributes
    ----------
    module_ : EncodedNetwork
        Of standardized targets.
    history_ : History
    n_features_in_ : int

    See Also
    --------
    htf.models.TensorClassifier : classes in place of numbers.
    htf.models.load : a saved model.
    htf.cross_approximation : functions that can be evaluated anywhere.

    Examples
    --------
    >>> import numpy as np
    >>> import htf
    >>> X = np.random.RandomState(0).randn(200, 4)
    >>> model = htf.models.TensorRegressor(width=8).fit(X, X[:, 0] * X[:, 1] + X[:, 2])
    >>> model.score(X, X[:, 0] * X[:, 1] + X[:, 2]) > 0.9
    True
    """

    def __init__(
        self,
        *,
        format: str = "ht",
        patch: int | None = None,
        stride: int | None = None,
        width: int = 32,
        tree: DimensionTree | str | None = None,
        dropout: float = 0.0,
        shifts: int = 0,
        flips: bool = False,
        epochs: int = 50,
        batch_size: int | None = None,
        lr: float = 1e-2,
        weight_decay: float = 1e-2,
        noise: float = 0.5,
        patience: int | None = None,
        seed: int = 0,
        device: str = "auto",
        out: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        self.format, self.patch, self.stride, self.width, self.tree = format, patch, stride, width, tree
        self.dropout, self.shifts, self.flips = dropout, shifts, flips
        self.epochs, self.batch_size = epochs, batch_size
        self.lr, self.weight_decay, self.noise, self.patience = lr, weight_decay, noise, patience
        self.seed, self.device, self.out, self.progress = seed, device, out, progress

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: Any = None) -> Self:
        """Fit to samples with numbers.

        Parameters
        ----------
        X : array or Tensor
            As for `TensorClassifier.fit`.
        y : array or Tensor
            (samples,) or (samples, targets).
        sample_weight : array (samples,), optional
            Factors of the samples' losses, none below zero.
        validation : float or (X, y), optional
            A share of the samples to set aside, or others; the network of the epoch that explains most of the variance
            there is kept.

        Returns
        -------
        TensorRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            For another kind or shape of data, NaN or infinite entries, negative weights, or a parameter out of its
            range; the message names it.
        KeyboardInterrupt
            After the step in which it came; the best network so far is kept.

        Warns
        -----
        UserWarning
            If answers do not depend on the samples in the end, though the targets vary: nothing was learned.
        """
        samples, targets = self._checked(X, y, reset=True, supervised=True)
        targets = self._numbers(targets, reset=True)
        weights = sample_weights(sample_weight, len(samples))
        self._begin(samples, validation)
        scaled = (targets - self._mean) / self._scale
        aside = None
        split = self._split(validation, len(samples))
        if split is not None:
            kept, others = split
            aside = (samples[others], scaled[others].float())
            samples, scaled = samples[kept], scaled[kept]
            weights = None if weights is None else weights[kept]
        elif validation is not None:
            found, numbers = self._checked(*samples_and_targets(validation), reset=False, supervised=True)
            aside = (found, ((self._numbers(numbers, reset=False) - self._mean) / self._scale).float())
        objective = regression(
            (samples, scaled.float()), aside, batch_size=self._batch(len(samples)), sample_weight=weights
        )
        self._fit(objective, self.epochs)
        if weights is None and float(scaled.std(0, correction=0).amax()) > 0:
            self._tell_if_constant(samples, lambda found: found)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Numbers for samples, (samples,) or (samples, targets), as they were fitted.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            Before `fit`, or for samples of another shape.
        """
        found = self._predicted(X).double() * self._scale + self._mean
        return (found.squeeze(1) if self._single else found).numpy()

    def _numbers(self, y: Any, *, reset: bool) -> Tensor:
        numbers = as_numbers("y", y).double().numpy()
        if numbers.ndim == 2 and numbers.shape[1] == 1:
            numbers = column_or_1d(numbers, warn=True)
        targets = torch.from_numpy(numbers)
        if targets.ndim not in (1, 2) or not bool(targets.isfinite().all()):
            raise ValueError(
                f"y has shape {tuple(targets.shape)}; expected finite numbers, (samples,) or (samples, targets)"
            )
        single = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        if reset:
            self._single = single
            self._mean, spread = mean_and_spread(targets)
            self._scale = torch.where(spread > 0, spread, 1)
        elif targets.shape[1] != len(self._mean):
            raise ValueError(f"y has {targets.shape[1]} targets; expected {len(self._mean)}")
        return targets

    def _outputs(self) -> int:
        return len(self._mean)

    def _fitted(self) -> dict[str, Any]:
        own = {"mean": self._mean.tolist(), "scale": self._scale.tolist(), "single": self._single}
        return {**super()._fitted(), **own}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        fitted = about["fitted"]
        self._mean, self._scale = (
            torch.tensor(fitted[k], dtype=torch.float64, device="cpu") for k in ("mean", "scale")
        )
        self._single = fitted["single"]
        super()._restore(tensors, about, tree, device)
