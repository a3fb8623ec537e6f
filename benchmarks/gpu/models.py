"""Classifiers and densities: the same answers as on the CPU, epochs by the clock, and short trainings to their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from htf.datasets import ImageData
from htf.models import GenerativeClassifier, TensorClassifier, TensorDensity

from .probe import images_of
from .run import Bench

# Of probabilities and of logarithms of likelihoods relative to their size, in float32.
AGREES = 1e-3


def run(bench: Bench) -> dict[str, Any]:
    """Fit each model on MNIST's images, or on blobs where no data are given, and compare it with itself on the CPU."""
    data = images_of(bench, "mnist")
    x, y = data.train_images, data.train_labels
    rows: list[dict[str, str]] = []
    found: list[dict[str, Any]] = []
    ok = True
    for name, make, ask in _cases(bench, data):
        if bench.left() < 1:
            rows.append({"what": name, "figure": "no time left"})
            continue
        model = make()
        model.fit(x) if isinstance(model, TensorDensity) else model.fit(x, y)
        there, here = ask(model), ask(type(model).from_state(*model.state(), device="cpu"))
        difference = float(((there - here).abs() / here.abs().clamp(min=1)).max())
        agrees = difference <= AGREES
        ok &= agrees
        seconds = model.history_["train"]["seconds"][:, 0].double()
        epoch = float(seconds[-1] - seconds[-2])
        row = {"what": name, "seconds_per_epoch": epoch, "images": len(x), "difference_from_cpu": difference}
        limit = f"{'agrees' if agrees else 'DIFFERS'} with the CPU, {difference:.1e}"
        figure = f"{1e3 * epoch:.1f} ms an epoch of {len(x)} images"
        if not isinstance(model, TensorDensity):
            row["test_accuracy"] = float(model.score(data.test_images, data.test_labels))
            figure += f", test accuracy {row['test_accuracy']:.4f}"
        else:
            row["test_bits_per_dimension"] = float(model.bits_per_dim(data.test_images))
            figure += f", {row['test_bits_per_dimension']:.3f} bits per dimension"
        row["settings"] = {key: value for key, value in model.get_params().items() if key != "device"}
        found.append(row)
        rows.append({"what": name, "figure": figure, "limit": limit})
    return {"ok": ok, "rows": rows, "models": found, "data": data.name}


Model = TensorClassifier | TensorDensity | GenerativeClassifier
Cases = list[tuple[str, Callable[[], Model], Callable[[Any], Tensor]]]


def _cases(bench: Bench, data: ImageData) -> Cases:
    """Name, model, and what is asked of it on both devices."""
    few = data.test_images[: 10 if bench.tiny else 200]
    shared: dict[str, Any] = {"seed": 0, "device": str(bench.device)}
    width, epochs = (4, 2) if bench.tiny else (64, 4)
    levels, batch = (4, 64) if bench.tiny else (256, 1024)

    def classifier() -> TensorClassifier:
        return TensorClassifier(width=width, dropout=0.1, shifts=1, epochs=epochs, **shared)

    def density() -> TensorDensity:
        return TensorDensity(levels=levels, width=width, batch_size=batch, epochs=epochs, **shared)

    def generative() -> GenerativeClassifier:
        return GenerativeClassifier(levels=min(levels, 8), width=width, batch_size=batch, epochs=epochs, **shared)

    return [
        ("TensorClassifier", classifier, lambda model: torch.as_tensor(model.predict_proba(few))),
        ("TensorDensity", density, lambda model: torch.as_tensor(model.log_prob(few)).cpu()),
        ("GenerativeClassifier", generative, lambda model: torch.as_tensor(model.predict_proba(few))),
    ]
