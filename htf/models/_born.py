"""Marginals and samples of squared networks, from Gramians of what is observed.

For a sample of which some values are known, the Gramian of a node sums the products of its components over all that is
missing below it: where everything is known it has rank 1.  All in double precision, for networks of one run and output.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from htf._random import beside, rand
from htf.nn.networks.ht import HTNetwork

# Entries of the Gramians that are held at once.
ENTRIES = 2**25


def samples_at_once(network: HTNetwork) -> int:
    """For how many samples there is room."""
    entries = sum(len(block.nodes) * block.columns**2 for block in network._layout.blocks)
    return max(1, ENTRIES // entries)


class ObservedGramians:
    """Gramians of all nodes for each sample.

    Parameters
    ----------
    network : HTNetwork
    values, missing : Tensor
        (samples, order) levels and booleans.

    Attributes
    ----------
    matrices : dict
        From each node to (samples, columns, columns), of size 1; (1, columns, columns) where nothing below is known of
        any sample.
    log : Tensor
        (samples,); the logarithm of the sum of squares over all that is missing.

    Notes
    -----
    O(samples R³) multiplications per node.
    """

    def __init__(self, network: HTNetwork, values: Tensor, missing: Tensor) -> None:
        self.matrices: dict[int, Tensor] = {}
        tree = network.tree
        self.weights = {node: network.matrix(node).detach().double() for node in range(tree.n_nodes)}
        total = values.new_zeros(1, dtype=torch.float64)
        for node in range(tree.n_nodes):
            w = self.weights[node]
            if node < tree.order:
                found, log = _scaled((w.mT @ w)[None])
                gone = missing[:, node]
                if not bool(gone.all()):
                    rows = w[values[:, node].long()]
                    known, log_known = _scaled(rows[:, :, None] * rows[:, None])
                    found = torch.where(gone[:, None, None], found, known)
                    log = torch.where(gone, log, log_known)
            else:
                joint, total = _product([self.matrices[child] for child in tree.children(node)], total)
                found, log = _scaled(w.mT @ joint @ w)
            total = total + log
            self.matrices[node] = found
        self.log = (total + self.matrices[tree.root][:, 0, 0].clamp(min=0).log()).expand(len(values))


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    largest = matrices.abs().amax((-2, -1))
    largest = torch.where(largest == 0, 1.0, largest)
    return matrices / largest[:, None, None], largest.log()


def _product(factors: list[Tensor], total: Tensor) -> tuple[Tensor, Tensor]:
    product = factors[0]
    for factor in factors[1:]:
        product, log = _scaled(product * factor)
        total = total + log
    return product, total


def draw_squared(network: HTNetwork, values: Tensor, missing: Tensor, generator: Generator | None) -> Tensor:
    """Draw what is missing, mode by mode, each given all before.

    Parameters
    ----------
    network : HTNetwork
    values, missing : Tensor
        (samples, order) levels and booleans.
    generator : Generator or None

    Returns
    -------
    Tensor
        (samples, order) levels.

    Raises
    ------
    ValueError
        If what is known has the probability 0.

    Notes
    -----
    The Gramian of the rest of the tensor is carried down to each node, with those of its siblings: O(R³) per node and
    sample.
    """
    tree = network.tree
    observed = ObservedGramians(network, values, missing)
    if not bool(observed.log.isfinite().all()):
        raise ValueError("x has a sample whose observed values have the probability 0; expected possible ones")
    found, matrices, weights = values.long().clone(), observed.matrices, observed.weights
    known: dict[int, Tensor] = {}  # vectors of nodes below which all is drawn, (samples, columns)
    above = {tree.root: torch.ones(1, 1, 1, dtype=torch.float64, device=values.device)}
    # Each node is met before its children, before each of them, and after the last.
    stack = [(tree.root, 0)]
    while stack:
        node, done = stack.pop()
        children = tree.children(node)
        if not children:
            w, rest = weights[node], above.pop(node)
            chances = ((w @ rest) * w).sum(-1).clamp(min=0)  # (samples, rows)
            chosen = _drawn(chances.expand(len(values), -1), generator)
            found[:, node] = torch.where(missing[:, node], chosen, found[:, node])
            known[node] = _unit(w[found[:, node]])
        elif done < len(children):
            if not done:
                above[node] = _scaled(weights[node] @ above[node] @ weights[node].mT)[0]
            parts = [above[node]]
            for k, child in enumerate(children):
                if k < done:
                    parts.append(known[child][:, :, None] * known[child][:, None])
                elif k > done:
                    parts.append(matrices[child])
            above[children[done]] = _product(parts, values.new_zeros(1, dtype=torch.float64))[0]
            stack += [(node, done + 1), (children[done], 0)]
        else:
            del above[node]
            joint = known.pop(children[0])
            for child in children[1:]:
                joint = _unit(joint * known.pop(child))
            known[node] = _unit(joint @ weights[node])
    return found


def _unit(vectors: Tensor) -> Tensor:
    largest = vectors.abs().amax(-1, keepdim=True)
    return vectors / torch.where(largest == 0, 1.0, largest)


def _drawn(chances: Tensor, generator: Generator | None) -> Tensor:
    sums = chances.cumsum(-1)
    uniform = beside(rand((len(chances), 1), generator), chances)
    return (sums <= uniform * (1 - 1e-12) * sums[:, -1:]).sum(-1).clamp(max=chances.shape[-1] - 1)
