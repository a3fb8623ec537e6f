"""Curves of accuracy against distance, from tables."""

import pytest

from benchmarks.long_range.plots import plot_long_range, summary

HEADER = "task,distance,model,regularizer,weight,control,seed,weight_decay,dropout,test,test_last,recipe\n"
ROWS = [
    "pathfinder,5,small,none,0.0,,0,0.0,0.0,0.5,0.4,x",
    "pathfinder,3,small,none,0.0,,0,0.0,0.0,0.6,0.5,x",
    "pathfinder,3,small,none,0.0,,1,0.0,0.0,0.8,0.7,x",
    "pathfinder,3,small,igc:size=2,3.0,,0,0.0,0.0,0.9,0.9,x",
    "pathfinder,3,small,igc:samples=16,3.0,,0,0.0,0.0,0.85,0.9,x",
    "pathfinder,3,small,interaction:samples=4,1.0,,0,0.0,0.0,0.95,0.9,x",
    "pathfinder,3,small,none,0.0,dropout,0,0.0,0.5,0.55,0.5,x",
    "pathfinder,3,small,none,0.0,weight decay,0,0.01,0.0,0.56,0.5,x",
    "pathfinder,3,small,none,0.0,4 × the epochs,0,0.0,0.0,0.57,0.5,x",
    "is_same_class,20,resnet18,none,0.0,,0,0.0,0.0,0.6,0.6,x",
]
PUBLISHED = "task,model,distance,regularizer,weight,test,source\n" + "".join(
    f"is_same_class,resnet18,{distance},igc,{weight},0.6,Some 2022\n" for weight in (0, 1) for distance in (40, 0)
)


def write(path, rows=ROWS, header=HEADER):
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def lines(ax):
    """Data of each labelled curve."""
    curves = {}
    for bars in ax.containers:
        curves[bars.get_label()] = bars.lines[0]
    return curves


def test_a_panel_per_task_and_model_and_a_curve_per_training(tmp_path):
    figure = plot_long_range(write(tmp_path / "table.csv"))
    pathfinder, same_class = figure.axes
    curves = lines(pathfinder)
    assert set(curves) == {
        "no regularizer",
        "no regularizer, dropout 0.5",
        "no regularizer, weight decay 0.01",
        "no regularizer, 4 × the epochs",
        "input gradient change, size=2, λ = 3",
        "input gradient change, samples=16, λ = 3",
        "interaction, λ = 1",
    }
    assert curves["no regularizer"].get_xdata().tolist() == [3.0, 5.0]
    assert curves["no regularizer"].get_ydata().tolist() == pytest.approx([0.7, 0.5])
    assert list(lines(same_class)) == ["no regularizer"]
    assert pathfinder.get_xlabel() == "dashes of the path"
    last = plot_long_range(tmp_path / "table.csv", column="test_last").axes[0]
    assert lines(last)["no regularizer"].get_ydata().tolist() == pytest.approx([0.6, 0.4])
    assert last.get_ylabel() == "test last accuracy"


def test_bars_are_standard_deviations_over_seeds(tmp_path):
    points = summary(write(tmp_path / "table.csv"))
    (both,) = [p for p in points if p["seeds"] == 2]
    assert (both["distance"], both["regularizer"], both["control"]) == (3.0, "none", "")
    assert both["mean"] == pytest.approx(0.7)
    assert both["deviation"] == pytest.approx(0.1 * 2**0.5)
    assert all(p["deviation"] == 0.0 for p in points if p is not both)
    ax = plot_long_range(tmp_path / "table.csv").axes[0]
    (plain,) = [bars for bars in ax.containers if bars.get_label() == "no regularizer"]
    (segments,) = plain.lines[2]
    assert segments.get_segments()[0][:, 1].tolist() == pytest.approx([0.7 - 0.1 * 2**0.5, 0.7 + 0.1 * 2**0.5])


def test_published_curves_are_dashed_where_task_and_model_are(tmp_path):
    (tmp_path / "published.csv").write_text(PUBLISHED)
    pathfinder, same_class = plot_long_range(write(tmp_path / "table.csv"), tmp_path / "published.csv").axes
    assert [line.get_label() for line in pathfinder.lines if line.get_linestyle() == "--"] == []
    dashed = [line for line in same_class.lines if line.get_linestyle() == "--"]
    assert [line.get_label() for line in dashed] == ["Some 2022, λ = 0", "Some 2022, λ = 1"]
    assert dashed[0].get_xdata().tolist() == [0.0, 40.0]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], HEADER, "has no rows to plot"),
        (ROWS, HEADER.replace("weight_decay", "decay"), "has no column weight_decay; expected task, model"),
        ([ROWS[0].replace(",0.5,", ",,")], HEADER, "line 2: test is ''; expected a number"),
        ([*ROWS, ROWS[0].replace(",5,", ",far,")], HEADER, "line 12: distance is 'far'; expected a number"),
    ],
)
def test_tables_that_are_none(rows, header, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plot_long_range(write(tmp_path / "table.csv", rows, header))


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        plot_long_range(tmp_path / "none.csv")


def test_means_over_different_recipes_are_refused(tmp_path):
    rows = [*ROWS, "pathfinder,5,small,none,0.0,,1,0.0,0.0,0.7,0.4,other"]
    with pytest.raises(ValueError, match=r"two recipes, x and other, .* regularizer none, distance 5"):
        plot_long_range(write(tmp_path / "table.csv", rows))
