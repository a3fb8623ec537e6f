"""Rank-fit probes: error against rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from htf.probes.result import RankFit

_COLOURS = {
    "original": "tab:blue",
    "random_labels": "tab:orange",
    "random_images": "tab:green",
    "shuffled_pixels": "tab:purple",
    "random_pixels": "tab:brown",
}
_AXIS = {"cp": "CP rank", "ht": "HT rank (width of every node)"}


def plot_rank_fit(result: RankFit) -> Figure:
    """Error against rank, original data and twins, train and test, a panel per format.

    Parameters
    ----------
    result : RankFit
        Error bars are standard deviations over its classes and seeds.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    See Also
    --------
    htf.probes.rank_fit : what it draws.
    htf.probes.RankFit : loads and plots runs.

    Examples
    --------
    >>> import htf
    >>> digits = htf.datasets.load("digits").take(300, 100)
    >>> settings = htf.training.FitSettings(epochs=2)
    >>> result = htf.probes.rank_fit(digits, formats=["cp"], ranks=[1, 2, 4], settings=settings, progress=False)
    >>> figure = htf.plotting.plot_rank_fit(result)
    >>> figure.axes[0].get_xlabel()
    'CP rank'
    """
    if not result.records:
        raise ValueError("result has no records to plot")
    formats = result.values("format")
    figure = Figure(figsize=(3.8 * len(formats) + 2.2, 3.4), layout="constrained")
    panels = figure.subplots(1, len(formats), sharey=True, squeeze=False)[0]
    for ax, form in zip(panels, formats, strict=True):
        for twin in result.values("twin"):
            ranks = sorted({r.rank for r in result.select(format=form, twin=twin)})
            for error, style in (("train", "-"), ("test", "--")):
                points = [result.mean(error, format=form, twin=twin, rank=rank) for rank in ranks]
                ax.errorbar(
                    ranks,
                    [mean for mean, _ in points],
                    yerr=[deviation for _, deviation in points] if any(d for _, d in points) else None,
                    color=_COLOURS.get(twin),
                    linestyle=style,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    label=f"{twin.replace('_', ' ')}, {error}",
                )
        ax.axhline(result.mean_variance, color="0.4", linewidth=0.8, linestyle=":", label="variance of the labels")
        ax.set_xlabel(_AXIS[form])
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mean squared error")
    panels[0].set_title(f"{result.settings['dataset']}, one class against the rest", loc="left", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small", frameon=False)
    return figure
