import itertools
import math

import pytest
import torch
from factorization_cases import FactorizationTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

import htf
from htf.linalg.chain import cheapest_orders
from htf.nn import MatrixFactorization, init

NOISE = init.gaussian(0.3, 1.0)
DOUBLE = torch.float64


def chain(network, run):
    """W_L···W_1, from the left."""
    own = network.parameters_for(run)
    end = own[network.depth]
    for layer in range(network.depth - 1, 0, -1):
        end = end @ own[layer]
    return end


def randn(*shape, seed=3):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


class MatrixCase(FactorizationTestCase):
    def dense(self, network, run):
        return chain(network, run)


class TestPlainMatrix(MatrixCase):
    def make(self, dtype):
        return MatrixFactorization((4, 6), 1, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestTwoLayers(MatrixCase):
    def make(self, dtype):
        return MatrixFactorization((5, 3), 2, runs=3, init=NOISE, seed=0, dtype=dtype)


class TestNarrow(MatrixCase):
    def make(self, dtype):
        return MatrixFactorization((5, 7), 3, 2, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestWide(MatrixCase):
    def make(self, dtype):
        return MatrixFactorization((2, 3), 3, 8, runs=2, init=NOISE, seed=0, dtype=dtype)


class TestDeepAndUneven(MatrixCase):
    def make(self, dtype):
        init_ = init.gaussian(0.1, 0.5)
        return MatrixFactorization((4, 3), 5, (2, 6, 1, 5), runs=2, init=init_, seed=0, dtype=dtype)


class TestOneRow(MatrixCase):
    def make(self, dtype):
        return MatrixFactorization((1, 4), 2, 3, init=NOISE, seed=0, dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 40), st.integers(0, 99))
def test_any_sizes_and_batches_agree_with_the_product(sizes, batch, seed):
    d, d_, *widths = sizes
    net = MatrixFactorization((d, d_), len(widths) + 1, widths, runs=2, init=NOISE, seed=seed, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(0, dim, (batch,), generator=generator) for dim in net.dims], 1)
    x = torch.randn(batch, 2, max(net.dims), generator=generator, dtype=DOUBLE)
    ends = torch.stack([chain(net, run) for run in range(2)])
    entries = ends[:, indices[:, 0], indices[:, 1]].T
    forms = torch.einsum("bi,rij,bj->br", x[:, 0, :d], ends, x[:, 1, :d_])
    for ours, expected in ((net(indices), entries), (net(x), forms), (net.end_matrices(), ends)):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
        found = torch.autograd.grad(ours.square().sum(), list(net.parameters()))
        wanted = torch.autograd.grad(expected.square().sum(), list(net.parameters()), retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max() + 1))


