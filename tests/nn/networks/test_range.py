"""Products far beyond the range of floats, zeros among them, and half precision."""

import math

import pytest
import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, init


@pytest.mark.parametrize("tree", [DimensionTree.balanced(1024), DimensionTree.grid(32, 32), DimensionTree.linear(1024)])
@pytest.mark.parametrize("encoded", [False, True])
def test_order_1024_in_single_precision_ht(tree, encoded):
    _check_single_precision(lambda dtype: HTNetwork(tree, 2, 4, seed=0, dtype=dtype), encoded)


@pytest.mark.parametrize("encoded", [False, True])
def test_order_1024_in_single_precision_cp(encoded):
    _check_single_precision(lambda dtype: CPNetwork([2] * 1024, 5, seed=0, dtype=dtype), encoded)


@pytest.mark.parametrize("tree", [DimensionTree.balanced(1024), DimensionTree.balanced(1024, 4)])
def test_order_1024_in_single_precision_where_few_rows_meet(tree):
    # All combinations of three values of each of the root's children.
    patterns = torch.randint(0, 2, (3, 1024), generator=torch.Generator().manual_seed(0))
    parts = [patterns[:, list(tree.modes(child))] for child in tree.children(tree.root)]
    choice = torch.cartesian_prod(*[torch.arange(3)] * len(parts))
    inputs = torch.empty(len(choice), 1024, dtype=torch.int64)
    for k, child in enumerate(tree.children(tree.root)):
        inputs[:, list(tree.modes(child))] = parts[k][choice[:, k]]
    assert HTNetwork(tree, 2, 4, seed=0).plan(inputs).meets
    _check_single_precision(lambda dtype: HTNetwork(tree, 2, 4, seed=0, dtype=dtype), False, inputs)


def test_groups_that_are_in_range_each_but_not_together():
    # One component is 1e-7 of the other in every mode, and the other is zero in the last.
    net = CPNetwork([2] * 10, 2, init=init.scale_preserving(0, 0))
    with torch.no_grad():
        for mode in range(10):
            net.factor(mode)[:] = torch.tensor([1e7 if mode < 9 else 0, 1])
    plan = net.plan(torch.cartesian_prod(*[torch.arange(2)] * 10))
    assert "32 x 32 rows" in str(plan)
    torch.testing.assert_close(net(plan).detach(), torch.ones(1024, 1), rtol=1e-4, atol=0)


def test_combinations_of_more_factors_than_stay_in_range():
    net = HTNetwork(DimensionTree.from_nested((tuple(range(10)), 10)), 2, 2, init=init.scale_preserving(0, 0))
    with torch.no_grad():
        for mode in range(10):
            # Eight factors are in range, ten are not.
            net.matrix(mode)[:] = torch.tensor([8e4, 1 / 8e4] if mode % 2 else [1 / 8e4, 8e4])
    out = net(torch.cartesian_prod(*[torch.arange(2)] * 11))
    torch.testing.assert_close(out.detach(), torch.ones(2048, 1), rtol=1e-4, atol=0)


def _check_single_precision(make, encoded, inputs=None):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 2, (20, 1024), generator=generator) if inputs is None else inputs
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


def test_components_of_any_scale_in_each_mode_meet():
    """Components of one size, whose vectors are huge in some modes and tiny in others: none may be lost."""
    generator = torch.Generator().manual_seed(0)
    for order in (2, 3, 5):
        network = CPNetwork((4,) * order, [3, 2], seed=1)
        with torch.no_grad():
            exponents = 10 * torch.randn(order, 5, generator=generator)
            exponents -= exponents.mean(0)
            network.factors[0].mul_(10 ** exponents[:, None])
        indices = torch.cartesian_prod(*[torch.arange(4)] * order)
        plan = network.plan(indices)
        assert plan.meets
        expected = torch.ones(len(indices), 5, dtype=torch.float64)
        for mode in range(order):
            expected *= network.factors[0][mode].detach().double()[indices[:, mode]]
        expected = torch.stack([expected[:, :3].sum(1), expected[:, 3:].sum(1)], 1)
        torch.testing.assert_close(network(plan).detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_outputs_beyond_the_range_are_infinite():
    for network in (HTNetwork(DimensionTree.balanced(4), 3, 2, seed=0), CPNetwork((3,) * 4, 2, seed=0)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(1e20)
        assert network(torch.zeros(2, 4, dtype=torch.int64)).isposinf().all()


def test_outputs_of_different_sizes_share_a_scale():
    net = HTNetwork(DimensionTree.balanced(4), 3, 2, outputs=2, init=init.scale_preserving(0, 0))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1)
        for mode in range(4):
            net.matrix(mode).fill_(1e11)
        net.matrix(net.tree.root)[:, 0] = 1e-30
    out = net(torch.zeros(1, 4, dtype=torch.int64)).detach().flatten()
    expected = 1e14 * 2**3
    assert float(out[0]) == pytest.approx(expected, rel=1e-4)
    assert math.isinf(float(out[1]))
