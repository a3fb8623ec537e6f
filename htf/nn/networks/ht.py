"""Hierarchical tensor factorization as a network (a convolutional arithmetic circuit)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from htf._checks import positive
from htf._random import Seed
from htf.engine.layout import Layout
from htf.engine.normalized import contract_normalized
from htf.nn.networks._starts import parameter_dtype, per_run
from htf.nn.networks.components import ComponentGroup, ComponentRates, alignments_from, gradient_of, node_group
from htf.nn.networks.inputs import check_encoded
from htf.nn.networks.tree import Init, TreeNetwork, draw
from htf.tensors.convac import convac_to_ht, ht_to_convac
from htf.tensors.ht_tensor import HTTensor, RawHT, alike, as_ht, pair
from htf.tree import DimensionTree


class HTNetwork(TreeNetwork):
    r"""Hierarchical tensor factorization on any dimension tree.

    Node :math:`\nu` holds a matrix :math:`W^{(\nu)}`, of shape (mode dimension, width of the parent) at a leaf and
    (own width, width of the parent) inside.  A leaf maps its input linearly; an inner node multiplies its children's
    outputs entry by entry and applies its matrix:

    .. math:: \mathcal{W}^{(\nu, r)} = \sum_{r'} W^{(\nu)}_{r', r} \bigotimes_{c \in C(\nu)} \mathcal{W}^{(c, r')} .

    Outputs on one-hot inputs are the entries of the tensor.

    Parameters
    ----------
    tree : DimensionTree
    dims : int or sequence of int
        Dimension of each mode.
    width : int, mapping, or a sequence of them
        Width of the inner nodes: one for all, or a mapping from node to width (``tree.by_level`` makes one from a
        width per level).  A sequence gives one per run; narrower runs are kept exactly as narrow by zeros that no
        gradient reaches.
    runs : int, optional
        Independent fits; 1, or the length of `width`.
    outputs : int
        Outputs of each run: columns of the root's matrix.  Several ones of a network without `runs` or a sequence of
        widths are (batch, outputs), without an axis of runs.
    shared : bool
        One matrix for all nodes of a level, as in a convolution; requires equal dims.
    init : str, callable, or sequence of them
        "scale_preserving" (default), "gaussian", "balanced", or see `htf.nn.init`; a sequence gives one per run.  For
        encoded vectors, ``htf.nn.init.scale_preserving(inputs=vectors)``.
    seed : int, torch.Generator or sequence of int, optional
        One per run makes a run start as it would alone.  None draws from torch's global generator.
    dtype, device : optional
        Dtype and device of the parameters; torch's defaults if they are not given.

    Attributes
    ----------
    weights : ParameterList
        Per block of alike nodes, (runs, nodes, rows, columns); see `matrix` for one node's.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.nn.CPNetwork, htf.nn.MatrixFactorization : other factorizations.
    htf.nn.init.scale_preserving : starts.
    htf.training.Training : trains it.
    htf.models.TensorClassifier, htf.models.TensorDensity : estimators that are such networks.

    Notes
    -----
    A forward pass takes O(rows · runs · R²) multiplications per node, rows being its distinct inputs in the batch.
    Parameters: :math:`\sum_\nu` rows × columns per run.

    References
    ----------
    .. [1] N. Cohen, O. Sharir, A. Shashua, "On the expressive power of deep learning: a tensor analysis", COLT 2016.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, equation (3).

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), dims=3, width=2, seed=0)
    >>> x = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])
    >>> net(x).shape, net.n_parameters()
    (torch.Size([2, 1]), 34)
    >>> tensor = net.to_tensor()  # the same, as a tensor
    >>> tensor.rank, torch.allclose(net(x)[:, 0], tensor.entries(x))
    ((2, 2, 2, 2, 2, 2, 1), True)

    Classes, from images whose pixels are encoded as vectors:

    >>> digits = htf.datasets.load("digits")
    >>> vectors = htf.datasets.affine(digits.train_images, digits.maximum)
    >>> start = htf.nn.init.scale_preserving(inputs=vectors)
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.grid(8, 8), dims=2, width=4, outputs=10, init=start, seed=0)
    >>> net(vectors[:5]).shape
    torch.Size([5, 10])
    """

    component_kinds = ("local_component_norms",)

    def __init__(
        self,
        tree: DimensionTree,
        dims: int | Sequence[int],
        width: int | Mapping[int, int] | Sequence[int | Mapping[int, int]],
        *,
        runs: int | None = None,
        outputs: int = 1,
        shared: bool = False,
        init: Init | Sequence[Init] = "scale_preserving",
        seed: Seed = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        widths, runs = per_run("width", width, runs)
        outputs = positive("outputs", outputs)
        layouts = [Layout.build(tree, dims, w, outputs) for w in widths]  # type: ignore[arg-type]
        first = layouts[0]
        super().__init__(first.dims, runs=runs, outputs=outputs)
        widest = tuple(max(column) for column in zip(*(each.widths for each in layouts), strict=True))
        self._layout = Layout(tree, first.dims, widest, outputs)
        if shared:
            _check_shareable(tree, first, widest)
        self._run_layouts = layouts
        self._channels = self.runs
        self.tree, self.shared = tree, shared
        dtype = parameter_dtype(dtype)
        self.weights = nn.ParameterList(
            torch.zeros(self.runs, 1 if shared else len(b.nodes), b.rows, b.columns, dtype=dtype, device=device)
            for b in self._layout.blocks
        )
        self.reset_parameters(init, seed)

    @property
    def device(self) -> torch.device:
        # Read at every step, as by a matrix factorization.
        return self.weights[0].device

    def start_run(self, run: int, init: Any, generator: Generator | None) -> None:
        layout = self._run_layouts[run]
        for weight in self.weights:
            weight[run].zero_()
        for nodes, matrices in draw(init, layout, generator, self.shared):
            values = matrices.to(self.dtype)
            for node, value in zip(nodes[:1] if self.shared else nodes, values, strict=False):
                rows, columns = layout.shape(node)
                self._stored(node, run)[:rows, :columns] = value.to(self.device)

    def matrix(self, node: int, run: int = 0) -> Tensor:
        """The matrix W of `node` in one run, (rows, columns): a view of the parameters."""
        if not 0 <= node <= self.tree.root:
            raise IndexError(f"node is {node}; the network has nodes 0 to {self.tree.root}")
        rows, columns = self._run_layouts[self.check_run(run)].shape(node)
        return self._stored(node, run)[:rows, :columns]

    def _stored(self, node: int, run: int) -> Tensor:
        block, position = self._layout.place[node]
        return self.weights[block][run, 0 if self.shared else position]

    def parameters_for(self, run: int) -> dict[int, Tensor]:
        """The matrices of one run, by node: views of the parameters, without the zeros of wider runs."""
        return {node: self.matrix(node, run) for node in range(self.tree.n_nodes)}

    @property
    def widths(self) -> list[dict[int, int]]:
        """Width of each inner node, one mapping per run."""
        return [dict(zip(self.tree.inner_nodes, each.widths, strict=True)) for each in self._run_layouts]

    def n_parameters(self, run: int = 0) -> int:
        """Number of entries of the matrices of one run; those that nodes share count once."""
        layout = self._run_layouts[self.check_run(run)]
        if self.shared:
            return sum(block.rows * block.columns for block in layout.blocks)
        return layout.n_parameters

    def structure(self) -> dict[str, Any]:
        widths = [list(own.values()) for own in self.widths]
        return {"widths": widths, "shared": self.shared, **super().structure()}

    def node_matrices(self, run: int = 0, tree: DimensionTree | None = None) -> dict[int, Tensor]:
        """The matrices of one run by node of its own tree: `parameters_for`."""
        if tree is not None and tree != self.tree:
            raise ValueError(f"tree is {tree!r}; an HTNetwork is measured on its own, {self.tree!r}")
        return self.parameters_for(run)

    def stacked_matrices(self) -> tuple[Layout, list[Tensor]]:
        return self._layout, list(self.weights)

    def to_tensor(self, run: int = 0) -> HTTensor:
        """The tensor of one run in HT format, exactly; gradients flow.

        Its entries are the network's outputs on one-hot inputs, its ranks the widths, its transfer tensors zero off the
        diagonal.  Leaf frames are views of the parameters; inner nodes take width² × columns entries, and a ValueError
        ends at 2^28 of them.
        """
        return convac_to_ht(self.tree, self.parameters_for(run))

    @classmethod
    def from_tensor(cls, tensors: HTTensor | RawHT | Sequence[HTTensor]) -> HTNetwork:
        """A network whose outputs on one-hot inputs are the entries of HT tensors, exactly.

        Parameters
        ----------
        tensors : HTTensor, (tree, factors), or sequence of HTTensor
            Made of PyTorch tensors; a sequence gives one run each, of one tree, shape and dtype, and an axis of runs.

        Returns
        -------
        HTNetwork
            The width of a node is the number of fibres of its transfer tensor that are not zero: the product of its
            children's ranks in general, the former width for a tensor that came from a network.

        Raises
        ------
        TypeError, ValueError
            For factors of another backend, or tensors that differ in tree, shape, dtype or device.

        Examples
        --------
        >>> import torch, htf
        >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0, like=torch.zeros(1, dtype=torch.float64))
        >>> net = htf.nn.HTNetwork.from_tensor(x)
        >>> torch.allclose(net(torch.tensor([[1, 2, 3]]))[0, 0], x[1, 2, 3])
        True
        """
        single = isinstance(tensors, HTTensor) or (len(tensors) == 2 and isinstance(tensors[0], DimensionTree))
        runs = [as_ht(tensors)] if single else [as_ht(x) for x in tensors]  # type: ignore[arg-type]
        if not runs:
            raise ValueError("tensors is empty; expected at least one")
        first = runs[0]
        for x in runs[1:]:
            pair(first, x)
        # Networks are real: a complex tensor among real ones is refused below.
        first, *_ = runs = alike(*runs)
        matrices = [ht_to_convac(x) for x in runs]
        widths = [{node: len(each[node]) for node in first.tree.inner_nodes} for each in matrices]
        options: dict[str, Any] = {"outputs": first.outputs, "dtype": first.dtype, "device": first.device}
        network = cls(first.tree, first.dims, widths[0] if single else widths, **options)
        with torch.no_grad():
            for run, each in enumerate(matrices):
                for node, matrix in each.items():
                    network.matrix(node, run).copy_(matrix)
        return network

    def local_component_norms(self, run: int = 0) -> dict[int, Tensor]:
        r"""Norms :math:`\sigma^{(\nu, r)}` of the local components of one run.

        Returns
        -------
        dict
            From each inner node :math:`\nu` to a tensor of its width: the norm of row r of its matrix times the
            norms of columns r of its children's (Razin et al. 2022, definition 2).
        """
        norms = {}
        for node in self.tree.inner_nodes:
            product = self.matrix(node, run).norm(dim=1)
            for child in self.tree.children(node):
                product = product * self.matrix(child, run).norm(dim=0)
            norms[node] = product
        return norms

    def component_groups(self) -> dict[str, ComponentGroup]:
        if self.shared:
            # Local components do not move by themselves.
            raise ValueError(
                "network has shared=True; rates of local components are known where every node has a matrix of its own"
            )
        tree, widths = self.tree, self.widths
        return {
            node_group(node): ComponentGroup(
                order=len(tree.children(node)) + 1,
                counts=tuple(own[node] for own in widths),
                modes=tuple(tree.modes(node)),
                node=node,
            )
            for node in tree.inner_nodes
        }

    def component_rates(self, end_gradient: Tensor | None = None) -> dict[str, ComponentRates]:
        groups = self.component_groups()
        tree, blocks = self.tree, self._layout.blocks
        # Logarithms of the norms of all columns, and zeros that stand for children where a node of the block has fewer.
        columns = torch.zeros(
            tree.n_nodes + 1, self.runs, max(b.columns for b in blocks), dtype=torch.float64, device=self.device
        )
        for block, weight in zip(blocks, self.weights, strict=True):
            columns[list(block.nodes), :, : block.columns] = weight.double().norm(dim=2).log().transpose(0, 1)
        found: dict[str, ComponentRates] = {}
        for block, weight in zip(blocks, self.weights, strict=True):
            if block.level == 0:
                continue
            siblings = [tree.children(node) for node in block.nodes]
            arity = max(map(len, siblings))
            padded = [[*group, *[tree.n_nodes] * (arity - len(group))] for group in siblings]
            children = torch.tensor(padded, device=self.device)
            rows = weight.double()  # (runs, nodes, rows, columns)
            logs = columns[children][..., : block.rows].sum(1).transpose(0, 1) + rows.norm(dim=3).log()
            values = logs.exp()
            alignments = alignments_from(-(rows * gradient_of(weight)).sum(3), values)
            for k, name in enumerate(map(node_group, block.nodes)):
                counts = torch.tensor(groups[name].counts, device=self.device)
                found[name] = ComponentRates(values[:, k], alignments[:, k], groups[name].order, counts)
        return {name: found[name] for name in groups}

    def unbalancedness(self, run: int = 0) -> Tensor:
        r"""Distance of the local components of one run from balance, a scalar tensor; gradients flow.

        .. math:: \max_{\nu, r} \max_{w, w' \in LC(\nu, r)} \left| \| w \|^2 - \| w' \|^2 \right|

        The vectors LC(ν, r) of a local component are row r of the matrix of the inner node ν and columns r of its
        children's.  Gradient flow keeps every one of these differences (Razin, Maman & Cohen 2022, the unbalancedness
        magnitude and lemma 1).
        """
        largest = []
        for node in self.tree.inner_nodes:
            columns = [self.matrix(child, run).square().sum(0) for child in self.tree.children(node)]
            squares = torch.stack([self.matrix(node, run).square().sum(1), *columns])
            largest.append((squares.amax(0) - squares.amin(0)).max())
        return torch.stack(largest).max()

    def normalized(self, vectors: Tensor, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Outputs on encoded vectors, divided by a positive number per sample and run.

        The numbers are products of the root mean squares of the nodes' vectors, so that outputs keep an ordinary size
        and their order at any order, and gradients flow; which of the outputs is the largest, and by what ratio, is as
        `forward` has it.

        Parameters
        ----------
        vectors : Tensor
            (batch, order, dim), as for `forward`.
        drop : callable, optional
            Applied to the vectors (rows, runs, width) of all nodes but the root, as dropout is; then the outputs are
            others.

        Returns
        -------
        Tensor
            As `forward`.

        Raises
        ------
        TypeError, ValueError
            As `forward`.
        """
        vectors = check_encoded(vectors, self.dims, self.dtype)
        if self._layout.root_adds or self._channels != self.runs:
            raise TypeError(
                f"{type(self).__name__} has no vectors of several components; take an HTNetwork on a tree of depth one"
            )
        values = contract_normalized(self._encoded_plan(), self._apply_leaves(vectors), self._inner_matrices(), drop)
        return self._without_runs(values.squeeze(-1) if self.outputs == 1 else values)

    def _leaf_matrices(self) -> list[Tensor]:
        return [
            (weight.expand(-1, len(block.nodes), -1, -1) if self.shared else weight).permute(1, 2, 0, 3)
            for block, weight in zip(self._layout.blocks, self.weights, strict=True)
            if block.level == 0
        ]

    def _inner_matrices(self) -> list[Tensor | None]:
        return [weight for block, weight in zip(self._layout.blocks, self.weights, strict=True) if block.level]

    def _read_out(self, values: Tensor) -> Tensor:
        return values

    @torch.no_grad()
    def rescale_(self, factors: Tensor) -> None:
        self.weights[-1].mul_(factors.view(len(factors), 1, 1, -1))

    def extra_repr(self) -> str:
        widths = sorted({w for each in self._run_layouts for w in each.widths})
        return f"{self.tree!r}, widths={widths}, runs={self.runs}, outputs={self.outputs}, shared={self.shared}"


def _check_shareable(tree: DimensionTree, layout: Layout, widest: tuple[int, ...]) -> None:
    """One matrix serves a level only if all its nodes' matrices have one shape."""
    layout = Layout(tree, layout.dims, widest, layout.outputs)
    for level, nodes in enumerate(tree):
        shapes = sorted({layout.shape(node) for node in nodes})
        if len(shapes) > 1:
            raise ValueError(f"shared is True, but matrices on level {level} have shapes {shapes[0]} and {shapes[1]}")
