"""Random over-parameterized layers and inputs for them."""

import torch
from hypothesis import strategies as st

from htf.nn.layers.overparam import OverparamConv1d, OverparamConv2d, OverparamConv3d, OverparamLinear

CONVOLUTIONS = {1: OverparamConv1d, 2: OverparamConv2d, 3: OverparamConv3d}


@st.composite
def layers(draw, batch_norm=None, single_kernel=False, dtype=torch.float64):
    """A layer and a batch of inputs; the seed of both is drawn."""
    depth, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    options = {"bias": draw(st.booleans()), "depth": depth, "seed": seed, "dtype": dtype}
    options["batch_norm"] = draw(st.booleans()) if batch_norm is None else batch_norm
    generator = torch.Generator().manual_seed(seed)
    skips = draw(st.booleans())
    if skips:
        options["residual"] = draw(st.lists(st.integers(1, depth) | st.just(-1), min_size=1, max_size=3))
    dims = draw(st.integers(0, 3))
    groups = draw(st.integers(1, 2)) if dims else 1
    count = st.integers(1, 3).map(lambda n: n * groups)
    before = draw(count)
    after, width = (before, before) if skips else (draw(count), draw(st.none() | count))
    if not dims:
        layer = OverparamLinear(before, after, width=width, **options)
        shape = draw(st.sampled_from([(4,), (3, 2)]))
        return layer, torch.randn(*shape, before, dtype=dtype, generator=generator)
    sizes = st.sampled_from([1, 3]) if skips else st.integers(1, 3)
    most = 1 if single_kernel else depth
    larger = draw(st.sets(st.integers(0, depth - 1), max_size=most))
    kernels = [[draw(sizes) if k in larger else 1 for _ in range(dims)] for k in range(depth)]
    kernel = [1 + sum(size - 1 for size in axis) for axis in zip(*kernels, strict=True)]
    dilation = draw(st.integers(1, 2))
    padding = draw(st.sampled_from(["valid", "same", 0, 1, 2]))
    stride = 1 if padding == "same" else [draw(st.integers(1, 3)) for _ in range(dims)]
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    layer = CONVOLUTIONS[dims](
        before, after, kernel, stride, padding, dilation, groups, padding_mode=mode, width=width,
        kernel_sizes=kernels, **options,
    )  # fmt: skip
    lengths = [dilation * (size - 1) + 3 for size in kernel]
    return layer, torch.randn(2, before, *lengths, dtype=dtype, generator=generator)


def shaken(layer, seed=0):
    """The layer, with statistics and parameters of batch normalization as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for norm in layer.norms or ():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(norm, name)
            drawn = torch.rand(value.shape, dtype=value.dtype, generator=generator)
            value.data = drawn + 0.5 if name in ("weight", "running_var") else drawn - 0.5
    return layer


def plain_twin(layer):
    """The layer of torch with the same arguments and its own initialization."""
    names = ["in_features", "out_features"]
    if hasattr(layer, "dims"):
        names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
    options = {name: getattr(layer, name) for name in names}
    if hasattr(layer, "dims"):
        options["padding_mode"] = layer.padding_mode
    kind = layer.plain_type if hasattr(layer, "dims") else torch.nn.Linear
    return kind(**options, bias=layer.bias is not None, dtype=layer.factors[0].dtype)
