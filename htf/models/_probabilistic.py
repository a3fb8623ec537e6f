"""Estimators whose model is a tree of probabilities: their settings, fits, likelihoods, and what is saved of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from htf._checks import above_zero, check_dtype, finite, positive
from htf._random import beside, randn
from htf.engine import Plan
from htf.engine.layout import Layout
from htf.models._circuit import Observed, draw, most_probable
from htf.models._estimator import TensorEstimator
from htf.models._levels import Given, Levels, Reals, read
from htf.nn.init import distributions
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.normal_leaves import NormalLeaves, NormalNetwork, normal_start
from htf.nn.networks.outputs import sign_and_logarithm
from htf.training import ExpectationMaximization, objectives
from htf.training.state_dicts import load_weights, part_of
from htf.tree import DimensionTree

LEAVES = ("categorical", "binomial", "gaussian")
# Samples that the start looks at.
LOOKED_AT = 10_000
# Entries of the rows of all leaves for the samples that are evaluated at once.
ENTRIES = 2**25


class Probabilistic(TensorEstimator):
    """Base of `TensorDensity` and `GenerativeClassifier`."""

    _model = "network_"
    _counts: ClassVar[tuple[str, ...]] = ("width", "patch", "epochs", "components")
    _optional_counts: ClassVar[tuple[str, ...]] = ("patience", "batch_size")

    levels: Any
    patch: Any
    leaf: Any
    components: Any
    batch_size: Any
    lr: Any
    schedule: Any
    smoothing: Any
    dtype: Any
    squared: Any = False
    _structure: ClassVar[tuple[str, ...]] = (
        *TensorEstimator._structure,
        "levels",
        "leaf",
        "components",
        "squared",
        "dtype",
    )

    network_: HTNetwork
    leaves_: NormalLeaves | None = None
    levels_: Levels | Reals
    shape_: tuple[int, ...]
    _samples_seen: int = 0  # over which smoothing is spread

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

    def _begin(self, given: Given, indices: Tensor, outputs: int) -> HTNetwork | NormalNetwork:
        """Leaves and network at their start."""
        self._note_structure()
        tree = self._make_tree(given.shape)
        self.shape_, self.n_features_in_ = given.shape, tree.order
        self._tensors = given.as_tensor
        device = self._place()
        dtype = torch.float32 if self.dtype is None else self.dtype
        start = indices[:LOOKED_AT] if len(indices) <= LOOKED_AT else indices[:: -(-len(indices) // LOOKED_AT)]
        leaves = NormalLeaves.of(start, self.components, dtype) if self.leaf == "gaussian" else None
        if leaves is None:
            init, dim = distributions(start, leaf=self.leaf, squared=self.squared), self.levels
        else:
            init, dim = normal_start(leaves, start), self.components
        network = HTNetwork(
            tree, dim, self.width, outputs=outputs, init=init, seed=self.seed, dtype=dtype, device=device
        )
        return network if leaves is None else NormalNetwork(leaves, network).to(device)

    def _fit(
        self, given: Given, labels: Tensor | None, outputs: int, weights: Any, held: tuple[Tensor, Tensor | None] | None
    ) -> None:
        """Train a network on samples that are already split; `held` are levels and labels for validation."""
        self.__dict__.pop("_optimizer", None)
        indices = self.levels_.encode(given.values)
        self._samples_seen = len(indices)
        self._learn(self._begin(given, indices, outputs), indices, labels, weights, held, self.schedule, self.epochs)

    def _learn(
        self,
        model: HTNetwork | NormalNetwork,
        indices: Tensor,
        labels: Tensor | None,
        weights: Any,
        held: tuple[Tensor, Tensor | None] | None,
        schedule: Any,
        epochs: int,
        optimizer: Any = None,
    ) -> None:
        objective = objectives.likelihood(
            indices,
            labels,
            weights=weights,
            validation=None if held is None else held if labels is not None else held[0],  # type: ignore[arg-type]
            batch_size=self._batch(len(indices)),
            squared=self._made("squared"),
            seed=self.seed,
            priors=self._class_priors(),
        )
        if optimizer is None:
            optimizer = "adam" if self._made("squared") else self._maximization(self._samples_seen)
        self._train(model, objective, optimizer=optimizer, lr=self._rate(), schedule=schedule, epochs=epochs)

    def _more(self, x: Any) -> Given:
        """Samples for `partial_fit`; the first ones decide what values become."""
        if hasattr(self, self._model):
            self._check_structure()
            return read(x, None, self.shape_, type(self).__name__)
        given = read(x)
        self.levels_ = self._codes_of(given.values)
        return given

    def _learn_more(self, given: Given, labels: Tensor | None, outputs: int, weights: Any) -> None:
        """One epoch at a constant rate, from where the last one ended."""
        indices = self.levels_.encode(given.values)
        if hasattr(self, self._model):
            model = self.network_ if self.leaves_ is None else NormalNetwork(self.leaves_, self.network_)
            model.requires_grad_(True)
        else:
            self._samples_seen = 0
            model = self._begin(given, indices, outputs)
        self._samples_seen += len(indices)
        goes_on: Any = None
        if self._made("squared"):
            # Adam goes on with the moments of its last steps.
            if not hasattr(self, "_optimizer"):
                self._optimizer = torch.optim.Adam(model.parameters(), lr=self._rate())
            kept = self._optimizer
            for group in kept.param_groups:
                group["lr"] = self._rate()
            goes_on = lambda parameters, lr: kept  # noqa: E731
        self._learn(model, indices, labels, weights, None, "constant", 1, goes_on)

    def _settle(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        # Leaves of numbers are modules beside the network that takes what they tell.
        found: Any = model
        self.network_, self.leaves_ = getattr(found, "network", found), getattr(found, "leaves", None)

    def _codes_of(self, values: Tensor) -> Levels | Reals:
        return Reals.of(values) if self.leaf == "gaussian" else Levels.of(values, self.levels)

    def _batch(self, samples: int) -> int:
        return int(self.batch_size or 256)

    def _class_priors(self) -> Tensor | None:
        """Probabilities of the classes, by which validation samples are told; None for densities."""
        return None

    def _rate(self) -> float:
        return float(self.lr) if self.lr is not None else (0.01 if self._made("squared") else 0.3)

    def _maximization(self, samples: int) -> Any:
        leaf = "categorical" if self.leaf == "gaussian" else self.leaf
        return partial(ExpectationMaximization, smoothing=self.smoothing / samples, leaf=leaf)

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
            if isinstance(self.levels_, Levels):
                values = torch.where(given.missing, self.levels_.decode(values.new_zeros(())).to(values.dtype), values)
            else:
                values = values.masked_fill(given.missing, 0)
        return given, self.levels_.encode(values), given.missing

    def _portions(self, samples: int, entries: int = ENTRIES) -> Iterator[slice]:
        size = min(max(entries // (self.n_features_in_ * self._made("width")), 16), 2**16)
        return (slice(start, start + size) for start in range(0, samples, size))

    @torch.no_grad()
    def _log_outputs(self, indices: Tensor, missing: Tensor | None) -> Tensor:
        """Logarithms of the sizes of all outputs, (samples, outputs) float64 on the CPU, missing values summed over."""
        if self.leaves_ is not None:
            return self._log_densities(indices, missing)
        network, found = self.network_, []
        layout = network._layout
        leaves, inner = network._leaf_matrices(), network._inner_matrices()
        marked = missing is not None and bool(missing.any())
        if marked:
            # One more level, of which all leaves have the probability 1.
            levels = self._made("levels")
            layout = Layout.build(network.tree, levels + 1, self._made("width"), network.outputs)
            leaves = [torch.cat([leaf, torch.ones_like(leaf[:, :1])], 1) for leaf in leaves]
        for part in self._portions(len(indices)):
            x = indices[part].to(network.device).long()
            if marked and missing is not None:
                x = torch.where(missing[part].to(x.device), levels, x)
            plan = Plan(layout, x, runs=1, dtype=network.dtype)
            _, log = sign_and_logarithm(network, plan, leaves, inner)
            found.append(log.reshape(len(x), -1).double().cpu())
        return torch.cat(found)

    def _log_densities(self, values: Tensor, missing: Tensor | None) -> Tensor:
        """As `_log_outputs`, for normal leaves."""
        assert self.leaves_ is not None
        assert isinstance(self.levels_, Reals)
        model, found = NormalNetwork(self.leaves_, self.network_), []
        if missing is not None:
            values = values.masked_fill(missing, math.nan)
        for part in self._portions(len(values), ENTRIES // self._made("components")):
            log = model.log_abs(values[part].to(self.network_.device))[1]
            found.append(log.reshape(log.shape[0], -1).double().cpu())
        volume = self.levels_.log_volume(missing)
        return torch.cat(found) - (volume if volume.ndim == 0 else volume[:, None])

    def _observed(self, x: Tensor, missing: Tensor, most: bool = False) -> tuple[Observed, Tensor, Tensor]:
        """Levels of samples and the mask of what is missing, on the network's device."""
        x, missing = x.to(self.network_.device), missing.to(self.network_.device)
        if self.leaves_ is None:
            return Observed(self.network_, x.long(), missing, most), x, missing
        logs = self.leaves_.log_densities(x).detach()
        levels = torch.zeros_like(x, dtype=torch.long)
        return Observed(self.network_, levels, missing, most, logs, self._peaks() if most else None), levels, missing

    def _peaks(self) -> Tensor | None:
        """Largest densities of the components of normal leaves, (order, components) logarithms up to a constant."""
        return None if self.leaves_ is None else -self.leaves_.log_std.detach().double() - 0.5 * math.log(2 * math.pi)

    def _draw(
        self, outputs: Tensor, generator: Generator | None, indices: Tensor | None = None, missing: Tensor | None = None
    ) -> Tensor:
        """Levels or values drawn from outputs, (samples, order) on the CPU, given what is not missing."""
        network, found = self.network_, []
        # In double precision, and with all that was observed.
        for part in self._portions(len(outputs), ENTRIES // 8):
            chosen, observed = outputs[part].to(network.device), None
            if indices is not None and missing is not None:
                observed = self._observed(indices[part], missing[part])
            levels = draw(network, chosen, generator, observed)
            if self.leaves_ is not None:
                mean, log_std = (
                    each.detach().double().expand(len(levels), -1, -1).gather(2, levels.unsqueeze(2)).squeeze(2)
                    for each in (self.leaves_.mean, self.leaves_.log_std)
                )
                levels = mean + log_std.exp() * beside(randn(tuple(mean.shape), generator), mean)
            found.append(levels.cpu())
        return torch.cat(found)

    def _most_probable(self, outputs: Tensor, indices: Tensor, missing: Tensor) -> Tensor:
        network, found, peaks = self.network_, [], self._peaks()
        for k in range(0, len(indices), 64):
            observed = self._observed(indices[k : k + 64], missing[k : k + 64], most=True)
            levels = most_probable(network, outputs[k : k + 64].to(network.device), observed, peaks)
            if self.leaves_ is not None:
                means = self.leaves_.mean.detach().double().expand(len(levels), -1, -1)
                levels = means.gather(2, levels.unsqueeze(2)).squeeze(2)
            found.append(levels.cpu())
        return torch.cat(found)

    def component_means(self, node: int) -> Tensor:
        """Expected values below a node, given each of the components that its parent mixes.

        Parameters
        ----------
        node : int
            Of ``network.tree``; its root has a component for each output.

        Returns
        -------
        Tensor
            (components, height, width) or (components, features) float64, NaN for what is not below the node.

        Raises
        ------
        NotFittedError
            Before `fit`.
        IndexError
            For no node of the tree.
        ValueError
            With `squared`, where components are no mixtures.
        """
        network, tree = self.network, self.network.tree
        if self._made("squared"):
            raise ValueError("squared is True; a square has no mixtures whose means could be told")
        if not 0 <= node <= tree.root:
            raise IndexError(f"node is {node}; the tree has nodes 0 to {tree.root}")
        below = set(tree.modes(node))
        values = self._level_values()
        found: dict[int, Tensor] = {}
        # Children come before their parents.
        for each in (n for n in range(node + 1) if below.issuperset(tree.modes(n))):
            weights = network.matrix(each).detach().double().cpu()
            children = tree.children(each)
            if children:
                found[each] = weights.T @ torch.stack([found.pop(child) for child in children]).sum(0)
            else:
                found[each] = torch.zeros(weights.shape[1], tree.order, dtype=torch.float64, device="cpu")
                found[each][:, each] = weights.T @ values[each]
        means = found[node]
        means[:, [mode for mode in range(tree.order) if mode not in below]] = math.nan
        return means.view(-1, *self.shape_)

    def _level_values(self) -> Tensor:
        """Values that the levels, or the components of normal leaves, stand for, (order, levels)."""
        if isinstance(self.levels_, Reals):
            assert self.leaves_ is not None
            return self.levels_.decode(self.leaves_.mean.detach().double().cpu().T).T
        levels = torch.arange(self.levels_.levels, device="cpu")
        return self.levels_.decode(levels).double().expand(self.network_.order, -1)

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
        dtype = self._made("dtype")
        about["settings"] |= {
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
            "schedule": self.schedule if isinstance(self.schedule, str) else "constant",
        }
        about |= {
            "outputs": self.network_.outputs,
            "shape": list(self.shape_),
            "levels": astuple(self.levels_) if isinstance(self.levels_, Levels) else None,
            "as_tensors": self._tensors,
            "samples_seen": self._samples_seen,
        }
        tensors = {f"network/{name}": tensor for name, tensor in self.network_.state_dict().items()}
        if self.leaves_ is not None and isinstance(self.levels_, Reals):
            tensors |= {f"leaves/{name}": tensor for name, tensor in self.leaves_.state_dict().items()}
            tensors |= {"values/mean": self.levels_.mean, "values/scale": self.levels_.scale}
        return tensors, about

    @classmethod
    def _settings(cls, saved: dict[str, Any]) -> dict[str, Any]:
        return {**saved, "dtype": None if saved["dtype"] is None else getattr(torch, saved["dtype"])}

    def _restore(
        self, tensors: dict[str, Tensor], about: dict[str, Any], tree: DimensionTree, device: torch.device
    ) -> None:
        self.shape_, self.n_features_in_ = tuple(about["shape"]), tree.order
        self._tensors, self._samples_seen = about["as_tensors"], about.get("samples_seen", 0)
        own, values = part_of("leaves/", tensors), part_of("values/", tensors)
        self.levels_ = Reals(values["mean"], values["scale"]) if own else Levels(*about["levels"])
        weights = part_of("network/", tensors)
        dtype = next(iter(weights.values())).dtype
        network = HTNetwork(
            tree,
            self.components if own else about["levels"][0],
            self.width,
            outputs=about["outputs"],
            init=_nothing,
            dtype=dtype,
            device=device,
        )
        load_weights(network, weights)
        if own:
            leaves = NormalLeaves(own["mean"], own["log_std"].exp(), own["smallest"])
            load_weights(leaves, own)
            self._settle(NormalNetwork(leaves, network).to(device))
        else:
            self._settle(network)


def _nothing(layout: Any, block: Any, generator: Any) -> Tensor:
    return torch.zeros(len(block.nodes), block.rows, block.columns, device="cpu")
