"""Arguments of over-parameterized layers that cannot be."""

import pytest
import torch

from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamLinear


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"depth": 0}, ValueError, "depth is 0; expected at least 1"),
        ({"depth": True}, TypeError, "depth is True; expected an integer"),
        ({"depth": 1.5}, TypeError, "depth is 1.5; expected an integer"),
        ({"width": 0}, ValueError, "width is 0; expected at least 1"),
        ({"width": (2, 2)}, ValueError, "width has 2 entries; depth 2 has 1 hidden layers"),
        ({"width": ("a",)}, TypeError, r"width\[0\] is 'a'; expected an integer"),
        ({"residual": 0}, ValueError, "residual is 0; expected at least 1"),
        ({"residual": (1, 3)}, ValueError, r"residual\[1\] is 3; expected from 1 to the depth, 2, or -1"),
        ({"residual": True}, TypeError, "residual is True; expected an integer"),
        ({"residual": -1}, ValueError, r"residual 2 connects 6 channels \(state 0\) with 4 \(state 2\)"),
        ({"seed": -1}, ValueError, "seed is -1; expected 0 or more"),
        ({"seed": 0.5}, TypeError, "seed is 0.5; expected an integer"),
        ({"dtype": torch.complex64}, TypeError, "dtype is torch.complex64; expected real floating point numbers"),
        ({"in_features": 0}, ValueError, "in_features is 0; expected at least 1"),
        ({"out_features": False}, TypeError, "out_features is False; expected an integer"),
    ],
)
def test_linear(options, error, message):
    with pytest.raises(error, match=message):
        OverparamLinear(**{"in_features": 6, "out_features": 4, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels is 0"),
        ({"out_channels": "4"}, TypeError, "out_channels is '4'"),
        ({"kernel_size": (3, 3, 3)}, ValueError, "kernel_size has 3 entries; expected 2, one per dimension"),
        ({"kernel_size": 0}, ValueError, "kernel_size is 0; expected at least 1"),
        ({"stride": (1, 0)}, ValueError, r"stride\[1\] is 0; expected at least 1"),
        ({"dilation": 0}, ValueError, "dilation is 0; expected at least 1"),
        ({"groups": 0}, ValueError, "groups is 0; expected at least 1"),
        ({"groups": 4}, ValueError, "in_channels is 6; expected a multiple of groups = 4"),
        ({"groups": 3}, ValueError, "out_channels is 4; expected a multiple of groups = 3"),
        ({"groups": 2, "width": 3}, ValueError, "width is 3; expected a multiple of groups = 2"),
        ({"groups": 2, "width": [3]}, ValueError, r"width\[0\] is 3; expected a multiple of groups = 2"),
        ({"padding": -1}, ValueError, "padding is -1; expected 0 or more"),
        ({"padding": "full"}, ValueError, "padding is 'full'; expected numbers"),
        ({"padding": "same", "stride": 2}, ValueError, 'padding is "same", which a stride of'),
        ({"padding_mode": "mirror"}, ValueError, "padding_mode is 'mirror'; expected one of zeros"),
        ({"kernel_sizes": (3, 3)}, ValueError, r"kernel_sizes compose to \(5, 5\); expected kernel_size = \(3, 3\)"),
        ({"kernel_sizes": (3,)}, ValueError, "kernel_sizes has 1 entries; expected 2, the depth"),
        ({"kernel_sizes": 3}, TypeError, "kernel_sizes is 3; expected one size per factor"),
        ({"kernel_sizes": ((3, 3), 0)}, ValueError, r"kernel_sizes\[1\] is 0; expected at least 1"),
        ({"in_channels": 4, "kernel_size": 4, "residual": -1}, ValueError, r"spans a kernel of \(4, 4\).*odd sizes"),
        ({"residual": 1}, ValueError, r"residual 1 connects 6 channels \(state 0\) with 4 \(state 1\)"),
    ],
)
def test_convolutions(options, error, message):
    with pytest.raises(error, match=message):
        OverparamConv2d(**{"in_channels": 6, "out_channels": 4, "kernel_size": 3, **options})


def test_a_kernel_without_a_centre_may_lie_outside_the_residual_block():
    OverparamConv1d(4, 4, 2, depth=3, kernel_sizes=(1, 1, 2), residual=2)
