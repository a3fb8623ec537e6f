"""Products without scales: the same values as with them, gradients, and when scales are needed."""

import gc
import weakref

import pytest
import torch

from htf import DimensionTree
from htf.engine import contract, unscaled
from htf.engine.contract import contract_logarithm
from htf.engine.unscaled import contract_unscaled
from htf.nn import CPNetwork, HTNetwork
from htf.nn.init import gaussian


def entries(dims, batch):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(0, d, (batch,), generator=generator) for d in dims], 1)


def cp(dims, rank, batch, **options):
    return CPNetwork(dims, rank, init=gaussian(std=0.4), seed=0, **options), entries(dims, batch)


def ht(tree, dim, width, inputs, **options):
    return HTNetwork(tree, dim, width, init=gaussian(std=0.4), seed=0, **options), inputs


def every(dims):
    return torch.cartesian_prod(*[torch.arange(d) for d in dims])


NESTED = DimensionTree.from_nested(((0, 1, 2), 3, (4, 5)))
CASES = {
    "cp": lambda **o: cp([6] * 3, 7, 200, **o),
    "cp, runs of unequal ranks": lambda **o: cp([4] * 4, [3, 5], 150, **o),
    "cp, two modes, gathered": lambda **o: cp([40, 5], [3, 5], 60, **o),
    "cp, outputs": lambda **o: cp([4, 5, 6], [3, 5], 100, outputs=2, **o),
    "ht": lambda **o: ht(DimensionTree.balanced(4), 4, 6, entries([4] * 4, 400), **o),
    "ht, runs of unequal widths": lambda **o: ht(DimensionTree.balanced(4), 4, [6, 3], entries([4] * 4, 400), **o),
    "ht, shared": lambda **o: ht(DimensionTree.balanced(4), 4, 5, entries([4] * 4, 400), runs=2, shared=True, **o),
    "ht, deep, outputs": lambda **o: ht(DimensionTree.balanced(8), 2, 3, every([2] * 8)[:200], runs=2, outputs=3, **o),
    "ht, linear": lambda **o: ht(DimensionTree.linear(5), 3, 4, entries([3] * 5, 200), runs=2, **o),
    "ht, arities of one, two and three": lambda **o: ht(NESTED, 2, 3, every([2] * 6)[:-7], runs=2, **o),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def exact(network, plan):
    value, exponent = contract_logarithm(plan, *network._matrices_by_run(evened=True))
    return torch.ldexp(value, exponent.unsqueeze(-1))


def test_values_are_those_with_scales_to_the_bit(case):
    network, inputs = case()
    plan = network.plan(inputs)
    outputs = contract_unscaled(plan, *network._matrices_by_run())
    assert torch.equal(outputs, exact(network, plan))


def test_gradients_are_those_with_scales(case):
    network, inputs = case(dtype=torch.float64)
    plan = network.plan(inputs)
    weights = torch.randn(len(inputs), 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [
        torch.autograd.grad((outputs * weights).sum(), list(network.parameters()))
        for outputs in (
            contract_unscaled(plan, *network._matrices_by_run()),
            contract(plan, *network._matrices_by_run(evened=True)),
        )
    ]
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["cp, outputs", "cp, two modes, gathered", "ht, shared", "ht, linear"])
def test_derivatives_are_those_of_small_differences(name):
    network, inputs = CASES[name](dtype=torch.float64)
    plan = network.plan(inputs[:12])
    assert plan.stepwise == plan.meets
    plan = network.plan(inputs)
    names, values = zip(*network.named_parameters(), strict=True)
    direction = [
        torch.randn(v.shape, generator=torch.Generator().manual_seed(k)).double() for k, v in enumerate(values)
    ]

    def along(t):
        moved = {n: v.detach() + t * d for n, v, d in zip(names, values, direction, strict=True)}
        return torch.func.functional_call(network, moved, plan).square().mean(0)

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, t)
    assert torch.autograd.gradgradcheck(along, t)


def test_runs_in_portions_are_those_together(case, monkeypatch):
    network, inputs = case()
    plan = network.plan(inputs)
    found = []
    for entries_together in (2**17, 1):
        monkeypatch.setattr(unscaled, "TOGETHER", entries_together)
        assert len(unscaled._portions(plan, network.runs)) == (network.runs if entries_together == 1 else 1)
        outputs = network(plan)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(network.parameters()))])
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def needs_scales(change):
    network, inputs = CASES["ht"]()
    with torch.no_grad():
        change(network)
    plan = network.plan(inputs)
    assert plan.stepwise
    return contract_unscaled(plan, *network._matrices_by_run()) is None


@pytest.mark.parametrize("value", [0.0, 1e-25, 1e25, float("inf"), float("nan")])
def test_rows_that_need_scales_get_them(value):
    assert not needs_scales(lambda network: network.matrix(0)[1].mul_(0.1))
    assert needs_scales(lambda network: network.matrix(0)[1].fill_(value))


@pytest.mark.parametrize("value", [1e25, float("nan")])
def test_matrices_that_need_scales_get_them(value):
    assert needs_scales(lambda network: network.matrix(5)[0, 0].fill_(value))


def test_half_precision_and_transforms_have_scales():
    network, inputs = CASES["cp"](dtype=torch.bfloat16)
    assert contract_unscaled(network.plan(inputs), *network._matrices_by_run()) is None
    network, inputs = CASES["cp"]()
    plan, parameters = network.plan(inputs), dict(network.named_parameters())
    found = torch.func.grad(lambda p: torch.func.functional_call(network, p, plan).square().sum())(parameters)
    network(plan).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad)


def test_products_are_freed_with_the_outputs(monkeypatch):
    network, inputs = CASES["ht"]()
    made = []

    class Watched(unscaled._Products):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(weakref.ref(self))

    monkeypatch.setattr(unscaled, "_Products", Watched)
    plan = network.plan(inputs)
    gc.disable()
    try:
        outputs = network(plan)
        outputs.square().sum().backward()
        del outputs
        assert made
        assert all(each() is None for each in made)
    finally:
        gc.enable()


def test_outputs_are_ordinary_tensors():
    network, inputs = CASES["cp"]()
    plan = network.plan(inputs)
    outputs = network(plan)
    parameter = next(network.parameters())
    (once,) = torch.autograd.grad(outputs.sum(), parameter, retain_graph=True)
    (again,) = torch.autograd.grad(outputs.sum(), parameter, retain_graph=True)
    assert torch.equal(once, again)
    with torch.no_grad():
        parameter.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()
    changed = network(plan)
    changed.mul_(3).sum().backward()
    torch.testing.assert_close(parameter.grad, 3 * 4 * once)
