"""Fits to randomized labels and images: how fast, and what they know about test images."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from htf._files import read_json
from htf._tables import read_table
from htf.plotting.style import FAINT, WIDTH, baseline, explain, look, panels, seeds_of, styled, words

_TEXTS = ("model", "variant", "control", "judged_on")
_NUMBERS = ("corruption", "epochs_to_fit", "test", "chance_low", "chance_high", "lr")
_VARIANTS = {
    "original": "true labels",
    "shuffled_pixels": "shuffled pixels",
    "random_pixels": "random pixels",
    "gaussian_images": "Gaussian images",
    "random_labels": "random labels",
}


@styled
def plot_randomization(table: str | Path, curves: str | Path, *, model: str | None = None) -> Figure:
    """Training loss by variant, and epochs to fit and test error against corruption, as in figure 1 of the paper [1]_.

    Parameters
    ----------
    table : str or Path
        CSV of ``python -m benchmarks.randomization``, a row per fit.  Points are means over seeds, shades reach from
        the least to the largest.
    curves : str or Path
        The JSON that it writes beside the table.
    model : str, optional
        Whose loss is drawn; by default "cnn", or the first in the file where there is none.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ValueError
        If the table has no rows or lacks a column, or holds what is no number where one is expected; if the other file
        is damaged or holds no curves of `model`.

    References
    ----------
    .. [1] C. Zhang, S. Bengio, M. Hardt, B. Recht, O. Vinyals, "Understanding deep learning requires rethinking
       generalization", ICLR 2017.
    """
    rows = [
        row
        for row in read_table(Path(table), _NUMBERS, _TEXTS, may_be_missing=("corruption", "epochs_to_fit", "lr"))
        if row["judged_on"] == "test" and not row["control"] and row["lr"] is not None
    ]
    losses, model = _losses(Path(curves), model)
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    first, second, third = figure.subplot_mosaic([["loss", "loss"], ["epochs", "error"]]).values()
    # Corruption has panels of its own.
    for k, (variant, name) in enumerate(_VARIANTS.items()):
        if variant in losses:
            loss = losses[variant]
            style = baseline() if variant == "original" else look(k - 1)
            first.plot(range(1, len(loss) + 1), loss, label=name, **{**style, "marker": None})
    first.set(xlabel="epoch", ylabel="training loss")
    first.set_title(words(model), loc="left")
    seeds = [*_against_corruption(second, rows, "epochs_to_fit"), *_against_corruption(third, rows, "test")]
    second.set_ylabel("epochs to train accuracy 1")
    second.set_ylim(bottom=0)
    third.set_ylabel("test error")
    low, high = (mean(1 - row[name] for row in rows) for name in ("chance_high", "chance_low"))
    third.axhspan(low, high, color=FAINT, alpha=0.35, linewidth=0, label="chance")
    third.set_ylim(0, 1)
    first.legend()
    shades = "; shades: their range" if max(seeds, default=1) > 1 else ""
    explain(figure, f"Above: one seed; below: {seeds_of(seeds) or 'none'}{shades}.", [second, third])
    return figure


def _against_corruption(ax: Axes, rows: list[dict[str, Any]], column: str) -> list[int]:
    """Draw, and return how many seeds each point is the mean of."""
    points: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row["corruption"] is not None and row[column] is not None:
            value = 1 - row["test"] if column == "test" else row[column]
            points.setdefault(row["model"], {}).setdefault(row["corruption"], []).append(value)
    # One point is no curve: fits that were made on true labels alone.
    curves = {model: found for model, found in points.items() if len(found) > 1}
    for k, (model, found) in enumerate(curves.items()):
        _with_range(ax, found, k, words(model))
    ax.set_xlabel("share of random labels")
    return [len(values) for found in curves.values() for values in found.values()]


def _with_range(ax: Axes, points: dict[float, list[float]], k: int, label: str) -> None:
    """Means of the values at each place, and their range."""
    x = sorted(points)
    (line,) = ax.plot(x, [mean(points[at]) for at in x], label=label, **look(k))
    if max(map(len, points.values())) > 1:
        low, high = ([end(points[at]) for at in x] for end in (min, max))
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


@styled
def plot_early_stopping(results: str | Path) -> Figure:
    """Test error of gradient descent on random convolutions against its steps, for each share of random labels.

    Parameters
    ----------
    results : str or Path
        JSON of ``python -m benchmarks.randomization``.  Lines are means over seeds, shades reach from the least to the
        largest; the second panel has what stopping by held-out images gives, beside the interpolation.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the file is damaged or holds no such paths.
    """
    content = read_json(Path(results), sealed=False)
    paths = content.get("paths") if isinstance(content, dict) else None
    needed = {"corruption", "steps", "held_out_error", "test"}
    if not (isinstance(paths, list) and paths and all(isinstance(p, dict) and needed <= set(p) for p in paths)):
        raise ValueError(f"{results} holds no paths; expected what benchmarks.randomization writes")
    figure, axes = panels(1, 2, height=2.8, sharey=True)
    first, second = axes[0]
    stopped: dict[float, list[float]] = {}
    interpolated: dict[float, list[float]] = {}
    for k, share in enumerate(sorted({path["corruption"] for path in paths})):
        points: dict[float, list[float]] = {}
        for path in (path for path in paths if path["corruption"] == share):
            errors = [1 - accuracy for accuracy in path["test"]]
            for steps, error in zip(path["steps"][:-1], errors, strict=False):
                points.setdefault(steps, []).append(error)
            best = min(range(len(errors)), key=path["held_out_error"].__getitem__)
            stopped.setdefault(share, []).append(errors[best])
            interpolated.setdefault(share, []).append(errors[-1])
        _with_range(first, points, k, f"{share:.0%} random")
    _with_range(second, interpolated, 0, "interpolation")
    _with_range(second, stopped, 1, "stopped by held-out images")
    first.set(xscale="log", xlabel="steps of gradient descent", ylabel="test error", ylim=(0, 1))
    second.set(xlabel="share of random labels")
    second.legend()
    explain(figure, f"Means of {seeds_of(map(len, stopped.values()))}; shades: their range.  Left:", first)
    return figure


def _losses(path: Path, model: str | None) -> tuple[dict[str, list[float]], str]:
    """Loss by epoch of each variant, for the first of several seeds, and the model that it is of."""
    content = read_json(path, sealed=False)
    curves = content.get("curves") if isinstance(content, dict) else None
    if not (isinstance(curves, list) and curves and all(map(_is_curve, curves))):
        raise ValueError(f"{path} holds no curves; expected what benchmarks.randomization writes")
    models = list(dict.fromkeys(curve["model"] for curve in curves))
    name = model or ("cnn" if "cnn" in models else models[0])
    found: dict[str, list[float]] = {}
    for curve in curves:
        if (curve["model"], curve["judged_on"], curve["control"]) == (name, "test", ""):
            found.setdefault(curve["variant"], curve["train_loss"])
    if not found:
        raise ValueError(f"{path} holds no curves of model {name!r}; it holds those of {', '.join(models)}")
    return found, name


def _is_curve(curve: object) -> bool:
    return (
        isinstance(curve, dict)
        and all(isinstance(curve.get(name), str) for name in ("model", "judged_on", "control", "variant"))
        and isinstance(loss := curve.get("train_loss"), list)
        and all(isinstance(number, int | float) for number in loss)
    )
