"""Sizes of the components of factorizations, and how fast gradient flow changes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from htf._repr import brief
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization
from htf.training.tracking import Factorization

END, COMPONENTS = "end matrix", "components"


@dataclass(frozen=True, eq=False)
class ComponentRates:
    r"""Components of one kind in all runs, and their rates under gradient flow.

    Attributes
    ----------
    values : Tensor
        (runs, k) float64, singular values or norms of components.  Runs with fewer than k components have zeros behind.
    alignments : Tensor
        (runs, k) float64; the inner product :math:`\gamma` of the negative gradient of the loss at the end tensor with
        the component at norm 1.  0 for components of norm 0.
    order : int
        Number of matrices or vectors that are multiplied in a component.
    counts : Tensor
        (runs,) int64, the components that each run has.
    """

    values: Tensor
    alignments: Tensor
    order: int
    counts: Tensor

    __repr__ = brief

    @property
    def predicted(self) -> Tensor:
        r"""Rates of change :math:`K \gamma \sigma^{2 - 2/K}` that theory gives, (runs, k), K being the order."""
        return flow_rate(self.values, self.alignments, self.order)


def flow_rate(values: Tensor, alignments: Tensor, order: int) -> Tensor:
    """The rate of change of components under gradient flow from a balanced start, in any shape."""
    return order * alignments * values ** (2 - 2 / order)


def component_name(node: int) -> str:
    """The group of the local components of an inner node."""
    return f"node {node}"


@torch.no_grad()
def component_rates(network: Factorization, end_gradient: Tensor | None = None) -> dict[str, ComponentRates]:
    r"""Norms of the components of every run, and the rates at which gradient flow changes them.

    Under gradient flow from balanced parameters, with :math:`\mathcal{L}` the loss of the end tensor W:

    - singular values of a product of L matrices:
      :math:`\dot\sigma_r = L \sigma_r^{2 - 2/L} \langle -\nabla\mathcal{L}(W), u_r v_r^T \rangle`;
    - norms of the components of a CP factorization of order N:
      :math:`\dot\sigma_r = N \sigma_r^{2 - 2/N} \langle -\nabla\mathcal{L}(W), \bigotimes_n \hat w_r^n \rangle`;
    - norms of the local components of node :math:`\nu` of a hierarchical factorization, with
      :math:`K = |C(\nu)| + 1`: :math:`\dot\sigma_r = K \sigma_r^{2 - 2/K} \langle -\nabla\mathcal{L}(W), C_r \rangle`,
      where :math:`C_r` is the end tensor made with component r at norm 1 and without the node's others.

    Parameters
    ----------
    network : MatrixFactorization, CPNetwork or HTNetwork
        With gradients of the sum of all runs' losses in the ``grad`` of its parameters.
    end_gradient : Tensor, optional
        (runs, d, d'), of a MatrixFactorization only: the gradient of the losses with respect to the end matrices, as
        `MatrixFactorization.end_gradient` gives it.  Without it, alignments come from the gradient of the last layer,
        which is the same but for rounding: in float32 that is relative to the largest component instead of each.

    Returns
    -------
    dict
        From the name of each group of components to its `ComponentRates`: "end matrix"; "components"; or "node 6" and
        so on for each inner node of a tree.

    Raises
    ------
    TypeError, ValueError
        For another network, an `end_gradient` for one that has no end matrices or of another shape, parameters
        without gradients, or an HTNetwork whose nodes share matrices, of which no rates are known.

    Notes
    -----
    All in float64.  Never forms a tensor: the end tensor is linear in each vector of a component, so
    :math:`\gamma\sigma` is the inner product of that vector with its own negative gradient.  One pass over parameters
    and gradients for CP and HT; for matrices an SVD of the end matrices on the CPU, O(runs d² d').  The formulas hold
    to second order in the unbalancedness, and for singular values while they are distinct.  A CP factorization with
    several outputs has the read-out as a further vector of each component: its order is one more.

    References
    ----------
    .. [1] S. Arora, N. Cohen, W. Hu, Y. Luo, "Implicit regularization in deep matrix factorization", NeurIPS 2019,
       theorem 3.
    .. [2] N. Razin, A. Maman, N. Cohen, "Implicit regularization in tensor factorization", ICML 2021, theorem 1.
    .. [3] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, theorem 1.

    Examples
    --------
    >>> net = CPNetwork((4, 5, 6), rank=[2, 3], init="balanced", seed=0, dtype=torch.float64)
    >>> (net(torch.tensor([[0, 1, 2]])) - 1).square().sum().backward()
    >>> rates = component_rates(net)["components"]
    >>> rates.order, rates.predicted.shape, rates.counts.tolist()
    (3, torch.Size([2, 3]), [2, 3])
    """
    if isinstance(network, MatrixFactorization):
        return {END: _of_matrices(network, end_gradient)}
    if not isinstance(network, CPNetwork | HTNetwork):
        raise TypeError(
            f"network is a {type(network).__name__}; expected a MatrixFactorization, CPNetwork or HTNetwork"
        )
    if end_gradient is not None:
        raise TypeError(f"end_gradient is of end matrices; the network is a {type(network).__name__}, which has none")
    return {COMPONENTS: _of_cp(network)} if isinstance(network, CPNetwork) else _of_ht(network)


def component_order(network: CPNetwork) -> int:
    """Vectors in each component."""
    return network.order + (network.readout is not None)


def check_unshared(network: HTNetwork) -> None:
    """A ValueError for networks whose local components do not move by themselves."""
    if network.shared:
        raise ValueError(
            "network has shared=True; rates of local components are known where every node has a matrix of its own"
        )


def _of_matrices(network: MatrixFactorization, end_gradient: Tensor | None) -> ComponentRates:
    layers = [weight.cpu().double() for weight in network.weights]
    U, S, Vh = torch.linalg.svd(reduce(torch.matmul, reversed(layers)), full_matrices=False)
    count = min(*network.dims, *network.widths)
    U, S, Vh = U[..., :count], S[:, :count], Vh[:, :count]
    if end_gradient is None:
        # With W = W_L B, <u, (∂W_L W_Lᵀ) u> = <u, G Wᵀ u> = σ <u, G v>.
        gradient = _gradient(network.weights[-1]).cpu()
        scaled = ((gradient.mT @ U) * (layers[-1].mT @ U)).sum(1)
        alignments = _ratio(-scaled, S)
    else:
        expected = (network.runs, *network.dims)
        if tuple(end_gradient.shape) != expected:
            raise ValueError(f"end_gradient has shape {tuple(end_gradient.shape)}; expected {expected}")
        products = ((end_gradient.cpu().double() @ Vh.mT) * U).sum(1)
        alignments = torch.where(S > 0, -products, 0.0)
    counts = torch.full((network.runs,), count, device=network.device)
    return ComponentRates(S.to(network.device), alignments.to(network.device), network.depth, counts)


def _of_cp(network: CPNetwork) -> ComponentRates:
    norms = [factor.double().norm(dim=1) for factor in network.factors]
    if network.readout is not None:
        norms.append(network.readout.double().norm(dim=1, keepdim=True).T)
    values = torch.cat(norms).log().sum(0).exp()
    # Any one vector of each component will do.
    first = network.factors[0]
    alignments = _ratio(-(first[0].double() * _gradient(first)[0]).sum(0), values)
    counts = torch.tensor(network.ranks, device=network.device)
    own = torch.arange(max(network.ranks), device=network.device) < counts[:, None]
    padding = torch.zeros_like(own, dtype=torch.float64)
    values, alignments = padding.masked_scatter(own, values), padding.masked_scatter(own, alignments)
    return ComponentRates(values, alignments, component_order(network), counts)


def _of_ht(network: HTNetwork) -> dict[str, ComponentRates]:
    check_unshared(network)
    tree, layout = network.tree, network._layout
    widths = network.widths
    # Logarithms of the norms of all columns, and zeros that stand for children where a node of the block has fewer.
    columns = torch.zeros(
        tree.n_nodes + 1,
        network.runs,
        max(b.columns for b in layout.blocks),
        dtype=torch.float64,
        device=network.device,
    )
    for block, weight in zip(layout.blocks, network.weights, strict=True):
        columns[list(block.nodes), :, : block.columns] = weight.double().norm(dim=2).log().transpose(0, 1)
    found: dict[str, ComponentRates] = {}
    for block, weight in zip(layout.blocks, network.weights, strict=True):
        if block.level == 0:
            continue
        groups = [tree.children(node) for node in block.nodes]
        arity = max(map(len, groups))
        padded = [[*group, *[tree.n_nodes] * (arity - len(group))] for group in groups]
        children = torch.tensor(padded, device=network.device)
        rows = weight.double()
        logs = columns[children][..., : block.rows].sum(1).transpose(0, 1) + rows.norm(dim=3).log()
        values = logs.exp()
        alignments = _ratio(-(rows * _gradient(weight)).sum(3), values)
        for k, node in enumerate(block.nodes):
            counts = torch.tensor([each[node] for each in widths], device=network.device)
            found[component_name(node)] = ComponentRates(values[:, k], alignments[:, k], len(groups[k]) + 1, counts)
    return {component_name(node): found[component_name(node)] for node in tree.inner_nodes}


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError("network has no gradients; call backward() on the sum of all runs' losses first")
    return parameter.grad.double()


def _ratio(numerator: Tensor, values: Tensor) -> Tensor:
    return torch.where(values > 0, numerator / values, 0.0)
