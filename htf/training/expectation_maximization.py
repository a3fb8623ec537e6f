"""Expectation maximization of non-negative networks: closed-form steps, on all data or on mini-batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from htf._checks import finite
from htf.nn.networks.distributions import LEAVES, binomial, binomial_means, without_outliers
from htf.nn.networks.ht import HTNetwork
from htf.nn.networks.normal_leaves import NormalLeaves, NormalNetwork


class ExpectationMaximization(torch.optim.Optimizer):
    r"""Expectation maximization of an `HTNetwork` whose columns are distributions.

    The loss must be the mean negative log-likelihood of a batch.  Then the expected number of times, per sample, that
    the choice of row k in column r is made is :math:`n_{kr} = -\theta_{kr} \partial L / \partial \theta_{kr}`, and with
    ``lr=1`` on all data the step :math:`\theta_{kr} = n_{kr} / \sum_k n_{kr}` never lowers the likelihood.  On
    mini-batches, what was learned before is represented by the network itself, in which column r is reached with
    probability :math:`\rho_r`:

    .. math:: \theta_{kr} \propto (1 - \eta) \rho_r \theta_{kr} + \eta n_{kr} ,

    so that columns that a batch hardly uses hardly move.

    Parameters
    ----------
    network : HTNetwork or NormalNetwork
        Non-negative, every column of every matrix with a sum of 1.  Means and variances of normal leaves are those of
        the values that their components explain, in the same shares.
    lr : float
        The share :math:`\eta` of a batch, above 0 and at most 1.
    smoothing : float
        Observations, per sample, that are added to every entry: a symmetric Dirichlet prior.  Without, a value that no
        sample shows gets the probability 0.
    leaf : str
        "categorical", or "binomial": columns of leaf matrices are the binomial distributions of the same means, but for
        a thousandth that is spread over all values.

    Raises
    ------
    TypeError, ValueError
        If the network is another one, has negative entries or columns of another sum, or an argument is out of range.

    See Also
    --------
    htf.models.TensorDensity : an estimator that is fitted by it.
    htf.training.objectives.likelihood : the objective.
    htf.nn.init.distributions : a start.

    Notes
    -----
    O(parameters) a step.  Columns without any observation are kept.

    References
    ----------
    .. [1] A. Dempster, N. Laird, D. Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977.
    .. [2] O. Cappé, E. Moulines, "On-line expectation-maximization algorithm for latent data models", 2009.
    .. [3] A. Liu, Z. Shao, G. Van den Broeck, "Rethinking probabilistic circuit parameter learning", 2025: the
       network's own probabilities as the statistics of the past.

    Examples
    --------
    >>> import torch, htf
    >>> from htf.training import Training, objectives
    >>> x = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0))
    >>> x[:, 1] = x[:, 0]
    >>> start = htf.nn.init.distributions(x)
    >>> density = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), 2, 3, init=start, seed=0)
    >>> objective = objectives.likelihood(x, batch_size=200)
    >>> history = Training(density, objective, optimizer="expectation_maximization", lr=1.0).run(epochs=30)
    >>> bool((history.loss.diff(dim=0) < 1e-6).all()), round(float(history.loss[-1, 0]) / 0.6931, 1)  # in bits
    (True, 3.0)
    """

    def __init__(
        self,
        network: HTNetwork | NormalNetwork,
        lr: float = 1.0,
        smoothing: float = 0.0,
        leaf: str = "categorical",
    ) -> None:
        whole = network
        if isinstance(network, NormalNetwork):
            network = network.network
        if not isinstance(network, HTNetwork):
            raise TypeError(f"network is a {type(network).__name__}; expected an HTNetwork")
        if not 0 < finite("lr", lr) <= 1:
            raise ValueError(f"lr is {lr}; expected above 0 and at most 1, the share of a batch")
        if not finite("smoothing", smoothing) >= 0:
            raise ValueError(f"smoothing is {smoothing}; expected at least 0")
        if leaf not in LEAVES:
            raise ValueError(f"leaf is {leaf!r}; expected one of {', '.join(LEAVES)}")
        check_columns(network)
        super().__init__(list(whole.parameters()), {"lr": lr, "smoothing": smoothing, "leaf": leaf})
        self._network = network
        self._leaves = whole.leaves if isinstance(whole, NormalNetwork) else None
        self._parents = _parents(network)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; the gradients must be those of the mean negative log-likelihood."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        lr, smoothing = float(group["lr"]), float(group["smoothing"])
        reached = self._reached() if lr < 1 else [None] * len(self._network.weights)
        if self._leaves is not None:
            self._step_leaves(self._leaves, lr, reached)
        blocks, zero = self._network._layout.blocks, self._network.weights[0].new_zeros(())
        for block, weight, prior in zip(blocks, self._network.weights, reached, strict=True):
            if weight.grad is None:
                continue
            # In place of the gradient, which is as large as the parameters; over the rate, as columns are normalized.
            counts = weight.grad
            past = zero if prior is None else (prior + smoothing * block.rows) * (1 / lr - 1)
            torch.sub(past, counts, out=counts)
            if smoothing:
                torch.addcmul(counts.new_tensor(smoothing), counts, weight, out=counts)
            else:
                counts.mul_(weight)
            if block.level == 0 and group["leaf"] == "binomial":
                means = binomial_means(without_outliers(counts, weight))
                known = means.isfinite()
                new = binomial(means.nan_to_num(nan=0.5), block.rows)
            else:
                total = counts.sum(-2, keepdim=True)
                known = (total > torch.finfo(total.dtype).tiny) & total.isfinite()
                new = counts.div_(total)
            torch.where(known, new, weight, out=weight)
            weight.grad = None
        return loss

    def _step_leaves(self, leaves: NormalLeaves, lr: float, reached: list[Any]) -> None:
        """Means and variances from the gradients, before the matrices change."""
        counts, past = torch.zeros_like(leaves.mean), torch.zeros_like(leaves.mean)
        for block, weight, prior in zip(self._network._layout.blocks, self._network.weights, reached, strict=True):
            if block.level == 0 and weight.grad is not None:
                nodes = torch.tensor(block.nodes, device=counts.device)
                # How often each component is chosen, in the batch and by the network itself.
                counts[nodes] = -(weight * weight.grad)[0].sum(-1).expand(len(nodes), -1)
                if prior is not None:
                    past[nodes] = (weight * prior)[0].sum(-1).expand(len(nodes), -1)
        if leaves.mean.grad is None or leaves.log_std.grad is None:
            return
        variance = (2 * leaves.log_std).exp()
        total = (1 - lr) * past + lr * counts
        known = total > torch.finfo(total.dtype).tiny
        total = torch.where(known, total, 1.0)
        # Moments about the former means, of what the components explain.
        shift = -lr * variance * leaves.mean.grad / total
        second = variance * ((1 - lr) * past + lr * (counts - leaves.log_std.grad)) / total
        bound = leaves.smallest.square().clamp(min=torch.finfo(total.dtype).tiny).unsqueeze(1)
        new = (second - shift.square()).maximum(bound)
        leaves.mean.add_(torch.where(known, shift, 0.0))
        leaves.log_std.copy_(torch.where(known, 0.5 * new.log(), leaves.log_std))
        leaves.mean.grad = leaves.log_std.grad = None

    def _reached(self) -> list[Tensor]:
        """Probability with which each column is reached, per block, (runs, nodes or 1, 1, columns)."""
        weights, found = self._network.weights, []
        outputs = self._network.outputs
        rows: dict[int, Tensor] = {}
        last = len(weights) - 1
        for b in range(last, -1, -1):
            if b == last:
                prior = torch.full_like(weights[b][:, :, :1], 1 / outputs)
            else:
                parts = [rows[parent].index_select(1, at) for parent, at in self._parents[b].sources]
                order = self._parents[b].order
                prior = parts[0] if order is None else torch.cat(parts, 1).index_select(1, order)
            if self._network._layout.blocks[b].level:
                rows[b] = (weights[b] * prior).sum(-1, keepdim=True).transpose(-1, -2)
            # The counts of a shared matrix are those of all its nodes.
            found.append(prior.sum(1, keepdim=True) if self._network.shared else prior)
        return found[::-1]


class _Parents:
    """Where the parents of a block's nodes lie: positions in one block after another, and how to put them in order."""

    def __init__(self, network: HTNetwork, nodes: tuple[int, ...]) -> None:
        layout = network._layout
        by_block: dict[int, list[tuple[int, int]]] = {}
        for position, node in enumerate(nodes):
            parent = layout.tree.parent(node)
            assert parent is not None
            block, at = layout.place[parent]
            by_block.setdefault(block, []).append((position, at))

        def on_device(values: list[int]) -> Tensor:
            return torch.tensor(values, device=network.device)

        self.sources = [(block, on_device([at for _, at in pairs])) for block, pairs in by_block.items()]
        positions = [position for pairs in by_block.values() for position, _ in pairs]
        self.order = None if len(by_block) == 1 else on_device(positions).argsort()


def _parents(network: HTNetwork) -> list[_Parents]:
    return [_Parents(network, block.nodes) for block in network._layout.blocks[:-1]]


def check_columns(network: HTNetwork) -> None:
    """Refuse a network whose columns are no distributions."""
    for weight in network.weights:
        values = weight.detach()
        if not bool((values >= 0).all()):
            raise ValueError(
                "network has entries that are negative or NaN; expected distributions as columns, which "
                "htf.nn.init.distributions draws"
            )
        far = float((values.sum(-2) - 1).abs().max())
        if far > max(1e-3, values.shape[-2] * torch.finfo(values.dtype).eps):
            raise ValueError(
                f"network has a column whose sum is off 1 by {far:.1e}; expected distributions as columns, which "
                "htf.nn.init.distributions draws"
            )
