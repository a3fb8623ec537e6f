"""What all regularizers of image models have in common: weight, interval, state, and patches drawn call by call."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from htf._checks import check_seed, finite, positive
from htf._outputs import scores
from htf._random import seeded
from htf.linalg.backend import check_tensor
from htf.patches.sampling import Patch, PatchSampler, check_patches

Model = Callable[[Tensor], Tensor]


class ImageRegularizer(ABC):
    """A term of a loss that compares what a model makes of images some of whose pixels are exchanged.

    Parameters
    ----------
    weight : float
        Factor of the term; 0 computes nothing.
    seed : int
        Of all that is drawn.  What is drawn at a call depends on the seed and on how many calls came before, and on
        nothing else.
    interval : int
        Every `interval`-th call computes, beginning with the first, at `interval` times the weight; the others give 0.

    Attributes
    ----------
    calls : int
        How many there were.
    """

    def __init__(self, weight: float, seed: int, interval: int) -> None:
        self.weight = finite("weight", weight)
        self.seed = check_seed(seed)
        self.interval = positive("interval", interval)
        self.calls = 0
        self._last: Tensor | None = None

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """What is to be added to the loss.

        Parameters
        ----------
        model : nn.Module
            From images to (n,), (n, 1) or (n, classes) outputs.  It is called as it is, through hooks and wrappers.
        x : Tensor, (n, channels, height, width)
            A batch of images.
        y : Tensor, (n,), optional
            Their classes; needed for models of several outputs.
        out : Tensor, optional
            The model's outputs for `x`.

        Returns
        -------
        Tensor
            0-dimensional, in single precision at least.

        Raises
        ------
        ValueError
            For a batch of one sample, shapes that do not fit, and patches that overlap or leave the image.
        TypeError
            For images that are not of a floating type, or classes that are, or are no tensor.
        RuntimeError
            If nothing can be learned: gradients are switched off, here or within the model, or all parameters frozen.
        """
        _check_batch(x, y)
        turn = self.calls
        self.calls += 1
        if turn % self.interval or not self.weight:
            return torch.zeros((), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        check_learning(model)
        if out is not None:
            scores(out, y, len(x))
        value = self._value(model, x, y, out, seeded(self.seed, turn))
        self._last = value.detach()
        return self.weight * self.interval * value

    @abstractmethod
    def _value(self, model: Model, x: Tensor, y: Tensor | None, out: Tensor | None, generator: Generator) -> Tensor:
        """The term without its weight."""

    def _looks(self, values: Tensor) -> bool:
        """Whether this call may look at values to warn of them: on a GPU, which makes the host wait, less and less."""
        turn = self.calls - 1
        return values.device.type == "cpu" or not turn & (turn - 1)  # calls 0, 1, 2, 4, 8, ...

    @property
    def last(self) -> float | None:
        """The term without its weight, as last computed."""
        return None if self._last is None else float(self._last)

    def state(self) -> dict[str, Any]:
        """All that changes from call to call, as JSON can hold it."""
        return {"calls": self.calls}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on as if the calls of `state` had been made.

        Raises
        ------
        ValueError
            If `state` is not what the method of that name gives.
        """
        calls = state.get("calls") if isinstance(state, dict) else None
        if isinstance(calls, bool) or not isinstance(calls, int) or calls < 0:
            raise ValueError(f"state is {state!r}; expected a number of calls, as state() gives it")
        self.calls = calls

    def _settings(self) -> dict[str, Any]:
        """Arguments beyond those of all regularizers."""
        return {}

    def __repr__(self) -> str:
        settings = {"weight": self.weight, "seed": self.seed, "interval": self.interval, **self._settings()}
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in settings.items())})"


