"""How far a unit of a convolutional network sees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

_LARGEST = 2048
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_LEFT_OUT = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Dropout2d)


@torch.enable_grad()
def receptive_field(
    model: nn.Module, *, channels: int | None = None, features: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> tuple[int, int]:
    """Height and width in pixels of the part of the image that a unit of the last feature map sees.

    Parameters
    ----------
    model : nn.Module
        A convolutional network of any connections: chains, residual and parallel branches.
    channels : int, optional
        Of the images; by default those of the first convolution.
    features : callable, optional
        From (model, images) to the feature map (n, channels, height, width); by default what the last adaptive pooling
        takes, which is the mean over the image in most networks.

    Returns
    -------
    (int, int)
        Differences between pixels further apart are seen by no unit: only by what combines several.

    Raises
    ------
    ValueError
        If there is no convolution or adaptive pooling to tell by, for a feature map of another shape, or if a unit sees
        all of an image of 2,048 pixels.

    See Also
    --------
    htf.nn.small_resnet, htf.nn.ResNet : networks of various fields.
    htf.ranks.separation_profile : how much of its field a network uses.

    Notes
    -----
    On a copy of the model, convolutions and maxima (modules, not functions) are replaced by means and normalizations
    left out; then the gradient of a unit in the middle is positive exactly where the unit sees.  The image is doubled
    until the field ends inside.

    Examples
    --------
    >>> from htf.nn import receptive_field, small_resnet
    >>> receptive_field(small_resnet())
    (79, 79)
    """
    positive, taken = _positive_copy(model)
    channels = taken if channels is None else channels
    size = 64
    while size <= _LARGEST:
        with _recorded(positive) as maps:
            image = torch.ones(1, channels, size, size, dtype=torch.float64, device="cpu", requires_grad=True)
            try:
                given = positive(image) if features is None else features(positive, image)
            except RuntimeError as error:
                # Too small an image for kernels without padding; or a model that takes no such images at all.
                if size == _LARGEST:
                    raise ValueError(f"model does not take images of {channels} × {size} × {size} ({error})") from error
                size *= 2
                continue
            found = given if features is not None else _last(maps)
        if found.ndim != 4 or not found.requires_grad:
            raise ValueError(f"features have shape {tuple(found.shape)}; expected (n, channels, height, width)")
        height, width = found.shape[2] // 2, found.shape[3] // 2
        (gradient,) = torch.autograd.grad(found[0, :, height, width].sum(), image)
        seen = gradient[0].sum(0) != 0
        spans = [seen.any(axis).nonzero().flatten() for axis in (1, 0)]
        if all(len(span) and span[0] > 0 and span[-1] < size - 1 for span in spans):
            return tuple(int(span[-1] - span[0]) + 1 for span in spans)  # type: ignore[return-value]
        size *= 2
    raise ValueError(f"model has units that see all of an image of {_LARGEST} pixels")


def _positive_copy(model: nn.Module) -> tuple[nn.Module, int]:
    """The copy, and the channels that its first convolution takes."""
    copied = nn.ModuleList([copy.deepcopy(model).double().cpu().eval()])
    channels = next((module.in_channels for module in copied.modules() if isinstance(module, nn.Conv2d)), None)
    if channels is None:
        raise ValueError(f"model is a {type(model).__name__} without a 2-D convolution; it has no receptive field")
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d | nn.MaxPool2d):
                setattr(module, name, _Mean(child))
            elif isinstance(child, _LEFT_OUT):
                setattr(module, name, nn.Identity())
    return copied[0], channels


class _Mean(nn.Module):
    """In place of a convolution or maximum: the mean over all that it sees.

    Its kernel is the same for all channels of a group, so one channel of each is enough to compute.
    """

    def __init__(self, layer: nn.Conv2d | nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        groups, copies = (
            (layer.groups, layer.out_channels // layer.groups) if isinstance(layer, nn.Conv2d) else (x.shape[1], 1)
        )
        height, width = _pair(layer.kernel_size)
        kernel = x.new_full((groups, 1, height, width), 1 / (height * width))
        means = x.unflatten(1, (groups, -1)).mean(2)
        seen = conv2d(means, kernel, None, layer.stride, layer.padding, layer.dilation, groups)
        return seen.repeat_interleave(copies, 1)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    maps: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
        for module in model.modules()
        if isinstance(module, _POOLS)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _last(maps: list[Tensor]) -> Tensor:
    if not maps:
        raise ValueError("model has no adaptive pooling to tell the last feature map by; expected features")
    return maps[-1]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
