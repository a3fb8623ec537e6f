import math

import numpy as np
import pytest
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
        ours = net.to_tensor(run)
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)
        for a, b in zip(
            torch.autograd.grad(ours.square().sum(), list(net.parameters())),
            torch.autograd.grad(dense.square().sum(), list(net.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tree", [DimensionTree.balanced(1024), DimensionTree.grid(32, 32), DimensionTree.linear(1024)])
@pytest.mark.parametrize("encoded", [False, True])
def test_order_1024_in_single_precision_ht(tree, encoded):
    _check_single_precision(lambda dtype: HTNetwork(tree, 2, 4, seed=0, dtype=dtype), encoded)


@pytest.mark.parametrize("encoded", [False, True])
def test_order_1024_in_single_precision_cp(encoded):
    _check_single_precision(lambda dtype: CPNetwork([2] * 1024, 5, seed=0, dtype=dtype), encoded)


def _check_single_precision(make, encoded):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 2, (20, 1024), generator=generator)
    double = make(torch.float64)
    single = make(torch.float32)
    single.load_state_dict({k: v.float() for k, v in double.state_dict().items()})
    double.load_state_dict({k: v.double() for k, v in single.state_dict().items()})
    found, outputs = [], []
    for net in (single, double):
        x = torch.nn.functional.one_hot(inputs, 2).to(net.dtype) if encoded else inputs
        out = net(x)
        outputs.append(out.double())
        out.square().mean().backward()
        found.append(torch.cat([p.grad.flatten().double() for p in net.parameters()]))
    assert outputs[0].isfinite().all()
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-4 * outputs[1].abs().max()
    assert (found[0] - found[1]).norm() <= 1e-4 * found[1].norm()
    assert (found[0] - found[1]).abs().max() <= 1e-4 * found[1].abs().max()


def test_products_beyond_the_range_of_floats_do_not_lose_gradients():
    """Partial products of 1e-40 and 1e+40 that cancel in the whole."""
    scales = torch.tensor([1e-5] * 32 + [1e5] * 32)
    tree = DimensionTree.balanced(64)
    net = HTNetwork(tree, 2, 1, init=init.scale_preserving(0, 0), dtype=torch.float32)
    cp = CPNetwork([2] * 64, 1, init=init.scale_preserving(0, 0), dtype=torch.float32)
    with torch.no_grad():
        for mode, scale in enumerate(scales):
            net.matrix(mode).mul_(scale)
            cp.factor(mode).mul_(scale)
    x = torch.zeros(3, 64, dtype=torch.int64)
    for network in (net, cp):
        out = network(x)
        torch.testing.assert_close(out, torch.ones(3, 1), rtol=1e-4, atol=0)
        out.sum().backward()
    # The derivative of a product with respect to a factor is the product over that factor.
    torch.testing.assert_close(net.weights[0].grad[0, :, 0, 0], 3 / scales, rtol=1e-3, atol=0)
    torch.testing.assert_close(cp.factors[0].grad[:, 0, 0], 3 / scales, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("order", "arity", "size"), [(128, 8, 1e-4), (1024, 8, 1e-4), (64, 2, 1e-16), (64, 64, 1e-16)])
def test_extreme_factors_that_cancel(dtype, order, arity, size):
    tree = DimensionTree.balanced(order, arity)
    for net in (
        HTNetwork(tree, 2, 1, init=init.scale_preserving(0, 0), dtype=dtype),
        CPNetwork([2] * order, 1, init=init.scale_preserving(0, 0), dtype=dtype),
    ):
        with torch.no_grad():
            for mode in range(order):
                matrix = net.factor(mode) if isinstance(net, CPNetwork) else net.matrix(mode)
                matrix.fill_(size if mode < order // 2 else 1 / size)
        out = net(torch.zeros(2, order, dtype=torch.int64))
        torch.testing.assert_close(out, torch.ones_like(out), rtol=1e-3, atol=0)
        out.sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("zeros", [1, 2])
def test_zeros_among_factors_whose_product_overflows(zeros):
    tree = DimensionTree.balanced(64)
    for net in (
        HTNetwork(tree, 2, 1, init=init.scale_preserving(0, 0)),
        CPNetwork([2] * 64, 1, init=init.scale_preserving(0, 0)),
    ):
        with torch.no_grad():
            for mode in range(64):
                matrix = net.factor(mode) if isinstance(net, CPNetwork) else net.matrix(mode)
                matrix.fill_(0.0 if mode < zeros else 10.0)
        out = net(torch.zeros(1, 64, dtype=torch.int64))
        assert float(out.detach()) == 0
        out.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
        assert not gradient.isnan().any()
        assert bool(gradient.any()) == (zeros == 1)


def test_a_small_root_brings_a_large_product_back_into_range():
    net = HTNetwork(DimensionTree.balanced(64), 2, 2, init=init.scale_preserving(0, 0))
    with torch.no_grad():
        for mode in range(40):
            net.matrix(mode).mul_(10)
        net.matrix(net.tree.root).mul_(1e-30)
    torch.testing.assert_close(
        net(torch.zeros(1, 64, dtype=torch.int64)).detach(), torch.tensor([[1e10]]), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype):
    net = HTNetwork(DimensionTree.balanced(16), 2, 3, seed=0, dtype=dtype)
    with torch.no_grad():
        net.matrix(0)[0] = 0
    x = torch.randint(0, 2, (10, 16), generator=torch.Generator().manual_seed(0))
    out = net(x)
    double = HTNetwork(DimensionTree.balanced(16), 2, 3, seed=0, dtype=torch.float64)
    double.load_state_dict({k: v.double() for k, v in net.state_dict().items()})
    torch.testing.assert_close(out.double(), double(x), rtol=0.1, atol=0.1)
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_counts_from_numpy():
    tree = DimensionTree.balanced(np.int64(4), arity=np.int64(2))
    net = HTNetwork(tree, np.int64(2), np.int64(3), runs=2, seed=np.int64(0))
    assert net(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 2)
    assert CPNetwork(np.array([2, 2]), np.array([1, 2]), seed=0).ranks == (1, 2)


def test_cp_product_with_exact_zeros_has_the_gradient_of_the_others():
    net = CPNetwork([2] * 20, 1, init=init.gaussian(-1.0, 0.1), seed=0, dtype=torch.float64)
    with torch.no_grad():
        net.factor(3)[0] = 0
    x = torch.zeros(1, 20, dtype=torch.int64)
    net(x).backward()
    others = math.prod(float(net.factor(m)[0].detach()) for m in range(20) if m != 3)
    gradient = net.factors[0].grad
    assert float(gradient[3, 0, 0]) == pytest.approx(others, rel=1e-12)
    assert float(gradient.abs().sum()) == pytest.approx(abs(others), rel=1e-12)


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


class TestBadInput:
    tree = DimensionTree.balanced(3)

    def net(self):
        return HTNetwork(self.tree, (2, 3, 2), 2, seed=0)

    @pytest.mark.parametrize("width", [0, -1])
    def test_rank_below_one(self, width):
        with pytest.raises(ValueError, match=f"width is {width}; expected at least 1"):
            HTNetwork(self.tree, 2, width)
        with pytest.raises(ValueError, match=f"rank is {width}; expected at least 1"):
            CPNetwork([2, 2], width)

    def test_rank_that_is_no_integer(self):
        with pytest.raises(TypeError, match=r"width is 1\.5"):
            HTNetwork(self.tree, 2, 1.5)
        with pytest.raises(TypeError, match=r"rank is 1\.5"):
            CPNetwork([2, 2], 1.5)

    def test_dims_of_another_order(self):
        with pytest.raises(ValueError, match="dims has 2 entries; the tree has 3 modes"):
            HTNetwork(self.tree, (2, 2), 2)

    def test_order_one(self):
        with pytest.raises(ValueError, match="order 1"):
            HTNetwork(DimensionTree.balanced(1), 2, 2)
        with pytest.raises(ValueError, match="order 1"):
            CPNetwork([2], 2)

    def test_width_mapping_that_misses_a_node(self):
        with pytest.raises(ValueError, match="no value for inner node"):
            HTNetwork(self.tree, 2, {3: 2})

    def test_runs_and_widths_that_disagree(self):
        with pytest.raises(ValueError, match="width has 2 values, one per run; runs is 3"):
            HTNetwork(self.tree, 2, [1, 2], runs=3)
        with pytest.raises(ValueError, match="runs is 0"):
            HTNetwork(self.tree, 2, 1, runs=0)
        with pytest.raises(ValueError, match="rank is empty"):
            CPNetwork([2, 2], [])

    def test_shared_matrices_of_unequal_shapes(self):
        with pytest.raises(ValueError, match="shared"):
            HTNetwork(self.tree, (2, 3, 2), 2, shared=True)

    def test_input_of_another_order(self):
        with pytest.raises(ValueError, match="indices has 4 columns; the network has order 3"):
            self.net()(torch.zeros(5, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match="vectors has 4 modes; the network has order 3"):
            self.net()(torch.zeros(5, 4, 3))

    @pytest.mark.parametrize(("value", "mode"), [(3, 1), (-1, 0), (2, 2)])
    def test_indices_out_of_range(self, value, mode):
        indices = torch.zeros(5, 3, dtype=torch.int64)
        indices[2, mode] = value
        with pytest.raises(IndexError, match=f"mode {mode} .*{value}.*dimension is {(2, 3, 2)[mode]}"):
            self.net()(indices)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_encodings_that_are_not_finite(self, bad):
        x = torch.zeros(5, 3, 3)
        x[1, 2, 0] = bad
        with pytest.raises(ValueError, match="1 entries that are NaN or infinite"):
            self.net()(x)

    def test_integers_where_floats_are_meant(self):
        with pytest.raises(TypeError, match=r"vectors has dtype torch\.int64"):
            self.net()(torch.zeros(5, 3, 3, dtype=torch.int64))

    def test_floats_where_integers_are_meant(self):
        with pytest.raises(TypeError, match=r"indices has dtype torch\.float32"):
            self.net().plan(torch.zeros(5, 3))
        with pytest.raises(ValueError, match=r"expected \(batch, order, dim\)"):
            self.net()(torch.zeros(5, 3))

    def test_vectors_of_another_dtype_or_dimension(self):
        with pytest.raises(TypeError, match=r"vectors has dtype torch\.float64; the network has torch\.float32"):
            self.net()(torch.zeros(5, 3, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match="vectors has dimension 2; the largest mode has 3"):
            self.net()(torch.zeros(5, 3, 2))

    def test_plan_of_another_network(self):
        plan = HTNetwork(DimensionTree.from_nested((0, (1, 2))), (2, 3, 2), 2).plan(
            torch.zeros(5, 3, dtype=torch.int64)
        )
        with pytest.raises(ValueError, match="plan of a network with another tree"):
            self.net()(plan)

    def test_dense_tensor_of_high_order(self):
        with pytest.raises(ValueError, match="too many for a dense one"):
            HTNetwork(DimensionTree.grid(28, 28), 2, 2).to_tensor()

    def test_run_that_is_not_there(self):
        with pytest.raises(IndexError, match="run is 1"):
            self.net().to_tensor(1)

    def test_unknown_initializer(self):
        with pytest.raises(ValueError, match="balanced, gaussian, scale_preserving"):
            HTNetwork(self.tree, 2, 2, init="zeros")

    def test_seeds_of_another_number(self):
        with pytest.raises(ValueError, match="seed has 2 values; the network has 3 runs"):
            CPNetwork([2, 2], [1, 2, 3], seed=[0, 1])
