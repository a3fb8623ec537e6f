"""Terms of spectra on trees against dense matricizations, values and gradients."""

import math

import numpy as np
import pytest
import torch
from dense import dense_cp, dense_ht
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks.cases import TREES, ht_tensor, network
from strategies import nested_trees
from tensorly.cp_tensor import CPTensor

import htf
from htf import DimensionTree, HTTensor
from htf.regularizers import Patch, TreeEntropy, TreeLogDet, separating_edges

EPS = 0.01
KINDS = {"entropy": TreeEntropy, "log det": lambda *args: TreeLogDet(*args, eps=EPS)}
both = pytest.mark.parametrize("kind", KINDS)


def dense_measure(kind, tensor, modes):
    """By matrices of the full size; differentiable."""
    rest = [axis for axis in range(tensor.ndim) if axis not in modes]
    matrix = tensor.permute(*modes, *rest).reshape(math.prod(tensor.shape[m] for m in modes), -1)
    rho = matrix @ matrix.T / matrix.square().sum()
    if kind == "entropy":
        return -torch.log((rho @ rho).trace())
    one = torch.eye(len(rho), dtype=rho.dtype)
    return torch.logdet(one + rho / EPS) - math.log(1 + 1 / EPS)


def dense_term(kind, tensors, tree, edges=None):
    edges = list(tree.edges) if edges is None else edges
    return -sum(dense_measure(kind, t, tree.modes(e)) for t in tensors for e in edges) / len(edges)


def of_network(net):
    return [dense_ht(net.tree, net.dims, net.parameters_for(r)).reshape(*net.dims, -1) for r in range(net.runs)]


def check(kind, x, parameters, tensors, tree):
    found, expected = KINDS[kind](0.7)(x), 0.7 * dense_term(kind, tensors, tree)
    assert found.shape == ()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    pairs = [torch.autograd.grad(each, parameters) for each in (found, expected)]
    for f, e in zip(*pairs, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-7, atol=1e-9)


@both
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_networks(kind, tree, outputs):
    net = network(tree, outputs, runs=2)
    check(kind, net, list(net.parameters()), of_network(net), tree)


@both
@settings(max_examples=15, deadline=None)
@given(nested=nested_trees(max_order=7), seed=st.integers(0, 99))
def test_networks_on_any_tree(kind, nested, seed):
    tree = DimensionTree.from_nested(nested)
    widths = [{node: 1 + (node * k + seed) % 4 for node in tree.inner_nodes} for k in (1, 2)]
    dims = [2 + (mode + seed) % 2 for mode in range(tree.order)]
    net = htf.nn.HTNetwork(tree, dims, widths, seed=seed, init="gaussian", dtype=torch.float64)
    check(kind, net, list(net.parameters()), of_network(net), tree)


@both
@pytest.mark.parametrize("shared", [False, True])
def test_networks_on_grids(kind, shared):
    tree = DimensionTree.grid(4, 2) if shared else DimensionTree.grid(3, 3)
    net = htf.nn.HTNetwork(tree, 2, 3, shared=shared, seed=0, dtype=torch.float64)
    check(kind, net, list(net.parameters()), of_network(net), tree)


@both
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_ht_tensors(kind, tree):
    x = ht_tensor(tree, 2, "pytorch")
    x = HTTensor((tree, [f.clone().requires_grad_() for f in x.factors]))
    check(kind, x, list(x.factors), [x.to_tensor()], tree)
    assert KINDS[kind]()((tree, x.factors)) == KINDS[kind]()(x)


@both
def test_cp(kind):
    net = htf.nn.CPNetwork((2, 3, 2), [1, 3], seed=0, dtype=torch.float64)
    dense = [dense_cp([net.factor(mode, run) for mode in range(3)]).reshape(2, 3, 2, 1) for run in range(2)]
    check(kind, net, list(net.parameters()), dense, net.tree)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    factors = [net.factor(mode, 1).detach().requires_grad_() for mode in range(3)]
    dense = torch.einsum("r,ar,br,cr->abc", weights, *factors)[..., None]
    check(kind, CPTensor((weights, factors)), [weights, *factors], [dense], DimensionTree.balanced(3, 3))


