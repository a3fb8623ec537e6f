"""Layers with factorized weights."""

import copy
import importlib.util
import warnings

import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from htf.nn.factorized import FactorizedConv2d, FactorizedLinear
from htf.nn.factorized._routes import conv_route
from htf.nn.factorized.choice import NAMES

SVD_FORMATS = [name for name in NAMES if name != "cp"]
ROUTES = {"reconstructed", "factor by factor"}


# torch warns of what "same" does with even kernels.
warned = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@st.composite
def linears(draw):
    options = {"format": draw(st.sampled_from(NAMES)), "rank": draw(st.sampled_from([1, 0.1, 0.5, 1.0]))}
    features = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    return FactorizedLinear(
        *features, draw(st.booleans()), **options, seed=draw(st.integers(0, 9)), dtype=torch.float64
    )


@st.composite
def convolutions(draw):
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {"format": draw(st.sampled_from(NAMES)), "rank": draw(st.sampled_from([1, 0.1, 0.5, 1.0]))}
    padding = draw(st.sampled_from([0, 1, (2, 1), "same", "valid"]))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (1, 3)]))
    return FactorizedConv2d(
        draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        kernel,
        stride,
        padding,
        draw(st.sampled_from([1, 2, (2, 1)])),
        1,
        draw(st.booleans()),
        draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        **options,
        seed=draw(st.integers(0, 9)),
        dtype=torch.float64,
    )


def inputs_of(layer, batch=2, image=(7, 8)):
    shape = (layer.in_features,) if isinstance(layer, FactorizedLinear) else (layer.in_channels, *image)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dense(layer, x):
    """What torch's own layer does with the weight."""
    if isinstance(layer, FactorizedLinear):
        return functional.linear(x, layer.weight, layer.bias)
    names = ("stride", "padding", "dilation", "groups", "padding_mode")
    spec = nn.Conv2d(1, 1, layer.kernel_size, **{name: getattr(layer, name) for name in names}, device="meta")
    return spec._conv_forward(x, layer.weight, layer.bias)


def routed(layer, route, monkeypatch):
    """The same layer, made to take a route."""
    monkeypatch.setattr("htf.nn.factorized.layers.linear_route", lambda *_: route)
    number = {"reconstructed": None, "factor by factor": 0, "last": -1}[route]
    monkeypatch.setattr("htf.nn.factorized.layers.conv_route", lambda *_: number)


def check_route(layer, route):
    x = inputs_of(layer).requires_grad_()
    variables = [x, *layer.parameters()]
    weights = torch.randn(dense(layer, x).shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.grad((dense(layer, x) * weights).sum(), variables)
    with pytest.MonkeyPatch.context() as patch:
        routed(layer, route, patch)
        y = layer(x)
        torch.testing.assert_close(y, dense(layer, x), rtol=0, atol=1e-10)
        found = torch.autograd.grad((y * weights).sum(), variables)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@given(linears(), st.sampled_from(sorted(ROUTES)))
@settings(deadline=None, max_examples=40)
def test_linear_layers_are_their_weight_in_value_and_gradient(layer, route):
    assert layer.weight.shape == (layer.out_features, layer.in_features)
    check_route(layer, route)


@warned
@given(convolutions(), st.sampled_from([*sorted(ROUTES), "last"]))
@settings(deadline=None, max_examples=40)
def test_convolutions_are_their_kernel_in_value_and_gradient(layer, route):
    assert layer.weight.shape == (layer.out_channels, layer.in_channels, *layer.kernel_size)
    check_route(layer, route)


@warned
@given(st.one_of(linears(), convolutions()))
@settings(deadline=None, max_examples=40)
def test_plain_layers_have_the_same_outputs_and_no_more_numbers(layer):
    plain, x = layer.plain(), inputs_of(layer)
    torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.float().plain()(x.float()), layer(x.float()), rtol=0, atol=1e-5)
    parts = list(plain) if isinstance(plain, nn.Sequential) else [plain]
    assert {type(part) for part in parts} <= {nn.Linear, nn.Conv2d}
    size = sum(p.numel() for p in plain.parameters())
    assert size <= layer.plain_size
    assert len(parts) == 1 or size < layer.plain_size


