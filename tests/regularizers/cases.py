"""Models and batches to regularize."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from htf.regularizers import Patch

A, B = Patch(1, 1, 2, 3), Patch(4, 3, 2, 2)


def net(outputs=1, channels=2, size=8, norm=None, seed=0, dtype=torch.float64):
    """A small convolutional net that is smooth, so that derivatives can be checked, and relates all pixels."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(channels, 4, 3, padding=1), *([norm] if norm else []), nn.Tanh(), nn.Conv2d(4, 3, 3, stride=2)]
    side = (size - 3) // 2 + 1
    layers += [nn.Tanh(), nn.Flatten(), nn.Linear(3 * side**2, 8), nn.Tanh(), nn.Linear(8, outputs)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data *= 3
    return nn.Sequential(*layers).to(dtype)


def batch(samples=6, channels=2, size=8, classes=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, channels, size, size, generator=generator, dtype=dtype)
    return x, torch.randint(classes, (samples,), generator=generator)


def fixed(first=A, second=B):
    """A sampler of the same patches always."""
    return lambda height, width, generator: (first, second)


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)


def assert_close(found, expected, rtol=1e-10, atol=1e-12):
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=rtol, atol=atol)


def papers_trainer(monkeypatch):
    """The papers' module of this regularizer, where HTF_PEERS names a folder with a checkout of imp_reg_htf."""
    path = Path(os.environ.get("HTF_PEERS", "")) / "imp_reg_htf"
    if "HTF_PEERS" not in os.environ or not path.is_dir():
        pytest.skip("HTF_PEERS does not hold imp_reg_htf")
    monkeypatch.syspath_prepend(str(path))
    try:
        return importlib.import_module("locality_bias.train.input_grad_change_regularization_trainer")
    except ModuleNotFoundError as error:
        # The papers' code needs packages that nothing here does.
        if (path / error.name.partition(".")[0]).exists() or error.name.partition(".")[0] in sys.stdlib_module_names:
            raise
        pytest.skip(f"imp_reg_htf needs {error.name}")