class PatchRegularizer(ImageRegularizer):
    """A term that looks at two patches, which a sampler gives at each call.

    Parameters
    ----------
    patches : PatchSampler
    weight, seed, interval
        As for any other.
    """

    def __init__(self, patches: PatchSampler, weight: float, seed: int, interval: int) -> None:
        super().__init__(weight, seed, interval)
        if not callable(patches):
            raise TypeError(f"patches is a {type(patches).__name__}; expected a sampler, such as random_patches(2)")
        self.patches = patches

    def _draw(self, x: Tensor, generator: Generator) -> tuple[Patch, Patch]:
        height, width = x.shape[-2:]
        return check_patches(self.patches(height, width, generator), height, width)

    def _settings(self) -> dict[str, Any]:
        # An address in memory would differ from run to run.
        plain = " at 0x" in repr(self.patches)
        named = getattr(self.patches, "__qualname__", type(self.patches).__qualname__)
        return {"patches": named if plain else self.patches}


def learnable_scores(model: Model, x: Tensor, y: Tensor | None) -> Tensor:
    """The model's `scores` of images, or an error if no gradient can go back through them."""
    values = scores(model(x), y, len(x))
    if not values.requires_grad:
        raise RuntimeError(
            "the model's outputs carry no gradient, as under torch.no_grad() or after detach(): a regularizer could "
            "not act on it"
        )
    return values


@contextmanager
def running_statistics_kept(model: Model) -> Iterator[None]:
    """Keep the running statistics of batch and instance normalization as they are, whatever the model is called with.

    Images put together from others are no samples of what the model will be evaluated on.  What a model computes again
    in the backward pass, by activation checkpointing, is out of reach here and does change them.
    """
    layers = [
        layer
        for layer in (model.modules() if isinstance(model, nn.Module) else ())
        if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats
    ]
    # In training such layers take the batch's statistics either way.  Writing the old statistics back afterwards would
    # count as a change to what the backward pass needs, so the layers write into copies that nobody keeps.
    before = [{name: getattr(layer, name) for name in _STATISTICS} for layer in layers]
    try:
        for layer, statistics in zip(layers, before, strict=True):
            _set(layer, {name: None if value is None else value.clone() for name, value in statistics.items()})
        yield
    finally:
        for layer, statistics in zip(layers, before, strict=True):
            _set(layer, statistics)


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _set(layer: nn.Module, buffers: dict[str, Tensor | None]) -> None:
    for name, value in buffers.items():
        setattr(layer, name, value)


def warn_of_no_effect(patch: Patch | None, what: str) -> None:
    """Say that the outputs do not change with what is in a patch, or anywhere in the image; called by `_value`."""
    where = "" if patch is None else f" in {patch}"
    warnings.warn(f"the model's output does not depend on the input{where}: {what}", RuntimeWarning, stacklevel=4)


def _check_batch(x: Any, y: Any) -> None:
    check_tensor(x, "x")
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, channels, height, width)")
    if not x.dtype.is_floating_point:
        raise TypeError(f"x has dtype {x.dtype}; expected a real floating type")
    if len(x) < 2:
        raise ValueError(
            f"x has {len(x)} sample; expected at least 2, as samples' patches are exchanged: use drop_last=True "
            "where the last batch of a loader may be that small"
        )
    if y is not None and not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}; expected a tensor of classes")
    if y is not None and (not y.ndim or len(y) != len(x)):
        raise ValueError(f"y has shape {tuple(y.shape)}; expected ({len(x)},), a class for each sample")


def check_learning(model: Any) -> None:
    """A RuntimeError where no regularizer could act: without gradients, or on a module that is frozen."""
    if not callable(model):
        raise TypeError(f"model is a {type(model).__name__}; expected an nn.Module")
    if not torch.is_grad_enabled():
        raise RuntimeError("gradients are switched off, by torch.no_grad() or the like: a regularizer could not act")
    if isinstance(model, nn.Module) and not any(p.requires_grad for p in model.parameters()):
        raise RuntimeError("model has no parameter that requires a gradient: a regularizer could not act on it")
