"""Estimators whose model is a network on encoded samples: what they read, and how they begin."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from htf._checks import finite, natural, warn
from htf._modes import evaluated
from htf.models._encoders import Columns, Encoder, Patches, arranged_tree, encoder_from
from htf.models._estimator import TensorEstimator, default_batch
from htf.models._network import EncodedNetwork
from htf.models._reading import class_labels, numbers, plain
from htf.nn import HTNetwork
from htf.nn.init import scale_preserving
from htf.training.objectives import Objective
from htf.training.state_dicts import load_weights
from htf.tree import DimensionTree

# Samples from which a start knows its inputs, and samples of a batch in which predictions are made.
START_SAMPLES, BATCH = 1024, 1024
# Samples whose answers tell whether anything was learned, by so many steps at least: probabilities, or standardized
# targets, that spread less than this tell that it was not.
TOLD, _STEPS, _SPREAD = 1000, 100, 1e-2


class EncodedEstimator(TensorEstimator):
    """Base of `TensorClassifier` and `TensorRegressor`.

    Attributes
    ----------
    module_ : EncodedNetwork
        Encoder and network, as they are trained.
    """

    _model = "module_"
    _optional_counts: ClassVar[tuple[str, ...]] = ("patience", "patch", "stride", "batch_size")
    _flags: ClassVar[tuple[str, ...]] = ("flips",)
    _named_trees: ClassVar[tuple[str, ...]] = ("arrange",)
    _structure: ClassVar[tuple[str, ...]] = (*TensorEstimator._structure, "stride", "dropout", "shifts", "flips")
    _normalized = False
    _in_bytes = False  # whether images were fitted as bytes
    module_: EncodedNetwork

    patch: int | None
    stride: int | None
    dropout: float
    shifts: int
    flips: bool
    batch_size: int | None
    lr: float
    weight_decay: float
    noise: float

    # -- files --------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        _, about = super().state()
        about |= {"encoder": self.module_.encoder.describe(), "fitted": self._fitted()}
        return self.module_.state_dict(), about

    def _fitted(self) -> dict[str, Any]:
        """Other fitted values, as JSON can hold them."""
        return {"n_features_in_": self.n_features_in_, "shape": list(self._shape), "in_bytes": self._in_bytes}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        fitted = about["fitted"]
        self.n_features_in_, self._shape = fitted["n_features_in_"], tuple(fitted["shape"])
        self._in_bytes = fitted["in_bytes"]
        encoder = encoder_from(about["encoder"])
        network = HTNetwork(
            tree, encoder.dim, self.width, outputs=self._outputs(), seed=0, dtype=torch.float32, device="cpu"
        )
        self.module_ = self._module(encoder, network).to(device)
        load_weights(self.module_, tensors)
        self.module_.eval()

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
        X, y = plain("X", X), plain("y", y)
        X, y = (each.numpy() if isinstance(each, Tensor) else each for each in (X, y))
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
        dtype = X.dtype if isinstance(X, Tensor) else np.asarray(X).dtype
        if dtype.is_complex if isinstance(dtype, torch.dtype) else dtype.kind not in "uif":
            raise TypeError(f"X has dtype {dtype}; expected real numbers")
        images = numbers("X", X)
        in_bytes = images.dtype == torch.uint8
        if reset:
            self._in_bytes = in_bytes
        elif in_bytes != self._in_bytes:
            # Pixels of bytes are read over 255, others as they are.
            kind = "bytes" if self._in_bytes else "other numbers"
            raise TypeError(
                f"X has dtype {images.dtype}; the estimator was fitted to {kind}, whose pixels have another scale"
            )
        given = images.unsqueeze(1) if images.ndim == 3 else images
        images = given if in_bytes else given.float()
        if not images.numel():
            raise ValueError(f"X has shape {tuple(np.shape(X))}; expected at least one image of at least one pixel")
        if not bool(given.isfinite().all()):
            raise ValueError("X has pixels that are NaN or infinite")
        if given.dtype == torch.float64:
            largest = float(given.abs().max())
            if not torch.finfo(torch.float32).tiny <= (largest or 1.0) <= torch.finfo(torch.float32).max:
                raise ValueError(f"X has pixels of sizes up to {largest:g}; expected sizes that float32 can hold")
        self._check_shape(tuple(images.shape[1:]), reset)
        if not reset and hasattr(self, "module_") and isinstance(self.module_.encoder, Patches):
            self.module_.encoder.check_units(images)
        if reset:
            self.n_features_in_ = int(np.prod(images.shape[1:]))
        if y is None:
            return images
        labels = np.asarray(class_labels(y))
        if len(labels) != len(images):
            raise ValueError(f"X has {len(images)} images and y {len(labels)} entries; expected equally many")
        return images, labels

    def _check_shape(self, shape: tuple[int, ...], reset: bool) -> None:
        if reset:
            self._shape = shape
        elif shape != self._shape:
            raise ValueError(f"X has samples of shape {shape}; the estimator was fitted to {self._shape}")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not 0 <= finite("dropout", self.dropout) < 1:
            raise ValueError(f"dropout is {self.dropout}; expected from 0 to below 1")
        natural("shifts", self.shifts)
        for name in ("weight_decay", "noise"):
            if not finite(name, getattr(self, name)) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")

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
        self._note_structure()
        encoder = self._encoder(samples)
        if self.tree == "arrange":
            split = self._split(validation, len(samples))
            tree = arranged_tree(encoder, samples if split is None else samples[split[0]], self.seed)
        else:
            tree = self._tree_of(encoder.order, encoder.arrangement)
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
            device="cpu",
        )
        self.module_ = self._module(encoder, network)

    def _batch(self, samples: int) -> int:
        return self.batch_size or default_batch(samples)

    def _fit(self, objective: Objective, epochs: int, schedule: str = "one_cycle", optimizer: Any = None) -> None:
        self._train(
            self.module_,
            objective,
            optimizer=optimizer or partial(torch.optim.AdamW, weight_decay=self.weight_decay),
            lr=self.lr,
            schedule=schedule,
            epochs=epochs,
        )

    @torch.no_grad()
    def _tell_if_constant(self, samples: Tensor, answers: Callable[[Tensor], Tensor]) -> None:
        """Warn where answers to other samples are the same, as after a training that has not begun to learn."""
        some = samples[:: -(-len(samples) // TOLD)]
        steps = self.epochs * -(-len(samples) // self._batch(len(samples)))
        if steps < _STEPS or not bool((some != some[:1]).any()):
            return
        with evaluated(self.module_):
            found = answers(self.module_(some.to(self.network.device)).cpu())
        if float(found.std(0, correction=0).amax()) < _SPREAD:
            warn(
                f"the answers to {len(some)} of the samples are the same: nothing was learned at lr {self.lr:g} in "
                f"{self.epochs} epochs. Trees of many inner nodes ({len(self.network.tree.inner_nodes)} here) need a "
                "smaller lr; images (samples, height, width) are read by patches, on a tree of fewer nodes"
            )

    def _settle(self, model: nn.Module) -> None:
        model.eval()

    @torch.no_grad()
    def _predicted(self, X: Any) -> Tensor:
        """Outputs of the network on samples, (n, outputs), on the CPU."""
        self._check_fitted()
        samples, device = self._checked(X, reset=False), self.network.device
        with evaluated(self.module_):
            parts = [self.module_(part.to(device)).cpu() for part in samples.split(BATCH)]
        return torch.cat(parts)
