"""Images of generated tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from htf._checks import positive
from htf.plotting.style import styled

if TYPE_CHECKING:
    from htf.datasets.long_range import LongRangeData


@styled
def plot_samples(data: LongRangeData, samples: int = 8) -> Figure:
    """The first training images of both labels, a row for each.

    Parameters
    ----------
    data : LongRangeData
    samples : int
        Images altogether; fewer are shown if there are not as many.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to any window; ``figure.savefig(path)`` writes it.

    Raises
    ------
    TypeError, ValueError
        If `samples` is no integer, or less than 2, one of each label.

    See Also
    --------
    htf.datasets.LongRangeData : what it draws.
    htf.plotting.plot_images : rows of any images.

    Examples
    --------
    >>> import htf
    >>> data = htf.datasets.is_same_class("digits", distance=10, train=20, validation=2, test=2)
    >>> figure = htf.plotting.plot_samples(data, samples=6)
    >>> len(figure.axes)
    6
    """
    if positive("samples", samples) < 2:
        raise ValueError(f"samples is {samples}; expected at least 2, one of each label")
    _, height, width = data.image_size
    columns = (samples + 1) // 2
    # Inches: wide images go in fewer columns, or they would be strips.
    figure = Figure(figsize=(1.6 * columns * width / max(height, width), 3.6 * height / max(height, width) + 0.4))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(2, columns, squeeze=False)
    for ax in panels.flat:
        ax.set_axis_off()
    for row, label in zip(panels, (1, 0), strict=True):
        shown = (data.train.labels == label).nonzero()[: samples // 2 + (samples % 2) * label, 0].tolist()
        row[0].set_title(f"label {label}", loc="left")
        for ax, number in zip(row, shown, strict=False):
            image = data.train[number][0].permute(1, 2, 0).numpy()
            ax.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
    return figure
