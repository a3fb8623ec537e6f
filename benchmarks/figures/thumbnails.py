"""Small pictures for the cards of the index, one for each task, of real results or of what the library makes.

They are transparent, have hardly a letter in them, and are read at 300 pixels, on a light and on a dark ground (which
inverts them, see docs/_static/style.css).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Generator, Tensor

import htf
from benchmarks.dynamics_plots import kept
from htf._files import read_json, write_figure
from htf._tables import read_table
from htf.plotting.style import COLOURS, FAINT, GREY, MISSING, MUTED, RC, SHARES, look

LARGEST = 20_000  # bytes
_SIZE = (3.0, 1.8)  # inches, at 200 dots


def draw_thumbnail(name: str, results: Path, out: Path) -> Path:
    """Draw the picture of one card into a folder.

    Raises
    ------
    ValueError
        If there is no such card, or the file would have more than 20,000 bytes.
    """
    if name not in THUMBNAILS:
        raise ValueError(f"there is no thumbnail {name}; there are {', '.join(THUMBNAILS)}")
    with matplotlib.rc_context({**RC, "lines.linewidth": 2.4, "lines.markersize": 7.0, "font.size": 13.0}):
        figure = Figure(figsize=_SIZE, layout="constrained", facecolor="none")
        THUMBNAILS[name](figure, results)
    path = out / f"{name}.png"
    write_figure(path, figure)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; expected at most {LARGEST}")
    return path


def _plain(figure: Figure) -> Axes:
    """Axes without a frame, over all of the figure."""
    figure.set_layout_engine("none")
    ax = figure.add_axes((0.03, 0.03, 0.94, 0.94))
    ax.set_axis_off()
    return ax


def _framed(figure: Figure, **settings: Any) -> Axes:
    """Axes with two spines, whose ticks `_bare` takes away."""
    ax = figure.subplots()
    ax.set(facecolor="none", **settings)
    ax.spines[["left", "bottom"]].set(linewidth=2, color=MUTED)
    return ax


def _pictures(
    figure: Figure, rows: list[list[np.ndarray]], cmap: str = GREY, limits: tuple[float, float] | None = None
) -> None:
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for line, images in zip(axes, rows, strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.set(xticks=[], yticks=[], facecolor=MISSING)
            ax.spines[:].set(visible=True, color=FAINT, linewidth=1)
            low, high = limits or (None, None)
            ax.imshow(np.ma.masked_invalid(image), cmap=cmap, vmin=low, vmax=high)


def _tree(ax: Axes, tree: htf.DimensionTree, widths: dict[int, float] | None = None) -> None:
    htf.plotting.draw_tree(tree, ax, labels={}, widths=widths)
    for dots in ax.collections:
        assert isinstance(dots, PathCollection)
        dots.set_sizes([70])
    if widths is None:
        for line in ax.lines:
            line.set_linewidth(2.4)


def quickstart(figure: Figure, results: Path) -> None:
    """A tree."""
    _tree(_plain(figure), htf.DimensionTree.balanced(8))


def ten_lines(figure: Figure, results: Path) -> None:
    """Lines of a program."""
    ax = _plain(figure)
    lengths: list[list[float]] = [[2], [1, 3], [], [3, 2, 1.5], [1, 4], [2.5, 1], [], [1.5, 3, 2], [1, 2], [2, 1.5, 1]]
    for row, parts in enumerate(lengths):
        at = 0.6 if row in (4, 5) else 0.0
        for k, length in enumerate(parts):
            ax.plot(
                [at, at + length], [-row, -row], color=(MUTED, COLOURS[0], COLOURS[1])[k], linewidth=5, linestyle="-"
            )
            at += length + 0.5


def networks(figure: Figure, results: Path) -> None:
    """A tree over the pixels of an image."""
    ax = _plain(figure)
    tree = htf.DimensionTree.balanced(8)
    _tree(ax, tree)
    image = htf.datasets.load("digits").test_images[0].numpy()
    for mode in range(8):
        place = (mode - 0.35, mode + 0.35, -0.75, -0.2)
        pixel = image[4:5, mode : mode + 1]
        ax.imshow(pixel, cmap=GREY, vmin=0, vmax=16, extent=place, aspect="auto", zorder=3)
        ax.add_patch(Rectangle((mode - 0.35, -0.75), 0.7, 0.55, fill=False, edgecolor=MUTED, linewidth=1.5, zorder=4))
    ax.set(xlim=(-0.6, 7.6), ylim=(-0.9, 3.3))


def which_method(figure: Figure, results: Path) -> None:
    """A table of dots."""
    ax = _plain(figure)
    chosen = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    for row, column in np.ndindex(4, 4):
        if chosen[row, column]:
            ax.plot(column, -row, color=COLOURS[column], marker=look(column)["marker"], markersize=13)
        else:
            ax.plot(column, -row, color=FAINT, marker=".", markersize=6)
    for row in range(4):
        ax.plot([-1.6, -0.7], [-row, -row], color=MUTED, linewidth=5, linestyle="-")
    ax.margins(0.08, 0.15)


def ht_tensors(figure: Figure, results: Path) -> None:
    """A tree with the ranks of a smooth tensor as widths."""
    grid = np.indices((6,) * 6) / 5
    tree = htf.DimensionTree.balanced(6)
    x = htf.hierarchical_tucker(1 / (1 + grid.sum(0)), tree=tree, tol=1e-5)
    ranks = htf.ranks.hierarchical_rank(x)
    _tree(_plain(figure), tree, {node: 2.5 * rank for node, rank in ranks.items()})


def compression(figure: Figure, results: Path) -> None:
    """Error against numbers kept, of a smooth array: HT and one matrix."""
    grid = np.indices((12,) * 4) / 11
    array = np.sin(3 * grid.sum(0)) + 1 / (1 + grid[0] * grid[1] + 2 * grid[2] * grid[3])
    ax = _framed(figure, xscale="log", yscale="log")
    tolerances = (0.3, 0.1, 3e-2, 1e-2, 1e-3, 1e-4)
    found = [htf.hierarchical_tucker(array, tol=tol) for tol in tolerances]
    errors_of = [float(x.relative_error(array)) for x in found]
    ax.plot([x.n_parameters for x in found], errors_of, **look(0))
    _, s, _ = np.linalg.svd(array.reshape(144, 144))
    errors = np.sqrt((s[::-1] ** 2).cumsum()[::-1] / (s**2).sum())
    kept_ranks = [r for r in range(1, 30) if errors[r] > 1e-5][::2]
    ax.plot([288 * r for r in kept_ranks], errors[kept_ranks], **look(1))
    _bare(ax)


def completion(figure: Figure, results: Path) -> None:
    """A picture of which a third is known, and completed."""
    y, x = np.mgrid[0:1:40j, 0:1:40j]
    image = np.exp(-((x - 0.35) ** 2 + (y - 0.4) ** 2) * 18) + 0.8 * np.exp(-((x - 0.72) ** 2 + (y - 0.65) ** 2) * 30)
    image = image + 0.3 * np.sin(5 * x) * np.cos(4 * y)
    seen = np.random.default_rng(0).random(image.shape) < 0.35
    at = np.argwhere(seen)
    found = htf.ht_completion(at, image[seen], image.shape, random_state=0)
    _pictures(figure, [[np.where(seen, image, np.nan), np.asarray(found.to_tensor())]], SHARES)


def cross_approximation(figure: Figure, results: Path) -> None:
    """A function, and the few points at which it was asked."""
    asked: set[int] = set()

    def function(indices: np.ndarray) -> np.ndarray:
        bits = indices @ (2 ** np.arange(9, -1, -1))
        asked.update(bits.tolist())
        t = bits / 1023
        return np.sin(9 * t) * np.exp(-1.5 * t) + 0.3 * t

    x = htf.cross_approximation(function, (2,) * 10, tol=1e-3, random_state=0, n_test=8)
    t = np.arange(1024) / 1023
    ax = _framed(figure)
    ax.plot(t, np.asarray(x.to_tensor()).reshape(-1), color=COLOURS[0])
    some = np.array(sorted(asked))[:: max(1, len(asked) // 24)]
    ax.plot(some / 1023, function(np.stack([some >> k & 1 for k in range(9, -1, -1)], 1)), "o", color=COLOURS[1])
    _bare(ax)


def streaming(figure: Figure, results: Path) -> None:
    """Blocks, some of them read."""
    ax = _plain(figure)
    for number in range(12):
        column, row = number % 6, number // 6
        colour = COLOURS[0] if number < 5 else COLOURS[1] if number == 5 else "none"
        ax.add_patch(Rectangle((column, -row), 0.85, 0.85, facecolor=colour, edgecolor=MUTED, linewidth=2))
    ax.set(xlim=(-0.1, 6), ylim=(-1.2, 1), aspect="equal")


def classify_images(figure: Figure, results: Path) -> None:
    """Confusions of a classifier of the digits."""
    digits = htf.datasets.load("digits")
    model = htf.models.TensorClassifier(epochs=6, device="cpu").fit(digits.train_images, digits.train_labels)
    ax = htf.plotting.plot_confusion(digits.test_labels, model.predict(digits.test_images), figure.subplots())
    ax.set(xticks=[], yticks=[], xlabel="predicted", ylabel="label")
    for text in list(ax.texts):
        text.remove()


def densities(figure: Figure, results: Path) -> None:
    """Digits of which the upper half is known, completed."""
    digits = htf.datasets.load("digits")
    density = htf.models.TensorDensity(levels=17, width=16, epochs=10, device="cpu").fit(digits.train_images)
    images = digits.test_images[:4]
    missing = torch.zeros(4, 8, 8, dtype=torch.bool)
    missing[:, 4:] = True
    known = images.double().masked_fill(missing, torch.nan)
    _pictures(
        figure, [list(known.numpy()), list(density.most_probable(images, missing=missing).numpy())], limits=(0, 16)
    )


def which_tree(figure: Figure, results: Path) -> None:
    """Similarities of permuted pixels, as given and arranged."""
    images = htf.datasets.load("digits").train_images.flatten(1).double().numpy()
    permuted = images[:, np.random.default_rng(0).permutation(64)]
    arranged = htf.arrange(permuted, samples=100, trials=20)
    weights, order = arranged.similarities, arranged.order
    _pictures(figure, [[weights, weights[np.ix_(order, order)]]], SHARES, (0, 0.8))


def looking_further(figure: Figure, results: Path) -> None:
    """Two scenes of Pathfinder, one with its dots joined and one without."""
    data = htf.datasets.pathfinder(5, 48, train=8, validation=2, test=2)
    shown = [int((data.train.labels == label).nonzero()[0]) for label in (1, 0)]
    images: Tensor = data.train.images
    _pictures(figure, [[images[k, 0].numpy() for k in shown]])


def compress_cnn(figure: Figure, results: Path) -> None:
    """Accuracy against parameters, by way of factorizing."""
    rows = read_table(results / "compression.csv", ("parameters", "test", "share"), ("variant",))
    ax = _framed(figure, xscale="log")
    for k, variant in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        mine = sorted((row["parameters"], row["test"]) for row in rows if row["variant"] == variant)
        ax.plot(*zip(*mine, strict=True), **look(k))
    ax.set_ylim(0.95, 0.995)
    _bare(ax)


def rank_fit(figure: Figure, results: Path) -> None:
    """Train errors of MNIST and its twins against rank."""
    rows = read_table(results / "mnist_cp.csv", ("rank", "train"), ("twin",))
    ax = _framed(figure)
    for k, twin in enumerate(dict.fromkeys(row["twin"] for row in rows)):
        ranks = sorted({row["rank"] for row in rows})
        means = [
            np.mean([row["train"] for row in rows if (row["twin"], row["rank"]) == (twin, rank)]) for rank in ranks
        ]
        ax.plot(ranks[::2], means[::2], **look(k))
    ax.set_ylim(bottom=0)
    _bare(ax)


def watching_rank_grow(figure: Figure, results: Path) -> None:
    """Singular values rise one after another."""
    history = kept(results / "dynamics_mf.safetensors")
    values = history["singular_values"]["end matrix/values"][:, 0, :6]
    ax = _framed(figure)
    for k in range(5):
        ax.plot(history.steps, values[:, k], color=COLOURS[k])
    ax.set_xlim(0, 6000)
    _bare(ax)


def norm_or_rank(figure: Figure, results: Path) -> None:
    """A norm that grows, and an effective rank that falls."""
    history = kept(results / "dynamics_norms_3.safetensors")
    loss = history.loss[:, 0]
    ax = _framed(figure, xscale="log")
    norm = next(iter(history["norms"].values()))[:, 0].log()
    rank = next(iter(history["effective_ranks"].values()))[:, 0]
    for k, values in enumerate((norm, rank)):
        ax.plot(loss, (values - values.min()) / (values.max() - values.min()), **look(k, marker=None))
    ax.invert_xaxis()
    _bare(ax)


def deeper_is_simpler(figure: Figure, results: Path) -> None:
    """Effective ranks of features against depth."""
    numbers, texts = ("depth", "mean"), ("stage", "activation", "init")
    rows = read_table(results / "simplicity_distribution.csv", numbers, texts, may_be_missing=("mean",))
    ax = _framed(figure, xscale="log", yscale="log")
    for k, activation in enumerate(("linear", "relu", "tanh")):
        which = ("initialization", activation, "normal")
        mine = [row for row in rows if (row["stage"], row["activation"], row["init"]) == which]
        ax.plot([row["depth"] for row in mine], [row["mean"] for row in mine], **look(k))
    _bare(ax)


def networks_fit_noise(figure: Figure, results: Path) -> None:
    """Losses on true labels, on random pixels and on random labels."""
    curves = read_json(results / "randomization.json", sealed=False)["curves"]
    ax = _framed(figure)
    for k, variant in enumerate(("original", "random_pixels", "random_labels")):
        found = (c for c in curves if (c["model"], c["variant"], c["control"]) == ("cnn", variant, ""))
        loss = next(found)["train_loss"]
        ax.plot(range(len(loss)), loss, **look(k, marker=None))
    _bare(ax)


def rank_lowering(figure: Figure, results: Path) -> None:
    """Components of a product of four factors under gradient flow, dσ/dt = 4 σ^(3/2) (σ* - σ)."""
    ax = _framed(figure)
    steps = 4_000
    for k, end in enumerate((1.0, 0.75, 0.5)):
        sizes = np.empty(steps)
        size = 4e-4
        for step in range(steps):
            sizes[step] = size
            size += 0.01 * 4 * size**1.5 * (end - size)
        ax.plot(sizes, **look(k, marker=None, linestyle="-"))
    _bare(ax)


def hierarchical_rank(figure: Figure, results: Path) -> None:
    """A tree and an edge of it that is cut."""
    ax = _plain(figure)
    _tree(ax, htf.DimensionTree.balanced(4))
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    middle = (left + right) / 2
    ax.plot([middle, middle], [low, high], "--", color=COLOURS[1], linewidth=4)


def glossary(figure: Figure, results: Path) -> None:
    """A transfer tensor: a box with three edges."""
    ax = _plain(figure)
    for x, y in ((-1.2, -0.9), (1.2, -0.9), (0.0, 1.1)):
        ax.plot([0, x], [0, y], color=MUTED, linewidth=4, linestyle="-", zorder=0)
    ax.add_patch(Rectangle((-0.45, -0.35), 0.9, 0.7, facecolor=COLOURS[0], edgecolor="none"))
    ax.set(xlim=(-2, 2), ylim=(-1.2, 1.2), aspect="equal")


def loading_results(figure: Figure, results: Path) -> None:
    """Jobs: done, under way, to come."""
    ax = _plain(figure)
    generator = Generator().manual_seed(2)
    done = torch.rand(3, 7, generator=generator).numpy()
    for row, column in np.ndindex(3, 7):
        colour = COLOURS[2] if done[row, column] < 0.62 else COLOURS[4] if done[row, column] < 0.75 else "none"
        ax.add_patch(Rectangle((column, row), 0.75, 0.75, facecolor=colour, edgecolor=MUTED, linewidth=2))
    ax.set(xlim=(-0.1, 6.9), ylim=(-0.15, 2.9), aspect="equal")


def _bare(ax: Axes) -> None:
    """No ticks, whatever scales were set since."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(matplotlib.ticker.NullLocator())
        axis.set_minor_locator(matplotlib.ticker.NullLocator())


THUMBNAILS: dict[str, Callable[[Figure, Path], None]] = {
    draw.__name__: draw
    for draw in (
        *(quickstart, ten_lines, networks, which_method, ht_tensors, compression, completion, cross_approximation),
        *(streaming, classify_images, densities, which_tree, looking_further, compress_cnn, rank_fit),
        *(watching_rank_grow, norm_or_rank, deeper_is_simpler, networks_fit_noise, loading_results),
        *(rank_lowering, hierarchical_rank, glossary),
    )
}
