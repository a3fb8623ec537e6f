import pytest
import torch
from surgery_cases import branches, cnn, images, outputs
from torch import nn

from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.factorized import FactorizedConv2d, FactorizedLinear
from htf.surgery import collapse, factorize, overparameterize


def size(model):
    return sum(p.numel() for p in model.parameters())


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, DropInLayer)}


# -- overparameterize -----------------------------------------------------------------------------------


def test_outputs_are_those_of_the_model_from_the_start():
    model, x = branches(), images()
    deep = overparameterize(model, depth=4, seed=0)
    torch.testing.assert_close(outputs(deep, x), outputs(model, x), rtol=1e-4, atol=1e-5)
    assert all(layer.depth == 4 for layer in layers(deep).values())


def test_options_reach_the_layers():
    deep = overparameterize(cnn(), depth=3, width=40, batch_norm=True, modules=["7"], seed=0)
    (layer,) = layers(deep).values()
    assert (layer.depth, layer.widths, layer.training_path) == (3, (40, 40), "chain")
    square = overparameterize(nn.Linear(5, 5), residual=(1,), seed=0)
    assert (square.residual, square.training_path) == ((1,), "effective weight")


@pytest.mark.parametrize(("kernel_sizes", "start"), [((1, 5, 1), "same"), ((3, 3), "random")])
def test_kernels_of_the_factors_of_convolutions(kernel_sizes, start):
    model = nn.Sequential(nn.Conv2d(2, 3, 5, padding=2), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    deep, report = overparameterize(
        model, len(kernel_sizes), width=8, kernel_sizes=kernel_sizes, start=start, seed=0, with_report=True
    )
    assert deep[0].kernel_sizes == tuple((size, size) for size in kernel_sizes)
    # Other kernels stay, and linear layers have none.
    assert type(deep[1]) is nn.Conv2d
    ((name, _, reason),) = report.left_alone
    assert (name, "expected kernel_size = (3, 3)" in reason) == ("1", True)
    assert deep[3].depth == len(kernel_sizes)
    x = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    if start == "same":
        torch.testing.assert_close(deep(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(collapse(deep)(x), deep(x), rtol=1e-4, atol=1e-5)


def test_drawn_anew_from_a_seed():
    model = cnn()
    first, again, other = (overparameterize(model, 3, start="random", seed=seed) for seed in (0, 0, 1))
    for name, layer in layers(first).items():
        assert torch.equal(layer.weight, layers(again)[name].weight)
        assert not torch.equal(layer.weight, layers(other)[name].weight)
        assert not torch.allclose(layer.weight, model.get_submodule(name).weight)
    # No two layers of one shape are drawn alike.
    twins = overparameterize(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)), start="random", seed=0)
    assert not torch.equal(twins[0].weight, twins[1].weight)
    assert not torch.equal(twins[0].bias, twins[1].bias)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(overparameterize(model, 3, start="random", seed=generator)[7].weight, first[7].weight)


def test_a_layer_that_cannot_have_the_width_is_left_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1))
    deep, report = overparameterize(model, width=5, with_report=True)
    assert list(layers(deep)) == ["1"]
    assert report.left_alone == (("0", "Conv2d", "width is 5; expected a multiple of groups = 2"),)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"depth": 0}, ValueError, "depth is 0; expected at least 1"),
        ({"depth": 2.5}, TypeError, "depth is 2.5; expected an integer"),
        ({"width": 0}, ValueError, "width is 0; expected at least 1"),
        ({"start": "warm"}, ValueError, "start is 'warm'; expected 'same' or 'random'"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"residual": (5,)}, ValueError, "model has no layer with weights that can be over-parameterized: .*residual"),
    ],
)
def test_bad_arguments_of_overparameterize(given, error, message):
    with pytest.raises(error, match=message):
        overparameterize(cnn(), **given)


# -- factorize ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["ht", "tt", "tucker", "cp", "matrix"])
def test_factorized_layers_of_every_format(format):
    model = cnn()
    small, report = factorize(model, format, rank=0.4, modules=["3", "7"], with_report=True)
    assert {name: type(layer) for name, layer in layers(small).items()} == {
        "3": FactorizedConv2d,
        "7": FactorizedLinear,
    }
    for row in report.rows:
        layer, plain = small.get_submodule(row.name), model.get_submodule(row.name)
        error = ((layer.weight - plain.weight).norm() / plain.weight.norm()).detach()
        assert row.error == pytest.approx(float(error), rel=1e-4)
        assert 0.05 < row.error < 1
        assert row.parameters_after < 0.4 * plain.weight.numel() + len(plain.bias) + 1
        assert torch.equal(layer.bias, plain.bias)


def test_energy_bounds_the_errors():
    _, report = factorize(cnn(), "tucker", energy=0.5, modules=["3", "7"], with_report=True)
    assert report.rows
    assert all(0 < row.error**2 <= 0.5 + 1e-6 for row in report.rows)


