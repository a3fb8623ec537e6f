"""Equality with the collapsed weights of minyoungg/overparam, where HTF_PEERS names a folder with a checkout."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

from htf.nn.layers.overparam import OverparamConv2d, OverparamLinear

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def overparam():
    path = Path(os.environ.get("HTF_PEERS", "")) / "overparam"
    if "HTF_PEERS" not in os.environ or not path.is_dir():
        pytest.skip("HTF_PEERS does not hold overparam")
    sys.path.insert(0, str(path))
    yield importlib.import_module("overparam")
    sys.path.remove(str(path))


def take_over(layer, theirs):
    """Their factors and batch normalizations, whose hidden biases must be none."""
    layer.double()
    with torch.no_grad():
        for k, factor in enumerate(layer.factors):
            linear, *norms = theirs.layer_dict[str(k)]
            factor.copy_(linear.weight)
            if norms:
                layer.norms[k].load_state_dict(norms[0].state_dict())
    return layer.eval()


def train(theirs, x):
    """A few steps, for running statistics and parameters of batch normalization that differ from those at the start."""
    theirs.double()  # their train and eval return None
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        theirs(x).square().mean().backward()
        optimizer.step()
    theirs.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("depth", "residual"), [(2, ()), (4, ()), (3, (1,)), (4, (2,)), (4, (-1,)), (4, (1, 2))])
def test_linear_layers(overparam, depth, residual, batch_norm):
    x = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = overparam.OverparamLinear(
        5, 5, width=1, depth=depth, bias=False, batch_norm=batch_norm, residual=bool(residual),
        residual_intervals=list(residual) or 2,
    )  # fmt: skip
    train(theirs, x)
    ours = OverparamLinear(5, 5, False, depth=depth, residual=residual, batch_norm=batch_norm)
    take_over(ours, theirs)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    ours.train()
    theirs.train()
    torch.testing.assert_close(ours.chain(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("sizes", "stride", "padding", "residual"),
    [
        ([3, 1], 1, 1, ()),
        ([3, 1, 1], 2, 1, ()),
        ([3, 3, 1], 1, 2, ()),
        ([3, 5], 2, 3, ()),
        ([3, 1, 1, 1], 1, 1, (2,)),
        ([3, 1], 1, 1, (-1,)),
    ],
)
def test_convolutions(overparam, sizes, stride, padding, residual, batch_norm):
    depth, kernel = len(sizes), sum(sizes) - len(sizes) + 1
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs = overparam.OverparamConv2d(
        3, 3, sizes, stride, padding, width=1, bias=False, batch_norm=batch_norm, residual=bool(residual),
        residual_intervals=[depth if n == -1 else n for n in residual] or 2,
    )  # fmt: skip
    train(theirs, x)
    ours = OverparamConv2d(
        3, 3, kernel, stride, padding, bias=False, depth=depth, kernel_sizes=sizes, residual=residual,
        batch_norm=batch_norm,
    )  # fmt: skip
    take_over(ours, theirs)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