@pytest.mark.parametrize(("name", "parts"), [("matrix", 2), ("cp", 4), ("tucker", 3), ("tt", 4), ("ht", 3)])
def test_small_convolutions_one_after_the_other(name, parts):
    layer = FactorizedConv2d(16, 12, 3, 2, 1, format=name, rank=2, seed=0)
    plain = layer.plain()
    assert len(plain) == parts
    assert [part.bias is None for part in plain] == [True] * (parts - 1) + [False]
    if name != "matrix":
        assert plain[0].kernel_size == plain[-1].kernel_size == (1, 1)
    if name == "cp":
        assert [part.groups for part in plain] == [1, 2, 2, 1]


@pytest.mark.parametrize("shape", [(3, 12), (12,), (2, 3, 12), (0, 12)])
@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_of_a_linear_layer(name, shape):
    layer = FactorizedLinear(12, 6, format=name, rank=0.2, seed=0)
    assert layer(torch.ones(shape)).shape == (*shape[:-1], 6)


def test_one_image_without_a_batch():
    layer = FactorizedConv2d(3, 4, 3, padding=1, padding_mode="reflect", format="cp", rank=2, seed=0)
    x = torch.randn(3, 6, 7)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


def test_the_cheaper_contraction_is_taken():
    # With rank 8: 2·(8·8 + 8·8)·n operations by factors, 2·8·8·8 + 2·8·8·n by the weight; equal at n = 8.
    layer = FactorizedLinear(8, 8, format="matrix", rank=8)
    assert layer.applies is None
    for batch, expected in ((7, "factor by factor"), (8, "reconstructed"), (9, "reconstructed")):
        layer(torch.zeros(batch, 8))
        assert layer.applies == expected


def test_the_cheaper_convolution_is_taken():
    # Per position of the output: by factors 3×3 to 7 channels and 1×1 to 8, 2·(9·4·7 + 7·8) = 616 operations, by the
    # kernel 2·9·4·8 = 576, and 2·9·4·7·8 = 4032 for the kernel itself; equal at 100.8 positions.
    layer = FactorizedConv2d(4, 8, 3, format="matrix", rank=7)
    for positions, expected in ((100, "factor by factor"), (101, "reconstructed")):
        layer(torch.zeros(1, 4, 3, positions + 2))
        assert layer.applies == expected
    # With padding there are as many positions as pixels.
    layer = FactorizedConv2d(4, 8, 3, padding=1, format="matrix", rank=7)
    layer(torch.zeros(1, 4, 3, 33))
    assert layer.applies == "factor by factor"
    layer(torch.zeros(1, 4, 3, 34))
    assert layer.applies == "reconstructed"
    # Of the two chains of a train, the one with its middle split: from the two together 9·6·6 numbers a position.
    layer = FactorizedConv2d(6, 6, 3, padding=1, format="tt", rank=(1, 6, 6, 6, 1))
    assert [len(chain) for chain in layer._layout.chains] == [3, 4]
    assert conv_route(layer._layout, layer.rank, layer._geometry, 1, (2, 2)) == 1


