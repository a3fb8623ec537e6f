"""Does a network that solves a long-range task relate pixels at the task's distance?

    python benchmarks/long_range_link.py runs/pathfinder runs/is_same_class --json link.json --figure link.png

measures each trained network that benchmarks/long_range.py left in these folders: convolutional networks by
`htf.ranks.separation_profile` on validation images, between the two images of Is-Same-Class or between patches as far
apart as the ends of a straight Pathfinder curve; ConvACs by the effective rank of the matricizations that separate the
two places of far-apart parity.  It writes both numbers and the test accuracy of each, with the rank correlation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from long_range_jobs import JOBS, ROW, load_job
from long_range_recipes import ConvAC
from scipy.stats import spearmanr
from torch import nn
from tqdm import tqdm

from htf._files import read_json, write_json
from htf._machine import describe_machine
from htf.datasets.long_range import LongRangeData
from htf.plotting import plot_link
from htf.ranks import effective_rank, separation_profile, spectra
from htf.regularizers import Patch, preset_areas, random_patches, separating_edges

_SAMPLES = 512


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that long_range.py wrote")
    parser.add_argument("--json", type=Path, default=Path("long_range_link.json"), help="where the numbers go")
    parser.add_argument("--figure", type=Path, default=None, help="by default beside them")
    parser.add_argument("--data-dir", default=None, help="folder of image data sets; otherwise HTF_DATA")
    parser.add_argument("--cache", default=None, help="folder of generated images")
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for run in options.runs for path in (run / JOBS).glob(f"*/{ROW}"))
    if not folders:
        raise SystemExit(f"no finished training in {', '.join(map(str, options.runs))}")
    rows = [measure(folder, options.data_dir, options.cache) for folder in tqdm(folders, unit="network")]
    machine = describe_machine(torch.device("cpu"))
    write_json(options.json, {"rows": rows, "correlations": correlations(rows), **machine})
    figure = options.figure or options.json.with_suffix(".png")
    plot_link(options.json).savefig(figure, dpi=150)
    for task, found in correlations(rows).items():
        print(f"{task}: rank correlation {found['rank correlation']:.3f} over {found['networks']} networks")
    print(f"numbers: {options.json}\nfigure: {figure}")


def measure(folder: Path, data_dir: str | None = None, cache: str | None = None) -> dict[str, Any]:
    """Accuracy of a trained network, and how much it relates what the task asks it to."""
    _, model, data = load_job(folder, data_dir=data_dir, cache=cache)
    row = read_json(folder / ROW)
    telling = {name: row[name] for name in ("task", "distance", "model", "regularizer", "weight", "control", "seed")}
    return telling | {"test": row["test"], **relation(model, data)}


def relation(model: nn.Module, data: LongRangeData) -> dict[str, Any]:
    """What is measured, and its value."""
    if isinstance(model, ConvAC):
        width = data.image_size[2]
        edges = separating_edges(model.network.tree, width, *data.settings["areas"])
        with torch.no_grad():
            values = spectra(model.network)
            ranks = [float(effective_rank(values[edge])) for edge in edges]
        return {"measure": "effective rank", "value": min(ranks), "error": 0.0}
    if "areas" in data.settings:
        first, second = (Patch(*area) for area in data.settings["areas"])
        distance, sampler = first.distance(second), preset_areas(first, second)
    else:
        distance = ends_apart(data.settings)
        sampler = random_patches(2, distance, adjacent=True)
    profile = separation_profile(model, data.validation, {distance: sampler}, samples=_SAMPLES)
    return {"measure": "share of interactions", "value": profile.shares[0], "error": profile.errors[0]}


def ends_apart(settings: Mapping[str, Any]) -> int:
    """Pixels between patches at the two ends of a straight curve, as Pathfinder draws it."""
    length = settings["path_length"]
    return round(length * settings["dash"] + (length - 1) * settings["gap"]) - 2


def correlations(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of accuracy and what was measured, task by task."""
    found = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        if len(mine) > 2:
            result = spearmanr([row["test"] for row in mine], [row["value"] for row in mine])
            found[task] = {
                "networks": len(mine),
                "rank correlation": float(result.statistic),
                "p value": float(result.pvalue),
            }
    return found


if __name__ == "__main__":
    main()
