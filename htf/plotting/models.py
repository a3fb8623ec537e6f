"""Pictures of densities and classifiers of images: what they have learned, and how well they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from htf._checks import positive
from htf.plotting.style import (
    GREY,
    INK,
    MISSING,
    SHARES,
    SMALLEST,
    WIDTH,
    bars,
    explain,
    look,
    panels,
    seeds_of,
    styled,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.models import GenerativeClassifier, TensorDensity


@styled
def plot_images(rows: Mapping[str, Any], columns: int = 8, *, limits: tuple[float, float] | None = None) -> Figure:
    """Grey images, a named row of each kind, such as samples of a density beside images of the data.

    Parameters
    ----------
    rows : mapping
        From a name to images (n, height, width), an array or Tensor; NaN is shown in a colour of its own.
    columns : int
        Of which at most so many are shown.
    limits : (float, float), optional
        Values that are white and black; by default the least and the largest of all.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If there are no images, or one of the rows is not of shape (n, height, width).

    See Also
    --------
    htf.plotting.plot_completions : images with pixels missing.
    htf.plotting.plot_samples : images of a long-range task.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits").train_images[:16]
    >>> figure = htf.plotting.plot_images({"first": digits[:8], "second": digits[8:]})
    >>> len(figure.axes)
    16
    """
    columns = positive("columns", columns)
    found = {name: np.asarray(images, dtype=np.float64)[:columns] for name, images in rows.items()}
    if not found:
        raise ValueError("rows is empty; expected at least one row of images")
    for name, images in found.items():
        if images.ndim != 3 or not images.size:
            raise ValueError(f"rows[{name!r}] has shape {tuple(np.shape(rows[name]))}; expected (n, height, width)")
    across = max(map(len, found.values()))
    side = min(0.8, (WIDTH - 1.2) / across)
    figure, axes = panels(len(found), across, width=side * across + 1.2, height=side + 0.2 / len(found))
    low, high = limits or (
        min(float(np.nanmin(images)) for images in found.values()),
        max(float(np.nanmax(images)) for images in found.values()),
    )
    for line, (name, images) in zip(axes, found.items(), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, image in zip(line, images, strict=False):
            ax.set_facecolor(MISSING)  # where the image has NaN
            ax.imshow(np.ma.masked_invalid(image), cmap=GREY, vmin=low, vmax=high)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def plot_completions(
    density: TensorDensity, images: Any, missing: Any, *, draws: int = 2, columns: int = 8, seed: int = 0
) -> Figure:
    """Images with pixels missing, and what a density puts there.

    Parameters
    ----------
    density : TensorDensity
        Fitted.
    images : array or Tensor
        (n, height, width), as fitted.
    missing : array or Tensor of bool
        Of the same shape, True for pixels to be completed.
    draws : int
        Rows of completions that are drawn given the other pixels.
    columns : int
        Images that are shown, at most.
    seed : int

    Returns
    -------
    matplotlib.figure.Figure
        Rows: the images, what is known of them, draws, and for mixtures the most probable completion.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As `TensorDensity.sample`.

    See Also
    --------
    htf.models.TensorDensity : what completes them.
    htf.plotting.plot_missing_data : accuracies under missing pixels.

    Examples
    --------
    >>> import torch, htf
    >>> digits = htf.datasets.load("digits")
    >>> density = htf.models.TensorDensity(levels=17, width=8, epochs=1, device="cpu").fit(digits.train_images[:500])
    >>> missing = torch.zeros(4, 8, 8, dtype=torch.bool)
    >>> missing[:, 4:] = True  # the lower half
    >>> figure = htf.plotting.plot_completions(density, digits.test_images[:4], missing)
    >>> len(figure.axes)  # 4 images, what is known of them, two draws, the most probable
    20
    """
    given = torch.as_tensor(images)[:columns]
    gone = torch.as_tensor(missing)[:columns]
    drawn = density.sample(positive("draws", draws), given=given, missing=gone, seed=seed)
    rows = {"images": given, "known": given.double().masked_fill(gone, math.nan)}
    rows |= {f"draw {k + 1}": drawn[:, k] for k in range(draws)}
    if not density.squared:
        rows["most probable"] = density.most_probable(given, missing=gone)
    return plot_images(rows, columns)


def plot_learned(
    model: TensorDensity | GenerativeClassifier, nodes: Sequence[int] | None = None, *, columns: int = 8
) -> Figure:
    """Mean images of the components of nodes, as `component_means` of the model gives them.

    Parameters
    ----------
    model : TensorDensity or GenerativeClassifier
        Fitted to images.
    nodes : sequence of int, optional
        Of ``model.network.tree``; by default those from the root's middle child down to a leaf.
    columns : int
        Components that are shown, at most, the first ones.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each node; pixels that are not below it are shown in another colour.

    Raises
    ------
    NotFittedError, IndexError, ValueError
        As `component_means`; for a model of tables.

    See Also
    --------
    htf.models.TensorDensity : a model to look into.
    htf.plotting.plot_images : rows of any images.

    Examples
    --------
    >>> import htf
    >>> images = htf.datasets.load("digits").train_images[:500]
    >>> density = htf.models.TensorDensity(levels=17, width=8, epochs=1, device="cpu").fit(images)
    >>> figure = htf.plotting.plot_learned(density, columns=4)
    >>> len(figure.axes) % 4
    0
    """
    tree = model.network.tree
    if len(model.shape_) != 2:
        raise ValueError(f"model was fitted to samples of shape {model.shape_}; expected images (height, width)")
    if nodes is None:
        nodes, node = [], tree.root
        while children := tree.children(node):
            node = children[len(children) // 2]
            nodes.append(node)
    means = {f"node {node}: {len(list(tree.modes(node)))} pixels": model.component_means(node) for node in nodes}
    return plot_images(means, columns)


@styled
def plot_missing_data(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy against missing pixels.

    Parameters
    ----------
    curves : mapping
        From the name of a model to its accuracies by the name of a mask, "none", "iid 0.5" or "2 x 11": a number, or
        one for each seed, whose range is shown.

    Returns
    -------
    matplotlib.figure.Figure
        Independent pixels on the left and squares on the right, if there are any.

    Raises
    ------
    ValueError
        If there are no accuracies.

    See Also
    --------
    htf.models.GenerativeClassifier : classifies whatever is known.
    htf.plotting.plot_completions : images with pixels missing.

    Examples
    --------
    >>> import htf
    >>> curves = {"tree": {"none": 0.95, "iid 0.5": [0.93, 0.94]}, "cnn": {"none": 0.98, "iid 0.5": 0.7}}
    >>> figure = htf.plotting.plot_missing_data(curves)
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['share of pixels missing']
    """
    masks = list(dict.fromkeys(mask for of_masks in curves.values() for mask in of_masks))
    if not masks:
        raise ValueError("curves has no accuracies; expected some for each model")
    rates = {mask: 0.0 if mask == "none" else float(mask.split()[1]) for mask in masks if mask[:4] in ("none", "iid ")}
    kinds = {
        "share of pixels missing": sorted(rates, key=lambda mask: rates[mask]),
        "missing squares, number × width": [mask for mask in masks if mask not in rates],
    }
    kinds = {label: found for label, found in kinds.items() if found}
    figure, axes = panels(1, len(kinds), height=3.0, sharey=True)
    counts: set[int] = set()
    for ax, (label, names) in zip(axes[0], kinds.items(), strict=True):
        independent = label.startswith("share")
        at = [rates[name] if independent else number for number, name in enumerate(names)]
        for k, (model, of_masks) in enumerate(curves.items()):
            known = [k for k, name in enumerate(names) if name in of_masks]
            if not known:
                continue
            values = [np.atleast_1d(np.asarray(of_masks[names[k]], dtype=np.float64)) for k in known]
            counts |= set(map(len, values))
            means = np.array([each.mean() for each in values])
            spread = np.array([[m - v.min(), v.max() - m] for m, v in zip(means, values, strict=True)]).T
            style = look(k) if independent else look(k, linestyle="none")
            ax.errorbar(
                [at[k] for k in known],
                means,
                yerr=bars(means, spread[0], spread[1], 0, 1) if max(counts, default=1) > 1 else None,
                label=words(model),
                **style,
            )
        ax.set_xlabel(label)
        if not independent:
            ax.set_xticks(at, [name.replace(" x ", "×") for name in names], rotation=45)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("test images told")
    several = max(counts, default=1) > 1
    explain(figure, f"Means of {seeds_of(counts)}; bars: their range." if several else "", list(axes[0]))
    return figure


