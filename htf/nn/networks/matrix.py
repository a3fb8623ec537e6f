"""Matrix factorization as a network: the deep linear network, any number of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Generator, Tensor, nn

from htf._checks import positive
from htf._random import Seed
from htf.engine.pairwise import GATHERED
from htf.linalg.chain import chain_product, chain_sizes, cheapest_orders, meeting_point
from htf.nn.networks._starts import parameter_dtype
from htf.nn.networks.base import Factorization
from htf.nn.networks.components import ComponentGroup, ComponentRates, alignments_from, gradient_of
from htf.nn.networks.init import Chain, Initializer, JointInitializer, resolve
from htf.nn.networks.matrix_plan import MatrixPlan

Init = str | Initializer | JointInitializer
END = "end matrix"  # the name of its group of components


class MatrixFactorization(Factorization):
    r"""Matrix factorization :math:`W = W_L W_{L-1} \cdots W_1` (a deep linear network), any number of fits at once.

    Layer l holds :math:`W_l`, of shape :math:`d_l \times d_{l-1}`, where :math:`d_0 = d'` and :math:`d_L = d`.
    Outputs on one-hot inputs are the entries of the end matrix W.

    Parameters
    ----------
    dims : (int, int)
        Rows d and columns d' of the end matrix.
    depth : int
        Layers L; 1 is a matrix by itself.
    width : int or sequence of int, optional
        Hidden widths :math:`d_1, \dots, d_{L-1}`, from the input on; one stands for all, and None for ``min(d, d')``,
        which leaves the rank free.  All runs have the same.
    runs : int
        Independent fits.
    init : str, callable, or sequence of them
        "gaussian" (default), "balanced", or see `htf.nn.init`; a sequence gives one per run.
    seed : int, torch.Generator or sequence of int, optional
        One per run makes a run start as it would alone.  None draws from torch's global generator.
    dtype, device : optional
        Dtype and device of the parameters; torch's defaults if they are not given.

    Attributes
    ----------
    weights : ParameterList
        Per layer from :math:`W_1` on, (runs, :math:`d_l`, :math:`d_{l-1}`).
    dims : tuple of int
        (d, d').
    widths : tuple of int
        Widths of the hidden layers.
    depth, runs : int
    order, outputs : int
        2 and 1.

    Raises
    ------
    ValueError, TypeError
        Where an argument does not fit; the message names it.

    See Also
    --------
    htf.nn.CPNetwork, htf.nn.HTNetwork : factorizations of tensors.
    htf.nn.DeepNetwork : with nonlinearities.
    htf.training.fit : trains it.

    Notes
    -----
    Products are taken in the order of fewest multiplications, found in O(L³) once for given sizes.

    Entries of W scale as a product of L factors.  Where they fall below the dtype's smallest normal number (1e-38 in
    float32) they lose digits and then are 0, gradients with them: a standard deviation s of the entries at equal widths
    d makes entries of size about :math:`s^L d^{(L-1)/2}`.  With s = 1e-2 and d = 64 that is 1e-23 at depth 20, 1e-36
    at depth 32, and 0 at depth 48.  Such a start is a saddle that nothing leaves: use a larger s, "balanced", whose
    layers have singular values of :math:`\sigma^{1/L}` however deep the network, or float64.

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018.
    .. [2] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.MatrixFactorization((6, 4), depth=3, runs=2, init="balanced", seed=0)
    >>> net(torch.tensor([[5, 0], [2, 3]])).shape
    torch.Size([2, 2])
    >>> net.singular_values().shape
    torch.Size([2, 4])
    """

    dims: tuple[int, int]
    has_end_matrices = True
    component_kinds = ("singular_values",)
    plan_type = MatrixPlan

    def __init__(
        self,
        dims: Sequence[int],
        depth: int = 2,
        width: int | Sequence[int] | None = None,
        *,
        runs: int = 1,
        init: Init | Sequence[Init] = "gaussian",
        seed: Seed = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(_check_dims(dims), runs=runs)
        self.depth = positive("depth", depth)
        self.widths = _check_widths(width, self.depth, self.dims)
        self._layout = Chain((self.dims[1], *self.widths, self.dims[0]))
        dtype = parameter_dtype(dtype)
        self.weights = nn.ParameterList(
            torch.empty(self.runs, block.rows, block.columns, dtype=dtype, device=device)
            for block in self._layout.blocks
        )
        self.reset_parameters(init, seed)

    def start_run(self, run: int, init: Any, generator: Generator | None) -> None:
        for weight, matrix in zip(self.weights, _draw(init, self._layout, generator), strict=True):
            weight[run] = matrix.to(self.dtype).to(self.device)

    def parameters_for(self, run: int) -> dict[int, Tensor]:
        """The matrices of one run by layer, 1 to `depth`: views of the parameters, (d_l, d_{l-1})."""
        self.check_run(run)
        return {layer: weight[run] for layer, weight in enumerate(self.weights, 1)}

    @property
    def device(self) -> torch.device:
        # Read at every step, of which a walk over all modules would be 2 %.
        return self.weights[0].device

    def end_matrices(self) -> Tensor:
        """The end matrices W_L···W_1, (runs, d, d'); gradients flow.

        At depth 1 they are the parameters themselves.

        Examples
        --------
        >>> import torch, htf
        >>> net = htf.nn.MatrixFactorization((6, 4), depth=3, runs=2, seed=0)
        >>> ends = net.end_matrices()
        >>> ends.shape, torch.allclose(net(torch.tensor([[5, 0]]))[0], ends[:, 5, 0])
        (torch.Size([2, 6, 4]), True)
        """
        return chain_product(self._chain())

    def to_tensor(self, run: int = 0) -> Tensor:
        """The end matrix of one run, (d, d'); gradients flow.

        At depth 1 it is a view of the parameters.
        """
        return chain_product([matrix[self.check_run(run)] for matrix in self._chain()])

    @torch.no_grad()
    def singular_values(self) -> Tensor:
        """Singular values of the end matrices, falling; without gradients.

        Returns
        -------
        Tensor
            (runs, k), k being the smallest of d, d' and the hidden widths: the others are zero.

        Notes
        -----
        Computed in float64 whatever the dtype, on the CPU.  Values below about 1e-16 of a run's largest are rounding.
        """
        ends = chain_product([matrix.cpu().double() for matrix in self._chain()])
        values = torch.linalg.svdvals(ends)[:, : min(self._layout.sizes)]
        return values.to(self.dtype).to(self.device)

    def component_groups(self) -> dict[str, ComponentGroup]:
        return {END: ComponentGroup(self.depth, (min(self._layout.sizes),) * self.runs, modes=(0, 1))}

    def component_rates(self, end_gradient: Tensor | None = None) -> dict[str, ComponentRates]:
        layers = [weight.cpu().double() for weight in self.weights]
        U, S, Vh = torch.linalg.svd(reduce(torch.matmul, reversed(layers)), full_matrices=False)
        count = min(self._layout.sizes)
        U, S, Vh = U[..., :count], S[:, :count], Vh[:, :count]
        if end_gradient is None:
            # With W = W_L B, <u, (∂W_L W_Lᵀ) u> = <u, G Wᵀ u> = σ <u, G v>.
            gradient = gradient_of(self.weights[-1]).cpu()
            scaled = ((gradient.mT @ U) * (layers[-1].mT @ U)).sum(1)
            alignments = alignments_from(-scaled, S)
        else:
            expected = (self.runs, *self.dims)
            if tuple(end_gradient.shape) != expected:
                raise ValueError(f"end_gradient has shape {tuple(end_gradient.shape)}; expected {expected}")
            products = ((end_gradient.cpu().double() @ Vh.mT) * U).sum(1)
            alignments = torch.where(S > 0, -products, 0.0)
        counts = torch.full((self.runs,), count, device=self.device)
        return {END: ComponentRates(S.to(self.device), alignments.to(self.device), self.depth, counts)}

    def end_gradient(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Gradient of a loss with respect to the end matrices, as if they were free parameters.

        It is the G of the gradients of the layers,
        :math:`\partial / \partial W_l = (W_L \cdots W_{l+1})^T G (W_{l-1} \cdots W_1)^T`, and of the end matrix's
        own dynamics (Arora et al. 2018, theorem 1).

        Parameters
        ----------
        loss : callable
            From the end matrices, (runs, d, d'), to a loss per run, (runs,), or a single one, ().

        Returns
        -------
        Tensor
            (runs, d, d').  Of a loss per run, the gradients of their sum: each run's own, if its loss is a function
            of its own end matrix.

        Raises
        ------
        ValueError, TypeError
            If `loss` returns another shape, no tensor, or something that does not depend on the end matrices.
        """
        ends = self.end_matrices().detach().requires_grad_()
        with torch.enable_grad():
            value = loss(ends)
            if not isinstance(value, Tensor):
                raise TypeError(f"loss returned a {type(value).__name__}; expected a Tensor")
            if value.shape not in {(), (self.runs,)}:
                raise ValueError(f"loss returned shape {tuple(value.shape)}; expected () or (runs,) = ({self.runs},)")
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value.sum(), ends, allow_unused=True)
                if gradient is not None:
                    return gradient
        raise ValueError("loss returned a value that does not depend on the end matrices it was given")

    def unbalancedness(self, run: int = 0) -> Tensor:
        r"""Distance of neighbouring layers of one run from balance, a scalar tensor; gradients flow.

        .. math:: \max_{1 \le l < L} \| W_{l+1}^T W_{l+1} - W_l W_l^T \|_F

        Both products are :math:`d_l \times d_l`.  Gradient flow keeps every one of these differences (Arora, Cohen &
        Hazan 2018, theorem 1), and gradient descent keeps them to second order in its step.  At depth 1 it is zero.
        """
        own = list(self.parameters_for(run).values())
        if len(own) == 1:
            return own[0].new_zeros(())
        pairs = zip(own[1:], own[:-1], strict=True)
        return torch.stack([(above.mT @ above - below @ below.mT).norm() for above, below in pairs]).max()

    @torch.no_grad()
    def rescale_(self, factors: Tensor) -> None:
        """Multiply the end matrix of each run by a positive factor, (runs,), in place.

        Every layer takes the same share, so that a balanced network stays so.
        """
        share = (factors ** (1 / self.depth)).view(-1, 1, 1)
        for weight in self.weights:
            weight.mul_(share)

    def plan(self, indices: Tensor) -> MatrixPlan:
        """Check a batch of discrete inputs once, and find its distinct rows and columns; see `Factorization.plan`.

        Returns
        -------
        MatrixPlan
            Pass it in place of the indices, to this network or to any of the same dims.
        """
        indices = super().plan(indices)
        rows, row_of = torch.unique(indices[:, 0], return_inverse=True)
        columns, column_of = torch.unique(indices[:, 1], return_inverse=True)
        return MatrixPlan(self.dims, rows, columns, row_of, column_of)

    def check_plan(self, plan: MatrixPlan) -> None:
        if plan.dims != self.dims:
            raise ValueError(f"inputs is a plan for dims {plan.dims}; the network has dims {self.dims}")

    def entries(self, plan: MatrixPlan) -> Tensor:
        r"""Entries :math:`W_{ij}` of the end matrix of every run, (batch, runs).

        Notes
        -----
        Only rows and columns that occur in the batch are multiplied out.  By counted multiplications, either the end
        matrix on them is computed and read, or two partial products are met in a scalar product per sample.
        """
        chain = self._chain()
        if len(plan.rows) < self.dims[0]:
            chain[0] = chain[0].index_select(1, plan.rows)
        if len(plan.columns) < self.dims[1]:
            chain[-1] = chain[-1].index_select(2, plan.columns)
        sizes = chain_sizes(chain)
        costs, _ = cheapest_orders(sizes)
        split, cost = meeting_point(sizes, plan.batch * GATHERED)
        if split and cost < costs[0, self.depth]:
            rows = chain_product(chain[:split]).index_select(1, plan.row_of)
            columns = chain_product(chain[split:]).mT.index_select(1, plan.column_of)
            return (rows * columns).sum(-1).T
        ends = chain_product(chain)
        return ends.flatten(1).index_select(1, plan.row_of * ends.shape[2] + plan.column_of).T

    def forms(self, vectors: Tensor) -> Tensor:
        r"""Forms :math:`x^T W y` of the end matrix of every run, (batch, runs)."""
        left, right = (vectors[:, mode, :dim].expand(self.runs, -1, -1) for mode, dim in enumerate(self.dims))
        chain = [left, *self._chain(), right.mT]
        split, _ = meeting_point(chain_sizes(chain), len(vectors))
        return (chain_product(chain[:split]) * chain_product(chain[split:]).mT).sum(-1).T

    def _chain(self) -> list[Tensor]:
        """W_L, ..., W_1: in the order in which the product is written."""
        return list(self.weights)[::-1]

    def extra_repr(self) -> str:
        return f"dims={self.dims}, depth={self.depth}, widths={self.widths}, runs={self.runs}"


def _check_dims(dims: Sequence[int]) -> tuple[int, int]:
    values = list(dims) if isinstance(dims, Iterable) else [dims]
    if len(values) != 2:
        raise ValueError(f"dims is {dims!r}; expected two, the rows and columns of the end matrix")
    return positive("dims[0]", values[0]), positive("dims[1]", values[1])


def _check_widths(width: int | Sequence[int] | None, depth: int, dims: tuple[int, int]) -> tuple[int, ...]:
    if width is None:
        return (min(dims),) * (depth - 1)
    if not isinstance(width, Iterable):
        return (positive("width", width),) * (depth - 1)
    values = list(width)
    if len(values) != depth - 1:
        raise ValueError(
            f"width has {len(values)} values; depth {depth} has {depth - 1} hidden layers, whose widths all runs share"
        )
    nested = [value for value in values if isinstance(value, Iterable)]
    if nested:
        raise TypeError(f"width holds {nested[0]!r}; expected one integer per hidden layer: all runs have the same")
    return tuple(positive(f"width[{k}]", value) for k, value in enumerate(values))


def _draw(init: Init, layout: Chain, generator: Generator | None) -> list[Tensor]:
    """Starting matrices of one run, W_1 first."""
    initializer = init if isinstance(init, JointInitializer) else resolve(init)
    expected = [(block.rows, block.columns) for block in layout.blocks]
    if isinstance(initializer, JointInitializer):
        matrices = initializer.chain(layout, generator)
        found = [tuple(matrix.shape) for matrix in matrices]
        if found != expected:
            raise ValueError(f"init returned shapes {found}; expected {expected}")
        return list(matrices)
    drawn = []
    for block, shape in zip(layout.blocks, expected, strict=True):
        matrix = initializer(layout, block, generator)
        if tuple(matrix.shape) != (1, *shape):
            raise ValueError(f"init returned shape {tuple(matrix.shape)}; expected {(1, *shape)}")
        drawn.append(matrix[0])
    return drawn
