"""Layers under torch's transforms: export and compile with sizes that change, and gradients for each sample."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

FORMATS = ("ht", "tt", "tucker", "cp", "matrix")
PADDED = {"padding": 1, "padding_mode": "reflect", "stride": 2}
CASES = {
    **{f"linear {name}": (partial(FactorizedLinear, 12, 8, format=name, rank=2, seed=0), (12,)) for name in FORMATS},
    **{
        f"convolution {name}": (partial(FactorizedConv2d, 3, 4, 3, format=name, rank=2, seed=0, **PADDED), (3, 9, 9))
        for name in FORMATS
    },
    "linear, by its weight": (lambda: FactorizedLinear(12, 8, rank=0.9, seed=0), (12,)),
    "deep linear": (lambda: OverparamLinear(6, 6, depth=3, residual=1, seed=0), (6,)),
    "deep linear, normalized": (lambda: OverparamLinear(6, 6, depth=2, batch_norm=True, seed=0).eval(), (6,)),
    "deep convolution": (lambda: OverparamConv2d(3, 5, 5, depth=3, kernel_sizes=(3, 3, 1), seed=0), (3, 9, 9)),
    "deep convolution of signals": (lambda: OverparamConv1d(3, 5, 3, stride=2, seed=0), (3, 9)),
    "deep convolution of volumes": (lambda: OverparamConv3d(4, 4, 3, groups=2, seed=0), (4, 7, 5, 5)),
}  # fmt: skip


def inputs(shape, batch, grow=0):
    lengths = [shape[0], *(n + grow for n in shape[1:2]), *shape[2:]]
    return torch.randn(batch, *lengths, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("case", CASES)
def test_exports_with_a_batch_and_a_height_that_change(case):
    make, shape = CASES[case]
    layer = make()
    sizes = {0: torch.export.Dim("batch", min=2)}
    if len(shape) > 1:
        sizes[2] = torch.export.Dim("height", min=7, max=64)
    exported = torch.export.export(layer, (inputs(shape, 4),), dynamic_shapes=(sizes,)).module()
    for batch, grow in ((2, 0), (300, 3)):
        x = inputs(shape, batch, grow)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-4, atol=1e-5)


def test_exports_the_chain_of_training_mode():
    layer = OverparamConv2d(3, 3, 3, depth=2, padding=1, residual=2, batch_norm=True, seed=0)
    x = inputs((3, 9, 9), 6)
    sizes = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(layer, (inputs((3, 9, 9), 4),), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(exported(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["linear ht", "deep convolution"])
def test_compiles_for_sizes_that_change(case):
    make, shape = CASES[case]
    layer = make()
    compiled = torch.compile(layer, backend="eager", dynamic=True)
    for batch in (3, 50):
        torch.testing.assert_close(compiled(inputs(shape, batch)), layer(inputs(shape, batch)), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_each_sample(case):
    make, shape = CASES[case]
    layer, x = make().double(), inputs(shape, 3).double()
    buffers = dict(layer.named_buffers())

    def loss(parameters, sample):
        return torch.func.functional_call(layer, (parameters, buffers), (sample[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(layer.named_parameters()), x)
    for k in range(len(x)):
        layer.zero_grad()
        layer(x[k : k + 1]).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(found[name][k], parameter.grad)


class Tied(nn.Module):
    """Reads a layer's weight."""

    def __init__(self):
        super().__init__()
        self.layer = FactorizedLinear(12, 8, rank=2, seed=0)

    def forward(self, x):
        return (self.layer(x) @ self.layer.weight).square()


def test_a_weight_that_is_read_passes_through_transforms():
    model, x = Tied(), inputs((12,), 4)
    sizes = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(exported(inputs((12,), 7)), model(inputs((12,), 7)))
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    model(x).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].sum(0), parameter.grad, atol=1e-5, rtol=1e-4)
