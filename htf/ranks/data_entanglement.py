"""Entanglement of data: entropies of a data set, as a tensor, across the canonical partitions of a tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf._checks import check_seed, natural, positive
from htf._files import read_json, write_json
from htf._random import seeded
from htf._repr import brief
from htf.linalg.backend import backend_of
from htf.ranks.spectrum import shannon
from htf.tensors.data_tensor import DataTensor, Encoder, check_features, data_tensor, density, normalized
from htf.tree import DimensionTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND = "a profile of entanglement of data"
# Children of a node whose Gram matrices are held together; more are taken in halves.
_TOGETHER = 8
# Samples of another draw, and their weights; None are all.
Reading = tuple[Tensor | None, Tensor]


@dataclass(frozen=True)
class DataEntanglement:
    """Entropies of data across the canonical partitions of a tree.

    Attributes
    ----------
    tree : DimensionTree
    entropies : dict
        From each node below the root, in nats: that of the matricization of its modes against the rest.
    errors : dict or None
        Standard errors, by resampling.
    null : dict or None
        Mean entropies of the same samples with permuted labels.
    null_spread : dict or None
        Their standard deviations from one permutation to another.
    settings : dict
        The measurement's settings, as JSON can hold them.

    See Also
    --------
    htf.ranks.data_entanglement : measures it.
    htf.plotting.plot_data_entanglement : draws it.
    htf.arrange : an arrangement of features that lowers it.

    Examples
    --------
    >>> import numpy as np, htf
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 100)
    >>> x = rng.normal(size=(100, 4)) + y[:, None]
    >>> found = htf.ranks.data_entanglement(x, y, permutations=5, seed=0)
    >>> print(found.table())
    level  nodes      mean  largest     null
        0      4    0.4293   0.5488   0.4460
        1      2    0.5516   0.5516   0.5877
    """

    tree: DimensionTree
    entropies: dict[int, float]
    errors: dict[int, float] | None
    null: dict[int, float] | None
    null_spread: dict[int, float] | None
    settings: dict[str, Any]

    __repr__ = brief

    @property
    def mean(self) -> float:
        """Mean over all canonical partitions."""
        return sum(self.entropies.values()) / len(self.entropies)

    def by_level(self) -> dict[int, float]:
        """Means over the nodes of each level of the tree, from the leaves, level 0, up to below the root."""
        found: dict[int, list[float]] = {}
        for node, entropy in self.entropies.items():
            found.setdefault(self.tree.level(node), []).append(entropy)
        return {level: sum(values) / len(values) for level, values in sorted(found.items())}

    def interval(self, node: int, level: float = 0.95) -> tuple[float, float]:
        """Bounds of the entropy at a node, at a level of confidence, by the normal distribution and above 0.

        Raises
        ------
        ValueError
            Without `errors`, or for a level that is not between 0 and 1.
        """
        if self.errors is None:
            raise ValueError("the profile has no errors; measure it with resamples=20, say")
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; expected a number between 0 and 1")
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.errors[node]
        return max(0.0, self.entropies[node] - reach), self.entropies[node] + reach

    def table(self) -> str:
        """Format as text, a row per level of the tree: nodes, mean entropy, the largest, and the null's mean."""
        lines = [f"{'level':>5} {'nodes':>6}  {'mean':>8} {'largest':>8}" + (f" {'null':>8}" if self.null else "")]
        for level, mean in self.by_level().items():
            nodes = [node for node in self.entropies if self.tree.level(node) == level]
            largest = max(self.entropies[node] for node in nodes)
            null = f" {sum(self.null[node] for node in nodes) / len(nodes):>8.4f}" if self.null else ""
            lines.append(f"{level:>5} {len(nodes):>6}  {mean:>8.4f} {largest:>8.4f}{null}")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None, *, label: str | None = None) -> Axes:
        """Draw it; see `htf.plotting.plot_data_entanglement`."""
        from htf.plotting import plot_data_entanglement

        return plot_data_entanglement(self, ax, label=label)

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file with a checksum; `load` reads it."""
        tree = [list(self.tree.children(node)) for node in self.tree.inner_nodes]
        columns = {name: _listed(getattr(self, name)) for name in _COLUMNS}
        write_json(Path(path), {"tree": tree, **columns, "settings": self.settings}, _KIND)

    @classmethod
    def load(cls, path: str | Path) -> DataEntanglement:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, or no profile.
        """
        content = read_json(Path(path), _KIND)
        try:
            children = content["tree"]
            tree = DimensionTree(sum(map(len, children)) - len(children) + 1, children)
            columns = {name: _by_node(content[name], tree) for name in _COLUMNS}
            if columns["entropies"] is None:
                raise TypeError("it has no entropies")
            return cls(tree, **columns, settings=content["settings"])  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a profile of entanglement of data ({error})") from error


