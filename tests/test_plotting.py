from dataclasses import replace

import pytest
import torch

from htf import DimensionTree, plotting
from htf.datasets import diverging_completion, tensor_completion
from htf.dynamics import compare_rates, effective_ranks, local_component_norms, norms, singular_values, unbalancedness
from htf.dynamics.studies import study
from htf.nn import HTNetwork, MatrixFactorization
from htf.nn.init import balanced
from htf.plotting import (
    draw_tree,
    plot_components,
    plot_error_against_init,
    plot_history,
    plot_norms_and_rank,
    plot_rank_fit,
    plot_rates,
)
from htf.probes import FitRecord, RankFit
from htf.training import fit


def record(form, rank, twin, seed, train):
    return FitRecord(form, rank, 6, twin, seed, 10, train, 2 * train, [train], [2 * train], [], False)


def test_rank_fit_figure_shows_means_and_deviations():
    records = [
        record(f, r, t, s, 0.1 / r + 0.01 * s)
        for f in ("cp", "ht")
        for r in (1, 2)
        for t in ("original",)
        for s in (0, 2)
    ]
    result = RankFit({"dataset": "digits"}, records, {6: 0.09})
    figure = plot_rank_fit(result)
    assert [ax.get_xlabel() for ax in figure.axes] == ["CP rank", "HT rank (width of every node)"]
    lines = figure.axes[0].get_lines()
    train = lines[0]
    assert list(train.get_xdata()) == [1, 2]
    assert list(train.get_ydata()) == pytest.approx([0.11, 0.06])
    assert any(list(line.get_ydata()) == [0.09, 0.09] for line in lines)


def test_nothing_to_plot():
    with pytest.raises(ValueError, match="no records"):
        plot_rank_fit(RankFit({"dataset": "digits"}))


def test_tree_has_a_line_for_each_edge_as_wide_as_asked():
    tree = DimensionTree.grid(3, 3)
    ax = draw_tree(tree, widths=dict.fromkeys(tree.edges, 3.0), labels={tree.root: "root"})
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 2]
    assert len(lines) == tree.n_nodes - 1
    assert {line.get_linewidth() for line in lines} == {3.0}
    assert [text.get_text() for text in ax.texts] == ["root"]
    assert len(tree.draw().texts) == 9


@pytest.fixture(scope="module")
def deep():
    """A rank-one matrix fitted twice from balanced starts."""
    problem = tensor_completion((8, 8), "matrix", rank=1, observed=50, norm=8)
    net = MatrixFactorization((8, 8), 3, runs=2, init=balanced(1e-3), seed=0, dtype=torch.float64)
    return fit(net, problem, steps=500, track=[singular_values(3), unbalancedness(), effective_ranks()])


@pytest.fixture(scope="module")
def wide():
    problem = tensor_completion((3, 3, 3, 3), "ht", rank=2, observed=60, norm=9)
    net = HTNetwork(problem.tree, 3, 4, runs=3, init=balanced(0.3), seed=0)
    return fit(net, problem, steps=50, track=[local_component_norms(3), norms()])


@pytest.fixture(scope="module")
def diverging():
    net = MatrixFactorization((2, 2), 2, runs=2, init="identity", dtype=torch.float64)
    return fit(net, diverging_completion(), steps=400, track=[norms(p=(0.5, 1, 2)), effective_ranks()])


def shown(figure):
    return [ax for ax in figure.axes if ax.axison]


def test_history_has_a_panel_for_each_quantity(deep, wide, tmp_path):
    figure = plot_history(deep)
    labels = ["loss", "relative test error", "singular values", "unbalancedness", "effective ranks"]
    assert [ax.get_ylabel() for ax in shown(figure)] == labels
    assert {ax.get_xlabel() for ax in shown(figure)} == {"iterations"}
    loss = shown(figure)[0]
    assert loss.get_yscale() == "log"
    first, second = loss.get_lines()
    assert list(first.get_ydata()) == deep.loss[:, 0].tolist()
    assert first.get_linewidth() > second.get_linewidth()
    assert len(shown(figure)[2].get_lines()) == 3
    figure.savefig(tmp_path / "history.png")
    panels = shown(plot_history(wide))
    assert [ax.get_title(loc="left") for ax in panels[2:5]] == [
        "node 4: modes 0, 1", "node 5: modes 2, 3", "node 6: modes 0, 1, 2, 3"
    ]  # fmt: skip


