"""Base of estimators of tables and images: inputs, trees, training, and files."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from htf._checks import check_seed, finite, positive
from htf._files import write_tensors
from htf._machine import usable_device
from htf._modes import evaluated
from htf.models._encoders import Columns, Encoder, Patches, arranged_tree, encoder_from
from htf.models._network import EncodedNetwork
from htf.nn import HTNetwork
from htf.nn.init import scale_preserving
from htf.tensors import HTTensor
from htf.training import History, Training, early_stopping
from htf.training.epochs import Epochs
from htf.training.objectives import Objective
from htf.tree import DimensionTree

FORMATS = ("ht", "cp", "tt")
FILE_KIND = "a model"
# Samples from which a start knows its inputs, and samples of a batch in which predictions are made.
START_SAMPLES, BATCH = 1024, 1024
# Steps that an epoch of a small table has at least, as long as batches have LEAST_BATCH samples.
LEAST_STEPS, LEAST_BATCH = 16, 8


class TensorEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn has no annotations
    """An estimator whose model is a network on a tree; use one of its subclasses.

    Attributes
    ----------
    module_ : EncodedNetwork
        Encoder and network, as they are trained.
    history_ : History
        Losses, and what was measured after each epoch.
    n_features_in_ : int
        Features of a table, or pixels of an image.
    """

    _normalized = False
    _in_bytes = False  # whether images were fitted as bytes
    module_: EncodedNetwork
    history_: History

    # Arguments of all of them; scikit-learn reads those of the constructor of each class.
    format: str
    patch: int | None
    stride: int | None
    width: int
    tree: DimensionTree | str | None
    dropout: float
    shifts: int
    flips: bool
    epochs: int
    batch_size: int | None
    lr: float
    weight_decay: float
    noise: float
    patience: int | None
    seed: int
    device: str
    out: str | os.PathLike[str] | None
    progress: bool

    # -- what it has learned ------------------------------------------------------------------------------

    @property
    def network(self) -> HTNetwork:
        """The network on encoded samples.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "module_")
        return self.module_.network

    def to_tensor(self) -> HTTensor:
        """The multilinear form of the network in HT format: its entries are outputs on unit vectors.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return self.network.to_tensor()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a safetensors file, from which `htf.models.load` makes it again.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self, "module_")
        parameters = self.get_params(deep=False) | {"out": None, "device": "auto"}
        if isinstance(self.tree, DimensionTree):
            parameters["tree"] = nested(self.tree)
        about = {
            "model": type(self).__name__,
            "parameters": parameters,
            "encoder": self.module_.encoder.describe(),
            "tree": nested(self.network.tree),
            "width": self.width,
            "fitted": self._fitted(),
        }
        write_tensors(Path(path), self.module_.state_dict(), about, FILE_KIND)

    def _fitted(self) -> dict[str, Any]:
        """Other fitted values, as JSON can hold them."""
        return {"n_features_in_": self.n_features_in_, "shape": list(self._shape), "in_bytes": self._in_bytes}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Self:
        """The estimator of which `save` wrote this, on the CPU."""
        parameters = dict(about["parameters"])
        if not isinstance(parameters.get("tree"), str | None):
            parameters["tree"] = DimensionTree.from_nested(as_tuples(parameters["tree"]))
        return cls(**parameters)._restore(tensors, about)

    def _restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> Self:
        fitted = about["fitted"]
        self.n_features_in_, self._shape = fitted["n_features_in_"], tuple(fitted["shape"])
        self._in_bytes = fitted["in_bytes"]
        encoder = encoder_from(about["encoder"])
        tree = DimensionTree.from_nested(as_tuples(about["tree"]))
        network = HTNetwork(tree, encoder.dim, about["width"], outputs=self._outputs(), seed=0)
        self.module_ = self._module(encoder, network)
        self.module_.load_state_dict(tensors)
        return self

    # -- inputs -------------------------------------------------------------------------------------------

    def _checked(self, X: Any, y: Any = None, *, reset: bool, supervised: bool = False) -> Any:
        """Samples as a tensor, (n, features) or (n, channels, height, width), and targets as scikit-learn checks them.

        Pixels of bytes stay bytes; floats become float32.
        """
        if supervised and y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        ndim = getattr(X, "ndim", 2)
        if ndim in (3, 4):
            return self._checked_images(X, y, reset=reset)
        if isinstance(X, Tensor):
            X = X.detach().cpu().numpy()
        if y is None:
            X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        else:
            X, y = validate_data(
                self, X, y, reset=reset, dtype=[np.float64, np.float32], multi_output=True, y_numeric=False
            )
        table = torch.from_numpy(np.ascontiguousarray(X))
        self._check_shape((table.shape[1],), reset)
        return table if y is None else (table, y)

    def _checked_images(self, X: Any, y: Any, *, reset: bool) -> Any:
        if isinstance(X, Tensor):
            images = X.detach().cpu()
        else:
            array = np.asarray(X)
            if array.dtype.kind not in "uif":
                raise TypeError(f"X has dtype {array.dtype}; expected real numbers")
            images = torch.from_numpy(np.ascontiguousarray(array))
        if images.is_complex():
            raise TypeError(f"X has dtype {images.dtype}; expected real numbers")
        in_bytes = images.dtype == torch.uint8
        if reset:
            self._in_bytes = in_bytes
        elif in_bytes != self._in_bytes:
            # Pixels of bytes are read over 255, others as they are.
            kind = "bytes" if self._in_bytes else "other numbers"
            raise TypeError(
                f"X has dtype {images.dtype}; the estimator was fitted to {kind}, whose pixels have another scale"
            )
        images = images if in_bytes else images.float()
        images = images.unsqueeze(1) if images.ndim == 3 else images
        if not images.numel():
            raise ValueError(f"X has shape {tuple(np.shape(X))}; expected at least one image of at least one pixel")
        if not bool(images.isfinite().all()):
            raise ValueError("X has pixels that are NaN or infinite")
        self._check_shape(tuple(images.shape[1:]), reset)
        if reset:
            self.n_features_in_ = int(np.prod(images.shape[1:]))
        if y is None:
            return images
        labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
        if len(labels) != len(images):
            raise ValueError(f"X has {len(images)} images and y {len(labels)} entries; expected equally many")
        return images, labels

    def _check_shape(self, shape: tuple[int, ...], reset: bool) -> None:
        if reset:
            self._shape = shape
        elif shape != self._shape:
            raise ValueError(f"X has samples of shape {shape}; the estimator was fitted to {self._shape}")

    def _check_parameters(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
        positive("width", self.width)
        positive("epochs", self.epochs)
        for name in ("patch", "stride", "batch_size", "patience"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        check_seed(self.seed)
        for name in ("dropout",):
            if not 0 <= finite(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected from 0 to below 1")
        for name in ("shifts", "weight_decay", "noise"):
            if not finite(name, getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")

    def _weights(self, sample_weight: Any, samples: int) -> Tensor | None:
        if sample_weight is None:
            return None
        if isinstance(sample_weight, numbers.Real):
            return torch.full((samples,), float(sample_weight))
        weights = torch.as_tensor(np.asarray(sample_weight, dtype=np.float64))
        if weights.shape != (samples,):
            raise ValueError(f"sample_weight has shape {tuple(weights.shape)}; expected ({samples},)")
        if bool((weights < 0).any()) or not bool(weights.isfinite().all()):
            raise ValueError("sample_weight has entries that are negative, NaN or infinite; expected none")
        return weights

    # -- fitting ------------------------------------------------------------------------------------------

    def _outputs(self) -> int:
        """Outputs of the network."""
        raise NotImplementedError

    def _encoder(self, samples: Tensor) -> Encoder:
        if samples.ndim == 2:
            if self.patch is not None:
                raise ValueError(f"patch is {self.patch} and X is a table; patches are those of images")
            return Columns.fitted(samples)
        patch = self.patch or (4 if min(samples.shape[2:]) >= 16 else min(2, *samples.shape[2:]))
        return Patches.fitted(samples, patch, self.stride or patch)

    def _module(self, encoder: Encoder, network: HTNetwork) -> EncodedNetwork:
        images = isinstance(encoder, Patches)
        return EncodedNetwork(
            encoder,
            network,
            self._normalized,
            self.dropout,
            self.shifts if images else 0,
            self.flips if images else False,
        )

    def _begin(self, samples: Tensor, validation: Any = None) -> None:
        """Encoder and network at their start; of a share for validation, no tree is found."""
        self._check_parameters()
        encoder = self._encoder(samples)
        tree = encoder.tree(self.format) if self.tree is None else self.tree
        if isinstance(tree, str) and tree == "arrange":
            kept = (
                split_off(float(validation), len(samples), self.seed)[0]
                if isinstance(validation, numbers.Real)
                else ...
            )
            tree = arranged_tree(encoder, samples[kept], self.seed)
        if not isinstance(tree, DimensionTree):
            raise TypeError(f"tree is a {type(tree).__name__}; expected a DimensionTree or 'arrange'")
        if tree.order != encoder.order:
            raise ValueError(f"tree has {tree.order} modes; the samples have {encoder.order}")
        step = max(1, len(samples) // START_SAMPLES)
        vectors = encoder(samples[::step][:START_SAMPLES], torch.float32)
        network = HTNetwork(
            tree,
            encoder.dim,
            self.width,
            outputs=self._outputs(),
            init=scale_preserving(noise=self.noise, inputs=vectors),
            seed=self.seed,
            dtype=torch.float32,
        )
        self.module_ = self._module(encoder, network)

    def _batch(self, samples: int) -> int:
        return self.batch_size or max(LEAST_BATCH, min(128, samples // LEAST_STEPS))

    def _train(self, objective: Objective, epochs: int, schedule: str = "one_cycle", optimizer: Any = None) -> None:
        device = _device(self.device)
        rules = () if self.patience is None else (early_stopping(patience=self.patience),)
        training = Training(
            self.module_,
            objective,
            optimizer=optimizer or partial(torch.optim.AdamW, weight_decay=self.weight_decay),
            lr=self.lr,
            schedule=schedule,
            rules=rules,
            out=self.out,
            device=device,
            seed=self.seed,
        )
        try:
            training.run(epochs=epochs, progress=self.progress)
        finally:
            # Interrupted as well: what was best is kept, and can be used.
            self._keep(training)

    def _keep(self, training: Training) -> None:
        record = training.recording
        assert isinstance(record, Epochs)
        if record.epochs:
            self.history_ = record.history()
        if training.objective.judge and record.best_epoch:
            self.module_.load_state_dict(record.best)
        self.module_.eval()

    @torch.no_grad()
    def _predicted(self, X: Any) -> Tensor:
        """Outputs of the network on samples, (n, outputs), on the CPU."""
        check_is_fitted(self, "module_")
        samples, device = self._checked(X, reset=False), self.network.device
        with evaluated(self.module_):
            parts = [self.module_(part.to(device)).cpu() for part in samples.split(BATCH)]
        return torch.cat(parts)


def split_off(share: float, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the samples for training, and of those of a share that are set aside, drawn by a seed."""
    if not 0 < share < 1:
        raise ValueError(f"validation is {share}; expected a share between 0 and 1, or a pair (X, y)")
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    aside = max(1, round(share * samples))
    if aside >= samples:
        raise ValueError(f"validation is {share} of {samples} samples; none would be left to train with")
    return order[aside:].sort()[0], order[:aside].sort()[0]


def nested(tree: DimensionTree) -> Any:
    """A tree as nested lists of modes."""
    built: list[Any] = []
    for node in range(tree.n_nodes):
        children = tree.children(node)
        built.append([built[child] for child in children] if children else node)
    return built[-1]


def as_tuples(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(as_tuples(each) for each in value) if isinstance(value, Sequence) else value


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(device)