@pytest.mark.parametrize("batch", [1, 300])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_lowers_outputs_on_every_route(name, batch):
    linear, conv = FactorizedLinear(12, 8, format=name, rank=2, seed=0), FactorizedConv2d(6, 4, 3, format=name, rank=2)
    for layer, x in ((linear, torch.randn(batch, 12)), (conv, torch.randn(batch, 6, 3, 3))):
        weight = layer.weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.weight, weight)
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.sum().backward()
        torch.testing.assert_close(y.float(), dense(layer, x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear.double()(torch.zeros(batch, 12, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_one_graph(name):
    layers = FactorizedLinear(12, 8, format=name, rank=2, seed=0), FactorizedConv2d(4, 6, 3, format=name, rank=2)
    for layer, sample in zip(layers, ((12,), (4, 5, 5)), strict=True):
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
        for batch in (2, 5):
            x = torch.randn(batch, *sample)
            torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zeros_can_be_trained(name):
    for plain, kind in ((nn.Linear(12, 8), FactorizedLinear), (nn.Conv2d(4, 6, 3), FactorizedConv2d)):
        nn.init.zeros_(plain.weight)
        layer = kind.from_plain(plain, name, rank=2)
        assert not layer.weight.any()
        layer(inputs_of(layer).float()).square().sum().backward()
        assert layer.factors[0].grad.any()


def test_many_modes_do_not_take_long_to_plan():
    layer = FactorizedLinear(1024, 1024, rank=2, shape=((2,) * 10, (2,) * 10), seed=0, dtype=torch.float64)
    x = torch.randn(2, 1024, dtype=torch.float64)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias), rtol=0, atol=1e-10)


def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match="on the meta device; expected one with values"):
        FactorizedLinear.from_plain(nn.Linear(4, 4, device="meta"), rank=2)


def test_shares_of_other_packages_count():
    layer = FactorizedLinear(12, 8, format="matrix", rank=6)
    assert layer.truncated(rank=torch.tensor(0.5)).rank == layer.truncated(rank=0.5).rank


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_numbers_that_are_not_real_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"dtype is {dtype}; expected real floating point"):
        FactorizedLinear(4, 4, rank=2, dtype=dtype)
    if dtype.is_complex:
        with pytest.raises(TypeError, match=r"dtype is torch.complex64; expected real"):
            FactorizedConv2d.from_plain(nn.Conv2d(2, 2, 3, dtype=dtype), rank=2)


@pytest.mark.parametrize("name", SVD_FORMATS)
def test_a_trained_layer_at_full_rank_is_the_same(name):
    for plain, kind in ((nn.Linear(12, 8), FactorizedLinear), (nn.Conv2d(4, 3, (3, 2), padding=1), FactorizedConv2d)):
        plain = plain.double()
        ours = kind.from_plain(plain, name, energy=1.0)
        x = inputs_of(ours)
        torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_measures_are_held(name):
    torch.manual_seed(0)
    for plain, kind in ((nn.Linear(12, 8).double(), FactorizedLinear), (nn.Conv2d(4, 3, 3).double(), FactorizedConv2d)):
        total = plain.weight.square().sum()
        ours = kind.from_plain(plain, name, energy=0.6)
        assert (ours.weight - plain.weight).square().sum() <= 0.4 * total
        for wanted in ({"size": 50}, {"rank": 0.5}):
            ours = kind.from_plain(plain, name, **wanted)
            most = wanted.get("size", plain.weight.numel() // 2)
            assert sum(f.numel() for f in ours.factors) <= most
            assert (ours.weight - plain.weight).square().sum() < total
        ours = kind.from_plain(plain, name, rank=2)
        assert max(ours.rank) == 2


def test_a_trained_layer_passes_on_all_but_its_weight():
    plain = nn.Conv2d(4, 6, 3, stride=2, padding="valid", dilation=2, padding_mode="circular", dtype=torch.bfloat16)
    plain.weight.requires_grad_(False)
    plain.eval()
    ours = FactorizedConv2d.from_plain(plain, "tucker", rank=2)
    assert not ours.training
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert [p.requires_grad for p in ours.factors] == [False] * 5
    assert ours.bias.requires_grad
    assert ours.bias is not plain.bias
    assert torch.equal(ours.bias, plain.bias)
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ):
        assert getattr(ours, name) == getattr(plain, name)
    for again in (ours.truncated(rank=1), ours.plain()):
        assert not again.training
    small = ours.truncated(rank=1)
    assert torch.equal(small.bias, plain.bias)
    assert not any(p.requires_grad for p in small.factors)
    assert all(p.requires_grad == (name[-4:] == "bias") for name, p in ours.plain().named_parameters())
    bare = FactorizedLinear.from_plain(nn.Linear(4, 6, bias=False), rank=2)
    assert bare.bias is None
    assert bare.truncated(tol=0.5).bias is None
    assert bare.plain().bias is None
    assert bare.plain_size == 24