def test_history_of_exact_or_unknown_errors_is_drawn(deep):
    again = replace(deep, loss=0 * deep.loss, test_error=deep.loss * torch.nan)
    panels = shown(plot_history(again))
    assert panels[0].get_yscale() == "linear"
    assert panels[1].get_ylabel() == "singular values"


def test_components_side_by_side(deep, wide, tmp_path):
    figure = plot_components({"a matrix": deep, "": wide}, run=[1, 2], group=[None, "node 6"])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["a matrix", "hierarchical tensor factorization\nnode 6: modes 0, 1, 2, 3"]
    largest = figure.axes[1].get_lines()[-1]
    assert list(largest.get_ydata()) == wide["local_component_norms"]["node 6/values"][:, 2, 0].tolist()
    assert list(largest.get_xdata()) == wide.steps.tolist()
    figure.savefig(tmp_path / "components.png")
    assert len(plot_components(deep).axes) == 1
    with pytest.raises(ValueError, match="no record of components"):
        plot_components(replace(deep, tracked={}))
    with pytest.raises(ValueError, match="empty"):
        plot_components([])


def test_rates_lie_on_the_lines_of_theory(deep, wide, tmp_path):
    comparison = compare_rates(deep)
    figure = plot_rates(comparison)
    rates, slopes = figure.axes
    points, diagonal = rates.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert points.get_ydata() == pytest.approx(points.get_xdata(), rel=0.05)
    points, theory = slopes.get_lines()
    assert theory.get_ydata() == pytest.approx(3 * theory.get_xdata() ** (4 / 3))
    assert points.get_ydata() == pytest.approx(3 * points.get_xdata() ** (4 / 3), rel=0.05)
    assert {ax.get_xscale() for ax in figure.axes} == {"log"}
    figure.savefig(tmp_path / "rates.png")
    with pytest.raises(ValueError, match="no rates of a component"):
        plot_rates(compare_rates(wide))


def test_norms_rise_and_rank_falls_as_the_loss_does(diverging, deep, tmp_path):
    figure = plot_norms_and_rank({"depth 2": diverging})
    left, right = figure.axes
    assert left.xaxis_inverted()
    assert right.xaxis_inverted()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    norms_named = ["Schatten 0.5", "nuclear norm (Schatten 1)", "Frobenius norm (Schatten 2)"]
    assert names == ["depth 2", *norms_named, "lower bound of all"]
    bound = left.get_lines()[-1]
    assert len(bound.get_xdata()) == 200
    assert list(right.get_lines()[0].get_xdata()) == diverging.loss[:, 0].tolist()
    figure.savefig(tmp_path / "norms.png")
    with pytest.raises(KeyError, match="norms"):
        plot_norms_and_rank(deep)


def test_no_bound_is_drawn_for_other_problems(tmp_path):
    problem = tensor_completion((4, 4), "matrix", rank=1, observed=12)
    net = MatrixFactorization((4, 4), 2, seed=0)
    history = fit(net, problem, steps=40, track=[norms(), effective_ranks()])
    figure = plot_norms_and_rank([history, history])
    assert "lower bound of all" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_errors_against_the_start(tmp_path):
    small = study("mf", rank=1, dim=6, observed=30, depth=2, init_std=(1e-1, 1e-2), seeds=(0, 1), steps=60)
    figure = plot_error_against_init(small)
    (ax,) = figure.axes
    mean = ax.get_lines()[-1]
    assert list(mean.get_xdata()) == [1e-2, 1e-1]
    assert mean.get_ydata()[0] == pytest.approx(float(small.errors(1e-2).mean()))
    assert mean.get_label() == "matrix factorization"
    assert len(plot_error_against_init({"a": small, "b": small}).legends[0].get_texts()) == 2
    panels = small.plot().axes
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in panels[:2]]
    assert titles == [f"start of standard deviation {s}" for s in (0.1, 0.01)]
    small.plot().savefig(tmp_path / "study.png")


def test_figures_of_benchmarks_say_where_they_are():
    for name in ("plot_link", "plot_long_range", "plot_randomization", "plot_effective_ranks", "plot_recovery"):
        with pytest.raises(AttributeError, match=rf"benchmarks\.\w+\.plots\.{name}"):
            getattr(plotting, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'plot'$"):
        plotting.plot  # noqa: B018
