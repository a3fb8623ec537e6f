"""Completion from small starts and by the least nuclear norm, from few entries to many.

    python -m benchmarks.nuclear_norm --out docs/results

completes planted matrices (30×30, rank 3) and tensors (8×8×8, CP rank 2) by the convex program of least nuclear norm
(for tensors the sum over the matricizations of a mode against the rest; needs htf-tensors[convex]) and by gradient
descent on factorizations, matrices by depth 2, 3 and 4, tensors by 64 CP components, from starts whose entries of the
end matrix shrink.  It leaves nuclear_norm.csv, a row a completion with error, rank and nuclear norm, and
nuclear_norm.png.

Gunasekar et al. 2017 conjectured that gradient descent from a vanishing start on depth 2 finds the least nuclear norm;
Arora et al. 2019 found that it does where entries are many, and that with few of them deeper factorizations come nearer
to the planted matrix than the least nuclear norm does.  A completion that was computed before is not computed again.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.series import add_run_options, begin, command, do
from htf._files import write_figure
from htf._machine import describe_machine
from htf._tables import read_table
from htf.cli.arguments import int_range
from htf.datasets import CompletionProblem, tensor_completion
from htf.jobs import FolderJob, Progress, collect
from htf.nn import CPNetwork, MatrixFactorization
from htf.nn.init import gaussian
from htf.plotting.style import baseline, explain, look, panels, seeds_of, styled
from htf.training import LossBelow, fit

from .convex import least_nuclear_norm

TABLE, FIGURE, FOLDER = "nuclear_norm.csv", "nuclear_norm.png", "nuclear_norm"
SHAPES = {"matrix": (30, 30), "cp": (8, 8, 8)}
RANKS = {"matrix": 3, "cp": 2}
OBSERVED = {"matrix": (200, 250, 300, 350, 400, 500), "cp": (80, 120, 160, 240, 360)}
# Factors of a matrix; those of a CP factorization are its modes.
DEPTHS = {"matrix": (2, 3, 4), "cp": (3,)}
STARTS = (1e-2, 1e-4, 1e-6)
COMPONENTS = 64
# Singular values above this share of the largest count as rank.
_RANK_FROM = 1e-2


@dataclass(frozen=True)
class Completion(FolderJob):
    """A completion of a planted problem.

    Attributes
    ----------
    teacher : {"matrix", "cp"}
    observed : int
        Entries.
    seed : int
        Of the problem and of the start.
    depth : int
        Of the factorization; 0 for the least nuclear norm.
    start : float
        Standard deviation of the entries of the end tensor at the start, in units of one component's; 0 for the least
        nuclear norm.
    lr, loss : float
        Learning rate, and the mean squared error at which the fit ends.
    steps : int
        At most.
    """

    teacher: str
    observed: int
    seed: int
    depth: int = 0
    start: float = 0.0
    lr: float = 3e-3
    loss: float = 1e-6
    steps: int = 20_000

    kind = "benchmark of the nuclear norm"
    holds = "the row of a completion"
    pattern = "*.json"

    @property
    def label(self) -> str:
        method = "nuclear" if self.depth == 0 else f"depth{self.depth}_{self.start:g}"
        return f"{self.teacher}_{self.observed}_{method}_{self.seed}"

    def problem(self) -> CompletionProblem:
        """The planted problem, of entries with mean square 1."""
        shape = SHAPES[self.teacher]
        found: CompletionProblem = tensor_completion(
            shape,
            self.teacher,
            rank=RANKS[self.teacher],
            observed=self.observed,
            norm=math.sqrt(math.prod(shape)),
            seed=self.seed,
        )
        return found

    def compute(self, folder: Path | None, report: Progress) -> dict[str, Any]:
        """The row of the table."""
        problem, began = self.problem(), time.perf_counter()
        dense = least_nuclear_norm(problem) if self.depth == 0 else self._factorized(problem)
        assert problem.target is not None
        seconds = time.perf_counter() - began
        matricizations = [
            np.linalg.svd(np.moveaxis(dense, mode, 0).reshape(dense.shape[mode], -1), compute_uv=False)
            for mode in (range(dense.ndim) if dense.ndim > 2 else [0])
        ]
        estimate = torch.from_numpy(dense).to(problem.target.dtype)
        at_observed = estimate[tuple(problem.indices.T)] - problem.values
        return {
            "error": float(problem.reconstruction_error(estimate)),
            "train_loss": float(at_observed.square().mean()),
            "nuclear_norm": float(sum(values.sum() for values in matricizations)),
            "rank": max(int((values > _RANK_FROM * values[0]).sum()) for values in matricizations),
            "seconds": round(seconds, 2),
            "versions": " ".join(f"{k} {v}" for k, v in describe_machine(torch.device("cpu"))["versions"].items()),
        }

    def _factorized(self, problem: CompletionProblem) -> np.ndarray[Any, np.dtype[np.float64]]:
        network: MatrixFactorization | CPNetwork
        if self.teacher == "matrix":
            # The entries of a product of L square factors have a standard deviation of std^L n^((L - 1) / 2).
            width = problem.shape[0]
            std = (self.start / width ** ((self.depth - 1) / 2)) ** (1 / self.depth)
            network = MatrixFactorization(problem.shape, self.depth, init=gaussian(std=std), seed=self.seed)
        else:
            std = self.start ** (1 / self.depth)
            network = CPNetwork(problem.shape, COMPONENTS, init=gaussian(std=std), seed=self.seed)
        fit(network, problem, lr=self.lr, steps=self.steps, every=100, stop=LossBelow(self.loss))
        with torch.no_grad():
            indices = torch.cartesian_prod(*(torch.arange(n) for n in problem.shape))
            found = network(indices)
        return found.double().reshape(problem.shape).numpy()


def make_jobs(options: argparse.Namespace) -> Iterator[Completion]:
    """All completions that the options ask for."""
    for teacher in options.teachers:
        for observed in options.observed or OBSERVED[teacher]:
            for seed in options.seeds:
                yield Completion(teacher, observed, seed)
                for depth in DEPTHS[teacher]:
                    for start in options.starts:
                        yield Completion(teacher, observed, seed, depth, start, steps=options.steps)


@styled
def plot(table: str | Path) -> Figure:
    """Error against the number of entries, and nuclear norm, for each method; a row of panels for each teacher.

    Points are medians over seeds, the shade reaches from the least to the largest.
    """
    rows = read_table(Path(table), ("observed", "depth", "start", "error", "nuclear_norm", "seed"), ("teacher",))
    teachers = list(dict.fromkeys(row["teacher"] for row in rows))
    figure, axes = panels(len(teachers), 2, height=2.9)
    counts: set[int] = set()
    for line, teacher in zip(axes, teachers, strict=True):
        mine = [row for row in rows if row["teacher"] == teacher]
        least = min((row["start"] for row in mine if row["depth"]), default=0.0)
        for k, depth in enumerate(sorted({row["depth"] for row in mine})):
            points: dict[float, list[dict[str, Any]]] = {}
            for row in mine:
                if row["depth"] == depth and (not depth or row["start"] == least):
                    points.setdefault(row["observed"], []).append(row)
            if depth:
                label = f"depth {depth:g}, start {least:g}" if teacher == "matrix" else f"CP, start {least:g}"
            else:
                label = "least nuclear norm" if teacher == "matrix" else "least sum of nuclear norms"
            style = look(k - 1) if depth else baseline(linestyle="--")
            for ax, name in zip(line, ("error", "nuclear_norm"), strict=True):
                x = sorted(points)
                values = [[row[name] for row in points[observed]] for observed in x]
                ends = [[end(each) for each in values] for end in (min, max)]
                ax.plot(x, [median(each) for each in values], label=label, **style)
                ax.fill_between(x, *ends, color=style["color"], alpha=0.13, linewidth=0)
        counts.add(len({row["seed"] for row in mine}))
        line[0].set_yscale("log")
        line[0].set_ylabel("relative error, all entries")
        line[1].set_ylabel("nuclear norm" if teacher == "matrix" else "sum of nuclear norms")
        for ax in line:
            ax.set_xlabel("observed entries")
        name = {"matrix": "matrix of rank 3, 30 × 30", "cp": "tensor of CP rank 2, 8 × 8 × 8"}[teacher]
        line[0].set_title(name, loc="left")
    explain(figure, f"Medians of {seeds_of(counts)}; shades: their range.", list(axes.flat))
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Complete, write the table, draw the figure."""
    options = _options(arguments)
    out = begin(options)
    do(Completion.within(out / FOLDER), make_jobs(options), options, _line)
    rows = collect(
        Completion,
        out / FOLDER,
        out / TABLE,
        key=lambda row: (row["teacher"], row["observed"], row["depth"], -row["start"], row["seed"]),
    )
    write_figure(out / FIGURE, plot(out / TABLE))
    print(f"table: {out / TABLE} ({len(rows)} completions)\nfigure: {out / FIGURE}")


def _line(job: Completion, row: dict[str, Any]) -> str:
    how = f"depth {row['depth']}, start {row['start']:g}" if row["depth"] else "least nuclear norm"
    return (
        f"{row['teacher']}, {row['observed']} entries, seed {row['seed']}, {how}: error {row['error']:.2e}, rank "
        f"{row['rank']}, nuclear norm {row['nuclear_norm']:.2f}, {row['seconds']:.0f} s"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("nuclear_norm", __doc__)
    add = parser.add_argument
    add("--teachers", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    add("--observed", nargs="+", type=int, help="entries; by default from few to many")
    add("--starts", nargs="+", type=float, default=STARTS, help="sizes of the end tensor at the start")
    add("--steps", type=int, default=20_000, help="at most")
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add_run_options(parser, "nuclear_norm", holds="completions, table and figure", workers=True)
    options = parser.parse_args(arguments)
    if min(options.starts) <= 0:
        parser.error(f"--starts are {options.starts}; expected above 0")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
