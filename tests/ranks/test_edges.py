"""Spectra of every node against dense singular value decompositions."""

import numpy as np
import pytest
import tensorly as tl
import torch
from dense import dense_ht
from ranks.cases import TREES, assert_spectrum, dense, dense_spectrum, ht_tensor, network
from tensorly.cp_tensor import CPTensor

import htf
from htf import ranks


def assert_spectra(x, tensor, run=0):
    found = ranks.spectra(x, run)
    tree = x.tree
    assert list(found) == list(tree.edges)
    for node in tree.edges:
        assert_spectrum(found[node], dense_spectrum(tensor, tree.modes(node)))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_spectra_of_ht_tensors(tree, backend, outputs):
    x = ht_tensor(tree, outputs, backend)
    assert_spectra(x, dense(x))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_spectra_of_networks(tree, outputs):
    net = network(tree, outputs, runs=2)
    for run in range(2):
        assert_spectra(net, dense(net, run), run)


def test_raw_form():
    x = ht_tensor(TREES["binary"])
    first, second = ranks.spectra(x), ranks.spectra((x.tree, x.factors))
    assert all((first[node] == second[node]).all() for node in first)


@pytest.mark.parametrize("outputs", [1, 2])
def test_cp(outputs):
    net = htf.nn.CPNetwork((3, 4, 2, 3), [2, 3], outputs=outputs, seed=0, dtype=torch.float64)
    for run in range(2):
        factors = [net.factor(mode, run).detach() for mode in range(4)]
        readout = torch.ones(net.ranks[run], 1, dtype=torch.float64)
        readout = readout if net.readout is None else net.parameters_for(run)[4].T.detach()
        tensor = np.einsum("ar,br,cr,dr,ro->abcdo", *factors, readout)
        tensor /= np.linalg.norm(tensor)
        for mode, values in ranks.spectra(net, run).items():
            assert_spectrum(values, dense_spectrum(tensor, (mode,)))
    cp = CPTensor((np.array([1.0, 2.0]), [np.random.default_rng(n).normal(size=(3, 2)) for n in range(3)]))
    tensor = tl.cp_to_tensor(cp)
    assert float(ranks.log_norm(cp)) == pytest.approx(np.log(np.linalg.norm(tensor)))
    for mode, values in ranks.spectra(cp).items():
        assert_spectrum(values, dense_spectrum(tensor / np.linalg.norm(tensor), (mode,)))
    assert ranks.hierarchical_rank(cp) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_log_norm(tree):
    x, net = ht_tensor(tree), network(tree, outputs=2)
    assert float(ranks.log_norm(x)) == pytest.approx(np.log(np.linalg.norm(x.to_tensor())))
    expected = dense_ht(tree, net.dims, net.parameters_for(0)).norm().log()
    torch.testing.assert_close(ranks.log_norm(net), expected)
    gradients = [torch.autograd.grad(value, net.weights[0])[0] for value in (ranks.log_norm(net), expected)]
    torch.testing.assert_close(*gradients)


def test_hierarchical_rank_ignores_widths_that_do_nothing():
    x = ht_tensor(TREES["binary"])
    assert ranks.hierarchical_rank(x + x) == ranks.hierarchical_rank(x) == dict(enumerate(x.rank[:-1]))
    net = network(TREES["binary"])
    with torch.no_grad():
        for node in range(net.tree.n_nodes):
            net.matrix(node)[:, 1:] = 0
    assert set(ranks.hierarchical_rank(net).values()) == {1}


def test_small_singular_values_are_accurate():
    # Gramians would lose everything below 1e-8.
    weights = np.array([1.0, 1e-6, 1e-11])
    frames = [np.linalg.qr(np.random.default_rng(n).normal(size=(5, 3)))[0] for n in range(4)]
    for values in ranks.spectra(CPTensor((weights, frames))).values():
        np.testing.assert_allclose(values, weights, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_784_pixels(dtype):
    net = htf.nn.HTNetwork(htf.DimensionTree.grid(28, 28), 2, 8, outputs=2, seed=0, dtype=dtype)
    for scale in (1.0, 1e-3, 1e3):
        with torch.no_grad():
            for weight in net.weights:
                weight.mul_(scale)
        found = ranks.spectra(net)
        for values in found.values():
            assert float(values.detach().square().sum()) == pytest.approx(1)
        assert bool(torch.isfinite(ranks.log_norm(net).detach()))


def test_high_order_ht_tensors_stay_in_range():
    x = htf.random_ht((3,) * 400, 3, random_state=0)
    x = htf.HTTensor((x.tree, [f * 1e5 for f in x.factors])).to(np.float32)
    assert all(np.isclose((values**2).sum(), 1) for values in ranks.spectra(x).values())


def test_a_difference_that_is_rounding_alone_has_a_norm_that_small():
    for seed in range(8):
        x = htf.random_ht((3, 4, 5, 3), 3, random_state=seed)
        assert float(ranks.log_norm(x - x)) < float(ranks.log_norm(x)) - 16


def test_zero():
    x = ht_tensor(TREES["binary"]) * 0.0
    assert all((values == 0).all() for values in ranks.spectra(x).values())
    assert float(ranks.log_norm(x)) == -np.inf
    assert set(ranks.hierarchical_rank(x).values()) == {0}
    net = network(TREES["ternary"])
    with torch.no_grad():
        net.weights[0].zero_()
    assert all(bool((values == 0).all()) for values in ranks.spectra(net).values())


def measured(net, node):
    return ranks.effective_rank(ranks.spectra(net)[node])


def from_dense(net, node):
    tensor = dense_ht(net.tree, net.dims, net.parameters_for(0))
    modes = net.tree.modes(node)
    rest = [axis for axis in range(tensor.ndim) if axis not in modes]
    return ranks.effective_rank(torch.linalg.svdvals(tensor.permute(*modes, *rest).flatten(len(modes)).flatten(0, -2)))


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_effective_rank_of_a_network_is_differentiable(tree):
    net = network(tree, width=2)
    for node in tree.edges:
        gradients = [torch.autograd.grad(f(net, node), list(net.weights)) for f in (measured, from_dense)]
        for first, second in zip(*gradients, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("function", [ranks.spectra, ranks.log_norm, ranks.hierarchical_rank])
def test_bad_input(function):
    with pytest.raises(TypeError, match="x is a int"):
        function(3)
    with pytest.raises(IndexError, match="run is 2"):
        function(network(TREES["binary"], runs=2), run=2)
    with pytest.raises(IndexError, match="run is 1"):
        function(ht_tensor(TREES["binary"]), run=1)
    x = ht_tensor(TREES["binary"])
    x.factors[3][0, 0] = np.nan
    with pytest.raises(ValueError, match="node 3"):
        function(x)
    with pytest.raises(ValueError, match="1 mode"):
        function(CPTensor((np.ones(2), [np.ones((3, 2))])))


def test_bad_tolerance():
    with pytest.raises(ValueError, match="tol is -1"):
        ranks.hierarchical_rank(ht_tensor(TREES["binary"]), tol=-1)
