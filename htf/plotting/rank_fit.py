"""Rank-fit probes: error against rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from htf.plotting.style import bars, counted, explain, guide, look, panels, styled, words

if TYPE_CHECKING:
    from htf.probes.result import RankFit

# Whatever twins a figure has, one keeps its look.
_TWINS = ("original", "random_labels", "random_images", "shuffled_pixels", "random_pixels")
_AXIS = {"cp": "CP rank", "ht": "HT rank (width of every node)"}


@styled
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
    figure, axes = panels(1, len(formats), height=3.0, sharey=True)
    several = False
    for ax, form in zip(axes[0], formats, strict=True):
        for twin in result.values("twin"):
            ranks = sorted({r.rank for r in result.select(format=form, twin=twin)})
            for error in ("train", "test") if ranks else ():
                points = [result.mean(error, format=form, twin=twin, rank=rank) for rank in ranks]
                means, deviations = ([point[k] for point in points] for k in (0, 1))
                several |= any(deviations)
                style = look(_TWINS.index(twin) if twin in _TWINS else len(_TWINS), linestyle="-")
                if error == "test":
                    style |= {"linestyle": "--", "markerfacecolor": "white", "linewidth": 1.2}
                ax.errorbar(
                    ranks,
                    means,
                    yerr=bars(means, deviations, deviations, 0) if any(deviations) else None,
                    label=f"{words(twin)}, {error}",
                    **style,
                )
        guide(ax, y=result.mean_variance, label="variance of the labels")
        ax.set_xlabel(_AXIS[form])
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(_counts(result, form), loc="left")
    axes[0, 0].set_ylabel("mean squared error")
    note = f"{words(result.settings['dataset'])}, one class against the rest."
    if several:
        note += " Means; bars: one standard deviation over classes and seeds."
    explain(figure, note, list(axes[0]))
    return figure


def _counts(result: RankFit, form: str) -> str:
    """How many classes and seeds the fits of a format have, or which class it is."""
    records = result.select(format=form)
    classes = sorted({r.positive for r in records})
    told = f"class {classes[0]}" if len(classes) == 1 else f"{len(classes)} classes"
    return f"{words(form)}: {told}, {counted(len({r.seed for r in records}), 'seed')}"
