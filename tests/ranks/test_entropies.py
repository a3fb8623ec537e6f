"""Entropies against dense spectra, and their gradients where singular values repeat or vanish."""

import time

import numpy as np
import pytest
import torch
from ranks.cases import TREES, dense, dense_spectrum, ht_tensor, network
from tensorly.cp_tensor import CPTensor

import htf
from htf import ranks


def entropies(spectrum):
    p = spectrum**2 / (spectrum**2).sum()
    p = p[p > 0]
    return -(p * np.log(p)).sum(), -np.log((p**2).sum())


def check(x, tensor, run=0):
    found = ranks.entanglement_entropies(x, run=run), ranks.renyi2_entropies(x, run=run)
    for node in x.tree.edges:
        expected = entropies(dense_spectrum(tensor, x.tree.modes(node)))
        for each, value in zip(found, expected, strict=True):
            assert float(torch.as_tensor(each[node]).detach()) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_values(tree, outputs):
    for backend in ("numpy", "pytorch"):
        x = ht_tensor(tree, outputs, backend)
        check(x, dense(x))
    net = network(tree, outputs, runs=2)
    for run in range(2):
        check(net, dense(net, run), run)


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_chosen_edges(function):
    for x in (ht_tensor(TREES["crossed"]), network(TREES["crossed"])):
        whole = function(x)
        chosen = function(x, edges=[4, 1])
        assert list(chosen) == [4, 1]
        assert all(bool(whole[node] == chosen[node]) for node in chosen)


def sum_of(function, tree, *factors):
    return torch.stack(list(function((tree, factors)).values()))


def parameters(tree, rank=2, repeated=False, deficient=False):
    x = htf.random_ht((2, 3, 2, 2)[: tree.order], rank, tree, random_state=1).to_backend("pytorch")
    factors = [f.clone() for f in x.factors]
    if repeated:
        # Superdiagonal transfer tensors on orthonormal frames: all singular values are 1.
        factors = [torch.linalg.qr(f)[0] if f.ndim == 2 else torch.zeros_like(f) for f in factors]
        for f in factors[tree.order :]:
            for r in range(f.shape[0]):
                f[(r,) * (f.ndim - 1) + (r if f.shape[-1] > 1 else 0,)] = 1
    if deficient:
        for f in factors[:-1]:
            f[..., -1] = f[..., 0]
    return [f.requires_grad_() for f in factors]


QUARTETS = {
    "binary": htf.DimensionTree.balanced(4),
    "flat": htf.DimensionTree.balanced(4, arity=4),
    "linear": htf.DimensionTree.linear(4),
}


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
@pytest.mark.parametrize("kind", ["generic", "repeated", "deficient"])
@pytest.mark.parametrize("tree", QUARTETS.values(), ids=QUARTETS)
def test_gradients_of_ht_tensors(tree, kind, function):
    factors = parameters(tree, **{kind: True} if kind != "generic" else {})
    # At a zero singular value the entropy has a first derivative and no second one: differences of step h are off by
    # h log h.
    loose = kind != "generic" and function is ranks.entanglement_entropies
    assert torch.autograd.gradcheck(
        lambda *f: sum_of(function, tree, *f), factors, eps=1e-6, atol=1e-4 if loose else 1e-6
    )


def test_second_derivatives_of_renyi2():
    tree = QUARTETS["binary"]
    assert torch.autograd.gradgradcheck(lambda *f: sum_of(ranks.renyi2_entropies, tree, *f), parameters(tree))


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
@pytest.mark.parametrize("deficient", [False, True])
@pytest.mark.parametrize("tree", QUARTETS.values(), ids=QUARTETS)
def test_gradients_of_networks(tree, deficient, function):
    net = htf.nn.HTNetwork(tree, (2, 3, 2, 2), 2, seed=0, dtype=torch.float64)
    if deficient:
        with torch.no_grad():
            for node in range(tree.root):
                net.matrix(node)[:, 1] = net.matrix(node)[:, 0]
    values = torch.stack(list(function(net).values()))
    for k in range(len(values)):
        gradients = torch.autograd.grad(values[k], list(net.weights), retain_graph=True, allow_unused=True)
        for weight, gradient in zip(net.weights, gradients, strict=True):
            if gradient is None:
                continue
            direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
            step, start = 1e-6, weight.detach().clone()
            ends = []
            for sign in (1, -1):
                weight.data = start + sign * step * direction
                ends.append(torch.stack(list(function(net).values()))[k].detach())
            weight.data = start
            difference = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_a_maximally_entangled_pair(function):
    identity = torch.eye(3, dtype=torch.float64, requires_grad=True)
    tree = htf.DimensionTree.balanced(2)
    factors = [torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64), identity.reshape(3, 3, 1)]
    value = function((tree, factors))[0]
    value.backward()
    assert float(value.detach()) == pytest.approx(np.log(3))
    assert float(identity.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_columns_of_norms_far_apart(function):
    small = 1e-18
    factors = [np.diag([1.0, small]), np.diag([small, 1.0])]
    for value in function(CPTensor((np.ones(2), factors))).values():
        assert float(value) == pytest.approx(np.log(2))


def test_cp_of_high_order():
    net = htf.nn.CPNetwork((2,) * 784, 8, seed=0)
    found = ranks.spectra(net)
    entangled, renyi = ranks.entanglement_entropies(net), ranks.renyi2_entropies(net)
    for node in found:
        expected = entropies(found[node].detach().numpy())
        torch.testing.assert_close([float(e[node].detach()) for e in (entangled, renyi)], list(map(float, expected)))


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_zero_tensors(function):
    assert set(map(float, function(ht_tensor(TREES["binary"]) * 0.0).values())) == {0.0}


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_an_image_of_784_pixels(function):
    net = htf.nn.HTNetwork(htf.DimensionTree.grid(28, 28), 2, 8, outputs=2, seed=0)
    for scale in (1.0, 1e-3, 1e3):
        with torch.no_grad():
            for weight in net.weights:
                weight.mul_(scale)
        start = time.perf_counter()
        values = torch.stack(list(function(net).values()))
        values.sum().backward()
        assert time.perf_counter() - start < 20
        assert bool(torch.isfinite(values).all())
        assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())
        net.zero_grad()


@pytest.mark.parametrize("function", [ranks.entanglement_entropies, ranks.renyi2_entropies])
def test_bad_input(function):
    x = ht_tensor(TREES["binary"])
    for node in (-1, x.tree.root):
        with pytest.raises(IndexError, match=f"edges holds node {node}"):
            function(x, edges=[node])
    with pytest.raises(TypeError, match=r"edges holds 1\.5"):
        function(x, edges=[1.5])
    for edges in (0, np.array(0)):
        with pytest.raises(TypeError, match=r"edges is .*; expected nodes"):
            function(x, edges=edges)
    with pytest.raises(TypeError, match=r"edges holds np\.True_"):
        function(x, edges=[np.True_])
    with pytest.raises(IndexError, match="run is 5"):
        function(network(TREES["binary"]), run=5)
    x.factors[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="node 0"):
        function(x)
