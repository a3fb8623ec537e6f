"""Over-parameterized layers from plain ones, from their state, folded back, and truncated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overparam_cases import layers, plain_twin, shaken
from torch import nn
from torch.ao.nn import quantized
from torch.nn.utils.parametrizations import weight_norm

from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

# torch warns of what "same" does with even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

SOME = settings(deadline=None, max_examples=20)


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def low_rank(out, inputs, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (out, inputs))
    return a @ b.T


@SOME
@given(layers(single_kernel=True), st.booleans())
def test_a_plain_layer_is_taken_over(case, from_state):
    layer, x = case
    plain = plain_twin(layer).eval()
    options = {"width": layer.widths, "residual": layer.residual, "batch_norm": layer.batch_norm, "seed": 0}
    if hasattr(layer, "dims"):
        options["kernel_sizes"] = layer.kernel_sizes
    try:
        if from_state:
            shaken(layer).load_state_dict(plain.state_dict())
        else:
            layer = type(layer).from_plain(plain, layer.depth, **options)
    except (ValueError, RuntimeError) as error:
        ends = layer.factors[0].shape[1] * getattr(layer, "groups", 1), layer.factors[-1].shape[0]
        crossing = "connections cross" in str(error)
        assert crossing or ("rank of the weight" in str(error) and min(layer.widths) < max(ends))  # noqa: PT017
        return
    layer.eval()
    close(layer(x), plain(x))
    close(layer.chain(x), plain(x))
    close(layer.plain()(x), plain(x))


def test_factors_of_a_plain_layer_are_balanced():
    layer = OverparamLinear.from_plain(nn.Linear(9, 6, dtype=torch.float64), 4, seed=0)
    for above, below in zip(layer.factors[1:], layer.factors[:-1], strict=True):
        close(above.T @ above, below @ below.T)
    layer = OverparamConv2d.from_plain(nn.Conv2d(4, 6, 3, groups=2, dtype=torch.float64), 3, seed=0)
    for above, below in zip(layer.factors[1:], layer.factors[:-1], strict=True):
        above, below = above.view(2, 3, 3), below.view(2, 3, -1)
        close(above.mT @ above, below @ below.mT)


@pytest.mark.parametrize("widths", [(8, 8), (5, 9), (9, 5)])
@pytest.mark.parametrize("rank", [0, 2, 5])
def test_hidden_channels_beyond_the_rank_wake_up(widths, rank):
    plain = nn.Linear(7, 6, dtype=torch.float64)
    plain.weight.data = low_rank(6, 7, rank)
    layer = OverparamLinear.from_plain(plain, 3, width=widths, seed=0)
    close(layer.weight, plain.weight)
    torch.manual_seed(0)
    x, target = torch.randn(40, 7, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    values = torch.linalg.svdvals(layer.weight.detach())
    assert losses[-1] < losses[0]
    assert int((values > 1e-4).sum()) >= min(5, rank + 3)


def test_keeps_device_dtype_mode_and_wanted_gradients():
    plain = nn.Conv1d(2, 3, 3, dtype=torch.float64).eval()
    plain.weight.requires_grad_(False)
    layer = OverparamConv1d.from_plain(plain, batch_norm=True)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert not layer.training
    assert not layer.norms[0].training
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"bias"}
    for folded in (layer.plain(), layer.truncated(rank=1)):
        assert not folded.training
        assert {name for name, p in folded.named_parameters() if p.requires_grad} == {"bias"}
    assert next(layer.plain().parameters()).dtype == torch.float64


def test_a_random_start_is_an_initialization():
    plain = nn.Conv2d(3, 4, 5)
    layer = OverparamConv2d.from_plain(plain, 2, kernel_sizes=(3, 3), start="random", seed=3)
    fresh = OverparamConv2d(3, 4, 5, depth=2, kernel_sizes=(3, 3), seed=3)
    assert torch.equal(layer.weight, fresh.weight)
    assert torch.equal(layer.bias, fresh.bias)


def test_states_of_plain_and_own_layers():
    net = nn.Sequential(OverparamConv2d(3, 4, 3, depth=3), nn.Flatten(), OverparamLinear(16, 5, depth=2))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    x = torch.randn(2, 3, 4, 4)
    state = plain.state_dict()
    assert str(net.load_state_dict(state)) == "<All keys matched successfully>"
    assert set(state) == set(plain.state_dict())
    close(net(x), plain(x), 1e-5)
    again = nn.Sequential(OverparamConv2d(3, 4, 3, depth=3), nn.Flatten(), OverparamLinear(16, 5, depth=2))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))
    assert list(again[2].state_dict()) == ["bias", "factors.0", "factors.1"]
    meta = nn.Sequential(OverparamConv2d(3, 4, 3, device="meta"), nn.Flatten(), OverparamLinear(16, 5, device="meta"))
    with pytest.raises(RuntimeError, match=r"size mismatch for 2.weight: it is .5, 16.; expected .4, 16."):
        nn.Sequential(*net[:2], OverparamLinear(16, 4)).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"2.weight: width is 2; expected at least 5"):
        nn.Sequential(*net[:2], OverparamLinear(16, 5, width=2)).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Missing key.*"bias"'):
        OverparamLinear(16, 5).load_state_dict({"weight": plain[2].weight})
    assert meta[2].weight.is_meta


def test_a_thin_layer_becomes_two_torch_layers():
    layer = OverparamConv2d(8, 16, 3, stride=2, padding=1, padding_mode="circular", depth=4, width=(6, 2, 6), seed=0)
    plain, x = layer.plain(), torch.randn(3, 8, 9, 9)
    assert [tuple(each.weight.shape) for each in plain] == [(2, 8, 3, 3), (16, 2, 1, 1)]
    assert [each.bias is None for each in plain] == [True, False]
    close(plain(x), layer(x), 1e-5)
    parts = OverparamConv2d(16, 16, 5, 2, 2, depth=2, width=2, kernel_sizes=(3, 3), dilation=2, seed=0)
    plain, x = parts.plain(), torch.randn(1, 16, 16, 16)
    assert [each.stride for each in plain] == [(1, 1), (2, 2)]
    close(plain(x), parts(x), 1e-5)
    same = OverparamConv1d(16, 16, 4, padding="same", depth=2, width=2, kernel_sizes=(2, 3), seed=0)
    assert isinstance(same.plain(), nn.Conv1d)
    skipped = OverparamLinear(9, 9, depth=2, width=1, residual=2)
    assert isinstance(skipped.plain(), nn.Linear)


@SOME
@given(layers(), st.floats(0, 0.9))
def test_a_truncated_layer_is_within_the_tolerance(case, tol):
    layer, x = case
    shaken(layer).eval()
    small = layer.truncated(tol=tol)
    weight = layer.weight.detach()
    error, norm = float((small.weight - weight).detach().norm()), float(weight.norm())
    assert error <= tol * norm * (1 + 1e-9) + 1e-12 * max(norm, 1)
    exact = layer.truncated(tol=0)
    close(exact(x), layer(x))
    assert type(small) is type(layer)
    assert small.depth == max(layer.depth, 2)
    assert not small.residual
    assert not small.batch_norm


def test_a_truncation_is_the_closest_of_its_rank():
    layer = OverparamConv2d(6, 10, 3, depth=3, dtype=torch.float64, seed=0)
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    small = layer.truncated(rank=4)
    assert small.widths == (4, 4)
    assert small.depth == 3
    assert (small.weight - layer.weight).norm().item() == pytest.approx(float(values[4:].norm()))
    tol = float(values[4:].norm() / values.norm())
    assert layer.truncated(tol=tol * 1.001).widths == (4, 4)
    assert layer.truncated(tol=tol * 0.999).widths == (5, 5)
    assert layer.truncated(rank=1.0).widths == (10, 10)
    half = layer.truncated(rank=0.5)
    assert half.widths == (int(0.5 * 10 * 54 / 64),) * 2
    assert sum(p.numel() for p in half.plain().parameters() if p.ndim > 1) <= 0.5 * layer.weight.numel()
    grouped = OverparamConv2d(6, 10, 3, groups=2, depth=1, seed=0).truncated(rank=2)
    assert (grouped.depth, grouped.widths) == (2, (4,))


def test_a_truncation_is_not_wider_than_the_layer():
    thin = OverparamLinear(20, 20, depth=3, width=(7, 2), seed=0)
    for measure in ({"tol": 0}, {"rank": 1.0}, {"rank": 5}):
        small = thin.truncated(**measure)
        assert small.widths == (2, 2)
        close(small.weight, thin.weight, 1e-5)
    # With the larger kernel behind the thin state, and with a state added over it, the rank is not bound by it.
    for free in (
        OverparamConv1d(8, 8, 3, depth=2, width=2, kernel_sizes=(1, 3), seed=0),
        OverparamLinear(8, 8, depth=2, width=2, residual=2, seed=0),
    ):
        small = free.truncated(tol=0)
        assert small.widths[0] > 2
        close(small.weight, free.weight, 1e-5)


def test_truncation_to_a_wrong_rank():
    layer = OverparamLinear(6, 4)
    for options in ({}, {"tol": 0.1, "rank": 2}):
        with pytest.raises(ValueError, match=r"expected exactly one of them"):
            layer.truncated(**options)
    for tol in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"tol is .*expected from 0 to below 1"):
            layer.truncated(tol=tol)
    for rank in (0.0, 1.5, -0.5):
        with pytest.raises(ValueError, match=r"expected an integer, or a share above 0"):
            layer.truncated(rank=rank)
    with pytest.raises(ValueError, match=r"rank is 5; a weight of .4, 6. has rank at most 4"):
        layer.truncated(rank=5)
    with pytest.raises(ValueError, match=r"rank is 0; expected at least 1"):
        layer.truncated(rank=0)
    for options in ({"tol": "a"}, {"tol": True}):
        with pytest.raises(TypeError, match=r"tol is .*expected a number"):
            layer.truncated(**options)
    with pytest.raises(TypeError, match=r"rank is True; expected an integer"):
        layer.truncated(rank=True)
    layer.factors[0].data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"not finite"):
        layer.truncated(rank=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv1d(3, 2, 1), "layer is a Conv1d; expected a torch.nn.Linear"),
        (lambda: OverparamLinear(3, 2), "layer is a OverparamLinear"),
        (lambda: nn.LazyLinear(2), "LazyLinear whose weight is a UninitializedParameter"),
        (lambda: weight_norm(nn.Linear(3, 2)), "ParametrizedLinear whose weight is a Tensor"),
        (lambda: nn.Linear(3, 2, dtype=torch.complex64), "complex64"),
        (lambda: torch.jit.script(nn.Linear(3, 2)), "RecursiveScriptModule"),
        (lambda: quantized.Linear(3, 2), "expected a torch.nn.Linear"),
        (lambda: None, "layer is a NoneType"),
        (lambda: type("Scaled", (nn.Linear,), {"forward": lambda self, x: 2 * x})(3, 2), "layer is a Scaled"),
    ],
)
def test_layers_that_cannot_be_replaced(make, message):
    with pytest.raises(TypeError, match=message):
        OverparamLinear.from_plain(make())


def test_convolutions_that_cannot_be_replaced():
    with pytest.raises(TypeError, match=r"layer is a ConvTranspose2d; expected a torch.nn.Conv2d"):
        OverparamConv2d.from_plain(nn.ConvTranspose2d(3, 3, 3))
    with pytest.raises(TypeError, match=r"layer is a Conv2d; expected a torch.nn.Conv3d"):
        OverparamConv3d.from_plain(nn.Conv2d(3, 3, 3))


def test_weights_that_have_no_such_factors():
    plain = nn.Conv2d(4, 4, 5)
    with pytest.raises(ValueError, match=r'at most one larger than 1; start="random"'):
        OverparamConv2d.from_plain(plain, 2, kernel_sizes=(3, 3))
    with pytest.raises(ValueError, match=r'connections cross.*start="random"'):
        OverparamLinear.from_plain(nn.Linear(3, 3), 6, residual=(2, 3))
    with pytest.raises(ValueError, match=r"width is 3; expected at least 4, the rank of the weight that"):
        OverparamConv2d.from_plain(plain, 2, width=3)
    with pytest.raises(ValueError, match=r"width is 2; expected at least 4, the rank of the weight in 2 groups"):
        OverparamConv2d.from_plain(nn.Conv2d(4, 4, 5, groups=2), 2, width=2)
    with pytest.raises(ValueError, match=r'start is .near.; expected "same" or "random"'):
        OverparamConv2d.from_plain(plain, start="near")
    with pytest.raises(ValueError, match=r"weight is on the meta device; expected one with values"):
        OverparamConv2d.from_plain(nn.Conv2d(4, 4, 5, device="meta"))
    plain.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"weight has entries that are not finite"):
        OverparamConv2d.from_plain(plain)
