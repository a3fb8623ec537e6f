"""The table of regularizers: each on and off, with true and with random labels."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any


def regularizer_table(rows: Iterable[dict[str, Any]]) -> str:
    """Train and test accuracy of each network with each regularizer, in Markdown: means over seeds, and ranges.

    Parameters
    ----------
    rows : iterable of dict
        Of ``randomization.csv``; those of trainings judged on test images count.
    """
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        # Computed fits have no learning rate.
        if row["judged_on"] == "test" and row["lr"] is not None and row["variant"] in ("original", "random_labels"):
            key = row["model"], row["control"] or "none"
            found.setdefault(key, {}).setdefault(row["variant"], []).append(row)
    lines = [
        "| network | regularizer | true labels, train | test | random labels, train | test |",
        "|---|---|---|---|---|---|",
    ]
    for (model, control), variants in found.items():
        cells = [
            _spread([row[part] for row in variants.get(variant, [])])
            for variant in ("original", "random_labels")
            for part in ("train", "test")
        ]
        lines.append(f"| {' | '.join([model, control, *cells])} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")