def test_layers_that_would_not_be_smaller_or_cannot_have_the_rank_are_left_alone():
    model = cnn()
    small, report = factorize(model, "matrix", rank=20, with_report=True)
    told = {name: reason for name, _, reason in report.left_alone}
    assert list(layers(small)) == ["7"]
    assert told["0"].startswith("rank is 20; its bound is 8")
    assert told["9"].startswith("rank is 20; its bound is 10")
    assert type(small[0]) is nn.Conv2d
    _, report = factorize(model, "matrix", rank=9, with_report=True)
    assert ("9", "Linear", "378 parameters in place of 320 would be no fewer") in report.left_alone
    with pytest.raises(ValueError, match=r"can be factorized: \(the model\) \(Linear\): 378 parameters in place"):
        factorize(model[9], "matrix", rank=9)


def test_layers_of_other_kinds_are_left_alone():
    model = nn.Sequential(nn.Bilinear(8, 8, 8), nn.EmbeddingBag(8, 8), nn.Linear(16, 16))
    _, report = factorize(model, "matrix", rank=2, with_report=True)
    told = {name: reason for name, _, reason in report.left_alone}
    assert told["0"] == told["1"] == "not a linear layer or convolution"


@pytest.mark.parametrize("format", ["ht", "matrix"])
@pytest.mark.parametrize("budget", [0.5, 1400])
def test_a_budget_of_the_whole_model_is_met_with_one_error(format, budget):
    model = nn.Sequential(*cnn()[3:9])
    limit = 0.5 * size(model) if budget == 0.5 else budget
    small, report = factorize(model, format, budget=budget, with_report=True)
    assert 0.85 * limit < size(small) <= limit
    assert (report.parameters_before, report.parameters_after) == (size(model), size(small))
    # Errors are alike but for the steps of ranks.
    errors = [row.error for row in report.rows]
    assert max(errors) < 2.5 * min(errors)


def test_budget_counts_a_shared_weight_once():
    model = branches()
    small = factorize(model, "matrix", budget=0.6)
    assert 0.4 * size(model) < size(small) <= 0.6 * size(model)


def test_drawn_anew_at_a_rank_or_budget():
    model = cnn()
    small, report = factorize(model, "ht", budget=0.4, start="random", seed=0, with_report=True)
    assert 0.3 * size(model) < size(small) <= 0.4 * size(model)
    assert all(row.error is None for row in report.rows)
    again = factorize(model, "ht", budget=0.4, start="random", seed=0)
    ranked = factorize(model, "ht", rank=3, start="random", seed=0)
    assert ranked[7].rank != small[7].rank
    assert not torch.equal(small[7].bias, model[7].bias)
    assert ranked[7].weight.std() < 3 / 64**0.5
    assert again[7].rank == small[7].rank
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2, bias=False, padding_mode="circular").double()
    drawn = factorize(conv, "tt", rank=2, start="random", seed=0)
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    conv.weight.data.copy_(drawn.weight.detach())
    torch.testing.assert_close(drawn(x), conv(x))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "nothing given; expected exactly one of rank, energy and budget"),
        ({"rank": 2, "budget": 0.5}, ValueError, "rank and budget given; expected exactly one"),
        ({"format": "svd", "rank": 2}, ValueError, "svd"),
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": 1.5}, ValueError, "rank is 1.5"),
        ({"rank": 10_000}, ValueError, "rank is 10000; its bound is"),
        ({"energy": 2.0}, ValueError, "energy is 2.0"),
        ({"energy": 0.5, "start": "random"}, ValueError, "energy is of trained weights"),
        ({"budget": 0.0}, ValueError, "budget is 0.0; expected a share"),
        ({"budget": 1.5}, ValueError, "budget is 1.5; expected a share"),
        ({"budget": 0}, ValueError, "budget is 0; expected at least 1"),
        ({"budget": "half"}, TypeError, "budget is 'half'; expected a share"),
        ({"budget": 10}, ValueError, r"budget is 10 parameters; the smallest that can be reached is \d+"),
        ({"rank": 2, "start": "other"}, ValueError, "start is 'other'"),
    ],
)
def test_bad_arguments_of_factorize(given, error, message):
    with pytest.raises(error, match=message):
        factorize(cnn(), **given)


@pytest.mark.parametrize("change", [overparameterize, lambda model: factorize(model, rank=2)])
def test_weights_that_are_not_finite_are_refused(change):
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"0 \(Linear\): .*finite|0 \(Linear\): .*NaN"):
        change(model)


# -- collapse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["ht", "tt", "tucker", "cp", "matrix"])
def test_collapsed_models_are_of_torch_alone(format):
    small = factorize(cnn(), format, rank=0.3, modules=["3", "7"])
    plain, report = collapse(small, with_report=True)
    assert all(type(m).__module__.startswith("torch.nn.") for m in plain.modules())
    torch.testing.assert_close(outputs(plain, images()), outputs(small, images()), rtol=1e-4, atol=1e-5)
    assert [row.name for row in report.rows] == ["3", "7"]
    assert report.parameters_after == size(plain)


def test_a_sequence_takes_the_place_of_a_low_rank_layer():
    plain = collapse(factorize(cnn(), "matrix", rank=2, modules=["7"]))
    assert [tuple(part.weight.shape) for part in plain[7]] == [(2, 64), (32, 2)]


def test_transformer_layers_get_whole_layers_as_they_read_the_weight():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    small = factorize(model, "matrix", rank=2)
    plain = collapse(small)
    assert (type(plain.linear1), type(plain.linear2)) == (nn.Linear, nn.Linear)
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(outputs(plain, x), outputs(small, x), rtol=1e-4, atol=1e-5)