@pytest.mark.parametrize("batch", [1, 3, 40, 3000])
def test_entries_of_a_large_matrix_whichever_way_is_cheaper(batch):
    net = MatrixFactorization((300, 200), 3, (50, 20), runs=2, init=NOISE, seed=0, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(batch)
    indices = torch.stack([torch.randint(0, dim, (batch,), generator=generator) for dim in net.dims], 1)
    expected = net.end_matrices()[:, indices[:, 0], indices[:, 1]].T
    torch.testing.assert_close(net(indices), expected)
    x = torch.zeros(batch, 2, 300, dtype=DOUBLE).scatter_(2, indices[..., None], 1)
    torch.testing.assert_close(net(x), expected)


def brute_force(sizes):
    if len(sizes) == 2:
        return 0
    return min(
        brute_force(sizes[: k + 1]) + brute_force(sizes[k:]) + sizes[0] * sizes[k] * sizes[-1]
        for k in range(1, len(sizes) - 1)
    )


def test_products_are_taken_in_the_cheapest_order():
    for sizes in itertools.product((1, 3, 10), repeat=5):
        assert cheapest_orders(sizes)[0][0, 4] == brute_force(sizes)
    # Cormen et al., "Introduction to algorithms", section 15.2.
    assert cheapest_orders((30, 35, 15, 5, 10, 20, 25))[0][0, 6] == 15125


def test_shapes_widths_and_counts():
    net = MatrixFactorization((6, 4), 3, runs=2)
    assert (net.widths, net.n_parameters(1)) == ((4, 4), 24 + 16 + 16)
    assert [tuple(w.shape) for w in net.parameters_for(0).values()] == [(4, 4), (4, 4), (6, 4)]
    assert list(net.parameters_for(0)) == [1, 2, 3]
    assert MatrixFactorization((6, 4), 3, 9).widths == (9, 9)
    uneven = MatrixFactorization((6, 4), 3, [5, 2])
    assert [tuple(w.shape) for w in uneven.weights] == [(1, 5, 4), (1, 2, 5), (1, 6, 2)]
    assert (uneven.order, uneven.outputs, uneven.dtype, uneven.device.type) == (2, 1, torch.float32, "cpu")
    assert "widths=(5, 2)" in repr(uneven)


def test_to_tensor_and_end_matrices_are_one():
    net = MatrixFactorization((6, 4), 4, 3, runs=3, init=NOISE, seed=0, dtype=DOUBLE)
    for run in range(3):
        torch.testing.assert_close(net.to_tensor(run), net.end_matrices()[run])
        assert net.to_tensor(run).requires_grad


@pytest.mark.parametrize("width", [None, 2, 9])
def test_singular_values(width):
    net = MatrixFactorization((6, 4), 3, width, runs=2, init=NOISE, seed=0, dtype=DOUBLE)
    values = net.singular_values()
    assert values.shape == (2, min(4, width or 4))
    assert not values.requires_grad
    for run in range(2):
        expected = torch.linalg.svdvals(chain(net, run).detach())
        torch.testing.assert_close(values[run], expected[: values.shape[1]])
        assert float(expected[values.shape[1] :].sum()) < 1e-12


def test_small_singular_values_of_a_float32_network_are_not_rounding():
    net = MatrixFactorization((6, 6), 12, init=init.gaussian(0, 0.3), seed=0)
    values = net.singular_values()[0]
    assert values.dtype == torch.float32
    assert float(values[0] / values[-1]) > 1e8
    determinant = math.prod(abs(float(torch.linalg.det(w[0].detach().double()))) for w in net.weights)
    assert math.prod(values.tolist()) == pytest.approx(determinant, rel=1e-4)


class TestEndGradient:
    net = MatrixFactorization((4, 6), 4, (3, 7, 5), runs=2, init=NOISE, seed=0, dtype=DOUBLE)
    targets = randn(4, 6)

    def loss(self, ends):
        return (ends - self.targets).pow(4).sum((1, 2)) / torch.tensor([1.0, 2.0])

    def test_is_the_derivative_at_the_end(self):
        ends = self.net.end_matrices().detach()
        expected = 4 * (ends - self.targets) ** 3 / torch.tensor([1.0, 2.0]).view(2, 1, 1)
        found = self.net.end_gradient(self.loss)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
        torch.testing.assert_close(self.net.end_gradient(lambda w: self.loss(w).sum()), expected)
        with torch.no_grad():
            torch.testing.assert_close(self.net.end_gradient(self.loss), expected)

    def test_gives_the_layers_gradients_by_the_chain_rule(self):
        expected = torch.autograd.grad(self.loss(self.net.end_matrices()).sum(), list(self.net.parameters()))
        g = self.net.end_gradient(self.loss)
        for run in range(2):
            own = {layer: matrix.detach() for layer, matrix in self.net.parameters_for(run).items()}
            for layer in own:
                above, below = torch.eye(4, dtype=DOUBLE), torch.eye(6, dtype=DOUBLE)
                for l in range(4, layer, -1):
                    above = above @ own[l]
                for l in range(1, layer):
                    below = own[l] @ below
                torch.testing.assert_close(above.T @ g[run] @ below.T, expected[layer - 1][run])

    def test_leaves_a_plain_matrix_alone(self):
        net = MatrixFactorization((4, 6), 1, seed=0, dtype=DOUBLE)
        torch.testing.assert_close(net.end_gradient(lambda w: w.square().sum()), 2 * net.weights[0].detach())
        assert net.weights[0].grad is None
        assert net.weights[0].requires_grad

    def test_losses_that_are_none(self):
        with pytest.raises(ValueError, match=r"loss returned shape \(2, 4, 6\); expected \(\) or \(runs,\) = \(2,\)"):
            self.net.end_gradient(lambda w: w)
        with pytest.raises(TypeError, match="loss returned a float; expected a Tensor"):
            self.net.end_gradient(lambda w: 1.0)
        for loss in (lambda w: w.detach().sum(), lambda w: self.net.weights[0].sum()):
            with pytest.raises(ValueError, match="does not depend on the end matrices"):
                self.net.end_gradient(loss)


class TestUnbalancedness:
    def test_by_its_definition(self):
        net = MatrixFactorization((4, 6), 3, (3, 5), runs=2, init=NOISE, seed=0, dtype=DOUBLE)
        for run in range(2):
            w1, w2, w3 = (w.detach() for w in net.parameters_for(run).values())
            expected = max(float((w2.T @ w2 - w1 @ w1.T).norm()), float((w3.T @ w3 - w2 @ w2.T).norm()))
            assert float(net.unbalancedness(run).detach()) == pytest.approx(expected, rel=1e-12)

    def test_of_one_layer(self):
        assert float(MatrixFactorization((4, 6), 1).unbalancedness()) == 0

    @pytest.mark.parametrize(("depth", "width"), [(2, None), (3, 2), (3, 9), (4, (7, 3, 5)), (20, None)])
    def test_balanced_start(self, depth, width):
        start = init.balanced(0.3)
        net = MatrixFactorization((6, 4), depth, width, runs=2, init=start, seed=[0, 1], dtype=DOUBLE)
        for run in range(2):
            assert float(net.unbalancedness(run).detach()) < 1e-14
            assert float(net.to_tensor(run).detach().norm()) == pytest.approx(0.3, rel=1e-12)
        rank = min(4, *net.widths)
        assert int(torch.linalg.matrix_rank(net.to_tensor().detach())) == rank
        # The leading part of a Gaussian matrix, whatever the depth.
        gauss = torch.randn(6, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        u, s, vh = torch.linalg.svd(gauss, full_matrices=False)
        leading = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(net.to_tensor().detach(), 0.3 * leading / leading.norm())

    def test_balanced_plain_matrix(self):
        net = MatrixFactorization((6, 4), 1, init="balanced", seed=0, dtype=DOUBLE)
        assert float(net.to_tensor().detach().norm()) == pytest.approx(0.01, rel=1e-12)

    def test_gradient_descent_drifts_to_second_order(self):
        def drift(step):
            start = init.balanced(1.0)
            net = MatrixFactorization((5, 4), 3, 6, init=start, seed=0, dtype=DOUBLE)
            optimizer = torch.optim.SGD(net.parameters(), lr=step)
            for _ in range(round(2 / step)):
                optimizer.zero_grad()
                (net.end_matrices() - randn(5, 4)).square().sum().backward()
                optimizer.step()
            return float(net.unbalancedness().detach())

        coarse, fine = drift(4e-3), drift(2e-3)
        assert fine < 0.02
        # Twice as many steps that drift by a quarter each.
        assert fine / coarse == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_gradient_flow_of_the_end_matrix_from_balance(depth):
    """Arora et al. 2018, theorem 1, and the rates of singular values, Arora et al. 2019, theorem 3."""
    net = MatrixFactorization((5, 4), depth, runs=1, init=init.balanced(2.0), seed=0, dtype=DOUBLE)
    target = randn(5, 4)
    g = net.end_gradient(lambda w: (w - target).square().sum())[0]
    gradients = torch.autograd.grad((net.to_tensor() - target).square().sum(), list(net.weights))
    _, velocity = torch.autograd.functional.jvp(
        lambda *ws: torch.linalg.multi_dot([w[0] for w in ws[::-1]]),
        tuple(w.detach() for w in net.weights),
        tuple(-grad for grad in gradients),
    )
    u, s, vh = torch.linalg.svd(net.to_tensor().detach(), full_matrices=False)
    left = [u @ (s ** (2 * (depth - j) / depth)).diag() @ u.T for j in range(1, depth)] + [torch.eye(5, dtype=DOUBLE)]
    right = [vh.T @ (s ** (2 * (j - 1) / depth)).diag() @ vh for j in range(1, depth + 1)]
    expected = -sum(a @ g @ b for a, b in zip(left, right, strict=True))
    torch.testing.assert_close(velocity, expected)
    rates = torch.einsum("ir,ij,rj->r", u, velocity, vh)
    torch.testing.assert_close(rates, depth * s ** (2 - 2 / depth) * -torch.einsum("ir,ij,rj->r", u, g, vh))


def test_gaussian_start_has_its_moments():
    net = MatrixFactorization((80, 80), 3, runs=2, init=init.gaussian(2.0, 0.5), seed=0)
    for weight in net.weights:
        assert float(weight.detach().mean()) == pytest.approx(2.0, abs=0.02)
        assert float(weight.detach().std()) == pytest.approx(0.5, abs=0.02)
    assert float(MatrixFactorization((80, 80), seed=0).weights[0].detach().std()) == pytest.approx(1e-2, rel=0.05)


@pytest.mark.parametrize("start", ["gaussian", "balanced"])
def test_a_run_starts_among_others_as_it_does_alone(start):
    many = MatrixFactorization((6, 4), 3, runs=3, init=start, seed=[5, 6, 7])
    one = MatrixFactorization((6, 4), 3, init=start, seed=[6])
    for layer, matrix in one.parameters_for(0).items():
        assert torch.equal(many.parameters_for(1)[layer], matrix)
    again = MatrixFactorization((6, 4), 3, runs=3, init=start, seed=0)
    assert not torch.equal(again.weights[0][0], again.weights[0][1])
    again.reset_parameters(start, [5, 6, 7])
    assert all(torch.equal(a, b) for a, b in zip(again.weights, many.weights, strict=True))


def test_a_callable_of_ones_own():
    seen = []

    def by_layer(layout, block, generator):
        seen.append((layout.sizes, block.nodes, block.level))
        return torch.full((1, block.rows, block.columns), float(block.level))

    net = MatrixFactorization((6, 4), 2, 3, init=by_layer)
    assert [float(w.detach().unique()) for w in net.weights] == [1, 2]
    assert seen == [((4, 3, 6), (1,), 1), ((4, 3, 6), (2,), 2)]

    class Joint:
        def chain(self, layout, generator):
            return [torch.ones(block.rows, block.columns) for block in layout.blocks]

    assert bool((MatrixFactorization((6, 4), 2, 3, init=Joint()).to_tensor() == 3).all())


def test_deep_products_in_float32():
    for start, bound in (("gaussian", 1e-20), ("balanced", 2e-2)):
        net = MatrixFactorization((64, 48), 20, init=start, seed=0)
        exact = MatrixFactorization((64, 48), 20, dtype=DOUBLE)
        exact.load_state_dict(net.state_dict())
        ours, expected = net.to_tensor().double(), exact.to_tensor()
        scale = float(expected.detach().abs().max())
        assert 1e-30 < scale < bound
        assert float((ours - expected).detach().abs().max()) < 1e-5 * scale
    assert math.isclose(float(net.to_tensor().detach().norm()), 1e-2, rel_tol=1e-5)
    # Below the dtype's range the product is zero, not something else.
    assert not MatrixFactorization((64, 48), 60, seed=0).to_tensor().detach().any()


def test_rescaling_keeps_balance():
    net = MatrixFactorization((6, 4), 3, runs=2, init="balanced", seed=0, dtype=DOUBLE)
    net.rescale_(torch.tensor([5.0, 50.0], dtype=DOUBLE))
    assert float(net.unbalancedness(1).detach()) < 1e-14
    torch.testing.assert_close(net.end_matrices().detach().norm(dim=(1, 2)), torch.tensor([0.05, 0.5], dtype=DOUBLE))


def test_functional_transforms():
    net = MatrixFactorization((3, 4), 3, init=NOISE, seed=0, dtype=DOUBLE)
    x = randn(5, 2, 4)
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)).sum())(dict(net.named_parameters()))
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    for (_, a), b in zip(jacobian.items(), expected, strict=True):
        torch.testing.assert_close(a, b)


