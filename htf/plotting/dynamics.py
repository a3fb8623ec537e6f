"""Dynamics of training: what rose when, how fast against theory, and what it led to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from htf.dynamics.end_norms import norm_lower_bound
from htf.plotting.style import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    MUTED,
    WIDTH,
    counted,
    explain,
    folded,
    look,
    panels,
    seeds_of,
    styled,
    words,
)
from htf.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from htf.dynamics.rates import RateComparison, RateRecords
    from htf.dynamics.studies import Study

_HEIGHT = 2.5  # of a panel, in inches
_SIZES = {
    "singular_values": "singular values",
    "component_norms": "component norms",
    "local_component_norms": "local component norms",
}
_FORMATS = {
    "singular_values": "matrix factorization",
    "component_norms": "tensor factorization",
    "local_component_norms": "hierarchical tensor factorization",
}
# Clouds of more points than this cannot be told from their subsets.
_MOST_POINTS = 5000
_MOST_NAMES = 8


@styled
def plot_history(history: History) -> Figure:
    """Loss, test error and every tracked quantity against the steps, a panel each.

    Parameters
    ----------
    history : History
        Of several runs, the first is drawn in full colour and the others thinly behind it; panels of components, which
        have many lines, show the first alone.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    See Also
    --------
    htf.training.fit : gives such a history.
    htf.plotting.plot_components : components alone, of several histories.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 2, init=htf.nn.init.balanced(1e-2), seed=0)
    >>> history = htf.training.fit(net, problem, steps=20, track=[htf.dynamics.singular_values(3)])
    >>> figure = htf.plotting.plot_history(history)
    >>> [ax.get_ylabel() for ax in figure.axes if ax.axison]
    ['loss', 'relative test error', 'singular values']
    """
    column = partial(_plot_column, history=history)
    draw: list[Callable[[Axes], None]] = [partial(column, values=history.loss, label="loss")]
    if bool(history.test_error.isfinite().any()):
        draw.append(partial(column, values=history.test_error, label="relative test error"))
    for tracker, record in history.tracked.items():
        if tracker in _SIZES:
            groups = history.about(tracker)["groups"]
            draw += [partial(_plot_group, history=history, tracker=tracker, group=group, run=0) for group in groups]
        else:
            draw.append(partial(_plot_record, history=history, tracker=tracker, record=record))
    figure, axes = _grid(len(draw))
    for ax, each in zip(axes, draw, strict=True):
        each(ax)
        _tidy(ax)
    runs = history.loss.shape[1]
    if runs > 1:
        explain(figure, f"The first of {runs} runs, and thin lines for the others; components of the first.")
    return figure


@styled
def plot_components(
    histories: History | Sequence[History] | Mapping[str, History],
    *,
    run: int | Sequence[int] = 0,
    group: str | Sequence[str | None] | None = None,
) -> Figure:
    """The sizes of the largest components against the steps, the papers' panels side by side.

    Parameters
    ----------
    histories : History, or sequence or mapping of History
        One panel each, of fits that tracked singular values, component norms or local component norms; the keys of a
        mapping are titles.
    run : int or sequence of int
        Which run, one for all or one per panel.
    group : str or sequence of str, optional
        Which group of components, such as "node 4"; by default the first of the history.

    Returns
    -------
    matplotlib.figure.Figure
        Line k is the kth largest value of each moment, as in the papers: lines do not cross.

    Raises
    ------
    ValueError, IndexError, KeyError
        If a history has no record of components, or has no such run or group.

    See Also
    --------
    htf.dynamics.singular_values, htf.dynamics.component_norms, htf.dynamics.local_component_norms : to track.
    htf.plotting.plot_history : all that was tracked in one fit.
    htf.plotting.plot_study : starts of several sizes.

    References
    ----------
    .. [1] N. Razin, A. Maman, N. Cohen, "Implicit regularization in hierarchical tensor factorization and deep
       convolutional neural networks", ICML 2022, figure 3.

    Examples
    --------
    >>> import htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> histories = {}
    >>> for depth in (2, 3):
    ...     net = htf.nn.MatrixFactorization((8, 8), depth, init=htf.nn.init.balanced(1e-2), seed=0)
    ...     track = [htf.dynamics.singular_values(3)]
    ...     histories[f"depth {depth}"] = htf.training.fit(net, problem, steps=20, track=track)
    >>> figure = htf.plotting.plot_components(histories)
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['depth 2', 'depth 3']
    """
    named = _named(histories)
    runs = [run] * len(named) if isinstance(run, int) else list(run)
    groups = [group] * len(named) if group is None or isinstance(group, str) else list(group)
    figure, axes = _grid(len(named))
    for ax, (title, history), own_run, own_group in zip(axes, named, runs, groups, strict=True):
        tracker = _component_tracker(history)
        _plot_group(ax, history, tracker, own_group or next(iter(history.about(tracker)["groups"])), own_run)
        _entitle(ax, title or _FORMATS[tracker])
        _tidy(ax)
    return figure


@styled
def plot_study(study: Study) -> Figure:
    """Components against the steps for each size of the start, and test errors of all seeds.

    Parameters
    ----------
    study : Study
        Panels of components show the first seed, at the first group; the last one all seeds.

    Returns
    -------
    matplotlib.figure.Figure

    See Also
    --------
    htf.dynamics.study : what it draws.
    htf.plotting.plot_error_against_init : test errors alone, of several studies.

    Examples
    --------
    >>> import htf
    >>> starts = {"init_std": (0.1, 0.01), "seeds": range(2)}
    >>> study = htf.dynamics.study("mf", dim=8, rank=1, observed=50, steps=50, **starts)
    >>> figure = htf.plotting.plot_study(study)
    >>> [ax.get_xlabel() for ax in figure.axes if ax.axison]
    ['iterations', 'iterations', 'standard deviation of the start']
    """
    history, scales = study.history, study.settings.init_std
    tracker = _component_tracker(history)
    group = next(iter(history.about(tracker)["groups"]))
    figure, axes = _grid(len(scales) + 1)
    *first, last = axes
    for ax, std in zip(first, scales, strict=True):
        run = study.runs.index((std, study.settings.seeds[0]))
        _plot_group(ax, history, tracker, group, run)
        _entitle(ax, f"start of standard deviation {std:g}")
        _tidy(ax)
    _plot_errors(last, study, 0, None)
    _label_errors(last, [study])
    seeds = study.settings.seeds
    explain(figure, f"Components of seed {seeds[0]}; errors of {counted(len(seeds), 'seed')}, points, and their means.")
    return figure


@styled
def plot_rates(comparison: RateComparison) -> Figure:
    r"""Measured rates of components against those that theory gives.

    Parameters
    ----------
    comparison : RateComparison
        Components that rise, on their way up.

    Returns
    -------
    matplotlib.figure.Figure
        Left, measured against predicted rates with the diagonal.  Right, measured rates over alignments against sizes
        :math:`\sigma`, with the lines :math:`K \sigma^{2 - 2/K}` of theory, K being the order: no constant is fitted.

    Raises
    ------
    ValueError
        If no component was recorded on its way up.

    See Also
    --------
    htf.dynamics.compare_rates : what it draws.
    htf.plotting.plot_components : the sizes themselves.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    >>> net = htf.nn.MatrixFactorization((8, 8), 3, init=htf.nn.init.balanced(1e-3), seed=0, dtype=torch.float64)
    >>> history = htf.training.fit(net, problem, steps=300, track=[htf.dynamics.singular_values(3)])
    >>> figure = htf.plotting.plot_rates(htf.dynamics.compare_rates(history))
    >>> [ax.get_ylabel() for ax in figure.axes]
    ['measured, $d\\sigma/dt$', 'measured over alignment, $\\gamma^{-1} d\\sigma/dt$']
    """
    groups = {group: (records, _drawable(records)) for group, records in comparison.groups.items()}
    groups = {group: (records, chosen) for group, (records, chosen) in groups.items() if len(chosen)}
    if not groups:
        raise ValueError("comparison has no rates of a component on its way up to plot")
    figure, axes = panels(1, 2, height=_HEIGHT + 0.6)
    rates, slopes = axes[0]
    orders = sorted({records.order for records, _ in groups.values()})
    cloud: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 2, "markeredgewidth": 0, "alpha": 0.5}
    for k, (group, (records, chosen)) in enumerate(groups.items()):
        style = {**cloud, "color": COLOURS[k % len(COLOURS)]}
        label = f"{group}, order {records.order}" if k < _MOST_NAMES else "_" + group
        rates.plot(records.predicted[chosen], records.measured[chosen], **style, label=label)
        slopes.plot(records.value[chosen], records.measured[chosen] / records.alignment[chosen], **style)
    all_rates = torch.cat([records.predicted[chosen] for records, chosen in groups.values()])
    ends = [float(all_rates.min()), float(all_rates.max())]
    rates.plot(ends, ends, color=INK, linewidth=1.0, label="equal")
    for order, dashes in zip(orders, cycle(DASHES), strict=False):
        sizes = torch.cat([r.value[c] for r, c in groups.values() if r.order == order])
        at = torch.logspace(
            math.log10(float(sizes.min())), math.log10(float(sizes.max())), 50, dtype=torch.float64, device="cpu"
        )
        theory = rf"${order}\,\sigma^{{2 - 2/{order}}}$"
        slopes.plot(at, order * at ** (2 - 2 / order), color=INK, linewidth=1.0, linestyle=dashes, label=theory)
    rates.set(xlabel=r"predicted, $K \gamma \sigma^{2 - 2/K}$", ylabel=r"measured, $d\sigma/dt$")
    slopes.set(xlabel=r"size $\sigma$ of the component", ylabel=r"measured over alignment, $\gamma^{-1} d\sigma/dt$")
    for ax in (rates, slopes):
        ax.set(xscale="log", yscale="log")
    legend = explain(figure, "A point for each moment and component on its way up; lines: theory.", [rates, slopes])
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)
    return figure


@styled
def plot_norms_and_rank(histories: History | Sequence[History] | Mapping[str, History], *, run: int = 0) -> Figure:
    """Norms and effective rank of the end matrix against the loss, while the loss falls.

    Parameters
    ----------
    histories : History, or sequence or mapping of History
        Of fits of matrices that tracked `norms` and `effective_ranks`; the keys of a mapping are labels.
    run : int
        Drawn in full colour; others thinly behind it.

    Returns
    -------
    matplotlib.figure.Figure
        Norms on the left, with what theory says that they must exceed on `htf.datasets.diverging_completion` if that is
        the problem, effective ranks on the right.  The loss falls from left to right.

    Raises
    ------
    KeyError, ValueError
        If a history has no record of these.

    See Also
    --------
    htf.dynamics.norms, htf.dynamics.effective_ranks : what is to be tracked.
    htf.datasets.diverging_completion : where norms grow without bound.

    Examples
    --------
    >>> import torch, htf
    >>> problem = htf.datasets.diverging_completion()
    >>> net = htf.nn.MatrixFactorization((2, 2), 2, init="identity", dtype=torch.float64)
    >>> track = [htf.dynamics.norms(p=(1, 2)), htf.dynamics.effective_ranks()]
    >>> history = htf.training.fit(net, problem, steps=50, track=track)
    >>> figure = htf.plotting.plot_norms_and_rank(history)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['nuclear norm (Schatten 1)', 'Frobenius norm (Schatten 2)', 'lower bound of all']
    """
    named = _named(histories)
    names = [name for name in named[0][1]["norms"] if all(name in history["norms"] for _, history in named)]
    if not names:
        raise ValueError("histories have no norm in common")
    figure, axes = panels(1, 2, height=_HEIGHT + 0.3)
    norms, ranks = axes[0]
    dashes: dict[str, Any] = dict(zip(names, cycle(DASHES), strict=False))
    for k, (label, history) in enumerate(named):
        loss = history.loss
        for name, dash in dashes.items():
            _plot_runs(norms, loss, history["norms"][name], run, k, linestyle=dash)
        record = history["effective_ranks"]
        _plot_runs(ranks, loss, next(iter(record.values())), run, k, label=label or None, linestyle="-")
    losses = torch.cat([history.loss.flatten() for _, history in named])
    if all(_diverges(history) for _, history in named):
        at = torch.logspace(math.log10(float(losses[losses > 0].min())), -0.5, 200, dtype=torch.float64, device="cpu")
        norms.plot(at, norm_lower_bound(at), color=INK, linewidth=1.0)
    handles = [Line2D([], [], color=MUTED, linestyle=dash, label=words(name)) for name, dash in dashes.items()]
    if all(_diverges(history) for _, history in named):
        handles.append(Line2D([], [], color=INK, linewidth=1.0, label="lower bound of all"))
    runs = max(history.loss.shape[1] for _, history in named)
    note = f"One start of {runs} in full colour, the others thin." if runs > 1 else ""
    explain(figure, note, [ranks], more=handles)
    norms.set(ylabel="norm of the end matrix", yscale="log")
    ranks.set(ylabel="effective rank of the end matrix")
    for ax in (norms, ranks):
        ax.set(xscale="log", xlabel="loss")
        ax.invert_xaxis()
    return figure


@styled
def plot_error_against_init(studies: Study | Sequence[Study] | Mapping[str, Study]) -> Figure:
    """Test errors at the end against the standard deviation of the start.

    Parameters
    ----------
    studies : Study, or sequence or mapping of Study
        The keys of a mapping are labels; by default their formats.

    Returns
    -------
    matplotlib.figure.Figure
        A point for each seed, and lines through the means.

    See Also
    --------
    htf.dynamics.study : what it draws.
    htf.plotting.plot_study : one study, with its components.

    Examples
    --------
    >>> import htf
    >>> small = {"dim": 8, "rank": 1, "observed": 50, "init_std": (0.1, 0.01), "seeds": range(2), "steps": 50}
    >>> studies = {f"depth {L}": htf.dynamics.study("mf", depth=L, **small) for L in (2, 3)}
    >>> figure = htf.plotting.plot_error_against_init(studies)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['depth 2', 'depth 3']
    """
    if isinstance(studies, Mapping):
        named = list(studies.items())
    else:
        several = list(studies) if isinstance(studies, Sequence) else [studies]
        named = [(each.settings.title, each) for each in several]
    figure, axes = panels(height=_HEIGHT + 0.5)
    ax = axes[0, 0]
    for k, (label, study) in enumerate(named):
        _plot_errors(ax, study, k, label)
    _label_errors(ax, [study for _, study in named])
    seeds = seeds_of(len(study.settings.seeds) for _, study in named)
    explain(figure, f"A point for each of {seeds}; lines through the means.", ax, columns=1)
    return figure


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels: beside each other up to three, and then no more than two, which can be larger."""
    columns = count if count < 4 else 2
    figure, axes = panels(math.ceil(count / columns), columns, width=min(WIDTH, 3.6 * columns), height=_HEIGHT)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, list(axes.flat[:count])


