"""Networks' outputs and gradients by the plain product in double precision, and networks to compare with it."""

from __future__ import annotations

import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork


def plain(network, matrices, x):
    """Outputs of one run, (batch, outputs), by the definition."""
    if isinstance(network, CPNetwork):
        components = torch.stack([matrices[m][x[:, m]] for m in range(network.order)]).prod(0)
        return components.sum(1, keepdim=True) if network.readout is None else components @ matrices[network.order].T

    def values(node):
        if node < network.order:
            return matrices[node][x[:, node]]
        return torch.stack([values(child) for child in network.tree.children(node)]).prod(0) @ matrices[node]

    return values(network.tree.root)


def gradients_of_plain(network, run, x, weight):
    """By autograd in double precision, and the sums of the sizes of the terms of each."""
    found = []
    for matrices, by in (
        ({n: m.detach().double() for n, m in network.parameters_for(run).items()}, weight),
        ({n: m.detach().double().abs() for n, m in network.parameters_for(run).items()}, weight.abs()),
    ):
        leaves = {n: m.requires_grad_() for n, m in matrices.items()}
        found.append(torch.autograd.grad((plain(network, leaves, x) * by).sum(), list(leaves.values())))
    return found


def assert_gradients_right(network, inputs, x, weight, tolerance):
    """Every entry's gradient, relative to what is added up in it, wherever that is a normal float."""
    out = network(inputs)
    out = out.unsqueeze(-1) if network.outputs == 1 else out
    gradients = torch.autograd.grad((out * weight.to(out.dtype)).sum(), list(network.parameters()))
    smallest = 100 * torch.finfo(out.dtype).tiny
    expected = [gradients_of_plain(network, run, x, weight[:, run]) for run in range(network.runs)]
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.copy_(gradient)
    for run, (exact, terms) in enumerate(expected):
        for found, g, size in zip(network.parameters_for(run).values(), exact, terms, strict=True):
            error = (found.detach().double() - g).abs()
            assert (error <= tolerance * size)[size > smallest].all()


def indices(dims, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, d, (batch,), generator=generator) for d in dims], 1)


def weights(network, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    # Of one sign, so that no gradient of a positive network is a difference.
    return 1e-3 * torch.rand(batch, network.runs, network.outputs, dtype=torch.float64, generator=generator) + 1e-4


NETWORKS = {
    "cp": lambda: CPNetwork([2] * 16, [3, 1], seed=0),
    "cp of low order": lambda: CPNetwork([2] * 5, [3, 1], seed=0),
    "cp of order 784": lambda: CPNetwork([2] * 784, [3, 1], seed=0),
    "cp with outputs": lambda: CPNetwork([2] * 16, [3, 1], outputs=2, seed=0),
    "cp of many values": lambda: CPNetwork([2, 30, 1, 3] * 4, [3, 1], seed=0),
    "depth one": lambda: HTNetwork(DimensionTree.balanced(20, 20), 2, [3, 1], seed=0),
    "windows": lambda: HTNetwork(DimensionTree.grid(8, 8, 4), 2, [3, 1], seed=0),
    "binary tree": lambda: HTNetwork(DimensionTree.balanced(16), 2, [3, 1], seed=0),
}
