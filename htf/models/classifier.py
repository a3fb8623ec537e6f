"""Classification of images and tables by one multilinear network on a tree."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from htf.models._encoded import EncodedEstimator
from htf.models._estimator import all_or_nothing, sample_weights, samples_and_targets
from htf.models._reading import class_labels, classes_for_files, classes_of, expected_classes
from htf.training.objectives import classification
from htf.tree import DimensionTree


class TensorClassifier(ClassifierMixin, EncodedEstimator):  # type: ignore[misc]
    r"""Classify images or tables by a tensor network: logits that are multilinear in the vectors of a tree's leaves.

    A leaf reads a patch of the image, or a feature of the table, beside a constant; an inner node multiplies its
    children's vectors entry by entry and applies a matrix (Cohen, Sharir & Shashua 2016).  The vectors of each sample
    and node are divided by their root mean square, a positive number, so that outputs keep an ordinary size at any
    order; the class that is told is that of the multilinear form alone.

    Parameters
    ----------
    format : {"ht", "cp", "tt"}
        Tree: squares of patches, or pairs of features, joined level by level; all at once; or one after another.
    patch : int, optional
        Side of the patches of images; 4 by default, or 2 for images of less than 16 pixels.
    stride : int, optional
        Pixels from one patch to the next; `patch` by default.  Patches overlap if it is smaller.
    width : int
        Width R of all inner nodes.
    tree : DimensionTree or "arrange", optional
        In place of the one of `format`; its modes are patches, row by row, or features.  "arrange" finds it by
        `htf.arrange` from the correlations of the training samples, without the share for validation.
    dropout : float
        Share of nodes whose vectors are replaced by ones in training, sample by sample.
    label_smoothing : float
        Share of each target that is spread evenly over the classes.
    shifts : int
        Pixels by which images are moved at random in training, at most.
    flips : bool
        Whether half of the images are mirrored in training.
    class_weight : dict, "balanced" or None
        As in scikit-learn.
    epochs : int
    batch_size : int, optional
        128, or a sixteenth of the samples if that is less, but 8 at least.
    lr, weight_decay : float
        Of AdamW; the rate rises and falls by a one-cycle schedule.
    noise : float
        Spread of the start, see `htf.nn.init.scale_preserving`.
    patience : int, optional
        Stop when the accuracy on validation data has not risen for so many epochs.
    seed : int
        Of the start, the order of samples, what is dropped, and the split for validation.
    device : str
        "auto" takes a GPU if there is one.
    out : str or Path, optional
        Folder of the training, which goes on from there after an interrupt.
    progress : bool
        Show a bar with the time left.

    Attributes
    ----------
    classes_ : array (classes,)
    module_ : EncodedNetwork
    history_ : History
    n_features_in_ : int

    See Also
    --------
    htf.models.GenerativeClassifier : classes from samples with values missing.
    htf.models.TensorRegressor : numbers in place of classes.
    htf.models.load : a saved model.
    htf.training.classify : training of networks of one's own.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits")
    >>> model = htf.models.TensorClassifier(width=16, epochs=8, lr=0.01).fit(digits.train_images, digits.train_labels)
    >>> model.score(digits.test_images, digits.test_labels) > 0.8
    True

    References
    ----------
    .. [1] N. Cohen, O. Sharir, A. Shashua, "On the expressive power of deep learning: a tensor analysis", COLT 2016.
    """

    _normalized = True

    def __init__(
        self,
        *,
        format: str = "ht",
        patch: int | None = None,
        stride: int | None = None,
        width: int = 64,
        tree: DimensionTree | str | None = None,
        dropout: float = 0.1,
        label_smoothing: float = 0.05,
        shifts: int = 0,
        flips: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        epochs: int = 30,
        batch_size: int | None = None,
        lr: float = 4e-3,
        weight_decay: float = 1e-2,
        noise: float = 1.0,
        patience: int | None = None,
        seed: int = 0,
        device: str = "auto",
        out: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        self.format, self.patch, self.stride, self.width, self.tree = format, patch, stride, width, tree
        self.dropout, self.label_smoothing, self.shifts, self.flips = dropout, label_smoothing, shifts, flips
        self.class_weight, self.epochs, self.batch_size = class_weight, epochs, batch_size
        self.lr, self.weight_decay, self.noise, self.patience = lr, weight_decay, noise, patience
        self.seed, self.device, self.out, self.progress = seed, device, out, progress

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: Any = None) -> Self:
        """Fit to labelled samples.

        Parameters
        ----------
        X : array or Tensor
            Images (samples, height, width) or (samples, channels, height, width), of bytes or floats, or a table
            (samples, features).
        y : array or Tensor (samples,)
            Labels of any type that can be sorted.
        sample_weight : array (samples,), optional
            Factors of the samples' losses, none below zero.
        validation : float or (X, y), optional
            A share of the samples to set aside, or others; the network of the epoch with the highest accuracy there is
            kept.

        Returns
        -------
        TensorClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            For another kind or shape of data, samples that are NaN or infinite, a single class, negative weights, or a
            parameter out of its range; the message names it.
        KeyboardInterrupt
            After the step in which it came; the best network so far is kept.

        Warns
        -----
        UserWarning
            If answers do not depend on the samples in the end: nothing was learned.
        """
        samples, labels = self._checked(X, y, reset=True, supervised=True)
        self.__dict__.pop("_optimizer", None)
        labels = _labels(labels)
        self.classes_, codes = classes_of(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_.tolist()[0]!r}; expected at least 2")
        weights = self._weights(sample_weight, labels)
        self._begin(samples, validation)
        train, aside, weights = self._parts(samples, torch.from_numpy(codes).long(), weights, validation)
        objective = classification(
            train,
            aside,
            batch_size=self._batch(len(train[0])),
            sample_weight=weights,
            label_smoothing=self.label_smoothing,
        )
        self._fit(objective, self.epochs)
        if weights is None:  # which could leave a single class that counts
            self._tell_if_constant(train[0], partial(torch.softmax, dim=1))
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch at a constant rate, going on from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array, optional
            All classes that will come; needed at the first call, and at later ones the same.

        Returns
        -------
        TensorClassifier
            Itself.

        Examples
        --------
        >>> import htf
        >>> digits = htf.datasets.load("digits")
        >>> model = htf.models.TensorClassifier(width=8)
        >>> for start in (0, 150):  # as batches arrive
        ...     part = slice(start, start + 150)
        ...     _ = model.partial_fit(digits.train_images[part], digits.train_labels[part], classes=range(10))
        >>> model.predict_proba(digits.test_images[:5]).shape
        (5, 10)
        """
        first = not hasattr(self, "module_")
        self._check_parameters()
        if not first:
            self._check_structure()
        known = expected_classes(classes, None if first else self.classes_)
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight is {self.class_weight!r}, which needs all samples at once; partial_fit takes a dict or "
                "None"
            )
        samples, labels = self._checked(X, y, reset=first, supervised=True)
        labels = _labels(labels)
        if first:
            self.classes_ = known
            self._begin(samples)
        if first or not hasattr(self, "_optimizer"):
            self._optimizer = torch.optim.AdamW(self.module_.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        for group in self._optimizer.param_groups:
            group |= {"lr": self.lr, "weight_decay": self.weight_decay}
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"y has the label {unknown.tolist()[0]!r}; expected one of {self.classes_.tolist()}")
        codes = torch.from_numpy(np.searchsorted(self.classes_, labels)).long()
        weights = self._weights(sample_weight, labels)
        objective = classification(
            (samples, codes),
            batch_size=self._batch(len(samples)),
            sample_weight=weights,
            label_smoothing=self.label_smoothing,
        )
        optimizer = self._optimizer
        self._fit(objective, 1, "constant", lambda parameters, lr: optimizer)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, (samples, classes), in the order of `classes_`.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            Before `fit`, or for samples of another shape.
        """
        return self._predicted(X).double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample, (samples,).

        Raises
        ------
        NotFittedError, TypeError, ValueError
            Before `fit`, or for samples of another shape.
        """
        self._check_fitted()
        return self.classes_[self._predicted(X).argmax(1).numpy()]

    def _weights(self, sample_weight: Any, labels: np.ndarray) -> Tensor | None:
        """Weights of samples times those of their classes."""
        weights = sample_weights(sample_weight, len(labels))
        if self.class_weight is None:
            return weights
        balance = torch.from_numpy(compute_sample_weight(self.class_weight, labels))
        return balance if weights is None else weights * balance

    def _parts(
        self, samples: Tensor, codes: Tensor, weights: Tensor | None, validation: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None, Tensor | None]:
        """Data to train with, data set aside, and the weights of the former."""
        if validation is None:
            return (samples, codes), None, weights
        split = self._split(validation, len(samples))
        if split is not None:
            kept, aside = split
            weights = None if weights is None else weights[kept]
            return (samples[kept], codes[kept]), (samples[aside], codes[aside]), weights
        others, labels = self._checked(*samples_and_targets(validation), reset=False, supervised=True)
        labels = _labels(labels)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(f"validation has the label {unknown.tolist()[0]!r}, which y has not")
        return (samples, codes), (others, torch.from_numpy(np.searchsorted(self.classes_, labels)).long()), weights

    def _outputs(self) -> int:
        return len(self.classes_)

    def _fitted(self) -> dict[str, Any]:
        return {**super()._fitted(), "classes": classes_for_files(self.classes_), "dtype": self.classes_.dtype.str}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        self.classes_ = np.array(about["fitted"]["classes"], dtype=about["fitted"]["dtype"])
        super()._restore(tensors, about, tree, device)


def _labels(y: Any) -> np.ndarray:
    labels = column_or_1d(class_labels(y), warn=True)
    if labels.dtype.kind == "O":
        classes_of(labels)
    check_classification_targets(labels)
    return labels
