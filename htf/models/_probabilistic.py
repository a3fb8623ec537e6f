"""Estimators whose model is a tree of probabilities: their settings, fits, likelihoods, and what is saved of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor

from htf._checks import above_zero, check_dtype, finite, natural, positive
from htf._files import write_tensors
from htf._machine import usable_device
from htf.engine import Plan
from htf.engine.layout import Layout
from htf.models._circuit import Observed, draw, most_probable
from htf.models._levels import Given, Levels, numbers, read
from htf.nn.init import distributions
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.outputs import sign_and_logarithm
from htf.training import ExpectationMaximization, History, Training, early_stopping, objectives
from htf.training.state_dicts import load_weights
from htf.tree import DimensionTree

FORMATS = ("ht", "cp", "tt")
LEAVES = ("categorical", "binomial")
# Samples that the start looks at.
LOOKED_AT = 10_000
# Entries of the rows of all leaves for the samples that are evaluated at once.
ENTRIES = 2**25


class Probabilistic(BaseEstimator):  # type: ignore[misc]
    """Base of `TensorDensity` and `GenerativeClassifier`."""

    levels: Any
    width: Any
    patch: Any
    seed: Any
    leaf: Any
    format: Any
    tree: Any
    epochs: Any
    batch_size: Any
    lr: Any
    schedule: Any
    smoothing: Any
    patience: Any
    dtype: Any
    device: Any
    out: Any
    progress: Any
    squared: Any = False

    network_: HTNetwork
    levels_: Levels
    shape_: tuple[int, ...]
    n_features_in_: int
    history_: History

    # -- fitting --------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse settings that do not fit, before any data are looked at."""
        for name in ("width", "patch", "epochs", "batch_size"):
            positive(name, getattr(self, name))
        if positive("levels", self.levels) < 2:
            raise ValueError("levels is 1; expected at least 2")
        natural("seed", self.seed)
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
        if self.leaf not in LEAVES:
            raise ValueError(f"leaf is {self.leaf!r}; expected one of {', '.join(LEAVES)}")
        if self.tree is not None and not isinstance(self.tree, DimensionTree):
            raise TypeError(f"tree is a {type(self.tree).__name__}; expected a DimensionTree")
        if self.lr is not None:
            above_zero("lr", self.lr)
        if finite("smoothing", self.smoothing) < 0:
            raise ValueError(f"smoothing is {self.smoothing}; expected at least 0")
        if self.squared and self.leaf != "categorical":
            raise ValueError(f"leaf is {self.leaf!r} and squared is True; a squared network has categorical leaves")
        check_dtype(self.dtype)

    def _fit(
        self, given: Given, labels: Tensor | None, outputs: int, weights: Any, held: tuple[Tensor, Tensor | None] | None
    ) -> None:
        """Train a network on samples that are already split; `held` are levels and labels for validation."""
        tree = self._make_tree(given.shape)
        self.shape_, self.n_features_in_ = given.shape, tree.order
        self._tensors = given.as_tensor
        indices = self.levels_.encode(given.values)
        device = self._device()
        start = indices[:LOOKED_AT] if len(indices) <= LOOKED_AT else indices[:: -(-len(indices) // LOOKED_AT)]
        network = HTNetwork(
            tree,
            self.levels,
            self.width,
            outputs=outputs,
            init=distributions(start, leaf=self.leaf, squared=self.squared),
            seed=self.seed,
            dtype=torch.float32 if self.dtype is None else self.dtype,
            device=device,
        )
        validation: Any = None if held is None else held if labels is not None else held[0]
        objective = objectives.likelihood(
            indices,
            labels,
            weights=weights,
            validation=validation,
            batch_size=self.batch_size,
            squared=self.squared,
            seed=self.seed,
        )
        training = Training(
            network,
            objective,
            optimizer="adam" if self.squared else self._maximization(len(indices)),
            lr=self._rate(),
            schedule=self.schedule,
            rules=() if self.patience is None else early_stopping(self.patience),
            out=self.out,
            seed=self.seed,
        )
        try:
            self.history_ = training.run(epochs=self.epochs, progress=self.progress)
        except KeyboardInterrupt:
            self._keep(network, training)
            raise
        self._keep(network, training)

    def _keep(self, network: HTNetwork, training: Training) -> None:
        """Take the best network of a training, or its last one without validation."""
        recording: Any = training.recording
        if training.objective.judge and recording.best_epoch:
            load_weights(network, recording.best)
        self._settle(network)

    def _settle(self, network: HTNetwork) -> None:
        network.requires_grad_(False)
        self.network_ = network

    def _rate(self) -> float:
        return float(self.lr) if self.lr is not None else (0.01 if self.squared else 0.3)

    def _maximization(self, samples: int) -> Any:
        return partial(ExpectationMaximization, smoothing=self.smoothing / samples, leaf=self.leaf)

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return usable_device("cpu" if self.device is None else self.device)

    def _make_tree(self, shape: tuple[int, ...]) -> DimensionTree:
        order = math.prod(shape)
        if order < 2:
            raise ValueError(f"x has {order} feature(s) a sample; expected at least 2, as a tree joins them")
        if self.tree is not None:
            if self.tree.order != order:
                raise ValueError(f"tree has order {self.tree.order}; samples have {order} values")
            return self.tree
        if self.format == "cp":
            return DimensionTree.balanced(order, arity=order)
        if self.format == "tt":
            return DimensionTree.linear(order)
        if len(shape) == 2 and min(shape) > 1:
            return DimensionTree.grid(*shape, window=[self.patch, 2] if self.patch > 1 else 2)
        return DimensionTree.balanced(order)

    def _split(self, samples: int, share: float) -> tuple[Tensor, Tensor]:
        """Numbers of samples to train on and to validate on, by seed."""
        if not 0 < share < 1:
            raise ValueError(f"validation is {share}; expected a share between 0 and 1, samples, or None")
        count = max(1, round(share * samples))
        if count >= samples:
            raise ValueError(f"validation is {share} of {samples} samples; none would be left to train on")
        order = torch.randperm(samples, generator=Generator().manual_seed(self.seed), device="cpu")
        return order[count:].sort().values, order[:count].sort().values

    # -- reading samples ------------------------------------------------------------------------------

    def _read(self, x: Any, missing: Any = None) -> tuple[Given, Tensor, Tensor | None]:
        """Samples, their levels and what is missing of them, on the CPU."""
        check_is_fitted(self, "network_")
        given = read(x, missing, self.shape_, type(self).__name__)
        values = given.values
        if given.missing is not None:
            # Whatever is there instead must not be judged.
            values = torch.where(given.missing, self.levels_.decode(values.new_zeros(())).to(values.dtype), values)
        return given, self.levels_.encode(values), given.missing

    def _portions(self, samples: int, entries: int = ENTRIES) -> Iterator[slice]:
        size = min(max(entries // (self.n_features_in_ * self.width), 16), 2**16)
        return (slice(start, start + size) for start in range(0, samples, size))

    @torch.no_grad()
    def _log_outputs(self, indices: Tensor, missing: Tensor | None) -> Tensor:
        """Logarithms of the sizes of all outputs, (samples, outputs) float64 on the CPU, missing values summed over."""
        network, found = self.network_, []
        layout = network._layout
        leaves, inner = network._leaf_matrices(), network._inner_matrices()
        marked = missing is not None and bool(missing.any())
        if marked:
            # One more level, of which all leaves have the probability 1.
            layout = Layout.build(network.tree, self.levels + 1, self.width, network.outputs)
            leaves = [torch.cat([leaf, torch.ones_like(leaf[:, :1])], 1) for leaf in leaves]
        for part in self._portions(len(indices)):
            x = indices[part].to(network.device).long()
            if marked and missing is not None:
                x = torch.where(missing[part].to(x.device), self.levels, x)
            plan = Plan(layout, x, runs=1, dtype=network.dtype)
            _, log = sign_and_logarithm(network, plan, leaves, inner)
            found.append(log.reshape(len(x), -1).double().cpu())
        return torch.cat(found)

    def _draw(
        self, outputs: Tensor, generator: Generator | None, indices: Tensor | None = None, missing: Tensor | None = None
    ) -> Tensor:
        """Levels drawn from outputs, (samples, order) on the CPU, given what is not missing."""
        network, found = self.network_, []
        # In double precision, and with all that was observed.
        for part in self._portions(len(outputs), ENTRIES // 8):
            chosen, observed = outputs[part].to(network.device), None
            if indices is not None and missing is not None:
                x, gone = (t[part].to(network.device) for t in (indices, missing))
                observed = Observed(network, x.long(), gone), x, gone
            found.append(draw(network, chosen, generator, observed).cpu())
        return torch.cat(found)

    def _most_probable(self, outputs: Tensor, indices: Tensor, missing: Tensor) -> Tensor:
        network, found = self.network_, []
        for k in range(0, len(indices), 64):
            x, gone, chosen = (t[k : k + 64].to(network.device) for t in (indices, missing, outputs))
            found.append(most_probable(network, chosen, (Observed(network, x.long(), gone, most=True), x, gone)).cpu())
        return torch.cat(found)

    def _completed(self, given: Given, levels: Tensor, missing: Tensor) -> Tensor:
        """Values of levels where they were missing, and what was given elsewhere; (samples, order)."""
        values = self.levels_.decode(levels)
        if values.is_floating_point() or not given.values.is_floating_point():
            return torch.where(missing, values.to(torch.promote_types(values.dtype, given.values.dtype)), given.values)
        return torch.where(missing, values.to(given.values.dtype), given.values)

    def _answer(self, values: Tensor, as_tensor: bool) -> Any:
        return values if as_tensor else values.numpy()

    # -- files ----------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, from which `from_state` makes the same fitted estimator.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "network_")
        tree = self.network_.tree
        settings = {name: value for name, value in self.get_params(deep=False).items() if name != "tree"}
        settings["dtype"] = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        settings["device"] = None if self.device is None else str(self.device)
        settings["out"] = None if self.out is None else os.fspath(self.out)
        settings["schedule"] = self.schedule if isinstance(self.schedule, str) else "constant"
        about = {
            "model": type(self).__name__,
            "settings": settings,
            "own_tree": self.tree is not None,
            "tree": [tree.order, [list(tree.children(node)) for node in tree.inner_nodes]],
            "outputs": self.network_.outputs,
            "shape": list(self.shape_),
            "levels": [self.levels_.levels, self.levels_.kind, self.levels_.lowest, self.levels_.highest],
            "as_tensors": self._tensors,
        }
        return {f"network/{name}": tensor for name, tensor in self.network_.state_dict().items()}, about

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
        settings = dict(about["settings"])
        settings["dtype"] = None if settings["dtype"] is None else getattr(torch, settings["dtype"])
        order, children = about["tree"]
        tree = DimensionTree(order, children)
        made = cls(**settings, tree=tree if about["own_tree"] else None)
        made.shape_, made.n_features_in_ = tuple(about["shape"]), order
        levels, kind, lowest, highest = about["levels"]
        made.levels_, made._tensors = Levels(levels, kind, lowest, highest), about["as_tensors"]
        weights = {name.removeprefix("network/"): t for name, t in tensors.items() if name.startswith("network/")}
        if device is None:
            usable = (
                made.device == "auto" or torch.device(made.device or "cpu").type == "cpu" or torch.cuda.is_available()
            )
            where = made._device() if usable else torch.device("cpu")
        else:
            where = usable_device(device)
        dtype = next(iter(weights.values())).dtype
        network = HTNetwork(
            tree, levels, made.width, outputs=about["outputs"], init=_nothing, dtype=dtype, device=where
        )
        load_weights(network, weights)
        made.network_ = network.requires_grad_(False)
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to a safetensors file; `htf.models.load` reads it.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OSError
            If the file cannot be written; what was there is kept.
        """
        write_tensors(Path(path), *self.state(), kind="a model")


def _nothing(layout: Any, block: Any, generator: Any) -> Tensor:
    return torch.zeros(len(block.nodes), block.rows, block.columns, device="cpu")


def validation_part(given: Any, name: str = "validation") -> float | Any:
    """A share as a float, or samples as they are."""
    if given is None or isinstance(given, bool):
        if given:
            raise TypeError(f"{name} is True; expected a share, samples or None")
        return None
    if isinstance(given, int | float | np.floating):
        return float(given)
    return given


def check_weights(weights: Any, samples: int) -> Tensor | None:
    """Sample weights as a tensor (samples,); those that are negative or all zero are refused."""
    if weights is None:
        return None
    found = numbers("sample_weight", weights)
    if tuple(found.shape) != (samples,):
        raise ValueError(f"sample_weight has shape {tuple(found.shape)}; expected ({samples},), one for each sample")
    found = found.double()
    if not bool(found.isfinite().all()) or bool((found < 0).any()):
        raise ValueError("sample_weight has values that are negative or not finite; expected at least 0")
    if not bool((found > 0).any()):
        raise ValueError("sample_weight is zero for all samples; expected some above")
    return found
