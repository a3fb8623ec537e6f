"""Regularizers that take second derivatives, on models some of whose operations have none in torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from htf.regularizers import GradientFieldChange, InputGradientChange, random_patches


class Attention(nn.Module):
    """Patches of an image, attention among them, and their mean."""

    def __init__(self, multihead, kernel=None):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.out = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if multihead else None
        self.kernel = kernel

    def forward(self, x):
        h = self.patches(x).flatten(2).mT.contiguous()
        if self.attention is not None:
            h = self.attention(h, h, h, need_weights=False)[0]
        elif self.kernel is None:
            h = scaled_dot_product_attention(h[:, None], h[:, None], h[:, None])[:, 0]
        else:
            with sdpa_kernel(self.kernel):
                h = scaled_dot_product_attention(h[:, None], h[:, None], h[:, None])[:, 0]
        return self.out(h.mean(1).tanh())


def regularizers():
    return InputGradientChange(random_patches(2), seed=0), GradientFieldChange(2, seed=0, samples=4)


def batch():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("multihead", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_attention_takes_the_kernel_that_has_second_derivatives(multihead, which):
    model, x = Attention(multihead), batch()
    # So they fail with the kernel that torch takes by itself.
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        plain.square().sum().backward()
    found = regularizers()[which](model, x)
    gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    with sdpa_kernel(SDPBackend.MATH):
        expected = regularizers()[which](model, x)
        right = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients, right, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert any(g is not None and bool(g.any()) for g in gradients)


def test_outputs_of_another_kernel_are_not_used():
    model, x = Attention(True), batch().requires_grad_()
    out = model(x)
    found = InputGradientChange(random_patches(2), seed=0)(model, x, None, out)
    torch.testing.assert_close(found, InputGradientChange(random_patches(2), seed=0)(model, x.detach()))
    (out.square().mean() + found).backward()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2)


class Marked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(Once.apply(self.first(x.flatten(1))))


def compiled():
    return torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 1)), backend="aot_eager")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Attention(False, SDPBackend.FLASH_ATTENTION), r"sdpa_kernel\(SDPBackend.MATH\)"),
        (Marked, "is marked with once_differentiable; write its backward pass of differentiable operations"),
        (compiled, "give the regularizer the model that is not compiled"),
    ],
    ids=["kernel", "once", "compiled"],
)
def test_other_models_without_second_derivatives_are_refused_with_the_remedy(make, remedy, which):
    with pytest.raises(RuntimeError, match=f"no second derivatives, which the regularizer takes: .*{remedy}"):
        regularizers()[which](make(), batch())
