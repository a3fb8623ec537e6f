"""Spectra of codes, their effective ranks, and what they are good for."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from htf._files import read_json

_LAYERS = {"plain": 0, "linear2": 2, "linear4": 4, "linear8": 8}
_NAMES = {"plain": "plain", **{name: f"{layers} linear layers" for name, layers in _LAYERS.items() if layers}}
_COLUMNS = ("model", "chosen", "spectrum", "effective_rank", "test_error", "few_labels")


def plot_codes(results: str | Path) -> Figure:
    """Spectrum of the code, effective rank against depth, and error and few-label accuracy against it.

    Parameters
    ----------
    results : str or Path
        JSON that ``python -m benchmarks.autoencoder`` writes.  Lines are means over seeds, shades and bars reach from
        the least to the largest.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the file is damaged or holds no such rows.
    """
    content = read_json(Path(results), sealed=False)
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or any(set(_COLUMNS) - set(row) for row in rows):
        raise ValueError(f"{results} holds no rows of autoencoders; expected what benchmarks.autoencoder writes")
    rows, dimension = [row for row in rows if row["chosen"]], content.get("dimension")
    models = list(dict.fromkeys(row["model"] for row in rows))
    labelled = any(row["few_labels"] for row in rows)
    figure = Figure(figsize=(13.6 if labelled else 10.8, 3.5), layout="constrained")
    spectra, ranks, errors, *accuracies = figure.subplots(1, 4 if labelled else 3)
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        color = f"C{models.index(model)}"
        if model in _LAYERS:
            _shaded(spectra, [_relative(row["spectrum"]) for row in mine], color, _NAMES[model])
        values = [row["effective_rank"] for row in mine]
        errors.plot(values, [row["test_error"] for row in mine], "o", markersize=4, color=color, label=model)
        if accuracies:
            counts = list(mine[0]["few_labels"])
            _shaded(
                accuracies[0],
                [[row["few_labels"][n] for n in counts] for row in mine],
                color,
                model,
                at=[int(n) for n in counts],
            )
    depths = [model for model in models if model in _LAYERS]
    values = [[row["effective_rank"] for row in rows if row["model"] == model] for model in depths]
    middle = [mean(each) for each in values]
    bars = [[m - min(v) for m, v in zip(middle, values, strict=True)],
            [max(v) - m for m, v in zip(middle, values, strict=True)]]  # fmt: skip
    ranks.errorbar([_LAYERS[model] for model in depths], middle, yerr=bars, marker="o", markersize=4, color="black")
    if dimension:
        spectra.axvline(dimension, color="0.6", linewidth=0.8, linestyle=":")
        for ax, line in ((ranks, ranks.axhline), (errors, errors.axvline)):
            line(dimension, color="0.6", linewidth=0.8, linestyle=":", label="dimension of the data" * (ax is ranks))
        ranks.legend(fontsize="x-small", frameon=False)
    spectra.set(xlabel="number", ylabel="deviation of the code, relative", yscale="log", ylim=(1e-4, 1.5))
    ranks.set(xlabel="linear layers", ylabel="effective rank of the code", ylim=(0, None))
    ranks.set_xticks([_LAYERS[model] for model in depths])
    errors.set(xlabel="effective rank of the code", ylabel="relative error of test images", ylim=(0, None))
    for ax in accuracies:
        ax.set(xlabel="labels", ylabel="test accuracy of a linear classifier", xscale="log")
    for ax in (spectra, ranks, errors, *accuracies):
        ax.spines[["top", "right"]].set_visible(False)
    spectra.legend(fontsize="x-small", frameon=False)
    # Errors are far from 0.
    errors.legend(fontsize="x-small", frameon=False, loc="lower right")
    return figure


def plot_pictures(pictures: dict[str, dict[str, Tensor]]) -> Figure:
    """Images on lines between codes, and from a mixture of Gaussians on codes; two columns for each model.

    Parameters
    ----------
    pictures : dict
        For each model "between" and "samples", bytes (rows, columns, channels, height, width).
    """
    titles = {"between": "between two codes", "samples": "from a mixture"}
    figure = Figure(figsize=(8.4, 2.0 * len(pictures)), layout="constrained")
    for line, (model, tensors) in zip(figure.subplots(len(pictures), 2, squeeze=False), pictures.items(), strict=True):
        for ax, (kind, title) in zip(line, titles.items(), strict=True):
            images = tensors[kind]
            tiled = torch.cat([torch.cat(list(row), 2) for row in images], 1).movedim(0, -1).squeeze(-1)
            ax.imshow(tiled.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{_NAMES.get(model, model)}: {title}", loc="left", fontsize="medium")
    return figure


def _relative(spectrum: list[float]) -> list[float]:
    return [value / spectrum[0] for value in spectrum] if spectrum[0] else spectrum


def _shaded(ax: Axes, curves: list[list[float]], color: str, label: str, at: list[int] | None = None) -> None:
    """Mean of curves, and their range."""
    x: list[Any] = at or list(range(1, 1 + len(curves[0])))
    columns = list(zip(*curves, strict=True))
    ax.plot(x, [mean(c) for c in columns], color=color, label=label, linewidth=1.4)
    ax.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.2, linewidth=0)