@warned
@given(st.one_of(linears(), convolutions()), st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
def test_truncation_holds_its_tolerance_and_never_grows(layer, tol):
    small = layer.truncated(tol=tol)
    assert type(small) is type(layer)
    assert (small.weight - layer.weight).norm() <= (tol + 1e-9) * layer.weight.norm()
    assert all(r <= own for r, own in zip(small.rank, layer.rank, strict=True))
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in layer.parameters())
    x = inputs_of(layer)
    torch.testing.assert_close(small(x), dense(small, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_truncation_to_ranks_and_shares(name):
    layer = FactorizedConv2d(8, 8, 3, format=name, rank=4, seed=0)
    small = layer.truncated(rank=2)
    assert max(small.rank) == 2
    assert sum(f.numel() for f in layer.truncated(rank=0.2).factors) <= 0.2 * 8 * 8 * 9
    assert max(layer.truncated(rank=1e-6).rank) == 1
    for same in (layer.truncated(rank=10**6), layer.truncated(rank=1.0)):
        assert all(map(torch.equal, same.factors, layer.factors))
        assert same.factors[0] is not layer.factors[0]


@pytest.mark.parametrize("name", NAMES)
def test_truncation_finds_what_is_redundant(name):
    layer = FactorizedConv2d(6, 6, 3, format=name, rank=2, seed=0, dtype=torch.float64)
    large = FactorizedConv2d.from_plain(layer.plain() if name == "none" else merged(layer), name, rank=4)
    small = large.truncated(tol=1e-2)
    assert max(small.rank) <= 3
    assert (small.weight - layer.weight).norm() <= 2e-2 * layer.weight.norm()


def merged(layer):
    plain = nn.Conv2d(6, 6, 3, dtype=torch.float64)
    plain.weight.data, plain.bias.data = layer.weight.detach().clone(), layer.bias.detach().clone()
    return plain


@pytest.mark.parametrize("name", NAMES)
def test_states_load_into_a_layer_of_the_same_rank(name):
    plain = nn.Linear(20, 12)
    for layer in (
        FactorizedLinear.from_plain(plain, name, rank=0.6),
        FactorizedLinear.from_plain(plain, name, rank=0.4),
    ):
        small = layer.truncated(rank=0.3)
        again = FactorizedLinear(20, 12, format=name, rank=small.rank)
        again.load_state_dict(small.state_dict())
        assert torch.equal(again.weight, small.weight)
        twin = copy.deepcopy(small)
        assert torch.equal(twin.weight, small.weight)
        twin.to(torch.float64)
        assert twin.weight.dtype == torch.float64
        assert twin(torch.zeros(2, 20, dtype=torch.float64)).dtype == torch.float64


def test_seeds():
    def weight(**options):
        return FactorizedLinear(12, 8, format="tt", rank=2, **options)

    first = weight(seed=3)
    assert torch.equal(first.weight, weight(seed=3).weight)
    assert torch.equal(first.bias, weight(seed=torch.Generator().manual_seed(3)).bias)
    assert not torch.equal(first.weight, weight(seed=4).weight)
    torch.testing.assert_close(weight(seed=3, dtype=torch.float64).weight.float(), first.weight)
    state = torch.get_rng_state()
    weight(seed=3)
    FactorizedLinear.from_plain(plain := nn.Linear(4, 4), rank=1)
    assert plain.bias.abs().max() <= 0.5
    torch.set_rng_state(state)
    unseeded = weight()
    torch.set_rng_state(state)
    assert torch.equal(unseeded.weight, weight().weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_start_has_the_variance_of_torchs_layers(name):
    layer = FactorizedConv2d(8, 16, 3, format=name, rank=5)
    generator, squares, biases = torch.Generator().manual_seed(0), [], []
    for _ in range(150):
        layer.reset_parameters(generator)
        squares.append(layer.weight.detach().square().mean())
        biases.append(layer.bias.detach().clone())
    squares = torch.stack(squares)
    assert abs(squares.mean() - 1 / (3 * 72)) < 4 * squares.std() / 150**0.5
    assert squares.std() / 150**0.5 < 0.1 / (3 * 72)
    biases = torch.cat(biases)
    assert biases.abs().max() <= 72**-0.5
    assert abs(biases.var() * 3 * 72 - 1) < 0.1


def test_a_layer_learns():
    torch.manual_seed(0)
    layer, target = (
        FactorizedLinear(12, 8, format="ht", rank=3, seed=0),
        FactorizedLinear(12, 8, format="ht", rank=2, seed=1),
    )
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    x = torch.randn(64, 12)
    y, losses = target(x).detach(), []
    for _ in range(100):
        loss = functional.mse_loss(layer(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def tltorch():
    if importlib.util.find_spec("tltorch") is None:
        pytest.skip("tensorly-torch is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Leaves TensorLy's backend to the other tests as it was.
        import htf.tltorch  # noqa: F401

        return importlib.import_module("tltorch")


def test_a_cp_layer_is_that_of_tensorly_torch():
    peer = tltorch()
    ours = FactorizedLinear(24, 12, format="cp", rank=5, shape=((3, 4), (4, 6)), seed=0)
    with tl.backend_context("pytorch"):
        theirs = peer.FactorizedLinear((4, 6), (3, 4), factorization="cp", rank=5, implementation="reconstructed")
    theirs.weight.weights.data.fill_(1)
    for mine, factor in zip(theirs.weight.factors, ours.factors, strict=True):
        mine.data.copy_(factor)
    theirs.bias.data.copy_(ours.bias)
    x = torch.randn(5, 24)
    with tl.backend_context("pytorch"):
        expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_a_tucker_convolution_is_that_of_tensorly_torch():
    peer = tltorch()
    ours = FactorizedConv2d(4, 6, 3, stride=2, padding=1, format="tucker", rank=(3, 2, 2, 2), seed=0)
    options = {"stride": 2, "padding": 1, "bias": True, "implementation": "reconstructed"}
    with tl.backend_context("pytorch"):
        theirs = peer.FactorizedConv(4, 6, (3, 3), factorization="tucker", rank=(3, 2, 2, 2), **options)
    core, *matrices = ours.factors
    theirs.weight.core.data.copy_(core)
    for mine, factor in zip(theirs.weight.factors, matrices, strict=True):
        mine.data.copy_(factor)
    theirs.bias.data.copy_(ours.bias)
    x = torch.randn(2, 4, 9, 8)
    with tl.backend_context("pytorch"):
        expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": "svd"}, ValueError, "format is 'svd'; expected one of matrix, cp, tucker, tt, ht"),
        ({"format": None}, TypeError, "format is None; expected one of"),
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": 1.01}, ValueError, r"rank is 1.01; expected a share in \(0, 1\]"),
        ({"rank": 1000}, ValueError, "rank is 1000; its bound is"),
        ({"rank": (1, 2)}, ValueError, "rank has 2 entries; expected a tuple of"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 0.5}, TypeError, "seed is 0.5"),
    ],
)
def test_arguments_that_do_not_fit(options, kind, message):
    for make in (lambda **o: FactorizedLinear(8, 12, **o), lambda **o: FactorizedConv2d(4, 6, 3, **o)):
        with pytest.raises(kind, match=message):
            make(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((0, 4, 3), {}, ValueError, "in_channels is 0"),
        ((4, 2.5, 3), {}, TypeError, "out_channels is 2.5"),
        ((4, 4, 3), {"groups": 2}, ValueError, "groups is 2; expected 1"),
        ((4, 4, (3, 0)), {}, ValueError, r"kernel_size\[1\] is 0"),
        ((4, 4, 3, 0), {}, ValueError, "stride is 0"),
        ((4, 4, 3), {"dilation": (1, -1)}, ValueError, r"dilation\[1\] is -1"),
        ((4, 4, (3, 3, 3)), {}, ValueError, r"kernel_size is \(3, 3, 3\); expected one integer or two"),
        ((4, 4, "3"), {}, TypeError, "kernel_size is '3'"),
        ((4, 4, 3), {"padding": -1}, ValueError, "padding is -1; expected 0 or more"),
        ((4, 4, 3), {"padding": "full"}, ValueError, "padding"),
        ((4, 4, 3, 2, "same"), {}, ValueError, "same"),
        ((4, 4, 3), {"padding_mode": "wrap"}, ValueError, "padding_mode"),
    ],
)
def test_convolutions_that_cannot_be(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        FactorizedConv2d(*arguments, **options)


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ({}, ValueError, "none of rank, energy and size given; expected exactly one"),
        ({"rank": 2, "size": 9}, ValueError, "rank and size given; expected exactly one"),
        ({"energy": 0.0}, ValueError, r"energy is 0.0; expected a share in \(0, 1\]"),
        ({"energy": 1.1}, ValueError, "energy is 1.1"),
        ({"energy": "most"}, TypeError, "energy is 'most'; expected a number"),
        ({"size": 3}, ValueError, "size is 3; rank 1 takes"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"size": 9.5}, TypeError, "size is 9.5"),
        ({"rank": 1000}, ValueError, "rank is 1000; its bound is"),
        ({"rank": 0.0}, ValueError, "rank is 0.0; expected a share"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_measures_that_do_not_fit(wanted, kind, message, name):
    for plain, layer in ((nn.Linear(8, 12), FactorizedLinear), (nn.Conv2d(4, 6, 3), FactorizedConv2d)):
        with pytest.raises(kind, match=message):
            layer.from_plain(plain, name, **wanted)


def test_an_energy_that_cp_does_not_reach():
    with pytest.raises(ValueError, match=r"energy is 1\.0; no cp format smaller than the weight was found"):
        FactorizedConv2d.from_plain(nn.Conv2d(4, 4, 3), "cp", energy=1.0)


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (Own(4, 4), FactorizedLinear),
        (nn.LazyLinear(4), FactorizedLinear),
        (nn.Conv2d(2, 2, 3), FactorizedLinear),
        (nn.Linear(2, 2), FactorizedConv2d),
        (nn.Conv1d(2, 2, 3), FactorizedConv2d),
        (nn.ReLU(), FactorizedConv2d),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), FactorizedLinear),
    ],
)
def test_other_layers_are_refused(layer, kind):
    with pytest.raises(TypeError, match=rf"layer is a {type(layer).__name__}; expected nn\.(Linear|Conv2d) itself"):
        kind.from_plain(layer, rank=1)


