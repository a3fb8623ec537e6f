"""Batch normalization with the second derivative in closed form."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from htf.nn import small_resnet
from htf.regularizers import GradientFieldChange
from htf.regularizers._batch_norm import ClosedForm, _Normalized


def inputs(*shape):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, dtype=torch.float64, generator=generator) for size in (shape, shape[1], shape[1])
    )
    return [each.requires_grad_() for each in (x, weight, bias)]


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (5, 3), (2, 3, 4)])
def test_first_and_second_derivatives(shape):
    def normalized(x, weight, bias):
        return _Normalized.apply(x, weight, bias, None, None, 0.1, 1e-3)

    given = inputs(*shape)
    torch.testing.assert_close(
        normalized(*given), nn.functional.batch_norm(given[0], None, None, *given[1:], True, 0.1, 1e-3)
    )
    assert gradcheck(normalized, given)
    # Cotangents at the derivatives of all three: at the input, the weight and the bias.
    assert gradgradcheck(normalized, given)


def counted(monkeypatch):
    calls = []
    apply = _Normalized.apply
    monkeypatch.setattr(_Normalized, "apply", lambda *given: calls.append(given) or apply(*given))
    return calls


def test_a_regularizer_has_the_same_gradients_with_it(monkeypatch):
    def gradients():
        model = small_resnet(seed=0).double()
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(4, 1, 16, 16, dtype=torch.float64, generator=generator)
        GradientFieldChange(2, samples=4)(model, x).backward()
        return [p.grad for p in model.parameters()], dict(model.named_buffers())

    calls = counted(monkeypatch)
    with_it, buffers = gradients()
    layers = sum(isinstance(module, nn.BatchNorm2d) for module in small_resnet().modules())
    assert len(calls) == layers
    monkeypatch.setattr("htf.regularizers._batch_norm._Given.fits", lambda self: False)
    without, expected = gradients()
    for a, b in zip(with_it, without, strict=True):
        torch.testing.assert_close(a, b)
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name])


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (nn.BatchNorm2d(3).eval(), torch.float32),
        (nn.BatchNorm2d(3, affine=False), torch.float32),
        (nn.BatchNorm2d(3).bfloat16(), torch.bfloat16),
        (nn.InstanceNorm2d(3, affine=True), torch.float32),
        (nn.GroupNorm(1, 3), torch.float32),
    ],
    ids=["evaluated", "without weights", "another dtype", "instances", "groups"],
)
def test_what_else_normalizes_is_torchs(layer, dtype, monkeypatch):
    calls = counted(monkeypatch)
    x = torch.rand(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    with ClosedForm():
        out = layer(x)
    assert torch.equal(out, layer(x))
    assert not calls


def test_without_gradients_it_is_torchs(monkeypatch):
    calls = counted(monkeypatch)
    layer, x = nn.BatchNorm2d(3), torch.rand(2, 3, 4, 4)
    with ClosedForm():
        layer(x)
        with torch.no_grad():
            layer(x.requires_grad_())
    assert not calls
    assert int(layer.num_batches_tracked) == 2
