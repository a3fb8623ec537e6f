"""Residual networks for images: ResNet-18, and a small one for experiments on a few cores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils import skip_init

from htf._checks import check_seed, positive
from htf._random import rand, randn


@dataclass(frozen=True)
class Stem:
    """First layers of a residual network: a convolution, batch normalization, ReLU and perhaps a pooling.

    Attributes
    ----------
    width : int
        Channels.
    kernel, stride : int
        Of the convolution, padded to keep the size at stride 1.
    pool : bool
        Whether a 3×3 maximum at stride 2 follows.

    See Also
    --------
    htf.nn.ResNet : takes it.

    Examples
    --------
    >>> import htf
    >>> stem = htf.nn.Stem(width=16, kernel=3, stride=1, pool=False)  # for small images
    >>> htf.nn.receptive_field(htf.nn.ResNet([16, 32], [1, 1], stem=stem))
    (13, 13)
    """

    width: int = 64
    kernel: int = 7
    stride: int = 2
    pool: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "kernel", "stride"):
            positive(f"stem.{name}", getattr(self, name))
        _check_odd("stem.kernel", self.kernel)


class BasicBlock(nn.Module):
    """Two convolutions with batch normalization, added to their input (He et al. 2016, figure 2).

    Parameters
    ----------
    before, width : int
        Channels that come in, and those that go out.
    stride : int
        Of the first convolution; where it or the channels change, the input passes through a 1×1 convolution.
    kernel : int
        Odd.
    """

    def __init__(self, before: int, width: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, kernel, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(_conv(before, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, width, ⌈h / stride⌉, ⌈w / stride⌉)."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Residual network: a stem, stages of basic blocks, the mean over the image, one linear layer.

    Parameters
    ----------
    widths : sequence of int
        Channels of each stage.
    blocks : sequence of int
        Blocks of each stage.
    channels : int
        Of the images.
    outputs : int
        1 for a logit of two classes.
    stem : Stem
    strides : sequence of int, optional
        Of each stage's first block; 1 for the first stage and 2 for the others.
    kernel : int
        Of the blocks, odd.
    dropout : float
        Probability before the linear layer.
    seed : int or torch.Generator
        Of the initialization: He et al. 2015 for convolutions, fan out; uniform within ±1/√features for the linear
        layer.

    Raises
    ------
    ValueError, TypeError
        For counts below 1, an even kernel, sequences of different lengths, or a probability outside [0, 1).

    See Also
    --------
    htf.nn.resnet18, htf.nn.small_resnet : two of them.
    htf.nn.Stem : first layers.
    htf.nn.receptive_field : how far its units see.

    Notes
    -----
    Names and shapes of parameters and buffers are those of torchvision's ResNets, so that a ``state_dict`` of one
    with the same stages can be loaded.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016.
    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.ResNet(widths=[16, 32], blocks=[1, 1], channels=1, outputs=10, seed=0)
    >>> x = torch.ones(5, 1, 32, 32)
    >>> net(x).shape, net.features(x).shape
    (torch.Size([5, 10]), torch.Size([5, 32, 4, 4]))
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        channels: int = 1,
        outputs: int = 1,
        *,
        stem: Stem | None = None,
        strides: Sequence[int] | None = None,
        kernel: int = 3,
        dropout: float = 0.0,
        seed: int | Generator = 0,
    ) -> None:
        super().__init__()
        stem = stem or Stem()
        widths = [positive(f"widths[{k}]", width) for k, width in enumerate(widths)]
        if not widths:
            raise ValueError("widths is empty; expected the channels of at least one stage")
        strides = [1] + [2] * (len(widths) - 1) if strides is None else strides
        for name, each in (("blocks", blocks), ("strides", strides)):
            if len(each) != len(widths):
                raise ValueError(f"{name} has {len(each)} entries; widths has {len(widths)}")
            for k, count in enumerate(each):
                positive(f"{name}[{k}]", count)
        _check_odd("kernel", positive("kernel", kernel))
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected from 0 to below 1")
        self.channels, self.outputs = positive("channels", channels), positive("outputs", outputs)
        self.conv1 = _conv(channels, stem.width, stem.kernel, stem.stride)
        self.bn1 = nn.BatchNorm2d(stem.width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem.pool else nn.Identity()
        self.stages = len(widths)
        before = stem.width
        for number, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
            first = BasicBlock(before, width, stride, kernel)
            rest = [BasicBlock(width, width, 1, kernel) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = skip_init(nn.Linear, before, outputs, device=torch.get_default_device())
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | Generator = 0) -> None:
        """Start again from a seed."""
        generator = seed if isinstance(seed, Generator) else Generator().manual_seed(check_seed(seed))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                _fill(module.weight, randn, generator).mul_(math.sqrt(2 / fan_out))
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                for parameter in (module.weight, module.bias):
                    _fill(parameter, rand, generator).mul_(2).sub_(1).div_(math.sqrt(module.in_features))

    def features(self, x: Tensor) -> Tensor:
        """Features before they are averaged over the image: (n, channels, h, w) to (n, widths[-1], h', w')."""
        x = self.maxpool(relu(self.bn1(self.conv1(x))))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, outputs) of images (n, channels, h, w)."""
        return self.fc(self.dropout(self.avgpool(self.features(x)).flatten(1)))