@both
def test_some_edges(kind):
    tree = TREES["crossed"]
    net = network(tree, runs=2)
    for edges in ([6], [0, 5, 2], [tree.node((0, 3)), 0, 0]):
        expected = dense_term(kind, of_network(net), tree, list(dict.fromkeys(edges)))
        for x in (net, net.to_tensor(0)):
            if x is not net:
                expected = dense_term(kind, of_network(net)[:1], tree, list(dict.fromkeys(edges)))
            found = KINDS[kind](1.0, edges)(x)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def ghz(rank, order=4, dim=5):
    """A network whose matricizations all have `rank` equal singular values: a sum of products of unit vectors."""
    net = htf.nn.HTNetwork(DimensionTree.balanced(order), dim, dim, seed=0, dtype=torch.float64)
    for node in range(net.tree.n_nodes):
        matrix = net.matrix(node).data
        matrix.copy_(torch.eye(*matrix.shape) if matrix.shape[1] > 1 else (torch.arange(len(matrix)) < rank)[:, None])
    return net


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_equal_singular_values_and_zeros(rank):
    net = ghz(rank)
    measures = {"entropy": math.log(rank), "log det": rank * math.log1p(1 / (rank * EPS)) - math.log1p(1 / EPS)}
    for kind, expected in measures.items():
        for x in (net, net.to_tensor()):
            reg = KINDS[kind]()
            value = reg(x)
            assert float(value.detach()) == pytest.approx(-expected, abs=1e-12)
            assert reg.last == pytest.approx(expected, abs=1e-12)
            check(kind, net, list(net.parameters()), of_network(net), net.tree)


@both
def test_zero_networks_are_harmless(kind):
    net = network(TREES["binary"], runs=2)
    net.matrix(6, 0).data.zero_()
    value = KINDS[kind]()(net)
    torch.testing.assert_close(value, dense_term(kind, of_network(net)[1:], net.tree))
    value.backward()
    assert all((p.grad[0] == 0).all() and p.grad.isfinite().all() for p in net.parameters())
    zero = HTTensor((net.tree, [torch.zeros_like(f).requires_grad_() for f in net.to_tensor(1).factors]))
    assert KINDS[kind]()(zero) == 0


@both
@settings(max_examples=20, deadline=None)
@given(scales=st.lists(st.floats(-120, 120), min_size=9, max_size=9))
def test_scales_of_nodes_do_not_count(kind, scales):
    net = network(TREES["binary"])
    before = float(KINDS[kind]()(net).detach())
    for node, scale in enumerate(scales):
        net.matrix(node).data *= 10.0**scale
    assert float(KINDS[kind]()(net).detach()) == pytest.approx(before, rel=1e-9)


@both
@pytest.mark.parametrize("tree", [DimensionTree.grid(28, 28), DimensionTree.balanced(784, 784)], ids=["grid", "flat"])
def test_hundreds_of_modes(kind, tree):
    net = htf.nn.HTNetwork(tree, 2, 4, seed=0, init="gaussian")
    value = KINDS[kind]()(net)
    value.backward()
    entropies = htf.ranks.renyi2_entropies(net)
    if kind == "entropy":
        mean = float(sum(entropies.values()).detach()) / len(entropies)
        assert float(value.detach()) == pytest.approx(-mean, rel=1e-9)
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in net.parameters())
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


@both
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_descent_raises_or_lowers_ranks(kind, weight):
    net = network(TREES["binary"])
    reg = KINDS[kind](weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.002)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        reg(net).backward()
        optimizer.step()
        values.append(reg.last)
    assert (np.diff(values) * weight > 0).all()


