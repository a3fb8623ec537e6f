"""Arrange features so that a network of local connections suits them: an order, grids, and a tree."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from htf._checks import check_seed, natural, positive
from htf._random import seeded
from htf.arrangement.cuts import chosen_cut, nearest, placed, spectral_places
from htf.arrangement.igtd import igtd_places
from htf.arrangement.layout import Layout
from htf.arrangement.similarity import SIMILARITIES, similarities
from htf.arrangement.swaps import Exchanges
from htf.tensors.data_tensor import DataTensor, Encoder, check_features, feature_vectors, label_codes
from htf.tree import DimensionTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("entanglement", "correlation", "spectral", "igtd")
_FEWEST = 4


class Arrangement:
    """Features arranged by what they say of each other; made by `htf.arrange`.

    Attributes
    ----------
    method : str
    cut : str or None
        "metis" or "spectral"; None for methods that do not cut.
    similarities : array (features, features)
        Weights of the graph.
    settings : dict
        As JSON can hold them.

    See Also
    --------
    htf.arrange : makes it.
    htf.plotting.plot_arrangement : draws it.
    htf.ranks.data_entanglement : what a good arrangement lowers.

    Examples
    --------
    >>> import numpy as np, htf
    >>> x = np.random.default_rng(0).normal(size=(200, 6))
    >>> x[:, 3:] = x[:, :3]  # features 3, 4 and 5 repeat 0, 1 and 2
    >>> arranged = htf.arrange(x, method="correlation", cut="spectral", neighbours=2)
    >>> places = {int(feature): place for place, feature in enumerate(arranged.order)}
    >>> [abs(places[k] - places[k + 3]) for k in range(3)]  # pairs are neighbours
    [1, 1, 1]
    >>> arranged.tree.order, arranged.grid(2, 3).shape
    (6, (2, 3))
    >>> arranged.images(x, 2, 3).shape  # for a CNN
    (200, 2, 3)
    """

    def __init__(
        self,
        similarities: np.ndarray,
        method: str,
        cut: str | None,
        tensor: DataTensor | None,
        neighbours: int,
        trials: int,
        seed: int,
    ) -> None:
        self.similarities, self.method, self.cut = similarities, method, cut
        self._tensor, self._neighbours, self._trials, self._seed = tensor, neighbours, trials, seed
        self._known: dict[tuple[int, int], tuple[Layout, np.ndarray]] = {}
        self.settings: dict[str, Any] = {
            "method": method,
            "cut": cut,
            "features": len(similarities),
            "neighbours": neighbours,
            "seed": seed,
        }
        if tensor is not None:
            self.settings |= {"samples": tensor.samples, "trials": trials}

    def __repr__(self) -> str:
        cut = "" if self.cut is None else f", cut={self.cut!r}"
        return f"Arrangement({len(self.similarities)} features, method={self.method!r}{cut})"

    @property
    def order(self) -> np.ndarray:
        """The feature at each place of a line, (features,): ``x[:, order]`` is for a 1-D network."""
        layout, found = self._placed(1, len(self.similarities))
        return self._cells(layout, found)[0]

    @cached_property
    def tree(self) -> DimensionTree:
        """The binary tree of the cuts of the line, over the features as they were given."""
        layout, found = self._placed(1, len(self.similarities))
        return layout.tree(found)

    def grid(self, height: int, width: int) -> np.ndarray:
        """The feature at each cell of a grid, (height, width), -1 where there is none.

        Raises
        ------
        TypeError, ValueError
            For sides that are no counts, or cells that do not hold the features.
        """
        cells, features = positive("height", height) * positive("width", width), len(self.similarities)
        if cells < features:
            raise ValueError(
                f"grid of {height} x {width} has {cells} cells; expected one for each of {features} features"
            )
        layout, found = self._placed(int(height), int(width))
        grid = self._cells(layout, found)
        return np.where(grid < features, grid, -1)

    def images(self, features: Any, height: int, width: int) -> Any:
        """Features as images, (samples, height, width), zero where a cell has none; an array or tensor, as they came.

        Raises
        ------
        TypeError, ValueError
            As for `grid`, or for features of another number.
        """
        grid = self.grid(height, width)
        if not hasattr(features, "shape") or len(features.shape) < 2:
            features = np.asarray(features)
        if len(features.shape) < 2 or features.shape[1] != len(self.similarities):
            expected = f"(samples, {len(self.similarities)})"
            raise ValueError(f"features has shape {tuple(features.shape)}; expected {expected}")
        if isinstance(features, Tensor):
            where = torch.from_numpy(grid).to(features.device)
            return features[:, where.clamp(min=0)].masked_fill(where < 0, 0)
        images = np.asarray(features)[:, grid.clip(0)]
        images[:, grid < 0] = 0
        return images

    def plot(self, height: int | None = None, width: int | None = None) -> Figure:
        """Draw it; see `htf.plotting.plot_arrangement`."""
        from htf.plotting import plot_arrangement

        return plot_arrangement(self, height, width)

    def _placed(self, height: int, width: int) -> tuple[Layout, np.ndarray]:
        if (height, width) not in self._known:
            layout = Layout.of(height, width)
            self._known[height, width] = layout, self._place(layout)
        return self._known[height, width]

    def _place(self, layout: Layout) -> np.ndarray:
        """Features at cells; numbers beyond the features are cells without any, which are alike."""
        features, cells = len(self.similarities), len(layout.cells)
        weights = np.zeros((cells, cells))
        weights[:features, :features] = self.similarities
        weights[features:, features:] = 1 - np.eye(cells - features)
        if self.method == "igtd":
            return igtd_places(weights, layout)
        if self.method == "spectral":
            return spectral_places(nearest(weights, self._neighbours), layout)
        assert self.cut is not None
        found = placed(nearest(weights, self._neighbours), layout, self.cut, self._seed)
        if self._tensor is None:
            return found
        exchanges = Exchanges(self._tensor.padded(cells), layout, found, weights)
        exchanges.lower(self._trials)
        return exchanges.found

    def _cells(self, layout: Layout, found: np.ndarray) -> np.ndarray:
        grid = np.empty((layout.height, layout.width), dtype=np.int64)
        grid[tuple(layout.cells.T)] = found
        return grid


def arrange(
    features: Any,
    labels: Any = None,
    method: str = "entanglement",
    *,
    similarity: str = "correlation",
    cut: str = "auto",
    neighbours: int = 8,
    encoder: Encoder | None = None,
    samples: int = 128,
    trials: int = 200,
    seed: int = 0,
) -> Arrangement:
    """Arrange features so that near ones say much of each other, for networks whose connections are local.

    Parameters
    ----------
    features : array or Tensor
        (samples, features) numbers, or a vector for each feature, (samples, features, dim).
    labels : array (samples,), optional
        Classes, for the method "entanglement": its exchanges lower the entanglement of the samples signed by label.
    method : {"entanglement", "correlation", "spectral", "igtd"}
        "correlation" cuts the graph of `similarity` into halves, quarters, and so on, with as little weight across the
        cuts as may be; "entanglement" then exchanges features as long as that lowers the exact entanglement of the
        data across all the cuts; "spectral" sorts along eigenvectors of the graph's Laplacian; "igtd" matches ranks of
        dissimilarities and of distances between cells.
    similarity : {"correlation", "mutual_information"}
        Absolute Pearson correlation, or mutual information of features sorted into 8 bins.
    cut : {"auto", "metis", "spectral"}
        Cuts by METIS, which needs pymetis, ``pip install 'htf-tensors[arrange]'``, or along Fiedler vectors; the first
        where it is installed.
    neighbours : int
        Edges of the graph that each feature has at least, those of its largest similarities; "igtd" takes all pairs.
    encoder : callable, optional
        Feature map of the entanglement, as for `htf.ranks.data_entanglement`.
    samples : int
        Samples drawn for the exchanges.
    trials : int
        Exchanges whose exact effect is computed, at most.
    seed : int
        Of METIS, and of the samples drawn.

    Returns
    -------
    Arrangement
        ``order`` for 1-D networks, ``grid(height, width)`` for 2-D ones, ``tree`` for those of this library.

    Raises
    ------
    TypeError, ValueError
        For features that are constant altogether, NaN or infinite, or fewer than 4; labels of one class or another
        number; an unknown method, similarity or cut.
    ModuleNotFoundError
        If METIS is asked for by name and pymetis is not installed.

    See Also
    --------
    htf.arrangement.Arrangement : what it returns.
    htf.optimize_tree : a tree of the modes of a tensor.
    htf.ranks.data_entanglement : what a good arrangement lowers.

    Notes
    -----
    O(samples features²) for the graph; cuts take about O(features²) for each of log₂(features) levels.  An exchange
    takes O(samples³) for each part that it changes, at most 2 log₂(features); O(features samples²) numbers are held for
    them.  Single features that are constant say nothing of others; they count as alike and are put together.  Places
    and trees are computed when they are asked for first.

    References
    ----------
    .. [1] Y. Alexander, N. De La Vega, N. Razin, N. Cohen, "What makes data suitable for a locally connected neural
       network? A necessary and sufficient condition based on quantum entanglement", NeurIPS 2023.
    .. [2] G. Karypis, V. Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", SIAM J.
       Sci. Comput. 20 (1998).

    Examples
    --------
    >>> import numpy as np, htf
    >>> signal = np.random.default_rng(0).normal(size=(300, 8)).cumsum(1)
    >>> shuffled = signal[:, [3, 0, 7, 5, 1, 6, 2, 4]]
    >>> arranged = htf.arrange(shuffled, method="correlation", cut="spectral")
    >>> [[3, 0, 7, 5, 1, 6, 2, 4][k] for k in arranged.order]
    [7, 6, 5, 4, 3, 2, 1, 0]
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity is {similarity!r}; expected one of {', '.join(SIMILARITIES)}")
    seed = check_seed(seed)
    trials, neighbours = natural("trials", trials), positive("neighbours", neighbours)
    samples = positive("samples", samples)
    if samples < 2:
        raise ValueError(f"samples is {samples}; expected at least 2")
    table = check_features(features)
    if table.ndim > 3:
        raise ValueError(
            f"features has shape {tuple(table.shape)}; expected (samples, features) or (samples, features, dim)"
        )
    if table.shape[1] < _FEWEST:
        raise ValueError(f"features has {table.shape[1]} features; expected at least {_FEWEST}")
    codes = None if labels is None else label_codes(labels, len(table))
    chosen = chosen_cut(cut)
    tensor = None
    if method == "entanglement":
        vectors = feature_vectors(table, encoder).cpu()
        if vectors.shape[1] != table.shape[1]:
            raise ValueError(f"encoder gives vectors for {vectors.shape[1]} features; expected {table.shape[1]}")
        rows = torch.randperm(len(table), generator=seeded(seed, 0), device="cpu")[:samples]
        tensor = DataTensor(vectors, codes).take(rows)
    cuts = method in ("entanglement", "correlation")
    weights = similarities(table, similarity)
    return Arrangement(weights, method, chosen if cuts else None, tensor, neighbours, trials, seed)
