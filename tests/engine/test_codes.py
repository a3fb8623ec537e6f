"""Sums over met leaf rows by matrix products, which a GPU takes, equal those by reads in any order."""

import pytest
import torch

import htf
from htf.engine import codes, patterns


@pytest.mark.parametrize(
    "make",
    [
        lambda: htf.nn.CPNetwork([2] * 40, [1, 5, 3], seed=0, dtype=torch.float64),
        lambda: htf.nn.CPNetwork([2, 3, 4] * 5, [2, 2], seed=0, dtype=torch.float64),
        lambda: htf.nn.HTNetwork(htf.DimensionTree.grid(8, 8, window=4), 3, 4, seed=0, dtype=torch.float64),
    ],
    ids=["binary", "unequal dimensions", "several nodes"],
)
def test_codes_give_what_patterns_give(make, monkeypatch):
    network = make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.7 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.view(-1)[::17] = 0
            parameter.view(-1)[3::29] *= 1e-5
    x = torch.stack([torch.randint(0, dim, (300,), generator=generator) for dim in network.dims], 1)
    found = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(patterns, "DENSE_DEVICES", devices)
        plan = network.plan(x)
        assert any(getattr(step.inputs, "dense", None) is not None for step in plan.steps) == bool(devices)
        found.append([network(plan), *torch.autograd.grad(network(plan).square().sum(), list(network.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12 * float(one.detach().abs().max()))


def test_modes_of_many_values_have_no_codes(monkeypatch):
    monkeypatch.setattr(patterns, "DENSE_DEVICES", {"cpu"})
    network = htf.nn.CPNetwork([40] * 14, 2, seed=0)
    plan = network.plan(torch.randint(0, 40, (500, 14), generator=torch.Generator().manual_seed(0)))
    assert all(getattr(step.inputs, "dense", None) is None for step in plan.steps)


class OnGpu(torch.Tensor):
    """A tensor of the host that says that it is on a GPU, and multiplies as one does."""

    device = property(lambda self: torch.device("cuda"))

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.bmm and kwargs.pop("out_dtype", None) is not None:
            args = [each.float() for each in args]
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.Tensor, OnGpu])
def test_products_with_codes_are_of_full_precision(dtype, kind):
    generator = torch.Generator().manual_seed(0)
    code = (torch.rand(2, 50, 30, generator=generator) < 0.5).bfloat16()
    x = torch.rand(2, 30, 4, generator=generator, dtype=dtype)
    found = codes._product(code, x.as_subclass(kind)).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, torch.bmm(code.to(dtype), x))
    assert found.dtype == dtype
