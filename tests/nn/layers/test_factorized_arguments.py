"""Factorized layers: what does not fit."""

import pytest
import torch
from torch import nn

from htf.nn.layers.factorized import (
    FactorizedConv1d,
    FactorizedConv2d,
    FactorizedConv3d,
    FactorizedConvTranspose2d,
    FactorizedLinear,
)
from htf.nn.layers.factorized.choice import NAMES


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
        ((4, 4, 3), {"groups": 3}, ValueError, "in_channels is 4; expected a multiple of groups = 3"),
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


@pytest.mark.parametrize("kind", [FactorizedConv1d, FactorizedConv3d, FactorizedConvTranspose2d])
def test_convolutions_of_all_kinds_name_the_argument(kind):
    axes = kind._axes
    for arguments, options, error, message in (
        ((0, 4, 3), {}, ValueError, "in_channels is 0"),
        ((4, 2.5, 3), {}, TypeError, "out_channels is 2.5"),
        ((4, 6, 3), {"groups": 4}, ValueError, "out_channels is 6; expected a multiple of groups = 4"),
        ((4, 4, (3,) * (axes + 1)), {}, ValueError, r"kernel_size is \(3, .*\); expected one integer"),
        ((4, 4, 3, 0), {}, ValueError, "stride is 0"),
        ((4, 4, 3), {"dilation": (1,) * (axes - 1) + (0,)}, ValueError, rf"dilation\[{axes - 1}\] is 0"),
        ((4, 4, 3), {"padding": -1}, ValueError, "padding is -1; expected 0 or more"),
        ((4, 4, 3), {"padding_mode": "wrap"}, ValueError, "padding.mode"),
        ((4, 4), {}, TypeError, "kernel_size"),
        ((4, 4, 3), {"width": 3}, TypeError, "width"),
    ):
        with pytest.raises(error, match=message):
            kind(*arguments, **options)
    assert kind(4, 6, [3] * axes, rank=2).kernel_size == (3,) * axes


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
