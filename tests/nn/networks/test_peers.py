"""Equality with the papers' research code, where HTF_PEERS names a folder with checkouts of it."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import htf


@pytest.fixture
def papers_module(monkeypatch):
    """Imports a module of a checkout, whose packages are forgotten afterwards: both have some of the same names."""
    before = set(sys.modules)

    def imported(checkout, name):
        path = Path(os.environ.get("HTF_PEERS", "")) / checkout
        if "HTF_PEERS" not in os.environ or not path.is_dir():
            pytest.skip(f"HTF_PEERS does not hold {checkout}")
        monkeypatch.syspath_prepend(str(path))
        monkeypatch.setattr(np, "int", int, raising=False)  # a name of older NumPy
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("common", "tensor_factorization"):
            del sys.modules[name]


def samples(order, count=20):
    return torch.randint(0, 2, (count, order), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("order", "ranks"), [(784, [1, 4, 15]), (9, [3])])
def test_cp_networks_are_those_of_imp_reg_in_tf(order, ranks, papers_module):
    peer = papers_module("imp_reg_in_tf", "tensor_factorization.models.tensor_factorizations")
    network = htf.nn.CPNetwork([2] * order, ranks, init=htf.nn.init.gaussian(1.0, 1e-3), seed=0)
    x = samples(order)
    ours = network(x)
    for run, rank in enumerate(ranks):
        model = peer.LargeScaleTensorCPFactorization(2, order, rank)
        model.factors.data.copy_(torch.stack([network.factor(mode, run) for mode in range(order)]))
        theirs = model(one_hot(x, 2).float())
        torch.testing.assert_close(ours[:, run], theirs, rtol=2e-5, atol=0)
        (expected,) = torch.autograd.grad(theirs.square().sum(), [model.factors])
        factors = list(network.parameters_for(run).values())
        assert sum(f.numel() for f in factors) == expected.numel()
        found = torch.autograd.grad(
            ours[:, run].square().sum(), list(network.parameters()), retain_graph=True, allow_unused=True
        )
        norm = sum(float(g.double().square().sum()) for g in found if g is not None)
        assert norm == pytest.approx(float(expected.double().square().sum()), rel=1e-4)


@pytest.mark.parametrize(("side", "width"), [(4, 3), (8, 2)])
def test_ht_networks_are_those_of_imp_reg_htf(side, width, papers_module):
    peer = papers_module("imp_reg_htf", "tensor_factorization.models.ht_tensor_factorization")
    order, layers = side**2, {4: 2, 8: 3}[side]
    torch.manual_seed(0)
    model = peer.HierarchicalTensorFactorization(
        [2] * order, pool_size=4, pool_pattern="checkerboard_sq", layer_widths=[width] * layers, init_std=1.0
    )
    tree = htf.DimensionTree.grid(side, side)
    network = htf.nn.HTNetwork(tree, 2, width, seed=0)
    node_of = {frozenset(tree.modes(node)): node for node in range(tree.n_nodes)}
    levels = model.get_per_level_mode_tree_nodes()
    parameters = [*map(list, model.per_hidden_layer_parameter_lists), [model.output_layer_parameters]]
    pairs = []
    for modes, matrices in zip(levels, parameters, strict=True):
        pairs += [(node_of[frozenset(m)], matrix) for m, matrix in zip(modes, matrices, strict=True)]
    assert sorted(node for node, _ in pairs) == list(range(tree.n_nodes))
    with torch.no_grad():
        for node, matrix in pairs:
            network.matrix(node).copy_(matrix)
    x = samples(order)
    ours, theirs = network(x).squeeze(1), model(one_hot(x, 2).float())
    assert float(theirs.detach().std()) > 0
    scale = float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)
