"""One style for all figures: sizes, colours with markers and dashes, words for names, and bars within what is possible.

Figures are at most 7.2 inches wide, the column of a page, with letters of 9 points at least, so that they can still be
read at half that size.  Colours are those of Okabe and Ito, the light ones darkened until they stand out on white (a
contrast of 3), and a marker and a dash go with each, so that neither colour-blind readers nor print lose anything.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike

WIDTH = 7.2  # inches
SMALLEST = 9.0  # points

INK, MUTED, FAINT = "#222222", "#606060", "#8a8a8a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0629a", "#8f6a00", "#3f93cd", "#6a4fb0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Dots last: they are also what guides are drawn with.
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)), (0, (9, 2)), (0, (3, 1)), ":")
SEQUENTIAL, SHARES, DIVERGING, GREY = "viridis", "Blues", "RdBu_r", "gray_r"
MISSING = "#7fc4cf"  # pixels without a value, among grey ones

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.title_fontsize": 9.0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.5,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
    "figure.facecolor": "white",
}

# What the code calls things, where other words than the name's own, with spaces for underscores, are the field's.
NAMES = {
    "adam": "Adam",
    "cifar10": "CIFAR-10",
    "cnn": "CNN",
    "cnn masked zero": "CNN with a mask",
    "cnn mean": "CNN, mean for missing",
    "cnn zero": "CNN, zero for missing",
    "convac": "ConvAC",
    "cp": "CP",
    "fashion_mnist": "Fashion-MNIST",
    "generative": "tree, generative",
    "discriminative": "tree, discriminative",
    "ht": "HT",
    "igtd": "IGTD",
    "igc": "input gradient change",
    "is_same_class": "Is-Same-Class",
    "linear2": "2 linear layers",
    "linear4": "4 linear layers",
    "linear8": "8 linear layers",
    "log_det": "log-determinant",
    "mlp_1x512": "perceptron, 1 × 512",
    "mlp_3x512": "perceptron, 3 × 512",
    "mnist": "MNIST",
    "nuclear": "nuclear norm",
    "original": "original data",
    "pathfinder": "Pathfinder",
    "relu": "ReLU",
    "resnet18": "ResNet-18",
    "rmsprop": "RMSprop",
    "schatten 0.5": "Schatten 0.5",
    "schatten 1": "nuclear norm (Schatten 1)",
    "schatten 2": "Frobenius norm (Schatten 2)",
    "schatten inf": "spectral norm (Schatten ∞)",
    "sgd": "gradient descent",
    "small_resnet": "small ResNet",
    "small_resnet_near": "small ResNet, receptive field of 55",
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def matplotlibrc() -> str:
    """The style as the text of a matplotlibrc file, in which colours have no hash, as that begins a comment."""
    values = {key: ", ".join(value) if isinstance(value, list) else value for key, value in RC.items()}
    return "".join(f"{key}: {value}\n" for key, value in values.items()).replace("#", "")


def styled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that draws, in this style; what it leaves to others, and their settings, stay as they are."""

    @functools.wraps(function)
    def draw(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with matplotlib.rc_context(RC):
            return function(*args, **kwargs)

    return draw


def panels(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float = 2.6, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (rows, columns); `height` is that of a row, in inches."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def look(k: int, **changes: Any) -> dict[str, Any]:
    """Colour, marker and dash of the kth curve, hollow after a round of them; `changes` take the place of some."""
    turn, k = divmod(k, len(COLOURS))
    hollow = {"markerfacecolor": "white"} if turn % 2 else {}
    return {"color": COLOURS[k], "marker": MARKERS[k], "linestyle": DASHES[k], **hollow, **changes}


def baseline(**changes: Any) -> dict[str, Any]:
    """Look of the curve that others are compared with."""
    return {"color": INK, "marker": "o", "linestyle": "-"} | changes


def guide(ax: Axes, *, x: float | None = None, y: float | None = None, label: str | None = None) -> None:
    """A thin dotted line at a value of reference."""
    look: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "linestyle": ":", "label": label, "zorder": 0}
    if x is not None:
        ax.axvline(x, **look)
    if y is not None:
        ax.axhline(y, **look)


def words(name: str) -> str:
    """Words of a figure for a name of the code."""
    return NAMES.get(name, name.replace("_", " "))


def bars(
    middle: ArrayLike,
    below: ArrayLike,
    above: ArrayLike,
    least: float = -np.inf,
    most: float = np.inf,
) -> np.ndarray:
    """Lengths of error bars, (2, points), which end at `least` and `most`, beyond which nothing can be."""
    centre = np.asarray(middle, dtype=np.float64)
    ends = np.clip(np.stack([centre - np.asarray(below), centre + np.asarray(above)]), least, most)
    # Rounding in a table can put an end on the wrong side.
    lengths: np.ndarray = np.clip(np.stack([centre - ends[0], ends[1] - centre]), 0, None)
    return lengths


def counted(number: int, what: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def seeds_of(numbers: Iterable[int]) -> str:
    """In words, how many seeds the points of a figure are means of."""
    found = sorted(set(numbers))
    if not found:
        return ""
    return counted(found[0], "seed") if len(found) == 1 else f"{found[0]} to {found[-1]} seeds"


def explain(
    figure: Figure,
    note: str = "",
    curves: Axes | Sequence[Axes] = (),
    *,
    columns: int | None = None,
    more: Sequence[Any] = (),
) -> Legend:
    """Legend below all panels, each label once, above it a note of what points and bars are and of how many seeds.

    Parameters
    ----------
    figure : Figure
    note : str
    curves : Axes or sequence of Axes
        Whose labels are listed.
    columns : int, optional
        By default as many as fit.
    more : sequence of artists
        Further handles, with labels.
    """
    handles: dict[str, Any] = {}
    for ax in curves if isinstance(curves, Sequence) else [curves]:
        found, labels = ax.get_legend_handles_labels()
        for handle, label in zip(found, labels, strict=True):
            handles.setdefault(label, handle)
    # Lines without bars, which are guides where others have bars, come last.
    handles = dict(sorted(handles.items(), key=lambda item: isinstance(item[1], Line2D)))
    handles |= {handle.get_label(): handle for handle in more}
    across = figure.get_figwidth()
    if columns is None:
        # A letter takes some 0.066 inches, a handle and its margins 0.65.
        widest = 0.65 + 0.066 * max((len(label) for label in handles), default=1)
        columns = max(1, min(len(handles), int(across / widest)))
    lines = math.ceil(len(handles) / columns)
    lines_of_note = folded(note, across)
    # Panels keep their height.
    figure.set_figheight(figure.get_figheight() + 0.19 * (lines + bool(note) * (1 + lines_of_note.count("\n"))) + 0.05)
    with matplotlib.rc_context(RC):
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            title=lines_of_note or None,
            loc="outside lower left",
            ncols=columns,
            alignment="left",
        )
    legend.get_title().set_color(MUTED)
    return legend


def folded(text: str, across: float) -> str:
    """Lines no longer than a figure of that many inches."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > across / 0.067:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
