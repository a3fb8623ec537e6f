import numpy as np
import tensorly as tl
import torch
from dense import all_indices, dense_cp, dense_ht
from factorization_cases import FactorizationTestCase
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested_trees

import htf
from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, init

NOISE = init.gaussian(0.3, 1.0)


class HTCase(FactorizationTestCase):
    def dense(self, network, run):
        dense = dense_ht(network.tree, network.dims, network.parameters_for(run))
        return dense.squeeze(-1) if network.outputs == 1 else dense


class TestBalanced(HTCase):
    def make(self, dtype):
        return HTNetwork(DimensionTree.balanced(5), (2, 3, 1, 4, 2), 3, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestGrid(HTCase):
    def make(self, dtype):
        return HTNetwork(DimensionTree.grid(3, 3), 2, 2, init=NOISE, seed=0, dtype=dtype)


class TestLinear(HTCase):
    def make(self, dtype):
        return HTNetwork(DimensionTree.linear(5), (2, 3, 2, 1, 3), 2, init=NOISE, seed=0, dtype=dtype)


class TestUnevenTreeAndRuns(HTCase):
    def make(self, dtype):
        tree = DimensionTree.from_nested(((0, 2), 1, (4, (3, 5))))
        return HTNetwork(tree, (2, 2, 3, 1, 2, 3), [1, 4, 2], init=NOISE, seed=0, dtype=dtype)


class TestSeveralOutputs(HTCase):
    def make(self, dtype):
        return HTNetwork(DimensionTree.balanced(4), 3, 2, runs=2, outputs=3, init=NOISE, seed=0, dtype=dtype)


class TestWidthsPerNode(HTCase):
    def make(self, dtype):
        tree = DimensionTree.balanced(6)
        widths = [{n: 1 + n % 3 for n in tree.inner_nodes}, tree.by_level([4, 2, 3])]
        return HTNetwork(tree, 2, widths, init=NOISE, seed=0, dtype=dtype)


class TestShared(HTCase):
    def make(self, dtype):
        return HTNetwork(DimensionTree.balanced(8), 2, 2, runs=2, shared=True, init=NOISE, seed=0, dtype=dtype)


class TestManyLeavesANode(HTCase):
    """Nodes with so many leaves that the engine multiplies them in the log domain, below other nodes."""

    def make(self, dtype):
        tree = DimensionTree.from_nested((tuple(range(12)), 12))
        return HTNetwork(tree, [2] * 10 + [1, 3, 2], 2, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestLeavesReadBothWays(HTCase):
    """Leaves of one shape, some gathered and some multiplied in the log domain, in either order."""

    def make(self, dtype):
        tree = DimensionTree.from_nested(((0, 1), tuple(range(2, 14))))
        return HTNetwork(tree, 2, 2, runs=2, init=NOISE, seed=0, dtype=dtype)


class CPCase(FactorizationTestCase):
    def dense(self, network, run):
        return dense_cp(list(network.parameters_for(run).values()))


class TestCP(CPCase):
    def make(self, dtype):
        return CPNetwork((2, 3, 1, 4), [1, 3, 2], init=NOISE, seed=0, dtype=dtype)


class TestCPOfHighOrder(CPCase):
    def make(self, dtype):
        return CPNetwork([2] * 11 + [1, 3], [1, 2], init=NOISE, seed=0, dtype=dtype)


class TestCPOutputs(CPCase):
    def make(self, dtype):
        return CPNetwork([2] * 13, [1, 2], outputs=2, init=NOISE, seed=0, dtype=dtype)


class TestCPManyValues(CPCase):
    """So many values a mode that log factors are looked up instead of multiplied by codes."""

    def make(self, dtype):
        return CPNetwork([40, 40] + [1] * 10, 2, init=NOISE, seed=0, dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(nested_trees(max_order=6), st.data())
def test_any_tree_dims_and_widths_agree_with_the_dense_tensor(nested, data):
    tree = DimensionTree.from_nested(nested)
    dims = data.draw(st.lists(st.integers(1, 3), min_size=tree.order, max_size=tree.order))
    width = data.draw(st.fixed_dictionaries({n: st.integers(1, 3) for n in tree.inner_nodes}))
    net = HTNetwork(tree, dims, width, runs=2, init=NOISE, seed=data.draw(st.integers(0, 99)), dtype=torch.float64)
    for run in range(2):
        dense = dense_ht(tree, net.dims, net.parameters_for(run)).squeeze(-1)
        expected = torch.autograd.grad(dense.square().sum(), list(net.parameters()))
        for ours in (net(all_indices(net.dims))[:, run].view(net.dims), net.to_tensor(run).to_tensor()):
            torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)
            found = torch.autograd.grad(ours.square().sum(), list(net.parameters()))
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_counts_from_numpy():
    tree = DimensionTree.balanced(np.int64(4), arity=np.int64(2))
    net = HTNetwork(tree, np.int64(2), np.int64(3), runs=2, seed=np.int64(0))
    assert net(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 2)
    assert CPNetwork(np.array([2, 2]), np.array([1, 2]), seed=0).ranks == (1, 2)


def test_cp_reads_as_a_tensorly_tensor():
    net = CPNetwork([2, 3, 4], [2, 3], seed=0, dtype=torch.float64)
    cp = net.to_tensor(1)
    assert isinstance(cp, tl.cp_tensor.CPTensor)
    assert (cp.shape, cp.rank) == ((2, 3, 4), 3)
    ours = net(all_indices(net.dims))[:, 1].view(2, 3, 4)
    expected = tl.cp_tensor.CPTensor((None, [f.detach().numpy() for f in cp.factors])).to_tensor()
    torch.testing.assert_close(ours.detach(), torch.from_numpy(expected))
    assert cp.factors[0].requires_grad


def test_component_norms_are_products_of_vector_norms():
    net = CPNetwork([2, 3, 4], [1, 3], init=NOISE, seed=0, dtype=torch.float64)
    for run, rank in enumerate([1, 3]):
        vectors = [net.factor(m, run) for m in range(3)]
        for r in range(rank):
            component = torch.einsum("i,j,k->ijk", *(v[:, r] for v in vectors))
            torch.testing.assert_close(net.component_norms(run)[r], component.norm())


def test_local_component_norms_are_norms_of_local_components():
    tree = DimensionTree.from_nested(((0, 1, 2), 3))
    net = HTNetwork(tree, 2, [3, 2], init=NOISE, seed=0, dtype=torch.float64)
    for run in range(2):
        norms = net.local_component_norms(run)
        assert set(norms) == set(tree.inner_nodes)
        for node, found in norms.items():
            w = net.matrix(node, run)
            for r in range(len(w)):
                component = w[r]
                for child in tree.children(node):
                    component = torch.tensordot(component, net.matrix(child, run)[:, r], 0)
                torch.testing.assert_close(found[r], component.norm())


def test_a_run_starts_among_others_as_it_does_alone():
    tree = DimensionTree.grid(4, 4)
    many, one = HTNetwork(tree, 2, [1, 3, 2], seed=[5, 6, 7]), HTNetwork(tree, 2, 3, seed=[6])
    for node in range(tree.n_nodes):
        assert torch.equal(many.matrix(node, 1), one.matrix(node))
    cps, cp = CPNetwork([2] * 6, [1, 3, 2], seed=[5, 6, 7]), CPNetwork([2] * 6, 3, seed=[6])
    for mode in range(6):
        assert torch.equal(cps.factor(mode, 1), cp.factor(mode))


def test_zeros_of_narrower_runs_stay_zeros_in_training():
    net = HTNetwork(DimensionTree.balanced(4), 2, [1, 3], seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(all_indices(net.dims)).square().sum().backward()
        optimizer.step()
    for block, weight in zip(net._layout.blocks, net.weights, strict=True):
        columns = 1 if block.nodes != (net.tree.root,) else None
        assert not weight[0, :, :, columns:].any() or columns is None
        assert not (weight[0, :, 1:] if block.level else weight[0, :, :, 1:]).any()


def test_functional_transforms():
    net = HTNetwork(DimensionTree.balanced(4), 2, 3, init=NOISE, seed=0, dtype=torch.float64)
    x = torch.randn(5, 4, 2, dtype=torch.float64)
    parameters = dict(net.named_parameters())

    def one(sample):
        return torch.func.functional_call(net, parameters, (sample.unsqueeze(0),)).squeeze()

    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)).sum())(parameters)
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    for (_, a), b in zip(jacobian.items(), expected, strict=True):
        torch.testing.assert_close(a, b)
    gradient = torch.func.grad(one)(x[0])
    (expected_one,) = torch.autograd.grad(net(y := x[:1].clone().requires_grad_()).sum(), y)
    torch.testing.assert_close(gradient, expected_one[0])


def test_importing_changes_no_global_backend():
    assert tl.get_backend() == "numpy"
    assert htf.__version__