def test_second_derivatives():
    net = network(TREES["ternary"])
    factors = [f.detach().requires_grad_() for f in net.to_tensor().factors]
    for reg in (TreeEntropy(), TreeLogDet(eps=EPS)):
        assert torch.autograd.gradgradcheck(
            lambda *f, reg=reg: reg((net.tree, list(f))), factors, fast_mode=True, atol=1e-4
        )


def test_stands_where_other_regularizers_do():
    net = network(TREES["binary"])
    assert TreeEntropy(2.0)(net, "x", "y", "out") == TreeEntropy(2.0)(net)
    assert repr(TreeLogDet(2.0, [1, 2])) == "TreeLogDet(weight=2.0, edges=(1, 2), eps=0.001)"
    assert TreeEntropy().last is None


@pytest.mark.parametrize("tree", [DimensionTree.grid(4, 6), DimensionTree.balanced(24), DimensionTree.linear(24)])
def test_separating_edges(tree):
    first, second = Patch(0, 0, 1, 2), Patch(2, 4, 2, 2)
    modes = [
        {i * 6 + j for i in range(*p.rows.indices(9)) for j in range(*p.columns.indices(9))} for p in (first, second)
    ]
    expected = [
        node
        for node in tree.edges
        if any(a <= set(tree.modes(node)) and not b & set(tree.modes(node)) for a, b in (modes, modes[::-1]))
    ]
    assert separating_edges(tree, 6, first, second) == expected
    assert separating_edges(tree, 6, second, tuple(first)) == expected
    net = htf.nn.HTNetwork(tree, 2, 2, seed=0)
    assert TreeEntropy(edges=expected)(net).isfinite()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda net: TreeEntropy(math.nan), ValueError, "weight is nan; expected a finite number"),
        (lambda net: TreeLogDet(eps=0.0), ValueError, "eps is 0.0; expected above 0"),
        (lambda net: TreeEntropy(edges=[]), ValueError, "edges is empty"),
        (lambda net: TreeEntropy(edges=5), TypeError, "edges is 5; expected several nodes, or None for all"),
        (lambda net: TreeEntropy(edges=[8])(net), IndexError, "edges holds node 8; expected nodes below the root"),
        (lambda net: TreeEntropy(edges=["a"])(net), TypeError, "edges holds 'a'; expected nodes"),
        (lambda net: TreeEntropy()(net.requires_grad_(False)), RuntimeError, "no parameter that requires a gradient"),
        (lambda net: torch.no_grad()(TreeEntropy().__call__)(net), RuntimeError, "gradients are switched off"),
        (lambda net: TreeEntropy()(net.weights), TypeError, "x is a ParameterList; expected an HTTensor"),
        (lambda net: TreeEntropy()(ht_tensor(net.tree)), TypeError, "x holds ndarray; expected PyTorch tensors"),
        (
            lambda net: separating_edges(net.tree, 3, (0, 0, 1, 1), (0, 1, 1, 1)),
            ValueError,
            "width is 3; expected a div",
        ),
        (
            lambda net: separating_edges(net.tree, 5, (0, 0, 1, 1), (0, 5, 1, 1)),
            ValueError,
            "reaches outside of an image",
        ),
        (lambda net: separating_edges(net.tree, 5, (0, 0, 1, 2), (0, 1, 1, 1)), ValueError, "overlap"),
    ],
)
def test_bad_input(act, error, message):
    with pytest.raises(error, match=message):
        act(network(TREES["binary"]))


def test_patches_that_no_edge_separates():
    with pytest.raises(ValueError, match=r"no edge of the tree separates Patch.*from Patch"):
        separating_edges(DimensionTree.from_nested(((0, 2), (1, 3))), 4, (0, 0, 1, 2), (0, 2, 1, 2))


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(kind, value):
    net = network(TREES["binary"])
    net.matrix(2).data[0, 0] = value
    for x in (net, net.to_tensor()):
        with pytest.raises(ValueError, match="NaN or infinite"):
            KINDS[kind]()(x)
