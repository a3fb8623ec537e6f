import pytest

from htf import DimensionTree
from htf.plotting import draw_tree, plot_rank_fit
from htf.probes import FitRecord, RankFit


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
