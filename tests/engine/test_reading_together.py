"""Steps that take rows of the same large tables together compute what they compute one by one."""

import pytest
import torch

from htf import DimensionTree
from htf.engine.build import Builder
from htf.engine.steps import Gather
from htf.nn import HTNetwork


def batch():
    """Windows of which some show few values and others many, of modes of many values."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2000, (300, 16), generator=generator)
    x[:, :4] %= 2
    x[:, 4:8] = x[:, 4:5] % 30
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_outputs_and_gradients(monkeypatch, dtype):
    net = HTNetwork(DimensionTree.balanced(16, arity=4), 2000, 3, seed=0, dtype=dtype)
    together = net.plan(batch())
    monkeypatch.setattr(Builder, "_take_together", lambda self: None)
    apart = net.plan(batch())
    gathers = [step.inputs for step in together.steps if isinstance(step.inputs, Gather)]
    assert sum(inputs.whole is not None for inputs in gathers) > 1
    assert all(inputs.whole is None for inputs in (s.inputs for s in apart.steps) if isinstance(inputs, Gather))
    assert together.multiplications == apart.multiplications
    assert together.n_bytes < apart.n_bytes
    values = []
    for plan in (together, apart):
        outputs = net(plan)
        values.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(net.parameters()))])
    for one, other in zip(*values, strict=True):
        assert torch.equal(one, other)


def test_second_derivatives():
    net = HTNetwork(DimensionTree.balanced(16, arity=4), 2000, 2, seed=0, dtype=torch.float64)
    plan, leaf = net.plan(batch()), net.weights[0]
    (gradient,) = torch.autograd.grad(net(plan).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), leaf)
    assert bool(second.isfinite().all())
    direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    steps = []
    for sign in (1, -1):
        with torch.no_grad():
            leaf.add_(direction, alpha=sign * 1e-5)
        (there,) = torch.autograd.grad(net(plan).sum(), leaf)
        steps.append(there.square().sum())
        with torch.no_grad():
            leaf.add_(direction, alpha=-sign * 1e-5)
    assert (second * direction).sum().item() == pytest.approx(((steps[0] - steps[1]) / 2e-5).item(), rel=1e-5)
