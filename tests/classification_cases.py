"""Small classification tasks and models, for the tests of training."""

import os
import signal

import torch
from torch import nn

from htf.datasets.long_range import LongRangeData, Split
from htf.nn import ResNet, Stem

SIDE = 8


def split(count, seed, classes=2, channels=1):
    """Noise, brighter on the left where the label is higher."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 100, (count, channels, SIDE, SIDE), generator=generator)
    images[:, :, :, : SIDE // 2] += (labels * 40).view(-1, 1, 1, 1)
    return Split(images.to(torch.uint8), labels)


def task(train=24, validation=10, test=12, seed=0, classes=2, channels=1):
    splits = (split(count, 10 * seed + k, classes, channels) for k, count in enumerate((train, validation, test)))
    return LongRangeData("left", *splits, {"seed": seed})


def net(seed=0, outputs=1, dropout=0.3, width=4):
    stem = Stem(width, kernel=3, stride=2, pool=False)
    return ResNet((width,), (1,), 1, outputs, stem=stem, dropout=dropout, seed=seed)


def smooth_net(seed=0):
    """Without batch statistics, in double precision, twice differentiable."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * SIDE**2 // 4, 1)
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class Noisy:
    """A regularizer with a state of tensors and numbers, interrupting what it is part of at a call."""

    def __init__(self, interrupt_at=None):
        self.generator, self.calls = torch.Generator().manual_seed(0), 0
        self.interrupt_at = interrupt_at

    def __call__(self, model, x, y, out):
        self.calls += 1
        if self.calls == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.1 * torch.rand((), generator=self.generator) * self.calls * out.square().mean()

    def state(self):
        return {"generator": self.generator.get_state(), "calls": self.calls}

    def load_state(self, state):
        self.generator.set_state(state["generator"])
        self.calls = state["calls"]
