"""Factorizations whose components are compared with dense references, and how they are made dense."""

import torch
from dense import dense_cp, dense_ht
from dynamics_descent import DenseLoss

from htf.nn import CPNetwork, HTNetwork, MatrixFactorization, init
from htf.tree import DimensionTree

NOISE = init.gaussian(0.2, 0.7)
DOUBLE = torch.float64
TREES = {
    "binary": DimensionTree.balanced(4),
    "ternary": DimensionTree.balanced(5, arity=3),
    "mixed": DimensionTree.from_nested(((0, 3), (1, 2, 4))),
    "linear": DimensionTree.linear(4),
}


def dims_of(tree):
    return (2, 3, 2, 4, 3)[: tree.order]


def dense(network, run):
    """The tensor of a run, with an axis for several outputs."""
    if isinstance(network, MatrixFactorization):
        return network.to_tensor(run)
    own = network.parameters_for(run)
    if isinstance(network, CPNetwork):
        return dense_cp(list(own.values()))
    return dense_ht(network.tree, network.dims, own)


def ht_network(tree, outputs=1, widths=(2, 4, 3), **settings):
    return HTNetwork(
        TREES[tree],
        dims_of(TREES[tree]),
        widths,
        outputs=outputs,
        **{"init": NOISE, "seed": 0, "dtype": DOUBLE, **settings},
    )


def cp_network(order=3, outputs=1, ranks=(2, 5), **settings):
    dims = (2, 3, 4, 2)[:order]
    return CPNetwork(dims, ranks, outputs=outputs, **{"init": NOISE, "seed": 0, "dtype": DOUBLE, **settings})


def matrix_network(depth=3, width=None, runs=2, **settings):
    return MatrixFactorization(
        (4, 6), depth, width, runs=runs, **{"init": NOISE, "seed": 0, "dtype": DOUBLE, **settings}
    )


def loss_for(network, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = dense(network, 0).shape
    target, weight = (torch.randn(shape, generator=generator, dtype=DOUBLE) for _ in range(2))
    return DenseLoss(target, dense, weight.square())


def with_gradients(network, loss):
    network.zero_grad()
    loss(network).sum().backward()
    return network
