"""A classifier that needs no value of its input: probabilities of samples and classes together."""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.exceptions import DataConversionWarning
from torch import Generator, Tensor

from htf._checks import natural
from htf.models._estimator import all_or_nothing, default_batch, sample_weights, samples_and_targets
from htf.models._levels import read
from htf.models._probabilistic import Probabilistic
from htf.models._reading import class_labels, classes_for_files, classes_of, expected_classes, same_kind
from htf.models._reading import numbers as as_numbers
from htf.tree import DimensionTree


class GenerativeClassifier(ClassifierMixin, Probabilistic):  # type: ignore[misc]
    r"""Classes by Bayes' rule from one hierarchical tensor of probabilities of samples in each class.

    The classes share all of a tree of mixtures but the weights of its root.  A class is told from whatever is known of
    a sample, :math:`P(y \mid x) \propto P(y) P(x_{known} \mid y)`: nothing is imputed.

    Parameters
    ----------
    levels, width, patch, seed, format, tree, components
        As for `TensorDensity`.
    leaf : str
        As for `TensorDensity`; "binomial" by default.
    priors : array, optional
        Probabilities of the classes, in sorted order; by default their shares of the fitted samples.
    batch_size : int, optional
        128, or a sixteenth of the samples if that is less, but 8 at least.
    smoothing : float
        As for `TensorDensity`; 0.01 by default.
    epochs, lr, schedule, patience, dtype, device, out, progress
        As for `TensorDensity`.

    Attributes
    ----------
    network_ : HTNetwork
        Also as `network`; of one output per class.
    classes_ : ndarray
        Labels of the classes, sorted.
    priors_ : ndarray
        Their probabilities.
    history_ : History
    n_features_in_ : int

    See Also
    --------
    htf.models.TensorDensity : without classes.
    htf.models.TensorClassifier : trained to tell classes, where nothing is missing.
    htf.plotting.plot_missing_data : accuracies under missing pixels.
    htf.models.load : a saved model.

    Notes
    -----
    `leaf`, `batch_size` and `smoothing` are those that told most labels of a fifth of the digits' training images,
    which was held out (three draws); batches of 256 and categorical leaves, of a parameter per grey level, told fewer.

    References
    ----------
    .. [1] O. Sharir, R. Tamari, N. Cohen, A. Shashua, "Tensorial mixture models", 2016.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randint(0, 2, (400, 6), generator=torch.Generator().manual_seed(0))
    >>> y = x[:, 0] + x[:, 1]
    >>> classifier = htf.models.GenerativeClassifier(levels=2, width=6, epochs=20, device="cpu").fit(x, y)
    >>> bool(classifier.score(x, y) > 0.95)
    True
    >>> classifier.predict(torch.tensor([[1, 1, 0, 0, 0, 0]]), missing=torch.tensor([[False] * 2 + [True] * 4]))
    array([2])
    """

    def __init__(
        self,
        levels: int = 256,
        width: int = 64,
        *,
        patch: int = 2,
        seed: int = 0,
        leaf: str = "binomial",
        format: str = "ht",
        tree: DimensionTree | None = None,
        priors: Any = None,
        epochs: int = 20,
        batch_size: int | None = None,
        lr: float | None = None,
        schedule: Any = "cosine",
        smoothing: float = 0.01,
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
        self.priors = priors
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
        """Fit to labelled samples, by expectation maximization of the likelihood of samples and classes together.

        Parameters
        ----------
        x : array or Tensor
            (samples, height, width) or (samples, features).
        y : array or Tensor
            (samples,) labels of at least two classes: integers, strings or booleans.
        validation : float, or (x, y), optional
            A share of the samples, or others: the epoch at which most of them are told is kept.
        sample_weight : array or Tensor, optional
            (samples,) of at least 0.

        Returns
        -------
        GenerativeClassifier
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
        labels = _labels(y, len(given.values))
        weights = sample_weights(sample_weight, len(given.values))
        self.classes_, codes = classes_of(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]!r}; a classifier needs at least 2 classes")
        numbers = torch.from_numpy(codes).long()
        self.levels_ = self._codes_of(given.values)
        self._seen = torch.bincount(numbers, weights, minlength=len(self.classes_)).double()
        self.priors_ = self._priors(self._seen)
        kept: tuple[Tensor, Tensor | None] | None = None
        split = self._split(validation, len(given.values))
        if split is not None:
            train, rest = split
            kept = self.levels_.encode(given.values[rest]), numbers[rest]
            numbers, weights = numbers[train], None if weights is None else weights[train]
            given = type(given)(given.values[train], None, given.as_tensor, given.shape)
        elif validation is not None:
            other_x, other_y = samples_and_targets(validation)
            others = read(other_x, shape=given.shape)
            kept = self.levels_.encode(others.values), self._numbers(_labels(other_y, len(others.values)))
        self._fit(given, numbers, len(self.classes_), weights, kept)
        return self

    @all_or_nothing
    def partial_fit(self, x: Any, y: Any = None, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch at a constant rate, going on from where the last call, or `fit`, ended.

        Parameters
        ----------
        x, y, sample_weight
            As for `fit`.  The first samples decide the levels of values, or their scale, and the start.
        classes : array, optional
            All classes that will come; needed at the first call, and at later ones the same.

        Returns
        -------
        GenerativeClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`; for samples of another shape than before, and labels that are none of the classes.
        """
        self._check_parameters()
        first = not hasattr(self, self._model)
        known = expected_classes(classes, None if first else self.classes_)
        given = self._more(x)
        labels = _labels(y, len(given.values))
        weights = sample_weights(sample_weight, len(given.values))
        if first:
            self.classes_ = known
            self._seen = torch.zeros(len(self.classes_), dtype=torch.float64, device="cpu")
        numbers = self._numbers(labels)
        self._seen = self._seen + torch.bincount(numbers, weights, minlength=len(self.classes_))
        self.priors_ = self._priors(self._seen)
        self._learn_more(given, numbers, len(self.classes_), weights)
        return self

    def _class_priors(self) -> Tensor:
        return torch.from_numpy(self.priors_)

    def _batch(self, samples: int) -> int:
        return self.batch_size or default_batch(samples)

    def _priors(self, seen: Tensor) -> np.ndarray[Any, Any]:
        """Probabilities of the classes, by default from how much was seen of each."""
        if self.priors is None:
            return (seen / seen.sum()).numpy()
        found = as_numbers("priors", self.priors).double().numpy()
        if found.shape != (len(self.classes_),):
            raise ValueError(f"priors has shape {found.shape}; expected ({len(self.classes_)},), one for each class")
        if not (found >= 0).all() or abs(found.sum() - 1) > 1e-6:
            raise ValueError(f"priors are {found}; expected probabilities whose sum is 1")
        return found

    def _numbers(self, labels: np.ndarray[Any, Any]) -> Tensor:
        known = np.isin(labels, self.classes_)
        if not known.all():
            raise ValueError(f"y holds {labels[~known][0]!r}, which is none of the fitted classes")
        return torch.from_numpy(np.searchsorted(self.classes_, labels)).long()

    def log_joint(self, x: Any, missing: Any = None) -> Any:
        """Logarithms of the probabilities of samples and classes together, in nats.

        Parameters
        ----------
        x : array or Tensor
            (samples, height, width) or (samples, features), as fitted.
        missing : array or Tensor of bool, optional
            Of the shape of `x`, True where a value is not known, NaN or other: it is summed over.

        Returns
        -------
        array or Tensor
            (samples, classes) float64.

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
        >>> model = htf.models.GenerativeClassifier(levels=2, width=4, epochs=5, device="cpu").fit(x, x[:, 0])
        >>> joint = model.log_joint(x[:3])  # samples, classes
        >>> bool((joint.argmax(1) == x[:3, 0]).all()), torch.allclose(joint.logsumexp(1), model.log_prob(x[:3]))
        (True, True)
        """
        given, indices, gone = self._read(x, missing)
        return self._answer(self._log_joint(indices, gone), given.as_tensor)

    def log_prob(self, x: Any, missing: Any = None) -> Any:
        """Log-likelihoods of samples of any class, (samples,) in nats; arguments as those of `log_joint`."""
        given, indices, gone = self._read(x, missing)
        return self._answer(self._log_joint(indices, gone).logsumexp(1), given.as_tensor)

    def _log_joint(self, indices: Tensor, missing: Tensor | None) -> Tensor:
        return self._log_outputs(indices, missing) + torch.from_numpy(self.priors_).log()

    def predict_log_proba(self, x: Any, missing: Any = None) -> Any:
        """Logarithms of the probabilities of the classes; see `predict_proba`."""
        given, found = self._log_posterior(x, missing)
        return self._answer(found, given.as_tensor)

    def predict_proba(self, x: Any, missing: Any = None) -> Any:
        """Probabilities of the classes of samples, given all that is known of them.

        Parameters
        ----------
        x : array or Tensor
            As for `log_joint`.
        missing : array or Tensor of bool, optional
            As for `log_joint`.

        Returns
        -------
        array or Tensor
            (samples, classes) float64, in the order of `classes_`.  The priors, for a sample that is impossible in
            every class.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As `log_joint`, and for a sample of which nothing is known.
        """
        given, found = self._log_posterior(x, missing)
        return self._answer(found.exp(), given.as_tensor)

    def _log_posterior(self, x: Any, missing: Any) -> tuple[Any, Tensor]:
        given, indices, gone = self._read(x, missing)
        if gone is not None and bool(gone.all(1).any()):
            row = int(gone.all(1).nonzero()[0])
            raise ValueError(f"missing marks all of sample {row}; nothing is known of it to tell its class from")
        joint = self._log_joint(indices, gone)
        impossible = (joint == -math.inf).all(1, keepdim=True)
        joint = torch.where(impossible, torch.from_numpy(self.priors_).log(), joint)
        return given, joint.log_softmax(1)

    def predict(self, x: Any, missing: Any = None) -> np.ndarray[Any, Any]:
        """The most probable class of each sample; arguments and errors as those of `predict_proba`.

        Returns
        -------
        ndarray
            (samples,) of labels as in `classes_`.
        """
        _, found = self._log_posterior(x, missing)
        return self.classes_[found.argmax(1).numpy()]

    def score(self, x: Any, y: Any, sample_weight: Any = None, *, missing: Any = None) -> float:
        """Share of right labels."""
        predicted = self.predict(x, missing)
        labels = _labels(y, len(predicted))
        same_kind(labels, self.classes_)
        right = predicted == labels
        weights = sample_weights(sample_weight, len(labels))
        return float(np.average(right, weights=None if weights is None else weights.numpy()))

    def sample(self, labels: Any, seed: int | Generator | None = None) -> Any:
        """Draw a sample of each class that is named.

        Parameters
        ----------
        labels : sequence
            (n,) of labels as in `classes_`.
        seed : int or torch.Generator, optional
            By default torch's global generator.

        Returns
        -------
        array or Tensor
            (n, height, width) or (n, features).
        """
        self._check_fitted()
        chosen = self._numbers(_labels(labels, np.size(labels)))
        generator = Generator().manual_seed(natural("seed", seed)) if isinstance(seed, int) else seed
        drawn = self.levels_.decode(self._draw(chosen, generator))
        return self._answer(drawn.view(-1, *self.shape_), self._tensors)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, about = super().state()
        about["settings"]["priors"] = None if self.priors is None else np.asarray(self.priors).tolist()
        classes = classes_for_files(self.classes_)
        about |= {"classes": [classes, self.classes_.dtype.str], "priors": self.priors_.tolist()}
        return tensors, about | {"seen": self._seen.tolist()}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        super()._restore(tensors, about, tree, device)
        labels, dtype = about["classes"]
        self.classes_, self.priors_ = np.array(labels, dtype=np.dtype(dtype)), np.array(about["priors"])
        self._seen = torch.tensor(about.get("seen", about["priors"]), dtype=torch.float64, device="cpu")


def _labels(given: Any, samples: int) -> np.ndarray[Any, Any]:
    """Labels (samples,) as an array; a ValueError where there are none, others than samples, or real numbers."""
    if given is None:
        raise ValueError("This GenerativeClassifier requires y to be passed, but the target y is None")
    found = np.asarray(class_labels(given))
    if found.ndim == 2 and found.shape[1] == 1:
        message = (
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (samples,)"
        )
        warnings.warn(message, DataConversionWarning, stacklevel=3)
        found = found[:, 0]
    if found.shape != (samples,):
        raise ValueError(f"y has shape {found.shape}; expected ({samples},), a label for each sample")
    if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.round(found)).all()):
        raise ValueError("Unknown label type: y holds real numbers; expected classes")
    if found.dtype.kind not in "biufOU":
        raise ValueError(f"Unknown label type: y has dtype {found.dtype}")
    return found
