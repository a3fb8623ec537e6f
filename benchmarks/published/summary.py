"""Averages over classes, and how far they are from the published errors."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from statistics import mean, stdev
from typing import Any

from benchmarks.gpu.probe import PUBLISHED, TOLD
from htf.jobs.folder import DIGEST

COLUMNS = ("data", "twin", "rank", "seed", "class", "train", "variance", "passes", "seconds_of_all_classes", DIGEST)
_SAME = ("data", "twin", "rank", "classes", "seed", "images")
# Errors read off a figure are within half of their last digit.
READING = 0.0005


def latest(contents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of jobs that differ in passes alone, the one with most."""
    best: dict[str, dict[str, Any]] = {}
    for content in contents:
        key = repr([content[name] for name in _SAME])
        if key not in best or best[key]["passes"] < content["passes"]:
            best[key] = content
    order = list(PUBLISHED)
    return sorted(best.values(), key=lambda c: (_place(order, (c["data"], c["twin"])), c["rank"], c["seed"]))


def summarize(contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per data set and rank: mean error over classes, its standard error, the published one and the distance."""
    sets: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for content in contents:
        key = (content["data"], content["twin"])
        errors = content["errors"]
        average, deviation = mean(errors), stdev(errors) / sqrt(len(errors)) if len(errors) > 1 else None
        told = dict(zip(TOLD, PUBLISHED.get(key, ()), strict=False)).get(content["rank"])
        row: dict[str, Any] = {
            "rank": content["rank"],
            "classes": content["classes"],
            "seed": content["seed"],
            "train": average,
            "standard_error": deviation,
            "passes": content["passes_made"],
            "steps": content["steps"],
            "seconds": content["seconds"],
            "history": content["history"],
            "published": told,
        }
        if told is not None:
            bar = sqrt((deviation or 0.0) ** 2 + READING**2)
            reached = [passes for passes, error in content["history"] if error <= told + READING]
            row |= {
                "above_published": average / told - 1,
                "distance_in_error_bars": (average - told) / bar,
                "passes_to_published": reached[0] if reached else None,
            }
        sets.setdefault(key, []).append(row)
    return {"sets": [{"data": data, "twin": twin, "fits": rows} for (data, twin), rows in sets.items()]}


def as_text(summary: dict[str, Any]) -> str:
    """The summary as a table in Markdown."""
    lines = [
        "| data | CP rank | train error | published | above it | in error bars | steps | passes | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in summary["sets"]:
        for row in one["fits"]:
            bar = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
            told = ["", "", ""]
            if row["published"] is not None:
                above, bars = row["above_published"], row["distance_in_error_bars"]
                told = [f"{row['published']:.3f}", f"{above:+.0%}", f"{bars:+.1f}"]
            name = f"{one['data']}, {one['twin']}".replace("_", " ")
            cells = [name, str(row["rank"]), f"{row['train']:.4f}{bar}", *told]
            cells += [str(row["steps"]), f"{row['passes']:,}", f"{row['seconds']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _place(order: list[tuple[str, str]], key: tuple[str, str]) -> int:
    return order.index(key) if key in order else len(order)
