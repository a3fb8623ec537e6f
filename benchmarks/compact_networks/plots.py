"""Test accuracies of compact networks by the way in which they were trained."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from htf._files import read_json

_NAMES = {
    "plain": "plain",
    "linear": "linear layers\nexpanded",
    "convolutions": "1×1, 5×5, 1×1",
    "kernels": "3×3, 3×3",
    "distilled": "distilled",
    "ht": "HT, equal size",
}
_COLUMNS = {"model", "chosen", "train", "test"}


def plot_compact(results: str | Path) -> Figure:
    """Train and test accuracy of the chosen setting of each model, a dot for each seed and a line at their mean.

    Parameters
    ----------
    results : str or Path
        JSON that ``python -m benchmarks.compact_networks`` writes.

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
    if not isinstance(rows, list) or not rows or any(_COLUMNS - set(row) for row in rows):
        raise ValueError(f"{results} holds no rows of networks; expected what benchmarks.compact_networks writes")
    rows = [row for row in rows if row["chosen"]]
    models = [model for model in _NAMES if any(row["model"] == model for row in rows)]
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    for ax, part in zip(figure.subplots(1, 2), ("test", "train"), strict=True):
        for k, model in enumerate(models):
            values = [row[part] for row in rows if row["model"] == model]
            ax.plot([k] * len(values), values, "o", color=f"C{k}", markersize=4, alpha=0.6)
            ax.plot([k], [mean(values)], "_", color=f"C{k}", markersize=18)
        ax.set_xticks(
            range(len(models)), [_NAMES[model] for model in models], rotation=30, ha="right", fontsize="small"
        )
        ax.set_ylabel(f"{part} accuracy")
        ax.spines[["top", "right"]].set_visible(False)
    return figure
