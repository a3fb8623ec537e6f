"""Estimators whose model is a tree of probabilities: their settings, fits, likelihoods, and what is saved of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from htf._checks import above_zero, check_dtype, finite, positive
from htf.engine import Plan
from htf.engine.layout import Layout
from htf.models._circuit import Observed, draw, most_probable
from htf.models._estimator import TensorEstimator
from htf.models._levels import Given, Levels, read
from htf.nn.init import distributions
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.outputs import sign_and_logarithm
from htf.training import ExpectationMaximization, objectives
from htf.training.state_dicts import load_weights, part_of
from htf.tree import DimensionTree

LEAVES = ("categorical", "binomial")
# Samples that the start looks at.
LOOKED_AT = 10_000
# Entries of the rows of all leaves for the samples that are evaluated at once.
ENTRIES = 2**25


class Probabilistic(TensorEstimator):
    """Base of `TensorDensity` and `GenerativeClassifier`."""

    _model = "network_"
    _counts: ClassVar[tuple[str, ...]] = ("width", "patch", "epochs", "batch_size")

    levels: Any
    patch: Any
    leaf: Any
    batch_size: Any
    lr: Any
    schedule: Any
    smoothing: Any
    dtype: Any
    squared: Any = False

    network_: HTNetwork
    levels_: Levels
    shape_: tuple[int, ...]

    # -- fitting --------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if positive("levels", self.levels) < 2:
            raise ValueError("levels is 1; expected at least 2")
        if self.leaf not in LEAVES:
            raise ValueError(f"leaf is {self.leaf!r}; expected one of {', '.join(LEAVES)}")
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
        device = self._place()
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
        self._train(
            network,
            objective,
            optimizer="adam" if self.squared else self._maximization(len(indices)),
            lr=self._rate(),
            schedule=self.schedule,
            epochs=self.epochs,
        )

    def _settle(self, model: nn.Module) -> None:
        assert isinstance(model, HTNetwork)
        self.network_ = model.requires_grad_(False)

    def _rate(self) -> float:
        return float(self.lr) if self.lr is not None else (0.01 if self.squared else 0.3)

    def _maximization(self, samples: int) -> Any:
        return partial(ExpectationMaximization, smoothing=self.smoothing / samples, leaf=self.leaf)

    def _make_tree(self, shape: tuple[int, ...]) -> DimensionTree:
        order = math.prod(shape)
        if order < 2:
            raise ValueError(f"x has {order} feature(s) a sample; expected at least 2, as a tree joins them")
        grid = None
        if len(shape) == 2 and min(shape) > 1:
            grid = DimensionTree.grid(shape[0], shape[1], window=[self.patch, 2] if self.patch > 1 else 2)
        return self._tree_of(order, grid)

    # -- reading samples ------------------------------------------------------------------------------

    def _read(self, x: Any, missing: Any = None) -> tuple[Given, Tensor, Tensor | None]:
        """Samples, their levels and what is missing of them, on the CPU."""
        self._check_fitted()
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
        _, about = super().state()
        about["settings"] |= {
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
            "schedule": self.schedule if isinstance(self.schedule, str) else "constant",
        }
        about |= {
            "outputs": self.network_.outputs,
            "shape": list(self.shape_),
            "levels": [self.levels_.levels, self.levels_.kind, self.levels_.lowest, self.levels_.highest],
            "as_tensors": self._tensors,
        }
        return {f"network/{name}": tensor for name, tensor in self.network_.state_dict().items()}, about

    @classmethod
    def _settings(cls, saved: dict[str, Any]) -> dict[str, Any]:
        return {**saved, "dtype": None if saved["dtype"] is None else getattr(torch, saved["dtype"])}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        self.shape_, self.n_features_in_ = tuple(about["shape"]), tree.order
        self.levels_, self._tensors = Levels(*about["levels"]), about["as_tensors"]
        weights = part_of("network/", tensors)
        dtype = next(iter(weights.values())).dtype
        network = HTNetwork(
            tree,
            self.levels_.levels,
            self.width,
            outputs=about["outputs"],
            init=_nothing,
            dtype=dtype,
            device=device,
        )
        load_weights(network, weights)
        self._settle(network)


def _nothing(layout: Any, block: Any, generator: Any) -> Tensor:
    return torch.zeros(len(block.nodes), block.rows, block.columns, device="cpu")
