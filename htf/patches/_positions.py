"""Positions of two patches of equal size, drawn uniformly among all that are far enough apart without listing them."""

from __future__ import annotations

from torch import Generator

from htf._random import below

Box = tuple[tuple[int, int], tuple[int, int]]
"""First row and the row behind the last, and columns likewise."""


def corners_at(
    size: tuple[int, int], distance: int, exactly: bool, image: tuple[int, int], generator: Generator
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Upper left corners: the first among all that leave room for a second, the second among all that are far enough.

    Parameters
    ----------
    size : (int, int)
        Height and width of the patches.
    distance : int
        Least number of pixels between them along one of the axes; no more than `largest_distance`.
    exactly : bool
        Whether it is to be met, and not exceeded along the other axis.
    image : (int, int)
        Height and width.
    generator : Generator
    """
    rows, columns = image[0] - size[0] + 1, image[1] - size[1] + 1  # positions of a patch
    down, across = size[0] + distance, size[1] + distance  # from a patch to the next that is far enough
    whole = ((0, rows), (0, columns))
    # A patch leaves no room for another if it leaves none along either axis: such positions are a rectangle too.
    first = _drawn(whole, (_without_room(rows, down), _without_room(columns, across)), generator)
    near = (_within(first[0], down, rows), _within(first[1], across, columns))
    if exactly:
        whole = (_within(first[0], down + 1, rows), _within(first[1], across + 1, columns))
    return first, _drawn(whole, near, generator)


def largest_distance(size: tuple[int, int], distance: int, height: int, width: int) -> int:
    """The largest distance between two patches of a size in an image.

    Raises
    ------
    ValueError
        If there is no room for two, or none at the distance asked for.
    """
    if size[0] > height or size[1] > width:
        raise ValueError(f"size is {size[0]} x {size[1]}; it does not fit an image of {height} x {width} pixels")
    largest = max(height - 2 * size[0], width - 2 * size[1])
    if largest < 0:
        raise ValueError(f"two patches of {size[0]} x {size[1]} do not fit an image of {height} x {width} pixels")
    if distance > largest:
        raise ValueError(
            f"distance is {distance}; between two patches of {size[0]} x {size[1]} in an image of "
            f"{height} x {width} pixels there are at most {largest}"
        )
    return largest


def _without_room(positions: int, step: int) -> tuple[int, int]:
    start = max(positions - step, 0)
    return start, max(start, min(step, positions))


def _within(at: int, step: int, positions: int) -> tuple[int, int]:
    return max(at - step + 1, 0), min(at + step, positions)


def _drawn(box: Box, hole: Box, generator: Generator) -> tuple[int, int]:
    """One of the positions of a box outside of a hole in it, all alike likely."""
    (top, bottom), (left, right) = box
    (hole_top, hole_bottom), (hole_left, hole_right) = hole
    width, beside = right - left, right - left - (hole_right - hole_left)
    above = (hole_top - top) * width
    middle = (hole_bottom - hole_top) * beside
    number = below(above + middle + (bottom - hole_bottom) * width, generator)
    if number < above:
        return top + number // width, left + number % width
    if number < above + middle:
        row, column = divmod(number - above, beside)
        return hole_top + row, left + column + (hole_right - hole_left) * (left + column >= hole_left)
    row, column = divmod(number - above - middle, width)
    return hole_bottom + row, left + column
