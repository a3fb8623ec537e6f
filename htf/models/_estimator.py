"""Base of all estimators: settings in common, trees, splits, training, and files."""

from __future__ import annotations

import numbers
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn

from htf._checks import check_seed, positive
from htf._files import write_tensors
from htf._machine import usable_device
from htf.models._reading import numbers as as_numbers
from htf.nn import HTNetwork
from htf.tensors import HTTensor
from htf.training import History, Training, early_stopping
from htf.training.objectives import Objective
from htf.training.sample_weights import check_weights
from htf.training.state_dicts import load_weights
from htf.tree import DimensionTree

FORMATS = ("ht", "cp", "tt")
# Batches by default: as many samples as leave an epoch of a small table this many steps, within bounds.
LEAST_STEPS, LEAST_BATCH, LARGEST_BATCH = 16, 8, 128
FILE_KIND = "a model"

Arguments = ParamSpec("Arguments")
Fitted = TypeVar("Fitted", bound="TensorEstimator")
Fitting = Callable[Concatenate[Fitted, Arguments], Fitted]


def all_or_nothing(fit: Fitting[Fitted, Arguments]) -> Fitting[Fitted, Arguments]:
    """Let a fit that is refused leave the estimator as it was: its answers are those of one fit, not parts of two.

    After an interrupt, a network that was trained is kept.
    """

    def whole(self: Fitted, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Fitted:
        before = dict(self.__dict__)
        try:
            return fit(self, *args, **kwargs)
        except BaseException as error:
            if isinstance(error, Exception) or self.__dict__.get(self._model) is before.get(self._model):
                self.__dict__.clear()
                self.__dict__.update(before)
            raise

    return wraps(fit)(whole)  # type: ignore[return-value] # of the same arguments


class TensorEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn has no annotations
    """An estimator whose model has a network on a tree; use one of its subclasses.

    Attributes
    ----------
    history_ : History
        Losses, and what was measured after each epoch.
    n_features_in_ : int
        Features of a table, or pixels of an image.
    """

    # The fitted attribute that holds the network, or a module with one.
    _model: ClassVar[str]
    # Settings that count something, or may be None.
    _counts: ClassVar[tuple[str, ...]] = ("width", "epochs")
    _optional_counts: ClassVar[tuple[str, ...]] = ("patience",)
    _flags: ClassVar[tuple[str, ...]] = ()
    _named_trees: ClassVar[tuple[str, ...]] = ()  # that are found from the samples
    _structure: ClassVar[tuple[str, ...]] = ("format", "patch", "width", "tree")  # settings of which a network is made

    # Arguments of all of them; scikit-learn reads those of the constructor of each class.
    format: str
    width: int
    tree: DimensionTree | str | None
    epochs: int
    patience: int | None
    seed: int
    device: Any
    out: str | os.PathLike[str] | None
    progress: bool

    history_: History
    n_features_in_: int

    # -- what it has learned ------------------------------------------------------------------------------

    @property
    def network(self) -> HTNetwork:
        """The fitted network.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        model = getattr(self, self._model)
        network: HTNetwork = getattr(model, "network", model)
        return network

    def to_tensor(self) -> HTTensor:
        """The multilinear form of the network in HT format: its entries are outputs on unit vectors.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return self.network.to_tensor()

    def _check_fitted(self) -> None:
        check_is_fitted(self, self._model)

    # -- settings -----------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        """Refuse settings that do not fit, before any data are looked at."""
        for name in self._counts:
            positive(name, getattr(self, name))
        for name in self._optional_counts:
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        for name in (*self._flags, "progress"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} is {getattr(self, name)!r}; expected True or False")
        check_seed(self.seed)
        if self.out is not None and not isinstance(self.out, str | os.PathLike):
            raise TypeError(f"out is {self.out!r}; expected a path or None")
        if not isinstance(self.device, str | torch.device | None):
            raise TypeError(f"device is {self.device!r}; expected a name, a torch.device or None")
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
        if isinstance(self.tree, str):
            if self.tree not in self._named_trees:
                known = " or ".join(["a DimensionTree", *map(repr, self._named_trees)])
                raise ValueError(f"tree is {self.tree!r}; expected {known}")
        elif self.tree is not None and not isinstance(self.tree, DimensionTree):
            raise TypeError(f"tree is a {type(self.tree).__name__}; expected a DimensionTree")

    def _note_structure(self) -> None:
        """Remember the settings of which the network is made: those of the estimator may be set anew."""
        self._made_with = {name: getattr(self, name) for name in self._structure}

    def _made(self, name: str) -> Any:
        """A setting as it was when the network was made."""
        return self.__dict__.get("_made_with", {}).get(name, getattr(self, name))

    def _check_structure(self) -> None:
        """Refuse to go on with settings of another network than the fitted one."""
        for name in self._structure:
            now, then = getattr(self, name), self._made(name)
            if now is not then and now != then:
                raise ValueError(
                    f"{name} is {now!r}; this {type(self).__name__} was fitted with {name}={then!r}: partial_fit "
                    "goes on with the network that is there, and fit begins anew"
                )

    def _tree_of(self, order: int, default: DimensionTree | None = None) -> DimensionTree:
        """The tree that was given, or the one of the format: for "ht" a default, or the balanced one."""
        if isinstance(self.tree, DimensionTree):
            if self.tree.order != order:
                raise ValueError(f"tree has {self.tree.order} modes; the samples have {order}")
            return self.tree
        return default if self.format == "ht" and default is not None else plain_tree(order, self.format)

    def _place(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return usable_device("cpu" if self.device is None else self.device)

    def _split(self, validation: Any, samples: int) -> tuple[Tensor, Tensor] | None:
        """Numbers of the samples to train with and of those set aside; None unless a share of them is to be.

        Raises
        ------
        TypeError, ValueError
            For True, a share beyond 0 and 1, and one that leaves no samples.
        """
        if isinstance(validation, bool | np.bool_):
            raise TypeError(f"validation is {validation}; expected a share, samples or None")
        if not isinstance(validation, int | float | np.integer | np.floating):
            return None
        share = float(validation)
        if not 0 < share < 1:
            raise ValueError(f"validation is {share}; expected a share between 0 and 1, samples, or None")
        aside = max(1, round(share * samples))
        if aside >= samples:
            raise ValueError(f"validation is {share} of {samples} samples; none would be left to train on")
        order = torch.randperm(samples, generator=Generator().manual_seed(self.seed), device="cpu")
        return order[aside:].sort().values, order[:aside].sort().values

    # -- training -----------------------------------------------------------------------------------------

    def _train(
        self, model: nn.Module, objective: Objective, *, optimizer: Any, lr: float, schedule: Any, epochs: int
    ) -> None:
        """Train a model, and leave it as it was after the best epoch, also where it is interrupted."""
        training = Training(
            model,
            objective,
            optimizer=optimizer,
            lr=lr,
            schedule=schedule,
            rules=() if self.patience is None else early_stopping(self.patience),
            out=self.out,
            device=self._place(),
            seed=self.seed,
        )
        try:
            training.run(epochs=epochs, progress=self.progress)
        except KeyboardInterrupt:
            self._keep(model, training)
            raise
        self._keep(model, training)

    def _keep(self, model: nn.Module, training: Training) -> None:
        record: Any = training.recording
        if record.epochs:
            self.history_ = record.history()
        if training.objective.judge and record.best_epoch:
            load_weights(model, record.best)
        self._settle(model)

    @abstractmethod
    def _settle(self, model: nn.Module) -> None:
        """Take a trained model as what was fitted."""

    # -- files --------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, from which `from_state` makes the same fitted estimator.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        tree = self.network.tree
        settings = {name: value for name, value in self.get_params(deep=False).items() if name != "tree"}
        settings |= {name: self._made(name) for name in self._structure if name in settings}
        settings["out"], given = None, self._made("tree")
        settings["device"] = None if self.device is None else str(self.device)
        about = {
            "model": type(self).__name__,
            "settings": settings,
            "own_tree": isinstance(given, DimensionTree),
            "named_tree": given if isinstance(given, str) else None,
            "tree": [tree.order, [list(tree.children(node)) for node in tree.inner_nodes]],
        }
        return {}, about

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], about: dict[str, Any], device: Any = None) -> Self:
        """The estimator whose `state` is given.

        Parameters
        ----------
        tensors, about : dict
        device : str or torch.device, optional
            Where its network is to be; by default as the setting `device` says, or the CPU where that cannot be.

        Raises
        ------
        ValueError
            If it is that of another kind of model.
        """
        if about.get("model") != cls.__name__:
            raise ValueError(f"the file holds a {about.get('model')}; expected a {cls.__name__}")
        if "parameters" in about:
            about = _of_nested_trees(about)
        tree = DimensionTree(*about["tree"])
        made = cls(**cls._settings(about["settings"]), tree=tree if about["own_tree"] else about.get("named_tree"))
        if device is None:
            usable = made.device == "auto" or torch.device(made.device or "cpu").type == "cpu"
            place = made._place() if usable or torch.cuda.is_available() else torch.device("cpu")
        else:
            place = usable_device(device)
        made._restore(tensors, about, tree, place)
        made._note_structure()
        return made

    @classmethod
    def _settings(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor from the settings of a file."""
        return dict(saved)

    @abstractmethod
    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        """Take what was fitted from a file."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a safetensors file; `htf.models.load` reads it.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OSError
            If the file cannot be written; what was there is kept.
        """
        write_tensors(Path(path), *self.state(), kind=FILE_KIND)


def default_batch(samples: int) -> int:
    """Samples of a batch where none were asked for."""
    return max(LEAST_BATCH, min(LARGEST_BATCH, samples // LEAST_STEPS))


def sample_weights(given: Any, samples: int) -> Tensor | None:
    """Weights (samples,) float64 of the samples of a user, one number standing for all; None for none."""
    if given is None:
        return None
    if isinstance(given, numbers.Real):
        given = np.full(samples, float(given))
    return check_weights(as_numbers("sample_weight", given).double(), samples)


def plain_tree(order: int, format: str) -> DimensionTree:
    """The tree of a format over modes without an arrangement."""
    if format == "ht":
        return DimensionTree.balanced(order)
    return DimensionTree.balanced(order, max(order, 2)) if format == "cp" else DimensionTree.linear(order)


def samples_and_targets(validation: Any) -> tuple[Any, Any]:
    """The pair that `validation` is where it is no share, or a TypeError."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation is a {type(validation).__name__}; expected a share, a pair (X, y), or None")
    return validation[0], validation[1]


def _of_nested_trees(about: dict[str, Any]) -> dict[str, Any]:
    """As files have it now, from those of 0.2, which nested the trees of classifiers and regressors."""
    settings = {name: value for name, value in about["parameters"].items() if name != "tree"}
    tree = DimensionTree.from_nested(_as_tuples(about["tree"]))
    children = [list(tree.children(node)) for node in tree.inner_nodes]
    own = about["parameters"].get("tree") is not None
    return {**about, "settings": settings, "own_tree": own, "tree": [tree.order, children]}


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(each) for each in value) if isinstance(value, Sequence) else value
