"""Test accuracies of compact networks by the way in which they were trained."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from htf._files import read_json
from htf.plotting.style import explain, look, panels, seeds_of, styled

_NAMES = {
    "plain": "plain",
    "linear": "linear layers\nexpanded",
    "convolutions": "1×1, 5×5, 1×1",
    "kernels": "3×3, 3×3",
    "distilled": "distilled",
    "ht": "HT, equal size",
}
_COLUMNS = {"model", "chosen", "train", "test"}


@styled
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
    figure, axes = panels(1, 2, height=3.0)
    seeds: list[int] = []
    for ax, part in zip(axes[0], ("test", "train"), strict=True):
        for k, model in enumerate(models):
            values = [row[part] for row in rows if row["model"] == model]
            seeds.append(len(values))
            style = look(k, linestyle="none")
            ax.plot([k] * len(values), values, alpha=0.6, **style)
            ax.plot([k], [mean(values)], "_", color=style["color"], markersize=20, markeredgewidth=2)
        ax.set_xticks(range(len(models)), [_NAMES[model] for model in models], rotation=40, ha="right")
        ax.set_ylabel(f"{part} accuracy")
    explain(figure, f"A point for each of {seeds_of(seeds)}; lines: means.")
    return figure