def _named(histories: History | Sequence[History] | Mapping[str, History]) -> list[tuple[str, History]]:
    if isinstance(histories, History):
        return [("", histories)]
    named = list(histories.items()) if isinstance(histories, Mapping) else [("", each) for each in histories]
    if not named:
        raise ValueError("histories is empty; expected at least one")
    return named


def _component_tracker(history: History) -> str:
    for tracker in _SIZES:
        if tracker in history.tracked:
            return tracker
    raise ValueError(f"history has no record of components; track one of {', '.join(_SIZES)}")


def _plot_group(ax: Axes, history: History, tracker: str, group: str, run: int) -> None:
    """The components of a group of one run, the largest in colours of their own."""
    about = history.about(tracker)["groups"][group]
    values = history[tracker][f"{group}/values"][:, run]
    for k in reversed(range(values.shape[1])):
        colour, width = (COLOURS[k], 1.6) if k < len(COLOURS) else (FAINT, 1.0)
        ax.plot(history.steps, values[:, k], color=colour, linewidth=width)
    ax.set_ylabel(_SIZES[tracker])
    if tracker == "local_component_norms":
        modes = about["modes"]
        where = ", ".join(map(str, modes)) if len(modes) <= 8 else f"{modes[0]} to {modes[-1]}, {len(modes)} of them"
        ax.set_title(f"{group}: modes {where}", loc="left")


