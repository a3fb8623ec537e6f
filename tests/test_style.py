"""The one style of figures: colours that stand out, letters that survive half size, bars within what is possible."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from benchmarks.figures.__main__ import faults, main
from benchmarks.figures.drawings import DRAWINGS, NOT_REDRAWN
from benchmarks.figures.thumbnails import LARGEST, THUMBNAILS
from htf import DimensionTree
from htf.plotting import draw_tree, style
from htf.plotting.style import bars, explain, look, panels, seeds_of, styled, words

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.clip(colour, 0, 1)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def in_the_dark(colour):
    """What docs/_static/style.css makes of a colour: invert(0.925), then hue-rotate(180deg), by the standard."""
    inverted = 0.925 + np.asarray(to_rgb(colour)) * (1 - 2 * 0.925)
    turn = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])
    return turn @ inverted


@pytest.mark.parametrize("colour", [*style.COLOURS, style.INK, style.MUTED])
def test_colours_stand_out_on_light_and_dark_pages(colour):
    css = (ROOT / "docs" / "_static" / "style.css").read_text()
    assert css.count("invert(0.925) hue-rotate(180deg)") == 2
    assert contrast(to_rgb(colour), (1, 1, 1)) >= 3
    assert contrast(in_the_dark(colour), to_rgb("#131416")) >= 3
    # White becomes the ground of a dark page, near enough.
    assert contrast(in_the_dark("white"), to_rgb("#131416")) < 1.05


def test_every_curve_of_two_rounds_has_a_look_of_its_own():
    looks = [look(k) for k in range(14)]
    assert len({(each["color"], each.get("markerfacecolor")) for each in looks}) == 14
    assert len({(str(each["marker"]), str(each["linestyle"])) for each in looks}) == 7
    assert look(0, linestyle="none")["linestyle"] == "none"


def test_bars_end_where_nothing_can_be():
    assert bars([0.95, 0.02, 0.5], [0.1, 0.1, 0.1], [0.1, 0.1, 0.1], 0, 1) == pytest.approx(
        np.array([[0.1, 0.02, 0.1], [0.05, 0.1, 0.1]])
    )
    # A table may be rounded so that an end is on the wrong side.
    assert bars([0.5], [-1e-5], [0.2]).tolist() == [[0.0], [pytest.approx(0.2)]]


def test_names_of_the_code_are_words():
    assert words("gradient_field") == "gradient field"
    assert words("igc") == "input gradient change"
    assert [seeds_of(each) for each in ([3, 3], [1], [1, 3], [])] == ["3 seeds", "1 seed", "1 to 3 seeds", ""]
    assert all("_" not in text for text in style.NAMES.values())


def test_other_figures_keep_their_settings():
    before = dict(matplotlib.rcParams)
    seen = {}

    @styled
    def drawn():
        seen.update(matplotlib.rcParams)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        drawn()
    assert seen["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before
    draw_tree(DimensionTree.balanced(4))
    assert dict(matplotlib.rcParams) == before


def test_the_style_of_pages_is_that_of_the_library(tmp_path):
    (tmp_path / "matplotlibrc").write_text(style.matplotlibrc())
    found = matplotlib.rc_params_from_file(tmp_path / "matplotlibrc", use_default_template=False)
    assert set(found) == set(style.RC)
    with matplotlib.rc_context(style.RC):
        for key, value in found.items():
            assert to_rgb(value) == to_rgb(style.RC[key]) if "color" in key else value == matplotlib.rcParams[key], key


def test_a_legend_below_leaves_the_panels_their_height():
    figure, axes = panels(1, 2, height=2.0)
    for ax in axes[0]:
        ax.plot([0, 1], [0, 1], label="a curve")
    legend = explain(figure, "Means of 3 seeds; " + "and so on, " * 20, list(axes[0]))
    assert [text.get_text() for text in legend.get_texts()] == ["a curve"]
    assert "\n" in legend.get_title().get_text()
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert all(ax.get_tightbbox().y0 >= box.y1 - 1 for ax in axes[0])
    assert axes[0, 0].get_window_extent().height > 1.2 * figure.dpi
    assert min(text.get_fontsize() for text in figure.findobj(Text)) >= style.SMALLEST


def test_no_other_module_sets_colours_or_sizes_of_letters():
    own = re.compile(r"rcParams|fontsize=[\"\d]|[\"'](?:tab:|C\d[\"']|#[0-9a-fA-F]{6})|f\"C\{|color=\"0\.\d|rc_context")
    allowed = {"style.py", "thumbnails.py", "_files.py"}
    for path in [*(ROOT / "htf").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        if path.name not in allowed:
            assert not own.findall(path.read_text()), path


def test_every_figure_of_the_results_is_drawn_by_the_command_or_listed_with_a_reason():
    there = {path.stem for path in RESULTS.glob("*.png")}
    assert there == set(DRAWINGS) | set(NOT_REDRAWN)
    assert not set(DRAWINGS) & set(NOT_REDRAWN)
    assert all(NOT_REDRAWN.values())
    for name, drawing in DRAWINGS.items():
        for file in drawing.files:
            assert (RESULTS / file).is_file(), (name, file)
    assert {path.stem for path in RESULTS.glob("*.svg")} <= there


def test_the_command_draws_from_the_files(tmp_path, capsys):
    main(["long_range_pathfinder", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.out == f"figure: {tmp_path / 'long_range_pathfinder'}.png\n"
    assert printed.err == ""
    drawn, there = (
        np.asarray(Image.open(folder / "long_range_pathfinder.png").convert("L"), dtype=float)
        for folder in (tmp_path, RESULTS)
    )
    assert drawn.shape == there.shape
    assert abs(drawn - there).mean() < 3  # other versions of matplotlib place letters a little otherwise
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_figures_that_cannot_be_read_are_told():
    figure = Figure(figsize=(9, 2))
    figure.text(0, 0, "random_labels", fontsize=5)
    assert faults(figure) == [
        "it is 9.0 inches wide; expected at most 7.2",
        "'random_labels' has letters of 5.0 points; expected at least 9.0",
        "'random_labels' is a name of the code",
    ]


def test_every_card_of_the_index_has_a_small_picture():
    index = (ROOT / "docs" / "index.md").read_text()
    cards = re.findall(r":::\{grid-item-card\}[^\n]*\n(.*?)\n\n", index, re.S)
    assert len(cards) >= 20
    for card in cards:
        name = re.search(r":link: (\S+)", card)[1]
        assert f":img-top: thumbnails/{name}.png" in card, name
        assert re.search(r":img-alt: \S+ \S+", card), name
    for name in THUMBNAILS:
        assert (ROOT / "docs" / "thumbnails" / f"{name}.png").stat().st_size <= LARGEST