class TestPlans:
    net = MatrixFactorization((3, 5), 3, runs=2, init=NOISE, seed=0)
    indices = torch.tensor([[2, 4], [0, 4], [2, 4]])

    def test_serves_every_network_of_its_dims(self):
        plan = self.net.plan(self.indices)
        assert (plan.batch, len(plan), plan.device.type) == (3, 3, "cpu")
        other = MatrixFactorization((3, 5), 2, 7, init=NOISE, seed=1)
        assert torch.equal(other(plan), other(self.indices))

    def test_of_other_dims_or_device(self):
        with pytest.raises(ValueError, match=r"inputs is a plan for dims \(3, 5\); the network has dims \(5, 3\)"):
            MatrixFactorization((5, 3))(self.net.plan(self.indices))
        meta = MatrixFactorization((3, 5), 3, runs=2, device="meta")
        with pytest.raises(ValueError, match="inputs is a plan on cpu; the network is on meta"):
            meta(self.net.plan(self.indices))
        with pytest.raises(ValueError, match="indices is on cpu; the network is on meta"):
            meta.plan(self.indices)

    def test_of_a_tree(self):
        plan = htf.nn.CPNetwork((3, 5), 2).plan(self.indices)
        with pytest.raises(TypeError, match="inputs is a Plan; expected a Tensor or a plan of this network"):
            self.net(plan)

    def test_of_nothing(self):
        with pytest.raises(ValueError, match="no samples"):
            self.net.plan(self.indices[:0])