def resnet18(channels: int = 3, outputs: int = 1, *, dropout: float = 0.0, seed: int | Generator = 0) -> ResNet:
    """ResNet-18: a 7×7 stem and eight blocks of 64 to 512 channels; its receptive field is 435 pixels.

    Parameters
    ----------
    channels, outputs, dropout, seed
        See `ResNet`.

    Returns
    -------
    ResNet
        11,176,512 parameters for three channels, and 513 per output.

    See Also
    --------
    htf.nn.small_resnet : for a few cores.
    htf.nn.ResNet : other sizes.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.resnet18(channels=3, outputs=10, seed=0)
    >>> sum(p.numel() for p in net.parameters())
    11181642
    """
    return ResNet((64, 128, 256, 512), (2, 2, 2, 2), channels, outputs, dropout=dropout, seed=seed)


def small_resnet(
    channels: int = 1,
    outputs: int = 1,
    *,
    strides: Sequence[int] = (2, 1, 2, 2, 1),
    dropout: float = 0.0,
    seed: int | Generator = 0,
) -> ResNet:
    """A residual network for images of about 48×48 on a few cores: channels 16-16-32-64-64.

    The receptive field is 79 pixels by default.

    Parameters
    ----------
    channels, outputs, dropout, seed
        See `ResNet`.
    strides : sequence of int
        Of the stem and of the four blocks.  Where it is 2, the resolution is halved, and what follows costs a quarter
        and sees twice as far: (2, 1, 2, 1, 1) has a receptive field of 55 pixels, (1, 2, 2, 2, 1) one of 77.

    Returns
    -------
    ResNet
        151,153 parameters for one channel, one output and the default strides.

    See Also
    --------
    htf.nn.resnet18 : the papers' network.
    htf.nn.receptive_field : how far its units see.

    Examples
    --------
    >>> import torch, htf
    >>> net = htf.nn.small_resnet(outputs=2, seed=0)
    >>> net(torch.ones(4, 1, 48, 48)).shape
    torch.Size([4, 2])
    >>> htf.nn.receptive_field(htf.nn.small_resnet(strides=(2, 1, 2, 1, 1)))
    (55, 55)
    """
    if len(strides) != 5:
        raise ValueError(f"strides has {len(strides)} entries; expected 5, of the stem and four blocks")
    stem, *blocks = strides
    return ResNet(
        (16, 32, 64, 64),
        (1, 1, 1, 1),
        channels,
        outputs,
        stem=Stem(16, kernel=3, stride=stem, pool=False),
        strides=blocks,
        dropout=dropout,
        seed=seed,
    )


def _conv(before: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # Without torch's own initialization, which draws from the global generator; on torch's default device, which
    # `skip_init` does not look at.
    places = {"stride": stride, "padding": kernel // 2, "bias": False, "device": torch.get_default_device()}
    return skip_init(nn.Conv2d, before, width, kernel, **places)


def _check_odd(name: str, kernel: int) -> None:
    if kernel % 2 == 0:
        raise ValueError(f"{name} is {kernel}; expected an odd number")


def _fill(parameter: Tensor, draw: Callable[..., Tensor], generator: Generator) -> Tensor:
    """Fill a parameter with draws in float32, the same on every device and in every dtype."""
    return parameter.copy_(draw(parameter.shape, generator, torch.float32))
