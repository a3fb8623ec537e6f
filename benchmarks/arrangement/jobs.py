"""One training of the arrangement benchmark: a data set, an arrangement of its features, a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import htf
from benchmarks.batches import Shuffled
from htf.jobs import FolderJob, Progress
from htf.training import Training
from htf.tree import DimensionTree

from .data import Table, permuted
from .networks import LocalAttention, grid_network, line_network

ARRANGEMENTS = ("given", "random", *htf.arrangement.METHODS)
NETWORKS = ("line", "grid", "attention", "ht")
Places = tuple[np.ndarray, np.ndarray | None, DimensionTree]


@dataclass(frozen=True)
class Job(FolderJob):
    """A network, trained on arranged features.

    Attributes
    ----------
    data, arrangement, network : str
        "given" is the order before the permutation; "random" the permuted one.
    seed : int
        Of the permutation, the samples, the network's start and its batches.
    train, test, epochs : int
    measured : int
        Samples of which the entanglement across the tree of the arrangement is measured.
    """

    kind = "benchmark of arrangement"
    pattern = "jobs/*.json"

    data: str
    arrangement: str
    network: str
    seed: int
    train: int
    test: int
    epochs: int
    measured: int

    @property
    def label(self) -> str:
        return f"{self.data}_{self.arrangement}_{self.network}_seed{self.seed}"

    def compute(
        self, folder: Path | None, report: Progress, *, data_dir: str | None = None, mlbench: str | None = None
    ) -> dict[str, Any]:
        """Arrange, train, and measure."""
        torch.manual_seed(self.seed)
        table = permuted(self.data, self.train, self.test, self.seed, data_dir, mlbench)
        began = time.perf_counter()
        order, grid, tree = places(table, self.arrangement, self.seed)
        found = time.perf_counter() - began
        profile = htf.ranks.data_entanglement(table.x, table.y, tree, samples=self.measured, seed=self.seed)
        if self.network == "ht":
            settings: dict[str, Any] = {"width": 32, "epochs": self.epochs, "lr": 1e-2, "device": "cpu"}
            model = htf.models.TensorClassifier(tree=tree, seed=self.seed, **settings).fit(table.x, table.y)
            test, train = model.score(table.test_x, table.test_y), model.score(table.x, table.y)
        else:
            classes, codes = np.unique(table.y, return_inverse=True)
            splits = ((table.x, codes), (table.test_x, np.searchsorted(classes, table.test_y)))
            pairs = [(_arranged(self.network, x, order, grid), torch.from_numpy(y)) for x, y in splits]
            trained = self._trained(*pairs[0], len(classes))
            train, test = (_accuracy(trained, *pair) for pair in pairs)
        return {
            "test_accuracy": test,
            "train_accuracy": train,
            "distance": None if grid is None or table.grid is None else distance(grid, table),
            "entanglement": profile.mean,
            "seconds_found": round(found, 2),
        }

    def _trained(self, x: Tensor, y: Tensor, classes: int) -> nn.Module:
        if self.network == "grid":
            model = grid_network(x.shape[2], classes, self.seed)
        else:
            model = (line_network if self.network == "line" else LocalAttention)(x.shape[1], classes)
        objective = Shuffled(x, y, 32, self.seed)
        optimizer = partial(torch.optim.AdamW, weight_decay=1e-2)
        Training(model, objective, optimizer=optimizer, lr=3e-3, schedule="one_cycle", seed=self.seed).run(
            epochs=self.epochs
        )
        return model.eval()


def places(table: Table, arrangement: str, seed: int) -> Places:
    """Order, grid and tree of an arrangement, over the permuted features."""
    features = table.x.shape[1]
    if arrangement in ("given", "random"):
        order = np.argsort(table.permutation) if arrangement == "given" else np.arange(features)
        grid = None if table.grid is None else order.reshape(table.grid)
        # Pixels that were an image have the tree of its grid.
        shape = DimensionTree.balanced(features) if table.grid is None else DimensionTree.grid(*table.grid)
        if arrangement == "random":
            shape = DimensionTree.balanced(features)
        return order, grid, _relabelled(shape, order)
    arranged = htf.arrange(table.x, table.y, arrangement, seed=seed)
    side = table.grid or (1, features)
    return arranged.order, None if table.grid is None else arranged.grid(*side), arranged.tree


def _relabelled(tree: DimensionTree, order: np.ndarray) -> DimensionTree:
    """The tree with feature ``order[k]`` in place of mode k."""
    groups = [
        [int(order[child]) if child < tree.order else child for child in tree.children(node)]
        for node in tree.inner_nodes
    ]
    return DimensionTree(tree.order, groups)


def distance(grid: np.ndarray, table: Table) -> float:
    """Mean distance, in the original image, of the pixels that are neighbours in the grid."""
    assert table.grid is not None
    at = np.stack(np.divmod(table.permutation[grid], table.grid[1]), -1).astype(float)
    steps = (at[1:] - at[:-1], at[:, 1:] - at[:, :-1])
    return float(np.concatenate([np.linalg.norm(step, axis=2).ravel() for step in steps]).mean())


def _arranged(network: str, x: np.ndarray, order: np.ndarray, grid: np.ndarray | None) -> Tensor:
    table = torch.from_numpy(x).float()
    if network == "grid":
        assert grid is not None
        return table[:, torch.from_numpy(grid)].unsqueeze(1)
    return table[:, torch.from_numpy(order)]


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    right = [(model(part).argmax(1) == labels).sum() for part, labels in zip(x.split(500), y.split(500), strict=True)]
    return float(sum(right)) / len(y)