@styled
def plot_confusion(labels: Any, predicted: Any, ax: Axes | None = None) -> Axes:
    """How often each class is told as which.

    Parameters
    ----------
    labels, predicted : array or Tensor (samples,)
    ax : matplotlib Axes, optional
        Where to draw; by default on a new figure, not attached to any window: ``ax.figure.savefig(path)`` writes it.

    Returns
    -------
    matplotlib Axes
        Counts in a square, a row for each label; colours are shares of the row.

    Raises
    ------
    ValueError
        If both are empty, or of different shapes.

    See Also
    --------
    htf.models.TensorClassifier, htf.models.GenerativeClassifier : whose predictions to show.

    Examples
    --------
    >>> import htf
    >>> ax = htf.plotting.plot_confusion(["a", "a", "b"], ["a", "b", "b"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '1', '1']
    """
    given, told = np.asarray(labels), np.asarray(predicted)
    if given.ndim != 1 or given.shape != told.shape or not given.size:
        raise ValueError(
            f"labels and predicted have shapes {given.shape} and {told.shape}; expected (samples,) of both"
        )
    classes, codes = np.unique(np.concatenate([given, told]), return_inverse=True)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (codes[: len(given)], codes[len(given) :]), 1)
    if ax is None:
        side = min(1.6 + 0.42 * len(classes), WIDTH)
        ax = Figure(figsize=(side, side), layout="constrained").subplots()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    ax.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else INK
        ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=SMALLEST, color=colour)
    ticks = range(len(classes))
    ax.set_xticks(ticks, [str(each) for each in classes])
    ax.set_yticks(ticks, [str(each) for each in classes])
    ax.set(xlabel="predicted", ylabel="label")
    return ax
