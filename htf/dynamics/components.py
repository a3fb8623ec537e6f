"""Sizes of the components of factorizations, and how fast gradient flow changes them."""

from __future__ import annotations

import torch
from torch import Tensor

from htf.nn import ComponentRates, Factorization


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
    network : MatrixFactorization, CPNetwork, HTNetwork or another Factorization
        With gradients of the sum of all runs' losses in the ``grad`` of its parameters.
    end_gradient : Tensor, optional
        (runs, d, d'), of a MatrixFactorization only: the gradient of the losses with respect to the end matrices, as
        `MatrixFactorization.end_gradient` gives it.  Without it, alignments come from the gradient of the last layer,
        which is the same but for rounding: in float32 that is relative to the largest component instead of each.

    Returns
    -------
    dict
        From the name of each group of components to its `ComponentRates`: "end matrix"; "components"; or "node 6" and
        so on for each inner node of a tree; of another factorization, the names in its `component_groups`.

    Raises
    ------
    TypeError, ValueError
        For something else, or a factorization without components whose rates are known, as an HTNetwork is whose nodes
        share matrices; an `end_gradient` for one that has no end matrices, or of another shape; parameters without
        gradients.

    See Also
    --------
    htf.dynamics.ComponentRates : what it returns.
    htf.dynamics.compare_rates : rates over a whole fit, measured and predicted.

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
    >>> import torch, htf
    >>> net = htf.nn.CPNetwork((4, 5, 6), rank=[2, 3], init="balanced", seed=0, dtype=torch.float64)
    >>> (net(torch.tensor([[0, 1, 2]])) - 1).square().sum().backward()
    >>> rates = htf.dynamics.component_rates(net)["components"]
    >>> rates.order, rates.predicted.shape, rates.counts.tolist()
    (3, torch.Size([2, 3]), [2, 3])
    """
    if not isinstance(network, Factorization):
        raise TypeError(
            f"network is a {type(network).__name__}; expected a MatrixFactorization, CPNetwork or HTNetwork, or "
            "another Factorization"
        )
    if end_gradient is not None and not network.has_end_matrices:
        raise TypeError(f"end_gradient is of end matrices; the network is a {type(network).__name__}, which has none")
    return network.component_rates(end_gradient)
