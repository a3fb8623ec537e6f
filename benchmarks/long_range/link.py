"""Does a network that solves a long-range task relate pixels at the task's distance?

    python -m benchmarks.long_range.link runs/pathfinder runs/is_same_class --json link.json --figure link.png

measures each trained network that benchmarks.long_range left in these folders, and writes what it finds beside the
test accuracy, with the rank correlation of the two.  Convolutional networks are measured on validation images: by
`htf.ranks.separation_profile` between the two images of Is-Same-Class, or between random patches as far apart as the
ends of a straight Pathfinder curve; and on Pathfinder by the share of interactions between its two dots, each on the
end of either curve (`htf.datasets.crossed_dots`).  ConvACs are measured by the effective rank of the matricizations
that separate the two places of far-apart parity.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from tqdm import tqdm

from htf._files import check_writable, write_figure, write_json
from htf._machine import describe_machine
from htf.datasets import crossed_dots
from htf.datasets.long_range import LongRangeData
from htf.ranks import effective_rank, separation_profile, spectra
from htf.regularizers import Patch, PatchSampler, preset_areas, random_patches, separating_edges

from .jobs import Job, load_job
from .plots import plot_link
from .recipes import ConvAC

_SAMPLES = 512


def main(arguments: list[str] | None = None) -> None:
    """Measure, write and draw."""
    options = _options(arguments)
    folders = sorted(path.parent for run in options.runs for path in run.glob(Job.pattern))
    if not folders:
        raise SystemExit(f"no finished training in {', '.join(map(str, options.runs))}")
    check_writable(options.json.absolute().parent)
    rows = [row for folder in tqdm(folders, unit="network") for row in measure(folder, options.data_dir, options.cache)]
    machine = describe_machine(torch.device("cpu"))
    write_json(options.json, {"rows": rows, "correlations": correlations(rows), **machine})
    figure = options.figure or options.json.with_suffix(".png")
    write_figure(figure, plot_link(options.json))
    for found in correlations(rows):
        what = f"{found['task']}, {found['measure']}"
        print(f"{what}: rank correlation {found['rank correlation']:.3f} over {found['networks']} networks")
    print(f"numbers: {options.json}\nfigure: {figure}")


def measure(folder: Path, data_dir: str | None = None, cache: str | None = None) -> list[dict[str, Any]]:
    """Accuracy of a trained network, and how much it relates what the task asks it to, by each measure."""
    _, model, data = load_job(folder, data_dir=data_dir, cache=cache)
    row = Job.read(folder / "row.json")
    telling = {name: row[name] for name in ("task", "distance", "model", "regularizer", "weight", "control", "seed")}
    return [telling | {"test": row["test"], **found} for found in relations(model, data)]


def relations(model: nn.Module, data: LongRangeData) -> list[dict[str, Any]]:
    """What is measured, its value and its error."""
    if isinstance(model, ConvAC):
        width = data.image_size[2]
        edges = separating_edges(model.network.tree, width, *data.settings["areas"])
        with torch.no_grad():
            values = spectra(model.network)
            ranks = [float(effective_rank(values[edge])) for edge in edges]
        return [_found("effective rank", min(ranks), 0.0)]
    if "areas" in data.settings:
        first, second = (Patch(*area) for area in data.settings["areas"])
        return [_profile("share of interactions", model, data, first.distance(second), preset_areas(first, second))]
    distance = ends_apart(data.settings)
    between_patches = random_patches(2, distance, adjacent=True)
    return [
        _found("share of interactions between the dots", *share_between_dots(model, crossed_dots(data))),
        _profile("share of interactions between random patches", model, data, distance, between_patches),
    ]


def _profile(
    measure: str, model: nn.Module, data: LongRangeData, distance: int, sampler: PatchSampler
) -> dict[str, Any]:
    profile = separation_profile(model, data.validation, {distance: sampler}, samples=_SAMPLES)
    return _found(measure, profile.shares[0], profile.errors[0])


def _found(measure: str, value: float, error: float) -> dict[str, Any]:
    return {"measure": measure, "value": value, "error": error}


def share_between_dots(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Of the variance of logits over the four places of the dots, what they make together; and its standard error.

    A third if the four logits of a scene are independent, 0 if they never vary.
    """
    with torch.no_grad():
        logits = torch.cat([model(part) for part in images.flatten(0, 2).split(256)])
    logits = logits.double().view(-1, 2, 2)
    together = (logits[:, 0, 0] - logits[:, 0, 1] - logits[:, 1, 0] + logits[:, 1, 1]) ** 2 / 4
    every = (logits - logits.mean((1, 2), keepdim=True)).square().sum((1, 2))
    if not bool(every.any()):
        return 0.0, 0.0
    share = together.sum() / every.sum()
    error = (together - share * every).square().mean().sqrt() / (len(every) - 1) ** 0.5 / every.mean()
    return float(share), float(error)


def ends_apart(settings: Mapping[str, Any]) -> int:
    """Pixels between patches at the two ends of a straight curve, as Pathfinder draws it, or as many as fit."""
    length = settings["path_length"]
    return min(round(length * settings["dash"] + (length - 1) * settings["gap"]) - 2, settings["size"] - 4)


def correlations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of accuracy and what was measured, for each task and measure."""
    found = []
    for task, measure in dict.fromkeys((row["task"], row["measure"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["measure"]) == (task, measure)]
        if len(mine) > 2:
            result = spearmanr([row["test"] for row in mine], [row["value"] for row in mine])
            found.append(
                {
                    "task": task,
                    "measure": measure,
                    "networks": len(mine),
                    "rank correlation": float(result.statistic),
                    "p value": float(result.pvalue),
                }
            )
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that benchmarks.long_range wrote")
    parser.add_argument("--json", type=Path, default=Path("long_range_link.json"), help="where the numbers go")
    parser.add_argument("--figure", type=Path, default=None, help="by default beside them")
    parser.add_argument("--data-dir", default=None, help="folder of image data sets; otherwise HTF_DATA")
    parser.add_argument("--cache", default=None, help="folder of generated images")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
