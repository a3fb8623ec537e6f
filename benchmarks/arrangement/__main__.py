"""Accuracy of local networks on permuted features, in orders, grids and trees that are found, against entanglement.

    python -m benchmarks.arrangement --data digits --seeds 0:2 --out runs/arrangement

permutes the features of each data set, arranges them again by every method of `htf.arrange`, and trains a 1-D CNN
(line), a residual CNN (grid, images alone), local attention (attention) and a tensor network on the tree (ht); the
order given and the permuted one are controls.  Data sets dna, satellite and letters are read from the data folder of
R's package mlbench (--mlbench; Debian's r-cran-mlbench has it), by rdata.

    python -m benchmarks.arrangement --distances --data mnist --seeds 0:4 --out runs/arrangement_distances

only arranges, and tells how far apart neighbours were in the original images.

Each finished job has a file of its own below --out, from which the tables arrangement.csv and summary.json are made.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import htf
from htf._files import write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range
from htf.jobs import collect, map_jobs

from .data import IMAGES, NAMES, permuted
from .jobs import ARRANGEMENTS, NETWORKS, Job, distance, places

TABLE, SUMMARY = "arrangement.csv", "summary.json"


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, write the tables."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    machine = describe_machine(torch.device("cpu"))
    if options.distances:
        found = _distances(options)
        write_json(options.out / "distances.json", {**machine, "distances": found})
        return
    jobs = [
        Job(data, arrangement, network, seed, options.train, options.test, options.epochs, options.measured)
        for data in options.data
        for seed in options.seeds
        for network in options.networks
        for arrangement in options.arrangements
        if network != "grid" or data in IMAGES
    ]
    run = Job.within(options.out, data_dir=options.data_dir, mlbench=options.mlbench)
    for job, row in map_jobs(run, jobs, progress=options.progress):
        print(f"{job.label}: test {row['test_accuracy']:.2%}, entanglement {row['entanglement']:.4f}", flush=True)
    rows = collect(Job, options.out, options.out / TABLE)
    write_json(options.out / SUMMARY, {**machine, **_summary(rows)})
    print(f"table: {options.out / TABLE} ({len(rows)} rows)")


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the rank correlation of accuracy and entanglement over data and arrangements."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["network"], row["arrangement"]), []).append(row)
    means = [
        {
            "data": data,
            "network": network,
            "arrangement": arrangement,
            "seeds": len(found),
            "test": float(np.mean([row["test_accuracy"] for row in found])),
            "spread": float(np.std([row["test_accuracy"] for row in found])),
            "entanglement": float(np.mean([row["entanglement"] for row in found])),
        }
        for (data, network, arrangement), found in groups.items()
    ]
    # The given order has another tree, of squares.
    compared = [row for row in rows if row["arrangement"] != "given"]
    ranks = {network: _correlation([r for r in compared if r["network"] == network]) for network in NETWORKS}
    return {"means": means, "rank_correlation": ranks | {"all": _correlation(compared)}}


def _correlation(rows: list[dict[str, Any]], draws: int = 1000) -> dict[str, float] | None:
    """Spearman's, of accuracy and entanglement less their means for a data set and network; with a 95 % interval."""
    if len(rows) < 8:
        return None
    keys = [(row["data"], row["network"]) for row in rows]
    values = np.array([[row["test_accuracy"], row["entanglement"]] for row in rows])
    for key in set(keys):
        same = [k for k, each in enumerate(keys) if each == key]
        values[same] -= values[same].mean(0)
    values = values.round(12)  # ties, but for rounding
    rng = np.random.default_rng(0)
    drawn = [spearmanr(*values[rng.integers(len(values), size=len(values))].T).statistic for _ in range(draws)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"value": float(spearmanr(*values.T).statistic), "low": float(low), "high": float(high)}


def _distances(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for data in options.data:
        for seed in options.seeds:
            table = permuted(data, options.train, options.test, seed, options.data_dir, options.mlbench)
            for arrangement in options.arrangements:
                began = time.process_time()
                if arrangement in ("given", "random"):
                    grid = places(table, arrangement, seed)[1]
                else:
                    arranged = htf.arrange(table.x, table.y, arrangement, seed=seed)
                    grid = arranged.grid(*table.grid) if table.grid is not None else None
                if grid is None:
                    raise ValueError(f"{data} has no images; expected one of {', '.join(IMAGES)}")
                row = {"data": data, "train": len(table.x), "arrangement": arrangement, "seed": seed}
                row |= {"distance": distance(grid, table), "cpu_seconds": round(time.process_time() - began, 2)}
                print(row, flush=True)
                found.append(row)
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arrangement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", choices=NAMES, default=["digits"])
    add("--arrangements", nargs="+", choices=ARRANGEMENTS, default=list(ARRANGEMENTS))
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--seeds", type=int_range, default="0:4", help="0:4 or 0,1,2")
    add("--train", type=int, default=1000, help="samples, at most")
    add("--test", type=int, default=2000, help="samples, at most")
    add("--epochs", type=int, default=20)
    add("--measured", type=int, default=300, help="samples of which entanglement is measured")
    add("--distances", action="store_true", help="only arrange, and measure distances of neighbours")
    add("--out", type=Path, default=Path("runs") / "arrangement")
    add("--data-dir", help="folder of MNIST and CIFAR10; otherwise HTF_DATA, or a download")
    add("--mlbench", help="data folder of R's mlbench, with DNA.rda, Satellite.rda and LetterRecognition.rda")
    add("--threads", type=int, default=1)
    add("--no-progress", dest="progress", action="store_false")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
