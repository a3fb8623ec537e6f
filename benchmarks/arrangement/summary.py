"""Means over seeds, and the rank correlation of accuracy and entanglement with an interval."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from .data import IMAGES

Row = dict[str, Any]


def summarize(rows: list[Row]) -> dict[str, Any]:
    """What a run has found.

    Parameters
    ----------
    rows : list of dict
        Of the jobs that were not for the choice of settings.

    Returns
    -------
    dict
        "means" of test accuracy and entanglement over seeds, for each data set, network and arrangement;
        "rank_correlation" of the two, for each network, each data set and all.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["data"], row["network"], row["arrangement"]].append(row)
    means = [
        {
            **dict(zip(("data", "network", "arrangement"), key, strict=True)),
            **{name: found[0][name] for name in ("width", "epochs", "train", "test")},
            "seeds": len(found),
            "accuracy": float(np.mean([row["test_accuracy"] for row in found])),
            "spread": float(np.std([row["test_accuracy"] for row in found])),
            "train_accuracy": float(np.mean([row["train_accuracy"] for row in found])),
            "entanglement": float(np.mean([row["entanglement"] for row in found])),
        }
        for key, found in groups.items()
    ]
    compared = [row for row in rows if not _other_tree(row)]
    ranks: dict[str, Any] = {"all": rank_correlation(compared)}
    for name in ("network", "data"):
        for value in dict.fromkeys(row[name] for row in compared):
            ranks[value] = rank_correlation([row for row in compared if row[name] == value])
    return {"means": means, "rank_correlation": ranks}


def _other_tree(row: Row) -> bool:
    """Whether the tree is not a binary one: that of the grid of images, whose entanglement is not to be compared."""
    return bool(row["network"] == "ht" and row["arrangement"] == "given" and row["data"] in IMAGES)


def rank_correlation(rows: list[Row], draws: int = 1000) -> dict[str, float] | None:
    """Spearman's, of accuracy and entanglement less their means for a data set and network.

    The 95 % interval is that of data sets and seeds drawn again, each with all rows that it has.  None where fewer than
    8 rows are there.
    """
    if len(rows) < 8:
        return None
    values = np.array([[row["test_accuracy"], row["entanglement"]] for row in rows])
    for same in _positions(rows, "data", "network"):
        values[same] -= values[same].mean(0)
    values = values.round(12)  # ties, but for rounding
    drawn, clusters, rng = [], _positions(rows, "data", "seed"), np.random.default_rng(0)
    for _ in range(draws):
        again = np.concatenate([clusters[k] for k in rng.integers(len(clusters), size=len(clusters))])
        drawn.append(spearmanr(*values[again].T).statistic)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = {"value": float(spearmanr(*values.T).statistic), "low": float(low), "high": float(high)}
    return {**found, "rows": len(rows), "clusters": len(clusters)}


def _positions(rows: list[Row], *names: str) -> list[np.ndarray]:
    """Positions of the rows that are alike in some columns."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        found[tuple(row[name] for name in names)].append(k)
    return [np.array(positions) for positions in found.values()]