def test_groups_of_a_trained_convolution_are_refused():
    with pytest.raises(ValueError, match="groups is 2; expected 1"):
        FactorizedConv2d.from_plain(nn.Conv2d(4, 4, 3, groups=2), rank=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    plain = nn.Linear(4, 4)
    layer = FactorizedLinear.from_plain(plain, rank=2)
    with torch.no_grad():
        plain.weight[0, 0] = value
        layer.factors[0][0, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        FactorizedLinear.from_plain(plain, rank=2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        layer.truncated(tol=0.1)


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ({}, ValueError, "tol is None and rank is None; expected exactly one"),
        ({"tol": 0.1, "rank": 2}, ValueError, "tol is 0.1 and rank is 2; expected exactly one"),
        ({"tol": -0.1}, ValueError, "tol is -0.1"),
        ({"tol": "small"}, TypeError, "tol is 'small'"),
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": 1.5}, ValueError, r"rank is 1.5; expected a share in \(0, 1\]"),
    ],
)
def test_truncations_that_do_not_fit(wanted, kind, message):
    for name in NAMES:
        with pytest.raises(kind, match=message):
            FactorizedLinear(8, 12, format=name, rank=2, seed=0).truncated(**wanted)


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match="x has 7 features; expected 8"):
        FactorizedLinear(8, 12, rank=2)(torch.zeros(3, 7))
    layer = FactorizedConv2d(3, 4, 3, rank=2)
    for shape in ((2, 4, 8, 8), (8, 8)):
        with pytest.raises(ValueError, match=r"expected \(n, 3, height, width\)"):
            layer(torch.zeros(shape))
    with pytest.raises(RuntimeError, match=r"Kernel size can't be greater"):
        layer(torch.zeros(1, 3, 2, 2))
