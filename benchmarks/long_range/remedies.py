"""Remedies: what may help a network to relate what is far apart; regularizers and their controls, as equals.

Each has one setting, which a search chooses on validation images: of the same number of values, each trained for the
same time.  A remedy is written as its name, with the setting chosen for the task, or as ``name=setting``.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from htf.datasets.long_range import LongRangeData, Split
from htf.nn import ResNet
from htf.training import Training, early_stopping, objectives, reached
from htf.training.classify_settings import Regularizer
from htf.training.stopping import StoppingRule

from .networks import MaskedPatches, add_global_convolution, dilate
from .recipes import make_model, make_regularizer, write_spec

_MASKED = 0.5  # share of the patches
# Plain steps that a step takes with a global convolution, with dilated kernels, and of pretraining.
_GLOBALLY, _DILATED, PRETRAINING = 1.35, 1.1, 1.15


@dataclass(frozen=True)
class Help:
    """A remedy with its setting, and all that makes it.

    Attributes
    ----------
    regularizer : str
        As in `benchmarks.long_range.recipes`.
    options : dict
        Of the regularizer and its patches.
    weight, weight_decay, dropout : float
    patience : int
        Passes without a better validation accuracy after which a training stops; 0 for never.
    masked : int
        Side of the patches that are masked in pretraining, which takes half of the time; 0 for none.
    kernel : int
        Of a global convolution in the network; 0 for none.
    dilation : int
        Of the network's kernels.
    """

    regularizer: str = "none"
    weight: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0
    dropout: float = 0.0
    patience: int = 0
    masked: int = 0
    kernel: int = 0
    dilation: int = 1

    @property
    def written(self) -> dict[str, Any]:
        """As JSON can hold it; what came later is left out where it is not used, so that jobs keep their names."""
        always = ("regularizer", "weight", "options", "weight_decay")
        return {
            each.name: dict(value) if isinstance(value, Mapping) else value
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default or each.name in always
        }

    @property
    def spec(self) -> str:
        """The regularizer with its options."""
        return write_spec(self.regularizer, self.options)

    @property
    def network(self) -> Help:
        """What of it stays in the network when the help ends."""
        return Help(kernel=self.kernel, dilation=self.dilation)

    @property
    def cost(self) -> float:
        """Plain steps of `small_resnet` that a step takes: measured on batches of 64."""
        samples, batch = self.options.get("samples"), 64
        grid = (samples or 8) * self.options.get("grid", 4) ** 2 / batch
        ratios = {
            "igc": 1 + 6.1 * min(samples or batch, batch) / batch,
            "gradient_field": 1 + (samples or 8) / 8,
            "interaction": 1 + grid,
        }
        more = ratios.get(self.regularizer, 1.0) / self.options.get("interval", 1)
        more += 1 - 1 / self.options.get("interval", 1)
        return more * (_GLOBALLY if self.kernel else 1.0) * (_DILATED if self.dilation > 1 else 1.0)


@dataclass(frozen=True)
class Remedy:
    """What may help.

    Attributes
    ----------
    words : str
        Its name in figures.
    setting : str
        The attribute of `Help` that is chosen; "" for none.
    tried : tuple
        By a search.
    made : callable
        From a setting to what is tried.
    regularizer : str
    options : dict
        By task.
    """

    words: str
    setting: str = ""
    tried: tuple[float, ...] = ()
    regularizer: str = "none"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def help(self, task: str, setting: float | None) -> Help:
        """With a setting, for a task."""
        chosen: dict[str, Any] = {} if setting is None else {self.setting: setting}
        return Help(regularizer=self.regularizer, options=self.options.get(task, {}), **chosen)


_DOTS = {"patches": "random", "size": 2}
_AREAS = {"patches": "areas"}
_FIELD = {"size": 2, "samples": 8}

REMEDIES = {
    "plain": Remedy("nothing"),
    "weight_decay": Remedy("weight decay", "weight_decay", (0.003, 0.005, 0.01)),
    "dropout": Remedy("dropout", "dropout", (0.2, 0.5, 0.8)),
    "early_stopping": Remedy("early stopping", "patience", (5, 10, 20)),
    "masked_patches": Remedy("masked-patch pretraining", "masked", (2, 4, 8)),
    "global_convolution": Remedy("a global convolution", "kernel", (11, 23, 39)),
    "dilations": Remedy("dilated kernels", "dilation", (2, 3, 4)),
    "igc": Remedy(
        "input gradient change", "weight", (1.0, 3.0, 9.0), "igc", {"pathfinder": _DOTS, "is_same_class": _AREAS}
    ),
    "gradient_field": Remedy(
        "gradient field change",
        "weight",
        (1.0, 3.0, 9.0),
        "gradient_field",
        {"pathfinder": _FIELD, "is_same_class": _FIELD},
    ),
    "interaction": Remedy(
        "interaction",
        "weight",
        (0.3, 1.0, 3.0),
        "interaction",
        {"pathfinder": {**_DOTS, "samples": 8}, "is_same_class": {**_AREAS, "samples": 4, "grid": 4}},
    ),
}
# Chosen on validation images, see docs/results.md; what is not here takes a search, or a setting.
CHOSEN: Mapping[str, Mapping[str, float]] = {
    "pathfinder": {"weight_decay": 0.01, "igc": 3.0, "gradient_field": 3.0, "interaction": 1.0},
    "is_same_class": {"weight_decay": 0.005, "igc": 1.0, "interaction": 1.0},
}


def read_remedy(text: str, task: str, found: Mapping[str, float] | None = None) -> tuple[str, float | None]:
    """Name and setting of a remedy written as ``name`` or ``name=setting``.

    Parameters
    ----------
    text, task : str
    found : mapping, optional
        Settings that a search has chosen for the task, which come before `CHOSEN`.

    Raises
    ------
    ValueError
        For an unknown remedy, a setting that it does not take, and one that is missing.
    """
    name, equal, value = text.partition("=")
    if name not in REMEDIES:
        raise ValueError(f"remedy is {name!r}; known are {', '.join(REMEDIES)}")
    remedy = REMEDIES[name]
    if equal:
        if not remedy.setting:
            raise ValueError(f"remedy is {text!r}; {name} has no setting")
        return name, _checked(text, remedy, value)
    chosen = {**CHOSEN.get(task, {}), **(found or {})}
    if not remedy.setting:
        return name, None
    if name not in chosen:
        raise ValueError(
            f"remedy {name} has no {_called(remedy)} for {task}; expected {name}=NUMBER, as {name}={remedy.tried[1]:g}"
            ", or a search before (--search)"
        )
    return name, chosen[name]


def _called(remedy: Remedy) -> str:
    return {"masked": "side of patches", "patience": "patience"}.get(remedy.setting, remedy.setting.replace("_", " "))


def _checked(text: str, remedy: Remedy, value: str) -> float:
    whole = isinstance(remedy.tried[0], int)
    try:
        number = literal_eval(value)
    except (ValueError, SyntaxError):
        number = None
    # A dropout of 1 leaves nothing, kernels have a middle, and a dilation of 1 is none.
    low = 2 if remedy.setting == "dilation" else 1 if whole else 0
    fits = isinstance(number, int | float) and not isinstance(number, bool) and low <= number < float("inf")
    fits = fits and (isinstance(number, int) or not whole) and number > 0
    if not fits or (remedy.setting == "kernel" and not number % 2) or (remedy.setting == "dropout" and number >= 1):
        what = {"kernel": "an odd number", "dropout": "a probability below 1"}.get(
            remedy.setting, f"an integer of at least {low}" if whole else "a number above 0"
        )
        raise ValueError(f"remedy is {text!r}; expected {what} as its {_called(remedy)}")
    return number if whole else float(number)


# -- training with one ----------------------------------------------------------------------------------


def network_with(help_: Help, model: str, data: LongRangeData, seed: int) -> nn.Module:
    """A new network as a remedy has it.

    Raises
    ------
    ValueError
        Where the model is not one that it can change.
    """
    network = make_model(model, data, dropout=help_.dropout, seed=seed)
    if help_.kernel or help_.dilation > 1 or help_.masked:
        if not isinstance(network, ResNet):
            raise ValueError(f"model is {model}, which has no stages of convolutions to change or to pretrain")
        if help_.kernel:
            add_global_convolution(network, help_.kernel)
        if help_.dilation > 1:
            dilate(network, help_.dilation)
    return network


def regularizer_with(help_: Help, data: LongRangeData, seed: int) -> Regularizer | None:
    """Its regularizer for a task."""
    return make_regularizer(help_.spec, help_.weight, data, seed)


def rules_with(help_: Help, enough: float | None) -> list[StoppingRule]:
    """What ends a training before its time: enough on validation, or nothing better for long."""
    rules: list[StoppingRule] = [] if enough is None else [reached(enough)]
    return [*rules, *([early_stopping(help_.patience, on="validation/accuracy")] if help_.patience else [])]


def pretrain(
    network: nn.Module,
    help_: Help,
    data: LongRangeData,
    steps: int,
    seed: int,
    folder: Path | None,
    device: str,
    on_advance: Callable[[], None] | None = None,
) -> float:
    """Let a network fill in masked patches of the train images [1]_; the seconds that it took.

    Half of the patches are grey, and the squared error on their pixels is made small, by Adam at a rate of 0.001.

    References
    ----------
    .. [1] K. He, X. Chen, S. Xie, Y. Li, P. Dollár, R. Girshick, "Masked autoencoders are scalable vision learners",
       CVPR 2022; as the control of long-range tasks: I. Amos, J. Berant, A. Gupta, "Never train from scratch: fair
       comparison of long-sequence models requires data-driven priors", arXiv 2310.02980.
    """
    assert isinstance(network, ResNet)
    _, height, width = data.image_size
    side = help_.masked
    if height % side or width % side:
        raise ValueError(f"side of masked patches is {side}; images of {height} × {width} pixels are no multiple of it")
    filling = MaskedPatches(network, height, width, seed)
    images, grey = data.train.images, 0.5
    filling.to(device)

    def masked_patches(model: nn.Module, generator: Generator) -> Tensor:
        chosen = torch.randint(len(images), (min(64, len(images)),), generator=generator)
        x = (images[chosen].float() / data.train.maximum).to(device)
        patches = torch.rand(len(x), 1, height // side, width // side, generator=generator) < _MASKED
        mask = patches.repeat_interleave(side, 2).repeat_interleave(side, 3).to(device)
        errors = (model(torch.where(mask, grey, x)) - x).square() * mask
        return errors.sum() / (mask.sum() * x.shape[1]).clamp(min=1)

    training = Training(
        filling,
        objectives.function(masked_patches, data=(images, torch.tensor(side)), batches=min(steps, 79)),
        optimizer="adam",
        lr=1e-3,
        out=None if folder is None else folder / "pretraining",
        seed=seed,
    )
    training.run(steps=steps, on_advance=on_advance)
    return training.seconds


def shown_often(data: LongRangeData, images: int) -> LongRangeData:
    """The same images, as often in a pass as makes about so many.

    Passes end in a look at validation images, which would otherwise cost more than the steps, and be taken more often,
    where images are few.
    """
    times = max(1, round(images / len(data.train)))
    if times == 1:
        return data
    labels = data.train.labels.repeat(times)
    train = Split(data.train.images.repeat(times, 1, 1, 1), labels, data.train.maximum)
    return LongRangeData(data.name, train, data.validation, data.test, {**data.settings, "shown": times})
