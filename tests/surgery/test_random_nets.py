"""Small nets drawn at random: exchanged, trained for a few steps, folded back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_cases import outputs
from torch import nn

from htf.nn.layers.drop_in import DropInLayer
from htf.surgery import collapse, factorize, overparameterize, truncate

# Each example is several small trainings.
few = settings(max_examples=12, deadline=None)


@st.composite
def nets(draw):
    """A net of convolutions of some dimension and a linear layer, and an input."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    dims = draw(st.integers(1, 3))
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 1]
    channels, layers = draw(st.integers(1, 4)), []
    x = torch.randn(3, channels, *[9 if dims < 3 else 7] * dims)  # two kernels of 3 with stride 2 still fit
    for _ in range(draw(st.integers(1, 2))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        width = groups * draw(st.integers(1, 4))
        layers.append(
            conv(
                channels,
                width,
                draw(st.integers(1, 3)),
                draw(st.integers(1, 2)),
                draw(st.integers(0, 2)),
                groups=groups,
                bias=draw(st.booleans()),
                padding_mode=draw(st.sampled_from(["zeros", "circular"])) if dims < 3 else "zeros",
            )
        )
        layers += [norm(width)] if draw(st.booleans()) else []
        layers.append(draw(st.sampled_from([nn.ReLU(), nn.Tanh()])))
        channels = width
    features = nn.Sequential(*layers)
    with torch.no_grad():
        width = features(x).flatten(1).shape[1]
    layers += [nn.Flatten(), nn.Linear(width, draw(st.integers(2, 6)), bias=draw(st.booleans()))]
    return nn.Sequential(*layers), x


def descend(model, x, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (model.train()(x) - 1).square().mean().backward()
        optimizer.step()


def same(model, other, x):
    y = outputs(model, x)
    # Relative to the size of outputs where they are larger than 1.
    return float((outputs(other, x) - y).abs().max()) < 1e-5 * max(1.0, float(y.abs().max()))


@few
@given(nets(), st.integers(1, 4), st.booleans(), st.sampled_from(["same", "random"]))
def test_an_overparameterized_net_is_trained_and_collapsed(case, depth, batch_norm, start):
    model, x = case
    deep = overparameterize(model, depth, batch_norm=batch_norm, start=start, seed=0)
    if start == "same":
        assert same(model, deep, x)
    before = outputs(deep, x)
    descend(deep, x)
    # Without biases, a net whose units are all dead gives zero, and has no gradient either.
    assert not torch.equal(outputs(deep, x), before) or not before.any()
    plain = collapse(deep)
    assert not any(isinstance(m, DropInLayer) for m in plain.modules())
    assert same(deep, plain, x)
    truncate(deep, tol=0.3)
    assert same(deep, collapse(deep), x)


@few
@given(st.data())
def test_a_factorized_net_is_trained_and_collapsed(data):
    model, x = data.draw(nets())
    # A layer that is surely made smaller beside those that may not be.
    model.append(nn.Sequential(nn.Linear(model[-1].out_features, 16), nn.Tanh(), nn.Linear(16, 16)))
    format = data.draw(st.sampled_from(["ht", "tt", "tucker", "cp", "matrix"]))
    small = factorize(model, format, rank=data.draw(st.sampled_from([1, 2, 0.4, 0.6])))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    descend(small, x)
    plain = collapse(small)
    assert not any(isinstance(m, DropInLayer) for m in plain.modules())
    assert same(small, plain, x)
    truncate(small, tol=0.3)
    assert same(small, collapse(small), x)


@pytest.mark.parametrize("seed", range(3))
def test_two_ways_to_the_same_net(seed):
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 10)).double(), torch.randn(4, 12).double()
    # The best approximation of rank 3 is one, whichever parameters it is made from.
    deep = overparameterize(model, 3, seed=0)
    truncate(deep, rank=3)
    small = factorize(model, "matrix", rank=3)
    torch.testing.assert_close(outputs(collapse(deep), x), outputs(collapse(small), x))
