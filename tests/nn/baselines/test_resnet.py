"""Residual networks against torchvision's description of them, and receptive fields against arithmetic."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from htf.nn import ResNet, Stem, receptive_field, resnet18, small_resnet


def tiny(**settings):
    return ResNet((4, 6), (1, 2), 2, 3, stem=Stem(5, kernel=3, stride=1, pool=False), **settings)


def test_resnet18_has_the_parameters_of_torchvisions_by_name_and_shape():
    expected = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (7, 512), "fc.bias": (7,)}

    def normalization(name, width):
        return {f"{name}.{part}": (width,) for part in ("weight", "bias")}

    expected |= normalization("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            prefix = f"layer{stage}.{block}"
            taken = before if block == 0 else width
            expected[f"{prefix}.conv1.weight"] = (width, taken, 3, 3)
            expected[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
            expected |= normalization(f"{prefix}.bn1", width) | normalization(f"{prefix}.bn2", width)
            if taken != width:
                expected[f"{prefix}.downsample.0.weight"] = (width, taken, 1, 1)
                expected |= normalization(f"{prefix}.downsample.1", width)
        before = width
    net = resnet18(outputs=7)
    assert {name: tuple(p.shape) for name, p in net.named_parameters()} == expected
    assert sum(p.numel() for p in net.parameters()) == 11_176_512 + 7 * 513
    buffers = {name.rsplit(".", 1)[1] for name in set(net.state_dict()) - set(expected)}
    assert buffers == {"running_mean", "running_var", "num_batches_tracked"}


def test_outputs_are_those_of_the_layers_written_out():
    net = tiny().double().eval()
    state = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in net.state_dict().items()}
    state = {name: t.abs() + 0.5 if name.endswith("running_var") else t for name, t in state.items()}
    net.load_state_dict(state)
    x = torch.randn(3, 2, 9, 7, dtype=torch.float64)

    def convolve(x, name, stride=1):
        kernel = state[f"{name}.weight"]
        return nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalize(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def block(x, name, stride=1):
        y = normalize(convolve(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
        y = normalize(convolve(y, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            x = normalize(convolve(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (x + y).clamp(min=0)

    y = normalize(convolve(x, "conv1"), "bn1").clamp(min=0)
    y = block(block(block(y, "layer1.0"), "layer2.0", 2), "layer2.1")
    torch.testing.assert_close(net.features(x), y)
    torch.testing.assert_close(net(x), y.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"])


def test_a_seed_decides_the_start_and_nothing_global_is_drawn():
    before = torch.get_rng_state()
    nets = [tiny(seed=1), tiny(seed=np.int64(1)), tiny(seed=2), tiny(seed=torch.Generator().manual_seed(1))]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other, generated = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in nets)
    assert torch.equal(first, again)
    assert torch.equal(first, generated)
    assert not torch.equal(first, other)
    with pytest.raises(TypeError, match=r"seed is 0\.5; expected an integer"):
        tiny(seed=0.5)


def test_the_start_is_he_normal_and_zero_mean():
    net = resnet18(1, seed=3)
    for kernel in (net.layer4[1].conv2.weight, net.layer2[0].downsample[0].weight):
        fan_out = kernel.shape[0] * kernel.shape[2] * kernel.shape[3]
        assert float(kernel.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
        assert float(kernel.detach().mean().abs()) < 4 * math.sqrt(2 / fan_out / kernel.numel())
    assert float(net.fc.weight.detach().abs().max()) <= 512**-0.5
    assert float(net.fc.weight.detach().std()) == pytest.approx(512**-0.5 / math.sqrt(3), rel=0.1)
    assert all(bool((m.weight == 1).all()) for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_reset_parameters_starts_again():
    net, fresh = tiny(seed=5), tiny(seed=5)
    net(torch.rand(4, 2, 8, 8)).sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    net.reset_parameters(5)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values(), strict=True))


def test_dropout_acts_in_training_only():
    net = tiny(dropout=0.5)
    x = torch.rand(4, 2, 8, 8)
    net.eval()
    assert torch.equal(net(x), net(x))
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize(("height", "width"), [(48, 48), (16, 64), (9, 5)])
def test_images_of_any_size_and_second_derivatives(height, width):
    net = small_resnet(1, 2)
    x = torch.rand(2, 1, height, width, requires_grad=True)
    out = net(x)
    assert out.shape == (2, 2)
    (gradient,) = torch.autograd.grad(out[:, 0].sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters() if p is not net.fc.bias)


# -- receptive fields -----------------------------------------------------------------------------------


def by_arithmetic(kernels_and_strides):
    field, jump = 1, 1
    for kernel, stride in kernels_and_strides:
        field += (kernel - 1) * jump
        jump *= stride
    return field


def test_receptive_fields_of_the_networks():
    for strides, expected in (((2, 1, 2, 2, 1), 79), ((1, 2, 2, 2, 1), 77), ((2, 1, 2, 1, 1), 55)):
        layers = [(3, strides[0])] + [layer for stride in strides[1:] for layer in ((3, stride), (3, 1))]
        net = small_resnet(strides=strides)
        assert receptive_field(net) == (by_arithmetic(layers),) * 2 == (expected,) * 2
    assert sum(p.numel() for p in small_resnet().parameters()) == 151_153
    with torch.no_grad():
        assert receptive_field(small_resnet().requires_grad_(False)) == (79, 79)
    with pytest.raises(ValueError, match="strides has 2 entries; expected 5"):
        small_resnet(strides=(2, 1))
    stem = [(7, 2), (3, 2)]
    blocks = [(3, 1)] * 4 + [(3, 2), (3, 1), (3, 1), (3, 1)] * 3
    assert receptive_field(resnet18(1)) == (by_arithmetic(stem + blocks),) * 2 == (435, 435)


def test_receptive_fields_of_other_kernels():
    chain = nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), stride=(1, 2)),
        nn.ReLU(),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d((2, 3), stride=2, dilation=(3, 1)),
        nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding="same"),
        nn.AdaptiveAvgPool2d(1),
    )
    heights = by_arithmetic([(3, 1), (4, 2), (5, 1)])
    widths = by_arithmetic([(5, 2), (3, 2), (5, 1)])
    assert receptive_field(chain) == (heights, widths) == (14, 25)


def test_the_widest_of_parallel_branches_counts():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 9, padding=4)

        def forward(self, x):
            return torch.cat([self.narrow(x), self.wide(x)], 1)

    assert receptive_field(Branches(), features=lambda model, x: model(x)) == (9, 9)


def test_the_model_is_left_as_it_was():
    net = small_resnet().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    receptive_field(net)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert isinstance(net.bn1, nn.BatchNorm2d)


# -- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ResNet((), ()), ValueError, "widths is empty"),
        (lambda: ResNet((4, 0), (1, 1)), ValueError, r"widths\[1\] is 0; expected at least 1"),
        (lambda: ResNet((4, 8), (1,)), ValueError, "blocks has 1 entries; widths has 2"),
        (lambda: ResNet((4, 8), (1, 1), strides=(1,)), ValueError, "strides has 1 entries; widths has 2"),
        (lambda: ResNet((4,), (1.5,)), TypeError, r"blocks\[0\] is 1.5; expected an integer"),
        (lambda: ResNet((4,), (1,), kernel=2), ValueError, "kernel is 2; expected an odd number"),
        (lambda: Stem(kernel=4), ValueError, "stem.kernel is 4; expected an odd number"),
        (lambda: Stem(width=0), ValueError, "stem.width is 0; expected at least 1"),
        (lambda: small_resnet(0), ValueError, "channels is 0; expected at least 1"),
        (lambda: small_resnet(1, 0), ValueError, "outputs is 0; expected at least 1"),
        (lambda: small_resnet(dropout=1.0), ValueError, "dropout is 1.0; expected from 0 to below 1"),
        (lambda: receptive_field(nn.Linear(3, 3)), ValueError, "Linear without a 2-D convolution"),
        (lambda: receptive_field(nn.Conv2d(1, 1, 3)), ValueError, "no adaptive pooling to tell .* expected features"),
        (
            lambda: receptive_field(small_resnet(), features=lambda model, x: model(x)),
            ValueError,
            r"features have shape \(1, 1\); expected \(n, channels, height, width\)",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1)), "all of an image"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(3, 1)), "does not take images of 1 × 128 × 128"),
    ],
)
def test_networks_without_a_local_feature_map(net, message, monkeypatch):
    monkeypatch.setattr("htf.nn.baselines.receptive._LARGEST", 128)
    with pytest.raises(ValueError, match=message):
        receptive_field(net)
