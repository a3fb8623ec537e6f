"""Gradients at entries of every size, against the plain product in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_products import NETWORKS, assert_gradients_right, indices, plain, weights
from strategies import nested_trees

from htf import DimensionTree
from htf.datasets import load, one_vs_all, quantize
from htf.nn import CPNetwork, HTNetwork, init

SIZES = [1e-2, 1e-4, 1e-6, 1e-8, 1e-15, 1e-25, 1e-30, 1e-37, -1e-10, -1e-36, 1e8, -1.0, 0.0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-15, 1e-30, 1e-37, -1e-20, 0.0])
@pytest.mark.parametrize("encoded", [False, True])
def test_one_small_row(name, size, encoded):
    network = NETWORKS[name]()
    with torch.no_grad():
        for run in range(network.runs):
            network.parameters_for(run)[1][1].mul_(size)
    x = indices(network.dims, 200)
    inputs = torch.nn.functional.one_hot(x, max(network.dims)).float() if encoded else x
    assert_gradients_right(network, inputs, x, weights(network, 200), 2e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_entries_of_any_size(data):
    kind = data.draw(st.sampled_from(["cp", "cp with outputs", "depth one", "windows", "nested"]))
    runs = data.draw(st.sampled_from([[2], [4, 1], [2, 3, 1]]))
    seed = data.draw(st.integers(0, 99))
    if kind.startswith("cp"):
        dims = data.draw(st.lists(st.sampled_from([2, 2, 2, 3, 1, 30]), min_size=12, max_size=40))
        network = CPNetwork(dims, runs, outputs=1 if kind == "cp" else 2, seed=seed)
    elif kind == "nested":
        # A node of many leaves among others.
        nested = data.draw(nested_trees(max_order=5))
        tree = DimensionTree.from_nested((nested, tuple(range(5, 18))) if _order(nested) == 5 else (0, (1, 2), 3))
        network = HTNetwork(tree, 2, runs, seed=seed)
    else:
        tree = DimensionTree.balanced(14, 14) if kind == "depth one" else DimensionTree.grid(8, 4, 4)
        network = HTNetwork(tree, 2, runs, seed=seed)
    for _ in range(data.draw(st.integers(0, 6))):
        run = data.draw(st.integers(0, network.runs - 1))
        matrix = network.parameters_for(run)[data.draw(st.integers(0, network.order - 1))].detach()
        row, size = data.draw(st.integers(0, len(matrix) - 1)), data.draw(st.sampled_from(SIZES))
        some = slice(None) if data.draw(st.booleans()) else data.draw(st.integers(0, matrix.shape[1] - 1))
        matrix[row, some] *= size
    batch = data.draw(st.sampled_from([1, 6, 150]))
    x = indices(network.dims, batch, seed)
    assert_gradients_right(network, x, x, weights(network, batch), 1e-5)


def _order(nested):
    return sum(map(_order, nested)) if isinstance(nested, tuple) else 1


@pytest.mark.parametrize("name", ["cp", "windows"])
@pytest.mark.parametrize("size", [1e-15, 1e-100, -1e-30])
def test_double_precision(name, size):
    single = NETWORKS[name]()
    network = single.double()
    with torch.no_grad():
        for run in range(network.runs):
            network.parameters_for(run)[1][1].mul_(size)
    x = indices(network.dims, 200)
    assert_gradients_right(network, x, x, weights(network, 200), 1e-13)


@pytest.mark.parametrize("signs", [False, True])
def test_sizes_that_spread_over_many_octaves(signs):
    network = CPNetwork([2] * 64, [3, 1], seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for factor in network.factors:
            factor *= (2 * torch.randn(factor.shape, generator=generator)).exp()
            if signs:
                factor *= torch.randn(factor.shape, generator=generator).sign()
    x = indices(network.dims, 300)
    assert_gradients_right(network, x, x, weights(network, 300), 1e-5)


def test_rare_values_and_common_ones():
    """A value that one sample in thousands has, beside one that nearly all have."""
    network = CPNetwork([2] * 20, [2, 1], seed=0)
    x = torch.zeros(3000, 20, dtype=torch.int64)
    x[torch.arange(20), torch.arange(20)] = 1
    with torch.no_grad():
        network.factor(3)[0] *= 1e-4  # common and small
        network.factor(4)[1] *= 1e-4  # rare and small
    assert_gradients_right(network, x, x, weights(network, 3000), 1e-6)


def test_values_at_small_entries():
    network = CPNetwork([2] * 30, 1, seed=0)
    with torch.no_grad():
        for mode, size in ((1, 1e-20), (5, 1e15), (9, -1e-14), (12, 1e18)):
            network.factor(mode)[1] *= size
    x = indices(network.dims, 500)
    expected = plain(network, {n: m.detach().double() for n, m in network.parameters_for(0).items()}, x)
    torch.testing.assert_close(network(x).detach().double(), expected, rtol=3e-6, atol=0)


def test_a_step_on_digits_after_an_entry_became_small():
    data = load("digits")
    x, y = quantize(data.train_images), one_vs_all(data.train_labels, 6)
    network = CPNetwork([2] * 64, 4, seed=0)
    with torch.no_grad():
        mode = int((x.float().mean(0) - 0.5).abs().argmin())  # both values are frequent
        network.factor(mode)[1] *= 1e-15
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (network(x)[:, 0] - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("zeros", [0, 2])
@pytest.mark.parametrize("negative", [False, True])
def test_second_derivatives_of_products_of_many_leaves(zeros, negative):
    network = CPNetwork([2] * 12, 2, outputs=2, init=init.gaussian(1.0, 0.3), seed=0, dtype=torch.float64)
    small = HTNetwork(DimensionTree.balanced(12, 12), 2, 2, init=init.gaussian(1.0, 0.3), seed=0, dtype=torch.float64)
    for net in (network, small):
        start = [p.detach().clone() for p in net.parameters()]
        leaves = max(start, key=torch.numel)
        leaves.view(-1)[5 : 5 + 9 * zeros : 9] = 0
        if negative:
            leaves.view(-1)[::4] *= -1
        names = [name for name, _ in net.named_parameters()]
        x = indices(net.dims, 6)
        plan = net.plan(x)

        def outputs(*tensors, net=net, names=names, plan=plan):
            return torch.func.functional_call(net, dict(zip(names, tensors, strict=True)), (plan,))

        tensors = [t.requires_grad_() for t in start]
        assert torch.autograd.gradcheck(outputs, tensors)
        # At zeros, second derivatives in the direction of two of them are left out: see the engine.
        if not zeros:
            assert torch.autograd.gradgradcheck(outputs, tensors)


def test_second_derivatives_where_products_differ_by_far():
    network = CPNetwork([2] * 13, 1, init=init.gaussian(1.0, 0.1), seed=0, dtype=torch.float64)
    with torch.no_grad():
        network.factor(3)[1] *= 1e-15
    x = indices(network.dims, 40)

    def curvature(outputs, parameter):
        (gradient,) = torch.autograd.grad(outputs.sum(), parameter, create_graph=True)
        return torch.autograd.grad((gradient * direction).sum(), parameter)[0]

    direction = torch.randn(13, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = curvature(network(x), network.factors[0])
    rows = network.factors[0].detach().clone().requires_grad_()
    expected = curvature(rows[torch.arange(13), x].prod(1), rows)
    # The direction's component at the small entry is divided by it, and comes back multiplied: a difference.
    ordinary = torch.ones(13, 2, dtype=torch.bool)
    ordinary[3] = False
    torch.testing.assert_close(found[ordinary], expected[ordinary], rtol=1e-9, atol=1e-9)


def test_functional_transforms_of_products_of_many_leaves():
    network = CPNetwork([2] * 14, [2, 1], init=init.gaussian(0.5, 1.0), seed=0, dtype=torch.float64)
    x = indices(network.dims, 7)
    plan, parameters = network.plan(x), dict(network.named_parameters())

    def outputs(p):
        return torch.func.functional_call(network, p, (plan,))

    (found,) = torch.func.jacrev(outputs)(parameters).values()
    for sample in range(7):
        for run in range(2):
            (expected,) = torch.autograd.grad(network(x)[sample, run], list(network.parameters()))
            torch.testing.assert_close(found[sample, run], expected)
    # Several networks at once, as in an ensemble, and their gradients.
    many = {name: torch.stack([p, 2 * p, -p]) for name, p in parameters.items()}
    together, single = torch.func.vmap(outputs)(many), [outputs({n: p[k] for n, p in many.items()}) for k in range(3)]
    torch.testing.assert_close(together, torch.stack(single))
    (gradient,) = torch.func.vmap(torch.func.grad(lambda p: outputs(p).sum()))(many).values()
    for k in range(3):
        (expected,) = torch.func.grad(lambda p: outputs(p).sum())({n: p[k] for n, p in many.items()}).values()
        torch.testing.assert_close(gradient[k], expected)


@pytest.mark.parametrize("negative", [False, True])
def test_second_derivatives_in_the_log_domain(negative):
    network = CPNetwork((2,) * 14, 2, seed=0, dtype=torch.float64)
    if negative:
        with torch.no_grad():
            network.factors[0][3, 1] *= -1
    plan = network.plan(torch.randint(0, 2, (12, 14), generator=torch.Generator().manual_seed(0)))
    (factor,) = network.factors

    def gradient():
        return torch.autograd.grad(network(plan).square().sum(), factor, create_graph=True)[0]

    direction = torch.randn(factor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (product,) = torch.autograd.grad((gradient() * direction).sum(), factor)
    with torch.no_grad():
        factor.add_(direction, alpha=1e-6)
    there = gradient().detach()
    with torch.no_grad():
        factor.add_(direction, alpha=-2e-6)
    torch.testing.assert_close(product, (there - gradient().detach()) / 2e-6, rtol=1e-5, atol=1e-6)
