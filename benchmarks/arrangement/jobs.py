"""One training of the arrangement benchmark: a data set, an arrangement of its features, a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import htf
from benchmarks.batches import Shuffled
from htf.arrangement.layout import Layout
from htf.jobs import FolderJob, Progress
from htf.training import Training
from htf.tree import DimensionTree

from .data import Table, permuted
from .networks import LocalAttention, grid_network, line_network

ARRANGEMENTS = ("given", "random", *htf.arrangement.METHODS)
NETWORKS = ("line", "grid", "attention", "ht")
BATCH = 64
Places = tuple[np.ndarray, DimensionTree]


@dataclass(frozen=True)
class Job(FolderJob):
    """A network, trained on arranged features.

    Attributes
    ----------
    data, arrangement, network : str
        "given" is the order before the permutation; "random" the permuted one.
    seed : int
        Of the permutation, the samples, the network's start and its batches.
    train, test, width, epochs : int
    measured : int
        Samples of which the entanglement across the tree of the arrangement is measured.
    held_out : bool
        Whether the accuracy is that on a quarter of the training samples, which are not trained on.
    """

    kind = "benchmark of arrangement"
    pattern = "jobs/*.json"

    data: str
    arrangement: str
    network: str
    seed: int
    train: int
    test: int
    width: int
    epochs: int
    measured: int
    held_out: bool = False

    @property
    def label(self) -> str:
        return f"{self.data}_{self.arrangement}_{self.network}_seed{self.seed}"

    def compute(
        self, folder: Path | None, report: Progress, *, data_dir: str | None = None, mlbench: str | None = None
    ) -> dict[str, Any]:
        """Arrange, train, and measure."""
        torch.manual_seed(self.seed)
        source = self.data, self.train, self.test, self.seed, data_dir, mlbench, self.held_out
        table = permuted(*source)
        kind = "grid" if self.network == "grid" else "line"
        if self.network == "ht" and self.arrangement == "given" and table.grid is not None:
            kind = "ht"
        cells, tree, found = _places(source, self.arrangement, kind)
        began = time.perf_counter()
        if self.network == "ht":
            model = htf.models.TensorClassifier(
                tree=tree, width=self.width, epochs=self.epochs, lr=1e-2, seed=self.seed, device="cpu"
            ).fit(table.x, table.y)
            test, train = model.score(table.test_x, table.test_y), model.score(table.x, table.y)
        else:
            classes, codes = np.unique(table.y, return_inverse=True)
            splits = ((table.x, codes), (table.test_x, np.searchsorted(classes, table.test_y)))
            pairs = [(_arranged(x, cells), torch.from_numpy(y)) for x, y in splits]
            trained = self._trained(*pairs[0], len(classes))
            train, test = (_accuracy(trained, *pair) for pair in pairs)
        return {
            "test_accuracy": test,
            "train_accuracy": train,
            "distance": distance(cells, table) if table.grid is not None and cells.ndim == 2 else None,
            "entanglement": _profile(source, self.arrangement, kind, self.measured).mean,
            "seconds_found": round(found, 2),
            "seconds_trained": round(time.perf_counter() - began, 2),
        }

    def _trained(self, x: Tensor, y: Tensor, classes: int) -> nn.Module:
        if self.network == "grid":
            model = grid_network(x.shape[2], classes, self.seed, self.width)
        else:
            model = (line_network if self.network == "line" else LocalAttention)(x.shape[1], classes, self.width)
        objective = Shuffled(x, y, BATCH, self.seed)
        optimizer = partial(torch.optim.AdamW, weight_decay=1e-2)
        Training(model, objective, optimizer=optimizer, lr=3e-3, schedule="one_cycle", seed=self.seed).run(
            epochs=self.epochs
        )
        return model.eval()


@lru_cache(maxsize=32)
def _places(source: tuple[Any, ...], arrangement: str, kind: str) -> tuple[np.ndarray, DimensionTree, float]:
    """Cells and tree of an arrangement, found once for all networks, and the seconds that it took."""
    began = time.perf_counter()
    table = permuted(*source)
    cells, tree = places(table, arrangement, table.seed, kind)
    return cells, tree, time.perf_counter() - began


@lru_cache(maxsize=32)
def _profile(source: tuple[Any, ...], arrangement: str, kind: str, samples: int) -> htf.ranks.DataEntanglement:
    """Entanglement, signed by label, across the tree of an arrangement."""
    table = permuted(*source)
    tree = _places(source, arrangement, kind)[1]
    return htf.ranks.data_entanglement(table.x, table.y, tree, samples=samples, seed=table.seed)


def places(table: Table, arrangement: str, seed: int, kind: str = "grid") -> Places:
    """Cells and tree of an arrangement, over the permuted features.

    Parameters
    ----------
    table : Table
    arrangement : str
    seed : int
    kind : {"line", "grid", "ht"}
        Cells are an order (features,), or a grid (height, width).  The tree halves it again and again; for "ht" that
        of images in the given order is the grid's, which joins four at a time.
    """
    features, sides = table.x.shape[1], table.sides if kind == "grid" else (1, table.x.shape[1])
    if arrangement not in ("given", "random"):
        arranged = htf.arrange(table.x, table.y, arrangement, seed=seed)
        cells = arranged.grid(*sides)
    else:
        order = np.argsort(table.permutation) if arrangement == "given" else np.arange(features)
        cells = order.reshape(sides)
        if kind == "ht" and arrangement == "given" and table.grid is not None:
            return order, _relabelled(DimensionTree.grid(*table.grid), order)
    layout = Layout.of(*sides)
    tree = layout.tree(cells[tuple(layout.cells.T)])
    return cells if kind == "grid" else cells[0], tree


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


def _arranged(x: np.ndarray, cells: np.ndarray) -> Tensor:
    """Samples (n, features) of an order, or images (n, 1, height, width) of a grid."""
    found = torch.from_numpy(x).float()[:, torch.from_numpy(cells)]
    return found if cells.ndim == 1 else found.unsqueeze(1)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    right = [(model(part).argmax(1) == labels).sum() for part, labels in zip(x.split(500), y.split(500), strict=True)]
    return float(sum(right)) / len(y)
