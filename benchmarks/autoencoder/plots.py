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
from htf.plotting.style import FAINT, WIDTH, bars, baseline, explain, guide, look, panels, seeds_of, styled, words

_LAYERS = {"plain": 0, "linear2": 2, "linear4": 4, "linear8": 8}
_COLUMNS = ("model", "chosen", "spectrum", "effective_rank", "test_error", "few_labels")


@styled
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
    found = list(dict.fromkeys(row["model"] for row in rows))
    models = [*filter(found.__contains__, _LAYERS), *(model for model in found if model not in _LAYERS)]
    labelled = any(row["few_labels"] for row in rows)
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    above: Any = ["spectra", "few labels"] if labelled else ["spectra", "spectra"]
    named: Any = figure.subplot_mosaic([above, ["ranks", "errors"]])
    spectra, ranks, errors, accuracies = (named.get(name) for name in ("spectra", "ranks", "errors", "few labels"))
    for k, model in enumerate(models):
        mine, style = [row for row in rows if row["model"] == model], look(k)
        if model in _LAYERS:
            _shaded(spectra, [_relative(row["spectrum"]) for row in mine], style, words(model))
        values = [row["effective_rank"] for row in mine]
        errors.plot(values, [row["test_error"] for row in mine], label=words(model), **{**style, "linestyle": "none"})
        if accuracies is not None:
            counts = list(mine[0]["few_labels"])
            at = [int(n) for n in counts]
            _shaded(accuracies, [[row["few_labels"][n] for n in counts] for row in mine], style, words(model), at=at)
    depths = [model for model in models if model in _LAYERS]
    values = [[row["effective_rank"] for row in rows if row["model"] == model] for model in depths]
    middle = [mean(each) for each in values]
    below, above = ([abs(m - end(v)) for m, v in zip(middle, values, strict=True)] for end in (min, max))
    ranks.errorbar([_LAYERS[m] for m in depths], middle, yerr=bars(middle, below, above, 1), **baseline())
    if dimension:
        guide(spectra, x=dimension)
        guide(ranks, y=dimension, label="dimension of the data")
        guide(errors, x=dimension)
    spectra.set(xlabel="direction of the code", ylabel="relative deviation", yscale="log", ylim=(1e-4, 1.5))
    ranks.set(xlabel="linear layers", ylabel="effective rank of the code", ylim=(0, None))
    ranks.set_xticks([_LAYERS[model] for model in depths])
    errors.set(xlabel="effective rank of the code", ylabel="relative test error", ymargin=0.12)
    errors.set_ylim(bottom=0)
    if accuracies is not None:
        accuracies.set(xlabel="labels", ylabel="test accuracy, linear classifier", xscale="log")
    seeds = seeds_of(sum(row["model"] == model for row in rows) for model in models)
    note = f"Lines: means of {seeds}; shades and bars: their range; points: a seed each."
    explain(figure, note, [spectra, errors, ranks])
    return figure


@styled
def plot_pictures(pictures: dict[str, dict[str, Tensor]]) -> Figure:
    """Images on lines between codes, and from a mixture of Gaussians on codes; two columns for each model.

    Parameters
    ----------
    pictures : dict
        For each model "between" and "samples", bytes (rows, columns, channels, height, width).
    """
    titles = {"between": "between two codes", "samples": "from a mixture"}
    figure, axes = panels(len(pictures), 2, height=1.75)
    # Colours are those of the data on pages of either ground: nothing behind them, and letters between the two.
    figure.set_facecolor("none")
    for line, (model, tensors) in zip(axes, pictures.items(), strict=True):
        for ax, (kind, title) in zip(line, titles.items(), strict=True):
            images = tensors[kind]
            tiled = torch.cat([torch.cat(list(row), 2) for row in images], 1).movedim(0, -1).squeeze(-1)
            ax.imshow(tiled.numpy(), cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{words(model)}: {title}", loc="left", color=FAINT)
    return figure


def _relative(spectrum: list[float]) -> list[float]:
    return [value / spectrum[0] for value in spectrum] if spectrum[0] else spectrum


def _shaded(
    ax: Axes, curves: list[list[float]], style: dict[str, Any], label: str, at: list[int] | None = None
) -> None:
    """Mean of curves, and their range."""
    x: list[Any] = at or list(range(1, 1 + len(curves[0])))
    columns = list(zip(*curves, strict=True))
    ax.plot(x, [mean(c) for c in columns], label=label, **{**style, "marker": None})
    ends = [[end(c) for c in columns] for end in (min, max)]
    ax.fill_between(x, ends[0], ends[1], color=style["color"], alpha=0.2, linewidth=0)