class TestBadInput:
    @pytest.mark.parametrize("dims", [(3,), (3, 4, 5), 3])
    def test_shape_that_is_no_matrix(self, dims):
        with pytest.raises(ValueError, match="expected two, the rows and columns"):
            MatrixFactorization(dims)

    def test_counts(self):
        with pytest.raises(ValueError, match="depth is 0; expected at least 1"):
            MatrixFactorization((3, 4), 0)
        with pytest.raises(TypeError, match=r"depth is 1\.5; expected an integer"):
            MatrixFactorization((3, 4), 1.5)
        with pytest.raises(ValueError, match="runs is 0"):
            MatrixFactorization((3, 4), runs=0)
        with pytest.raises(ValueError, match=r"dims\[1\] is 0"):
            MatrixFactorization((3, 0))
        with pytest.raises(ValueError, match="width is 0"):
            MatrixFactorization((3, 4), 2, 0)
        with pytest.raises(ValueError, match=r"width\[1\] is 0"):
            MatrixFactorization((3, 4), 3, (2, 0))

    def test_widths_of_another_number(self):
        with pytest.raises(ValueError, match="width has 3 values; depth 3 has 2 hidden layers, whose widths all runs"):
            MatrixFactorization((3, 4), 3, (2, 2, 2))
        with pytest.raises(ValueError, match="width has 1 values; depth 1 has 0"):
            MatrixFactorization((3, 4), 1, (2,))

    def test_widths_per_run(self):
        with pytest.raises(TypeError, match=r"width holds \(2, 3\); expected one integer per hidden layer: all runs"):
            MatrixFactorization((3, 4), 3, ((2, 3), (2, 2)))

    def test_inputs(self):
        net = MatrixFactorization((3, 4))
        for bad, mode in (([[3, 0]], 0), ([[0, -1]], 1)):
            with pytest.raises(IndexError, match=f"indices of mode {mode} range"):
                net(torch.tensor(bad))
        with pytest.raises(ValueError, match="indices has 3 columns; the network has order 2"):
            net(torch.zeros(5, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match="vectors has dimension 3; the largest mode has 4"):
            net(torch.zeros(5, 2, 3))

    def test_starts(self):
        with pytest.raises(ValueError, match="scale_preserving is for trees"):
            MatrixFactorization((3, 4), init="scale_preserving")
        with pytest.raises(ValueError, match="init is 'zeros'"):
            MatrixFactorization((3, 4), init="zeros")
        with pytest.raises(ValueError, match=r"init returned shape \(1,\); expected \(1, 3, 4\)"):
            MatrixFactorization((3, 4), 1, init=lambda layout, block, generator: torch.ones(1))

        class Joint:
            def chain(self, layout, generator):
                return [torch.ones(1, 1)]

        with pytest.raises(ValueError, match=r"init returned shapes \[\(1, 1\)\]; expected \[\(3, 4\), \(3, 3\)\]"):
            MatrixFactorization((3, 4), init=Joint())
        with pytest.raises(TypeError, match="draw them with `chain`"):
            init.balanced()(init.Chain((3, 4)), init.Chain((3, 4)).blocks[0], None)
        with pytest.raises(ValueError, match="seed has 2 values; the network has 3 runs"):
            MatrixFactorization((3, 4), runs=3, seed=[0, 1])

    def test_run_that_is_not_there(self):
        net = MatrixFactorization((3, 4), runs=2)
        for method in (net.to_tensor, net.parameters_for, net.n_parameters, net.unbalancedness):
            with pytest.raises(IndexError, match="run is 2; the network has runs 0 to 1"):
                method(2)
