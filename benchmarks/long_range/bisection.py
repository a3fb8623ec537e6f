"""Bisection of the number of train images that a distance takes: intervals, and which training comes next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .points import Point


@dataclass(frozen=True)
class Curve:
    """Images that a distance takes with a remedy, from a seed.

    Attributes
    ----------
    point : Point
        One of its trainings.
    distance : int
    order : int
        Which seed it is.
    """

    point: Point
    distance: int
    order: int

    def outcomes(self, rows: Iterable[Mapping[str, Any]]) -> dict[int, bool]:
        """Whether its distance was reached, by number of images."""
        found: dict[int, bool] = {}
        for row in rows:
            same = row["recipe"] == self.point.recipe and row["seed"] == self.point.seed
            if same and row["distance"] == self.distance:
                found[row["images"]] = found.get(row["images"], False) or row["reached"]
        return found


def bounds(outcomes: Mapping[int, bool]) -> tuple[int | None, int | None]:
    """The least number of images that reached, and below it the largest that failed."""
    high = min((number for number, reached in outcomes.items() if reached), default=None)
    failed = [number for number, reached in outcomes.items() if not reached and (high is None or number < high)]
    return max(failed, default=None), high


def left(outcomes: Mapping[int, bool], numbers: Sequence[int]) -> list[int]:
    """Numbers of images that the least one may be among, but for the ends of the interval."""
    low, high = bounds(outcomes)
    return [number for number in numbers if (low or 0) < number < (high or math.inf)]


def numbers_between(least: int, most: int, factor: float) -> list[int]:
    """Numbers from the least to the most, as far apart as the factor, of two digits."""
    count = max(1, math.ceil(math.log(most / least) / math.log(factor) - 0.3))
    between = (least * (most / least) ** (k / count) for k in range(1, count))
    rounded = (round(number, 1 - math.floor(math.log10(number))) for number in between)
    return sorted({least, most, *(int(number) for number in rounded)})


def following(
    curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]], numbers: Sequence[int], fixed: Sequence[int]
) -> list[Point]:
    """The next training of each curve, the most telling first; then those with fixed numbers of images."""
    wanted: list[tuple[float, int, Point]] = []
    for place, curve in enumerate(curves):
        open_ = left(curve.outcomes(rows), numbers)
        if open_:
            images = open_[(len(open_) - 1) // 2]
            # The first seed says most; a second one, how far seeds differ.
            wanted.append((-len(open_) / (1 + curve.order), place, curve.point.with_images(images, images in fixed)))
    points = [point for *_, point in sorted(wanted, key=lambda each: each[:2])]
    points += [curve.point.with_images(images, True) for images in fixed for curve in curves]
    finished = {row["settings_sha256"] for row in rows}
    return [point for digest, point in {point.digest: point for point in points}.items() if digest not in finished]