def _entitle(ax: Axes, title: str) -> None:
    """A title above what a panel says of its location."""
    where, figure = ax.get_title(loc="left"), ax.get_figure()
    assert isinstance(figure, Figure)
    places: list[Any] = [other.get_subplotspec() for other in figure.axes]
    columns = len({place.colspan.start for place in places})
    title = folded(title, figure.get_figwidth() / columns - 0.6)
    ax.set_title(f"{title}\n{where}" if where else title, loc="left")


def _plot_column(ax: Axes, history: History, values: Tensor, label: str) -> None:
    _plot_runs(ax, history.steps, values, 0, 0)
    ax.set(ylabel=label)
    if bool((values > 0).any()):
        ax.set_yscale("log")


def _plot_record(ax: Axes, history: History, tracker: str, record: Mapping[str, Tensor]) -> None:
    for k, (name, values) in enumerate(record.items()):
        # Whatever a tracker of one's own records, a line each.
        _plot_runs(ax, history.steps, values.flatten(2)[..., 0] if values.ndim > 2 else values, 0, k, words(name))
    ax.set_ylabel(tracker.replace("_", " "))
    if len(record) > 1:
        ax.legend()


def _plot_runs(
    ax: Axes, across: Tensor, values: Tensor, run: int, k: int, label: str | None = None, linestyle: Any = None
) -> None:
    """One run in full colour, all others thinly behind it; `across` is of the steps or of each run."""
    style_of_all = {"color": COLOURS[k % len(COLOURS)], "linestyle": linestyle or DASHES[k % len(DASHES)]}
    for other in range(values.shape[1]):
        own = across if across.ndim == 1 else across[:, other]
        style: dict[str, Any] = {"linewidth": 1.6, "label": label, "zorder": 2}
        if other != run:
            style = {"linewidth": 0.6, "alpha": 0.35, "zorder": 1}
        ax.plot(own, values[:, other], **style_of_all, **style)


