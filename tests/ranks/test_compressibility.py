"""How few parameters layers need: known ranks, the noise on data, and what is left alone."""

import pytest
import torch
from torch import nn

from htf.nn import FactorizedConv2d, FactorizedLinear
from htf.ranks import compressibility


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank, outs, ins, bias=True):
    layer = nn.Linear(ins, outs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(drawn(outs, rank) @ drawn(rank, ins, seed=1) / ins)
    return layer


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_matrix_of_known_rank_needs_its_factors(rank):
    found = compressibility(of_rank(rank, 30, 40), drawn(100, 40), noise=1e-4, formats="matrix", trials=14)
    assert found.layers[0].kept == {"matrix": rank * 70}
    assert found.others == 30
    assert found.effective_parameters == rank * 70 + 30
    assert found.layers[0].format == "matrix"


def test_data_decide_not_the_weight():
    """Directions in which there are no data cost nothing."""
    layer, x = nn.Linear(20, 16), drawn(50, 20)
    with torch.no_grad():
        layer.weight.copy_(drawn(16, 20, seed=2))
        layer.weight[:, 0] = 100 * drawn(16, seed=3)
    x[:, 1:] *= 1e-3
    found = compressibility(layer, x, noise=0.05, formats=["matrix"])
    assert found.effective_parameters == 36 + 16
    assert compressibility(layer, drawn(50, 20), noise=0.001, formats=["matrix"]).effective_parameters > 36 + 16


@pytest.mark.parametrize("format", ["matrix", "tucker", "tt", "ht", "cp"])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_layers_of_the_sizes_found_are_within_the_noise(format, noise):
    conv = nn.Conv2d(6, 8, 3, padding=1)
    x = drawn(4, 6, 7, 7)
    with torch.no_grad():
        conv.weight.copy_(sum(drawn(8, 6, 3, 3, seed=k) * 0.3**k for k in range(4)))
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), of_rank(4, 10, 8 * 49))
    found = compressibility(model, x, noise=noise, formats=[format], trials=8)
    inputs = {"0": x, "3": nn.Sequential(*list(model)[:3])(x).detach()}
    assert [layer.name for layer in found.layers] == ["0", "3"]
    for layer in found.layers:
        plain = model.get_submodule(layer.name)
        kind = FactorizedConv2d if layer.name == "0" else FactorizedLinear
        assert layer.kept[format] <= plain.weight.numel()
        if layer.format:
            smaller = kind.from_plain(plain, format, size=layer.kept[format])
            given = inputs[layer.name]
            without = (plain(given) - plain(torch.zeros_like(given[:1]))).detach().norm()
            assert float((smaller(given) - plain(given)).norm().detach()) <= 1.02 * noise * float(without)
    if format == "matrix":
        assert found.layers[1].kept[format] <= 4 * (10 + 8 * 49)


def test_more_noise_never_needs_more_parameters():
    layer, x = nn.Linear(24, 24), drawn(80, 24)
    sizes = [compressibility(layer, x, noise=noise).effective_parameters for noise in (0.01, 0.1, 0.3, 0.6, 0.9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 24 * 25
    assert sizes[-1] < 24 * 25 // 2


def test_the_model_is_as_it_was_and_other_layers_are_counted():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Dropout())
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = compressibility(model, drawn(3, 4, 6, 6))
    assert [layer.name for layer in found.layers] == ["2"]
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.others == found.parameters - 8
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert not model[2]._forward_pre_hooks
    text = str(found)
    assert "Conv2d" in text
    assert f"of {found.parameters:,} parameters at a noise of 0.1" in text


def test_norms_are_those_of_the_weights():
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    found = compressibility(model, drawn(9, 5), formats=["matrix"])
    norms = [float(torch.linalg.matrix_norm(model[k].weight.detach().double(), 2)) for k in (0, 2)]
    frobenius = [float(model[k].weight.detach().double().square().sum()) for k in (0, 2)]
    assert [layer.spectral_norm for layer in found.layers] == pytest.approx(norms)
    expected = (norms[0] * norms[1]) ** 2 * sum(f / n**2 for f, n in zip(frobenius, norms, strict=True))
    assert found.spectral_complexity == pytest.approx(expected)


def test_the_bound_is_that_of_a_finite_class():
    found = compressibility(of_rank(1, 6, 7, bias=False), drawn(20, 7), formats=["matrix"], noise=0.01)
    assert found.effective_parameters == 13
    # 2^(13 * 8) networks, failing with 5 % together.
    assert found.bound(10_000, bits=8) == pytest.approx(
        ((104 * 0.6931471805599453 + 2.995732273553991) / 20_000) ** 0.5
    )
    assert found.bound(100) > found.bound(10_000) > found.bound(10_000, bits=8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": 0.0}, ValueError, "noise is 0.0; expected above 0 and below 1"),
        ({"noise": float("nan")}, ValueError, "noise is nan"),
        ({"noise": 1.5}, ValueError, "noise is 1.5"),
        ({"formats": []}, ValueError, r"formats is \[\]"),
        ({"formats": ["svd"]}, ValueError, r"formats is \['svd'\]; expected some of matrix"),
        ({"formats": ["ht", "ht"]}, ValueError, "each once"),
        ({"trials": 0}, ValueError, "trials is 0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        compressibility(nn.Linear(3, 3), drawn(4, 3), **arguments)


def test_models_that_cannot_be_compressed():
    with pytest.raises(ValueError, match="no linear layer"):
        compressibility(nn.ReLU(), drawn(4, 3))
    with pytest.raises(TypeError, match="model is a function"):
        compressibility(drawn, drawn(4, 3))
    with pytest.raises(ValueError, match="layer 1 gets inputs that are NaN"):
        compressibility(nn.Sequential(nn.Threshold(0.0, float("nan")), nn.Linear(3, 3)), drawn(4, 3))
    model = nn.Linear(3, 3)
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="infinite"):
        compressibility(model, drawn(4, 3))