_COLUMNS = ("entropies", "errors", "null", "null_spread")


def _listed(column: dict[int, float] | None) -> list[float] | None:
    return None if column is None else list(column.values())


def _by_node(column: list[float] | None, tree: DimensionTree) -> dict[int, float] | None:
    if column is None:
        return None
    if len(column) != tree.n_nodes - 1 or not all(isinstance(number, int | float) for number in column):
        raise TypeError("its columns hold what is no number, or too few")
    return dict(zip(tree.edges, column, strict=True))


def data_entanglement(
    features: Any,
    labels: Any = None,
    tree: DimensionTree | None = None,
    *,
    encoder: Encoder | None = None,
    samples: int | None = None,
    resamples: int = 0,
    permutations: int = 0,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> DataEntanglement:
    r"""Entanglement of a data set across every canonical partition of a tree: is it low, a network on the tree suits.

    The data set is the tensor

    .. math:: \mathcal{D} = \frac{1}{M} \sum_{i=1}^{M} c_i \otimes \phi(x_{i1}) \otimes \dots \otimes \phi(x_{iN})

    with codes :math:`c_i` of the labels, which a prediction by a tensor on the tree must resemble: it can only if
    the entropies of the matricizations of nodes' modes against the rest are low.

    Parameters
    ----------
    features : array or Tensor
        (samples, features) numbers, or a vector for each feature, (samples, features, dim); images with an `encoder`.
    labels : array (samples,), optional
        Classes, of any type that can be sorted.  A code is the unit vector of a class less the mean over the classes,
        so that for two classes it is a sign; it is a mode on the side of the root.  Without labels the samples are
        added up as they are.
    tree : DimensionTree, optional
        Over the features; balanced by default.
    encoder : callable, optional
        Feature map :math:`\phi`, from `features` as a tensor to (samples, features, dim), such as
        ``lambda x: htf.datasets.affine(x, maximum=1)``.  By default a table is encoded as (cos θz, sin θz) of
        standardized features z, cut at 5 deviations, with θ = √(2/features), so that inner products of all of two
        samples are those of the Gaussian kernel of scikit-learn's default width, and vectors are taken as they are.
    samples : int, optional
        Draw so many samples, without replacement, and measure them alone.
    resamples : int
        Halves of the samples that are drawn for standard errors; 0 for none.
    permutations : int
        Permutations of the labels for the null; 0 for none.
    seed : int
        Of all that is drawn.
    device : str or torch.device, optional
        Where to compute; by default where `features` is.

    Returns
    -------
    DataEntanglement

    Raises
    ------
    TypeError, ValueError
        For features of another kind or shape, that are constant, NaN or infinite; labels of one class or another
        number; a tree of another order; permutations without labels.
    MemoryError
        If Gram matrices of the samples do not fit into memory, saying how many samples do.

    See Also
    --------
    htf.ranks.DataEntanglement : what it returns.
    htf.arrange : an arrangement of features that lowers it.
    htf.ranks.entanglement_entropies : the same entropies of a tensor or network.

    Notes
    -----
    With the Gram matrices :math:`G_A, G_B` of the samples' products over a node's modes and over the others,
    :math:`\mathcal{D}_A \mathcal{D}_A^\top` has the nonzero eigenvalues of
    :math:`F^\top (G_B \circ C C^\top) F / M^2` for any :math:`F F^\top = G_A`.  Products over few modes are written
    out, which gives the spectra of all nodes below by partial traces; others take a pivoted Cholesky factor, which
    leaves out at most 1e-10 of the squared norm, and 1e-14 for 500 samples or less.
    O(M² N) for each level of the tree, and O(M³) for each node of more than about 6 features; some M² numbers for each
    level in memory.  Vectors are scaled to length 1 and their logarithms added up, so that nothing leaves the range.

    Entropies grow with the number of samples, up to its logarithm: compare those of equally many.  Errors are the
    standard deviation over random halves (a delete-half jackknife), of the same samples' spread, not of this bias.

    References
    ----------
    .. [1] Y. Alexander, N. De La Vega, N. Razin, N. Cohen, "What makes data suitable for a locally connected neural
       network? A necessary and sufficient condition based on quantum entanglement", NeurIPS 2023.
    .. [2] J. Shao, C. F. J. Wu, "A general theory for jackknife variance estimation", Ann. Statist. 17 (1989).

    Examples
    --------
    >>> import numpy as np, htf
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> x[:, 2:] = x[:, :2]  # features 0 and 2 are the same, 1 and 3 too
    >>> far = htf.ranks.data_entanglement(x, tree=htf.DimensionTree.from_nested(((0, 1), (2, 3))))
    >>> near = htf.ranks.data_entanglement(x, tree=htf.DimensionTree.from_nested(((0, 2), (1, 3))))
    >>> near.mean < far.mean
    True
    """
    seed = check_seed(seed)
    resamples, permutations = natural("resamples", resamples), natural("permutations", permutations)
    if permutations and labels is None:
        raise ValueError(f"permutations is {permutations} and labels is None; the null permutes labels")
    given = len(check_features(features))
    tensor = data_tensor(features, labels, encoder, device)
    if samples is not None:
        if positive("samples", samples) < 2:
            raise ValueError(f"samples is {samples}; expected at least 2")
        tensor = tensor.take(torch.randperm(given, generator=seeded(seed, 0), device="cpu")[:samples])
    tree = DimensionTree.balanced(tensor.order) if tree is None else tree
    if not isinstance(tree, DimensionTree):
        raise TypeError(f"tree is a {type(tree).__name__}; expected a DimensionTree")
    if tree.order != tensor.order:
        raise ValueError(f"tree has {tree.order} modes; the samples have {tensor.order} features")
    if tree.order < 2:
        raise ValueError("features has one feature; expected at least 2, as one has no partition")
    _check_memory(tensor, tree)
    halves = [
        (rows, tensor.weights[rows])
        for rows in (_drawn(tensor, seed, 1 + k)[: max(2, tensor.samples // 2)] for k in range(resamples))
    ]
    nulls: list[Reading] = [
        (None, tensor.norms * tensor.codes[_drawn(tensor, seed, 1 + resamples + k)]) for k in range(permutations)
    ]
    found = dict(_entropies(tensor, tree, [(None, tensor.weights), *halves, *nulls]))
    by_node = {node: found[node] for node in tree.edges}
    ends = (1, 1 + resamples, 1 + resamples + permutations)
    settings = {
        "samples": tensor.samples,
        "of": given,
        "labels": labels is not None,
        "dim": tensor.dim,
        "resamples": resamples,
        "permutations": permutations,
        "seed": seed,
    }
    return DataEntanglement(
        tree,
        {node: values[0] for node, values in by_node.items()},
        {node: _spread(values[1 : ends[1]]) for node, values in by_node.items()} if resamples else None,
        {n: sum(v[ends[1] :]) / permutations for n, v in by_node.items()} if permutations else None,
        {n: _spread(v[ends[1] :]) for n, v in by_node.items()} if permutations else None,
        settings,
    )


def _drawn(tensor: DataTensor, seed: int, key: int) -> Tensor:
    return torch.randperm(tensor.samples, generator=seeded(seed, key), device="cpu").to(tensor.units.device)


def _spread(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0


def _entropies(tensor: DataTensor, tree: DimensionTree, readings: list[Reading]) -> Iterator[tuple[int, list[float]]]:
    """Entropies at each node below the root, of each reading."""
    everything = tensor.units.new_ones(tensor.samples, tensor.samples)
    # Siblings that are yet to be visited, and the Gram matrices of all features but theirs, and of theirs.
    stack: list[tuple[tuple[int, ...], Tensor, Tensor]] = [((tree.root,), everything, everything)]
    while stack:
        nodes, above, below = stack.pop()
        if len(nodes) > _TOGETHER:
            parts = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]
            grams = [tensor.gram(mode for node in part for mode in tree.modes(node)) for part in parts]
            stack += [(parts[0], above * grams[1], grams[0]), (parts[1], above * grams[0], grams[1])]
            continue
        if len(nodes) > 1:
            stack.extend(_others(tensor, tree, nodes, above))
            continue
        node, modes = nodes[0], tree.modes(nodes[0])
        if tensor.explicit(len(modes)):
            products = tensor.products(modes)
            densities = [density(*_of(reading, products, above)) for reading in readings]
            yield from _partial_traces(tensor, tree, node, densities)
            continue
        if node != tree.root:
            factor = tensor.factor(below, above, [weights for rows, weights in readings if rows is None])
            yield node, [_entropy(density(*_narrow(*_of(reading, factor, above)))) for reading in readings]
        if node not in tree.leaves:
            stack.append((tree.children(node), above, below))


def _others(
    tensor: DataTensor, tree: DimensionTree, nodes: tuple[int, ...], above: Tensor
) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Each of some siblings, with the Gram matrices of all features but its own and of its own."""
    grams = [tensor.gram(tree.modes(node)) for node in nodes]
    after = [above]
    for gram in reversed(grams[1:]):
        after.append(after[-1] * gram)
    before: Tensor | None = None
    for node, gram in zip(nodes, grams, strict=True):
        rest = after.pop()
        # The last is the Gram matrix above, which others may hold.
        yield (node,), rest if before is None else rest * before, gram
        before = gram if before is None else before * gram


def _of(reading: Reading, products: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, weights = reading
    return (products, above, weights) if rows is None else (products[rows], above[rows][:, rows], weights)


def _narrow(factor: Tensor, above: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with no more columns than samples, which span no more."""
    if len(factor) < factor.shape[1]:
        factor = torch.linalg.qr(factor.T, mode="r")[1].T
    return factor, above, weights


def _partial_traces(
    tensor: DataTensor, tree: DimensionTree, node: int, densities: list[Tensor]
) -> Iterator[tuple[int, list[float]]]:
    """Entropies at a node and all below, from its matricizations times their transposes on products of unit vectors."""
    stack = [(node, densities)]
    while stack:
        node, densities = stack.pop()
        if node != tree.root:
            yield node, [_entropy(matrix) for matrix in densities]
        sizes = [tensor.dim ** len(tree.modes(child)) for child in tree.children(node)]
        before, whole = 1, densities[0].shape[0]
        for child, size in zip(tree.children(node), sizes, strict=True):
            shape = (before, size, whole // before // size)
            stack.append((child, [torch.einsum("abcadc->bd", m.reshape(*shape, *shape)) for m in densities]))
            before *= size


def _entropy(matrix: Tensor) -> float:
    return max(0.0, float(shannon(backend_of(matrix), normalized(matrix))))


def _check_memory(tensor: DataTensor, tree: DimensionTree) -> None:
    widest = min(max(len(tree.children(node)) for node in tree.inner_nodes), _TOGETHER)
    deep = sum(1 for level in tree.levels if not all(tensor.explicit(len(tree.modes(node))) for node in level))
    matrices = 6 + 3 * widest + 2 * min(deep, 12) * (widest - 1)
    free = _free_memory(tensor.units.device)
    if free is not None and 8 * matrices * tensor.samples**2 > free:
        fit = int((free / 8 / matrices) ** 0.5)
        raise MemoryError(
            f"features has {tensor.samples} samples, whose Gram matrices take "
            f"{8e-9 * matrices * tensor.samples**2:.0f} GB where {free / 1e9:.0f} GB are free; "
            f"up to {fit} samples fit: name samples={fit // 100 * 100 or fit}, say"
        )


def _free_memory(device: torch.device) -> int | None:
    """Bytes that are free, None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
