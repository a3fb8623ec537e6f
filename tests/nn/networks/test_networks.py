import numpy as np
import pytest
import tensorly as tl
import torch
from dense import all_indices, dense_cp, dense_ht
from factorization_cases import TreeFactorizationTestCase
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import nested_trees

import htf
from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization, init

NOISE = init.gaussian(0.3, 1.0)


class HTCase(TreeFactorizationTestCase):
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


class TestRootOfThree(HTCase):
    """A root whose split is worth a choice: two narrow children against a wide one."""

    def make(self, dtype):
        tree = DimensionTree.from_nested((0, (1, 2), 3))
        return HTNetwork(tree, (2, 2, 3, 5), [3, 2], outputs=2, init=NOISE, seed=0, dtype=dtype)


class TestCombinationsThatLieApart(HTCase):
    """Two, one and four values have as many combinations as three times two, but lie in different tables."""

    def make(self, dtype):
        tree = DimensionTree.from_nested(((0, 1, 2), 3))
        return HTNetwork(tree, (2, 1, 4, 3), 2, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestRootOfLeaves(HTCase):
    """A tree of depth one, of an arity that takes two portions to multiply."""

    def make(self, dtype):
        tree = DimensionTree.balanced(9, 9)
        return HTNetwork(tree, [2] * 6 + [1, 2, 1], 2, runs=2, init=NOISE, seed=0, dtype=dtype)


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


class CPCase(TreeFactorizationTestCase):
    def dense(self, network, run):
        return dense_cp(list(network.parameters_for(run).values()))


class TestCP(CPCase):
    def make(self, dtype):
        return CPNetwork((2, 3, 1, 4), [1, 3, 2], init=NOISE, seed=0, dtype=dtype)


class TestCPOfEqualRanks(CPCase):
    def make(self, dtype):
        return CPNetwork((3, 2, 4), 3, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestCPOfOrderTwo(CPCase):
    def make(self, dtype):
        return CPNetwork((5, 3), [4, 1], init=NOISE, seed=0, dtype=dtype)


class TestCPOutputsOfLowOrder(CPCase):
    def make(self, dtype):
        return CPNetwork((3, 2, 4), [1, 3, 2], outputs=2, init=NOISE, seed=0, dtype=dtype)


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


def test_combinations_of_children_with_fewer_values_than_others_of_their_table():
    tree = DimensionTree.from_nested(((0, 1), (2, 3), (4, 5)))
    net = HTNetwork(tree, 2, 3, init=NOISE, seed=0, dtype=torch.float64)
    every = all_indices(net.dims)
    some = every[(every[:, 0] == every[:, 1]) & (every[:, 2] == every[:, 3])]
    plan = net.plan(some)
    assert "4 x 4 rows" in str(plan)
    dense = dense_ht(tree, net.dims, net.parameters_for(0)).squeeze(-1)
    torch.testing.assert_close(net(plan)[:, 0], dense[tuple(some.T)])


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


@pytest.mark.parametrize("outputs", [1, 2])
def test_gradients_of_component_norms_at_a_component_of_zeros(outputs):
    net = CPNetwork([2, 3, 4], 3, outputs=outputs, seed=0, dtype=torch.float64)
    alone = CPNetwork([2, 3, 4], 3, outputs=outputs, seed=0, dtype=torch.float64)
    with torch.no_grad():
        net.factor(1)[:, 1] = 0
    norms = net.component_norms()
    assert norms[1] == 0
    found = torch.autograd.grad(norms.sum(), list(net.parameters()))
    expected = torch.autograd.grad(alone.component_norms()[[0, 2]].sum(), list(alone.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


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


@pytest.mark.parametrize("outputs", [1, 2])
def test_empty_batches_give_gradients_of_zero(outputs):
    nets = [
        CPNetwork([2, 3], [1, 2], outputs=outputs, seed=0),
        HTNetwork(DimensionTree.balanced(2), [2, 3], 2, runs=2, outputs=outputs, seed=0),
    ]
    for net in [*nets, MatrixFactorization((2, 3), runs=2, seed=0)] if outputs == 1 else nets:
        vectors = torch.zeros(0, 2, 3, requires_grad=True)
        for inputs in (torch.zeros(0, 2, dtype=torch.int64), vectors):
            out = net(inputs)
            assert out.shape == ((0, 2) if outputs == 1 else (0, 2, outputs))
            gradients = torch.autograd.grad(out.sum(), list(net.parameters()), retain_graph=True)
            assert not any(g.any() for g in gradients)
        assert torch.autograd.grad(out.sum(), vectors)[0].shape == vectors.shape


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


TRACED = {
    "cp": lambda: CPNetwork([2] * 16, [2, 3], seed=0),
    "cp with outputs": lambda: CPNetwork([2, 3, 4], [2, 3], outputs=2, seed=0),
    "binary tree": lambda: HTNetwork(DimensionTree.balanced(7), 2, 3, runs=2, seed=0),
    "shared": lambda: HTNetwork(DimensionTree.balanced(8), 2, 3, shared=True, seed=0),
    "windows": lambda: HTNetwork(DimensionTree.grid(5, 4, 4), 2, 3, outputs=2, seed=0),
    "depth one": lambda: HTNetwork(DimensionTree.balanced(20, 20), 2, 3, seed=0),
    "any tree": lambda: HTNetwork(
        DimensionTree.from_nested(((0, 2), 1, (4, (3, 5)))), (2, 2, 3, 1, 2, 3), [1, 4], seed=0
    ),
}


def encoded(network, batch, seed=0):
    return torch.randn(batch, network.order, max(network.dims), generator=torch.Generator().manual_seed(seed))


# Dynamo's own, when it meets any autograd function.
FROM_DYNAMO = "ignore:.*Function.* should not be instantiated:DeprecationWarning"


@pytest.mark.filterwarnings("ignore:the outputs of this:RuntimeWarning")  # nothing is trained here
@pytest.mark.filterwarnings(FROM_DYNAMO)
@pytest.mark.parametrize(("name", "strict"), [*((name, False) for name in TRACED), ("any tree", True)])
def test_export_with_any_batch(name, strict):
    torch.compiler.reset()
    network = TRACED[name]()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (encoded(network, 5),), dynamic_shapes=({0: batch},), strict=strict)
    for size in (2, 5, 40):
        x = encoded(network, size, seed=1)
        torch.testing.assert_close(exported.module()(x), network(x), rtol=1e-5, atol=1e-6)
    # Tracing leaves nothing behind in the network.
    assert network(encoded(network, 3)).isfinite().all()


@pytest.mark.filterwarnings(FROM_DYNAMO)
def test_compiled_as_one_graph():
    torch.compiler.reset()
    network = TRACED["cp with outputs"]()
    x = encoded(network, 5)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.filterwarnings("ignore:the outputs of this:RuntimeWarning")  # nothing is trained here
@pytest.mark.parametrize("name", TRACED)
def test_gradients_of_each_sample(name):
    network = TRACED[name]()
    parameters, x = dict(network.named_parameters()), encoded(network, 6)

    def output(p, sample):
        return torch.func.functional_call(network, p, (sample.unsqueeze(0),)).square().sum()

    found = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(parameters, x)
    for k in range(6):
        expected = torch.autograd.grad(network(x[k : k + 1]).square().sum(), list(parameters.values()))
        for a, b in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(a[k], b)


def test_indices_cannot_be_traced():
    network = CPNetwork([2] * 16, 2, seed=0)
    indices = torch.zeros(4, 16, dtype=torch.int64)
    with pytest.raises(ValueError, match="indices cannot be read while a graph is traced"):
        torch.export.export(network, (indices,), strict=False)
    with pytest.raises(ValueError, match="make a plan of them before, or give encoded vectors"):
        torch.func.vmap(lambda row: network(row.unsqueeze(0)))(indices)


def test_importing_changes_no_global_backend():
    assert tl.get_backend() == "numpy"
    assert htf.__version__


def largest_difference(norms):
    return max(abs(float(a - b)) for group in norms for a in group for b in group)


def test_unbalancedness_by_its_definition():
    tree = DimensionTree.from_nested(((0, 1, 2), 3))
    net = HTNetwork(tree, 2, [3, 2], init=NOISE, seed=0, dtype=torch.float64)
    for run in range(2):
        groups = []
        for node in tree.inner_nodes:
            w = net.matrix(node, run).detach()
            columns = [net.matrix(child, run).detach() for child in tree.children(node)]
            groups += [[w[r].norm() ** 2, *(c[:, r].norm() ** 2 for c in columns)] for r in range(len(w))]
        assert float(net.unbalancedness(run).detach()) == pytest.approx(largest_difference(groups), rel=1e-12)
    for outputs in (1, 2):
        cp = CPNetwork([2, 3, 4], [1, 3], outputs=outputs, init=NOISE, seed=0, dtype=torch.float64)
        for run, rank in enumerate(cp.ranks):
            own = [matrix.detach() for matrix in cp.parameters_for(run).values()]
            groups = [[matrix[:, r].norm() ** 2 for matrix in own] for r in range(rank)]
            assert float(cp.unbalancedness(run).detach()) == pytest.approx(largest_difference(groups), rel=1e-12)


def test_unbalancedness_of_a_balanced_start_and_its_gradient():
    for net in (
        HTNetwork(DimensionTree.balanced(4), 3, 4, init="balanced", seed=0, dtype=torch.float64),
        CPNetwork([2, 3, 4], 3, init="balanced", seed=0, dtype=torch.float64),
    ):
        assert float(net.unbalancedness().detach()) < 1e-15
        with torch.no_grad():
            net.parameters_for(0)[0][0, 0] += 1
        gradients = torch.autograd.grad(net.unbalancedness(), list(net.parameters()))
        assert any(bool(g.any()) for g in gradients)
        with pytest.raises(IndexError, match="run is 1"):
            net.unbalancedness(1)


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e25])
def test_run_norms_beyond_the_range_of_squares(size):
    for net in (
        HTNetwork(DimensionTree.balanced(4), 2, [2, 3], seed=0),
        CPNetwork([2, 3, 4], [1, 3], outputs=2, seed=0),
        MatrixFactorization((3, 4), 3, runs=2, seed=0),
        MatrixFactorization((300, 300), 2, runs=2, seed=0),
    ):
        generator = torch.Generator().manual_seed(0)
        parts = [torch.randn(p.shape, generator=generator) for p in net.parameters()]
        # One run of ordinary size beside it, and one tensor that is zero.
        parts[0] = torch.zeros_like(parts[0])
        scaled = [t * by for t, by in zip(parts, net.spread(torch.tensor([size, 1.0])), strict=True)]
        expected = net.run_norms([t.double() for t in scaled]).float()
        torch.testing.assert_close(net.run_norms(scaled), expected, rtol=1e-5, atol=0)
        zeros = [torch.zeros_like(t) for t in parts]
        assert net.run_norms(zeros).tolist() == [0, 0]
        with pytest.raises(ValueError, match=f"tensors has 1 entries; the network has {len(parts)} parameters"):
            net.run_norms(parts[:1])