def _plot_errors(ax: Axes, study: Study, k: int, label: str | None) -> None:
    scales = sorted(study.settings.init_std)
    errors = [study.errors(std) for std in scales]
    style = look(k, markersize=4)
    for std, own in zip(scales, errors, strict=True):
        ax.plot([std] * len(own), own, **{**style, "linestyle": "none", "alpha": 0.5})
    ax.plot(scales, [float(own.mean()) for own in errors], label=label, **{**style, "marker": None})


def _label_errors(ax: Axes, studies: Sequence[Study]) -> None:
    ax.set(xlabel="standard deviation of the start", ylabel="relative test error at the end", yscale="log")
    if len({std for study in studies for std in study.settings.init_std}) > 1:
        ax.set_xscale("log")


def _tidy(ax: Axes) -> None:
    ax.set_xlabel("iterations")
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    ax.margins(x=0)


def _drawable(records: RateRecords) -> Tensor:
    """Where components are on their way up and everything has a logarithm; thinned to what can be seen."""
    good = records.rising() & (records.measured > 0) & (records.predicted > 0) & (records.alignment > 0)
    chosen: Tensor = good.nonzero().flatten()
    return chosen[:: max(1, math.ceil(len(chosen) / _MOST_POINTS))]


def _diverges(history: History) -> bool:
    """Whether the problem is the one of which a lower bound of norms is known."""
    return bool(history.settings["problem"].get("name") == "diverging")
