"""Accuracy of local networks on permuted features, in orders, grids and trees that are found, against entanglement.

    python -m benchmarks.arrangement --data digits --seeds 0:2 --out runs/arrangement

permutes the features of each data set, arranges them again by every method of `htf.arrange`, and trains a 1-D CNN
(line), a residual CNN (grid), local attention (attention) and a tensor network on the tree (ht); the order given and
the permuted one are controls.  Where several --widths or --epochs are named, one of their combinations is chosen for
each data set and network at the first seed, by the mean accuracy in the permuted order and in that of the correlations
on a quarter of the training samples.

    python -m benchmarks.arrangement --fetch mlbench

puts the data sets dna, satellite and letters, of R's package mlbench, into a folder, from Debian's package
r-cran-mlbench; --mlbench names it then.  They are read by rdata.

    python -m benchmarks.arrangement --distances --data mnist --seeds 0:4 --out runs/arrangement_distances

only arranges, and tells how far apart neighbours were in the original images.

Each finished job has a file of its own below --out, from which the table arrangement.csv and summary.json are made, and
from this the figure arrangement.png: accuracy against entanglement.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

import htf
from htf._files import write_figure, write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range
from htf.jobs import collect, map_jobs

from .data import IMAGES, NAMES, permuted
from .fetch import fetch_mlbench
from .jobs import ARRANGEMENTS, NETWORKS, Job, distance, places
from .plots import plot_accuracies
from .summary import summarize

TABLE, SUMMARY, FIGURE = "arrangement.csv", "summary.json", "arrangement.png"
JUDGES = ("random", "correlation")  # orders in which settings are tried


def main(arguments: list[str] | None = None) -> None:
    """Choose settings, train what is not trained yet, write the tables and the figure."""
    options = _options(arguments)
    if options.fetch is not None:
        fetch_mlbench(options.fetch)
        return
    torch.set_num_threads(options.threads)
    machine = describe_machine(torch.device("cpu"))
    if options.distances:
        found = _distances(options)
        write_json(options.out / "distances.json", {**machine, "distances": found})
        return
    chosen = _settings(options)
    jobs = [
        _job(options, data, network, arrangement, seed, chosen[data, network])
        for seed in options.seeds
        for data in options.data
        for arrangement in options.arrangements
        for network in options.networks
    ]
    for job, row in _rows(options, jobs):
        print(f"{job.label}: test {row['test_accuracy']:.2%}, entanglement {row['entanglement']:.4f}", flush=True)
    rows = [row for row in collect(Job, options.out, options.out / TABLE) if not row["held_out"]]
    write_json(options.out / SUMMARY, {**machine, **summarize(rows)})
    write_figure(options.out / FIGURE, plot_accuracies(options.out / SUMMARY), dpi=110)
    print(f"table: {options.out / TABLE} ({len(rows)} rows)")


def _job(
    options: argparse.Namespace, data: str, network: str, arrangement: str, seed: int, setting: tuple[int, int],
    held_out: bool = False,
) -> Job:  # fmt: skip
    sizes = options.train, options.test
    return Job(data, arrangement, network, seed, *sizes, *setting, options.measured, held_out)


def _rows(options: argparse.Namespace, jobs: list[Job]) -> Any:
    run = Job.within(options.out, data_dir=options.data_dir, mlbench=options.mlbench)
    return map_jobs(run, jobs, progress=options.progress)


def _settings(options: argparse.Namespace) -> dict[tuple[str, str], tuple[int, int]]:
    """Width and epochs for each data set and network."""
    pairs = list(product(options.data, options.networks))
    settings = list(product(options.widths, options.epochs))
    if len(settings) == 1:
        return dict.fromkeys(pairs, settings[0])
    jobs = [
        _job(options, *pair, order, options.seeds[0], setting, True)
        for pair in pairs
        for order in JUDGES
        for setting in settings
    ]
    told: dict[tuple[str, str], dict[tuple[int, int], float]] = {pair: dict.fromkeys(settings, 0.0) for pair in pairs}
    for job, row in _rows(options, jobs):
        told[job.data, job.network][job.width, job.epochs] += row["test_accuracy"] / len(JUDGES)
    for (data, network), means in told.items():
        print(f"{data}, {network}: held-out accuracies {means}", flush=True)
    return {pair: max(means, key=means.__getitem__) for pair, means in told.items()}


def _distances(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for data in options.data:
        for seed in options.seeds:
            table = permuted(data, options.train, options.test, seed, options.data_dir, options.mlbench)
            for arrangement in options.arrangements:
                began = time.process_time()
                if table.grid is None:
                    raise ValueError(f"{data} has no images; expected one of {', '.join(IMAGES)}")
                if arrangement in ("given", "random"):
                    grid = places(table, arrangement, seed)[0]
                else:
                    grid = htf.arrange(table.x, table.y, arrangement, seed=seed).grid(*table.grid)
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
    add("--widths", nargs="+", type=int, default=[32])
    add("--epochs", nargs="+", type=int, default=[20])
    add("--measured", type=int, default=300, help="samples of which entanglement is measured")
    add("--distances", action="store_true", help="only arrange, and measure distances of neighbours")
    add("--out", type=Path, default=Path("runs") / "arrangement")
    add("--data-dir", help="folder of MNIST and CIFAR10; otherwise HTF_DATA, or a download")
    add("--mlbench", help="folder with DNA.rda, Satellite.rda and LetterRecognition.rda, such as --fetch fills")
    add("--fetch", type=Path, metavar="FOLDER", help="only fetch these, by apt-get download")
    add("--threads", type=int, default=1)
    add("--no-progress", dest="progress", action="store_false")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
