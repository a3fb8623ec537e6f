"""CP factorization as a network: a convolutional arithmetic circuit with one hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensorly.cp_tensor import CPTensor
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from htf._checks import positive
from htf._random import Seed
from htf.engine.layout import Layout
from htf.nn.networks._starts import parameter_dtype, per_run
from htf.nn.networks.components import ComponentGroup, ComponentRates, alignments_from, gradient_of
from htf.nn.networks.tree import Init, TreeNetwork, draw
from htf.tree import DimensionTree

COMPONENTS = "components"  # the name of its group of components


class CPNetwork(TreeNetwork):
    r"""CP factorization :math:`\sum_{r=1}^R \bigotimes_{n=1}^N w_r^n`, any number of fits at once.

    It is the hierarchical factorization on the tree of depth one.  Runs may have different ranks: their components lie
    side by side, and no run pays for the rank of another.

    Parameters
    ----------
    dims : sequence of int
        Dimension of each mode.
    rank : int or sequence of int
        Components R; a sequence gives one rank per run.
    runs : int, optional
        Independent fits; 1, or the length of `rank`.
    outputs : int
        Outputs of each run.  With more than one, every component has a weight per output, a further factor of shape
        (outputs, R); with one, weights are 1 and the component's scale lies in its vectors.  Several ones of a network
        without `runs` or a sequence of ranks are (batch, outputs), without an axis of runs.
    init : str, callable, or sequence of them
        "scale_preserving" (default), "gaussian", "balanced", or see `htf.nn.init`; a sequence gives one per run.  For
        encoded vectors, ``htf.nn.init.scale_preserving(inputs=vectors)``.
    seed : int, torch.Generator or sequence of int, optional
        One per run makes a run start as it would alone.  None draws from torch's global generator.
    dtype, device : optional
        Dtype and device of the parameters; torch's defaults if they are not given.

    Attributes
    ----------
    factors : ParameterList
        Per group of modes with equal dimensions, (modes, dim, components of all runs).
    readout : Parameter or None
        (components of all runs, outputs) if there are several outputs.
    ranks : tuple of int
        Components of each run.

    See Also
    --------
    htf.nn.HTNetwork, htf.nn.MatrixFactorization : other factorizations.
    htf.nn.init.scale_preserving : starts.
    htf.training.fit : trains it.

    Notes
    -----
    On discrete inputs of order 12 or more, a forward pass adds logarithms of factors, sample by sample, those of groups
    of neighbouring modes at once where many samples share them: at most batch · order · Σ ranks additions, and as many
    in a backward pass.  Entries may have any size: gradients are right to rounding at all of them.  Below, the
    modes are split into two groups whose distinct rows are multiplied pair by pair, in one product of matrices per run,
    where that is cheaper than to multiply sample by sample.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.CPNetwork([4, 5, 6], rank=[1, 2, 3], seed=0)  # three runs, of ranks 1, 2 and 3
    >>> x = torch.tensor([[0, 1, 2], [3, 4, 5]])
    >>> net(x).shape, net.to_tensor(run=2).rank
    (torch.Size([2, 3]), 3)
    >>> tensor = htf.tensors.cp_to_ht(net.to_tensor(run=2))
    >>> torch.allclose(net(x)[1, 2], tensor[3, 4, 5])
    True
    >>> net.component_norms(run=1).shape, net.n_parameters(run=1)
    (torch.Size([2]), 30)
    """

    component_kinds = ("component_norms", "local_component_norms")

    def __init__(
        self,
        dims: Sequence[int],
        rank: int | Sequence[int],
        *,
        runs: int | None = None,
        outputs: int = 1,
        init: Init | Sequence[Init] = "scale_preserving",
        seed: Seed = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        ranks, runs = per_run("rank", rank, runs)
        super().__init__(dims, runs=runs, outputs=outputs)
        outputs = self.outputs
        self.ranks = tuple(positive("rank", value) for value in ranks)
        self.tree = DimensionTree.balanced(self.order, arity=max(self.order, 2))
        self._layout = Layout.build(self.tree, self.dims, 1, outputs, root_adds=outputs == 1)
        self._channels = sum(self.ranks)
        self._components_added = (self.runs, max(self.ranks))
        dtype = parameter_dtype(dtype)
        blocks = [b for b in self._layout.blocks if b.level == 0]
        self.factors = nn.ParameterList(
            torch.empty(len(b.nodes), b.rows, self._channels, dtype=dtype, device=device) for b in blocks
        )
        self.readout = (
            nn.Parameter(torch.empty(self._channels, outputs, dtype=dtype, device=device)) if outputs > 1 else None
        )
        self.reset_parameters(init, seed)

    @property
    def device(self) -> torch.device:
        # Read at every step, as by a matrix factorization.
        return self.factors[0].device

    def start_run(self, run: int, init: Any, generator: Generator | None) -> None:
        layout = Layout.build(self.tree, self.dims, self.ranks[run], self.outputs, root_adds=self.readout is None)
        own = self._components(run)
        for (first, *_), matrices in draw(init, layout, generator):
            values = matrices.to(self.dtype).to(self.device)
            if first == self.tree.root:
                assert self.readout is not None
                self.readout[own] = values[0]
            else:
                self.factors[self._layout.place[first][0]][..., own] = values

    def _components(self, run: int) -> slice:
        start = sum(self.ranks[:run])
        return slice(start, start + self.ranks[self.check_run(run)])

    def factor(self, mode: int, run: int = 0) -> Tensor:
        """The factor matrix of `mode` in one run, (dim, rank): a view of the parameters."""
        if not 0 <= mode < self.order:
            raise IndexError(f"mode is {mode}; the network has modes 0 to {self.order - 1}")
        block, position = self._layout.place[mode]
        return self.factors[block][position, :, self._components(run)]

    def parameters_for(self, run: int) -> dict[int, Tensor]:
        """The factor matrices of one run, by mode; the read-out, if any, under the number `order`."""
        own = {mode: self.factor(mode, run) for mode in range(self.order)}
        if self.readout is not None:
            own[self.order] = self.readout[self._components(run)].T
        return own

    def structure(self) -> dict[str, Any]:
        return {"ranks": list(self.ranks), **super().structure()}

    def node_matrices(self, run: int = 0, tree: DimensionTree | None = None) -> dict[int, Tensor]:
        """The matrices of one run by node of any tree of its modes; inner nodes but the root hold the identity."""
        tree = self.tree if tree is None else tree
        if tree.order != self.order:
            raise ValueError(f"tree has {tree.order} modes; the network has {self.order}")
        own = self.parameters_for(run)
        rank = self.ranks[run]
        inner = [node for node in tree.inner_nodes if node != tree.root]
        identities = {node: torch.eye(rank, dtype=self.dtype, device=self.device) for node in inner}
        root = own[0].new_ones(rank, 1) if self.readout is None else own[self.order].T
        return {**{mode: own[mode] for mode in tree.leaves}, **identities, tree.root: root}

    def to_tensor(self, run: int = 0) -> CPTensor:
        """The tensor of one run in TensorLy's CP format; gradients flow.

        With several outputs they are the last mode.  TensorLy's backend must be "pytorch" to compute with it.
        """
        factors = list(self.parameters_for(run).values())
        return CPTensor((factors[0].new_ones(self.ranks[run]), factors))

    def component_norms(self, run: int = 0) -> Tensor:
        """Norms of the components of one run, (rank,): products of their vectors' norms.

        They are summed as logarithms; a norm beyond the dtype's range shows as 0 or inf.
        """
        norms = torch.stack([matrix.norm(dim=0) for matrix in self.parameters_for(run).values()])
        # The gradient of a logarithm is infinite at zero, which the exponential's zero makes NaN.
        zero = (norms == 0).any(0)
        return torch.where(zero, 0, torch.where(zero, 1, norms).log().sum(0).exp())

    def local_component_norms(self, run: int = 0) -> dict[int, Tensor]:
        """Norms of the local components, which are the components: the tree of CP has one inner node."""
        return {self.tree.root: self.component_norms(run)}

    def component_groups(self) -> dict[str, ComponentGroup]:
        group = ComponentGroup(self._component_order, self.ranks, tuple(range(self.order)), self.tree.root)
        return {COMPONENTS: group}

    def component_rates(self, end_gradient: Tensor | None = None) -> dict[str, ComponentRates]:
        norms = [factor.double().norm(dim=1) for factor in self.factors]
        if self.readout is not None:
            norms.append(self.readout.double().norm(dim=1, keepdim=True).T)
        values = torch.cat(norms).log().sum(0).exp()
        # Any one vector of each component will do.
        first = self.factors[0]
        alignments = alignments_from(-(first[0].double() * gradient_of(first)[0]).sum(0), values)
        counts = torch.tensor(self.ranks, device=self.device)
        own = torch.arange(max(self.ranks), device=self.device) < counts[:, None]
        padding = torch.zeros_like(own, dtype=torch.float64)
        values, alignments = padding.masked_scatter(own, values), padding.masked_scatter(own, alignments)
        return {COMPONENTS: ComponentRates(values, alignments, self._component_order, counts)}

    @property
    def _component_order(self) -> int:
        """Vectors in each component."""
        return self.order + (self.readout is not None)

    def unbalancedness(self, run: int = 0) -> Tensor:
        r"""Distance of the components of one run from balance, a scalar tensor; gradients flow.

        .. math:: \max_{r, n, n'} \left| \| w_r^n \|^2 - \| w_r^{n'} \|^2 \right|

        Gradient flow keeps every one of these differences (Razin et al. 2021, the unbalancedness magnitude).  With
        several outputs a component has one vector more, its weights.
        """
        squares = torch.stack([matrix.square().sum(0) for matrix in self.parameters_for(run).values()])
        return (squares.amax(0) - squares.amin(0)).max()

    def _leaf_matrices(self) -> list[Tensor]:
        # Each component is a run of width one to the engine.
        return [factor.unsqueeze(-1) for factor in self.factors]

    def _inner_matrices(self) -> list[Tensor | None]:
        return [None]

    def _matrices_by_run(self, evened: bool = False) -> tuple[list[Tensor], list[Tensor | None]]:
        weights = None if self.readout is None else self._by_run(self.readout.T).permute(1, 2, 0).unsqueeze(1)
        return [self._by_run(factor) for factor in (self._evened() if evened else self.factors)], [weights]

    def _evened(self) -> list[Tensor]:
        """The factors, each component's vectors brought to about one size by powers of two whose product is 1.

        Where components meet, those of a run share one scale per row: one that is huge in one mode and tiny in another
        would lose those that are neither, or the other way round.
        """
        factors = list(self.factors)
        if max(self.ranks) == 1:
            return factors
        with torch.no_grad():
            exponents = torch.frexp(torch.cat([torch.linalg.vector_norm(f, torch.inf, dim=1) for f in factors]))[1]
            shifts = exponents.sum(0).div(len(exponents), rounding_mode="floor") - exponents
            shifts[-1] -= shifts.sum(0)
            powers = torch.ldexp(factors[0].new_ones(shifts.shape), shifts).unsqueeze(1)
        sizes = [len(factor) for factor in factors]
        return [factor * power for factor, power in zip(factors, powers.split(sizes), strict=True)]

    def _by_run(self, components: Tensor) -> Tensor:
        """From (..., components of all runs) to (..., runs, the largest rank), with zeros beyond a run's own rank."""
        widest = max(self.ranks)
        if min(self.ranks) == widest:
            return components.unflatten(-1, (self.runs, widest))
        own = components.split(self.ranks, -1)
        return torch.stack([pad(part, (0, widest - rank)) for part, rank in zip(own, self.ranks, strict=True)], -2)

    def _common_exponents(self, value: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor | None]:
        # Of the largest component of each run; those of zeros do not count.
        components = value.detach().squeeze(-1)
        octaves = (exponent + torch.frexp(components)[1]).masked_fill(components == 0, -torch.inf)
        largest = torch.stack([part.amax(1) for part in octaves.split(self.ranks, 1)], 1)
        largest = largest.masked_fill(largest == -torch.inf, 0)
        return largest, exponent - largest[:, self._run_of()]

    def _read_out(self, values: Tensor) -> Tensor:
        components = values.squeeze(-1)
        if self.readout is None and all(r == 1 for r in self.ranks):
            return components.unsqueeze(-1)
        # Added, not multiplied by a 0/1 matrix: an overflow in one run must stay its own.
        parts = components.T if self.readout is None else components.T.unsqueeze(2) * self.readout.unsqueeze(1)
        sums = parts.new_zeros(self.runs, *parts.shape[1:]).index_add(0, self._run_of(), parts)
        sums = sums.transpose(0, 1)
        return sums.unsqueeze(-1) if self.readout is None else sums

    def _run_of(self) -> Tensor:
        """The run of each component."""
        known = self._known_runs
        if known is None or known.device != self.device:
            runs = torch.arange(self.runs, device=self.device)
            known = torch.repeat_interleave(runs, torch.tensor(self.ranks, device=self.device))
            if not torch.compiler.is_compiling():  # a traced tensor is no tensor afterwards
                self._known_runs = known
        return known

    _known_runs: Tensor | None = None

    def spread(self, values: Tensor) -> list[Tensor]:
        own = values.index_select(0, self._run_of())
        # A module's own parameters come before those of its lists.
        return ([] if self.readout is None else [own.unsqueeze(1)]) + [own for _ in self.factors]

    def norms_by_run(self, tensor: Tensor, p: float) -> Tensor:
        # The read-out has its components first, factors have them last.
        components = self._by_run(tensor if tensor.ndim == 3 else tensor.T)
        # First over what lies side by side: a reduction over other axes takes ten times as long.
        rows = torch.linalg.vector_norm(components, p, dim=-1).view(-1, self.runs)
        return torch.linalg.vector_norm(rows, p, dim=0)

    @torch.no_grad()
    def rescale_(self, factors: Tensor) -> None:
        if factors.ndim == 2 and self.readout is not None:
            self.readout.mul_(factors[self._run_of()])
            return
        by = (factors ** (1 / self.order))[self._run_of()]
        for factor in self.factors:
            factor.mul_(by)

    def extra_repr(self) -> str:
        dims = sorted(set(self.dims))
        return f"order={self.order}, dims={dims}, ranks={list(self.ranks)}, outputs={self.outputs}"
