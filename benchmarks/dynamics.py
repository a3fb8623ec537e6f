"""Incremental learning, its rates, and norms against rank: all results and figures on dynamics.

    python -m benchmarks.dynamics --out docs/results

Planted tensors of rank 5 are fitted as matrices, CP and hierarchical tensors from near-zero starts of several sizes,
ten seeds each.  Rates are measured from balanced starts with small steps in double precision, for components of 2 to 5
factors, and fitted exponents and constants set against theory.  The 2×2 problem on which all norms diverge is fitted at
depths 3, 4 and 5.  Every fit has a folder of its own under --runs, where it goes on if it was stopped; a finished one
is loaded.  Parts that are not asked for (--only) keep their numbers in dynamics.json and their figures; figures
have in them all of which the data are there, dynamics_*.safetensors, from which benchmarks.figures draws them again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import htf
from benchmarks import dynamics_plots as plots
from benchmarks.dynamics_plots import STUDIES
from benchmarks.speed import timing
from htf._files import check_writable, read_json, write_figure, write_json
from htf.dynamics.studies import Study, study
from htf.nn import CPNetwork, Factorization, HTNetwork, MatrixFactorization
from htf.training import History, fit, gradient_flow
from htf.training.tracking import Tracker

PARTS = (*STUDIES, "rates", "norms")


@dataclass(frozen=True)
class Scale:
    """How much is computed."""

    studies: dict[str, dict[str, Any]]
    rate_steps: int
    rate_seeds: int
    norm_decades: int
    norm_seeds: int


# More observed entries for more of them, an eighth; the rest are the defaults of `htf dynamics`.
FULL = Scale(
    studies={
        "mf": {"init_std": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)},
        "cp": {"init_std": (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)},
        "ht": {"init_std": (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)},
        "ht16": {"dim": 16, "observed": 8192, "init_std": (1e-3,), "steps": 45_000},
    },
    rate_steps=20_000,
    rate_seeds=5,
    norm_decades=7,
    norm_seeds=5,
)
_SHORT = {"rank": 1, "seeds": (0, 1)}
SMALL = Scale(
    studies={
        "mf": {**_SHORT, "dim": 8, "observed": 48, "init_std": (1e-1, 1e-2), "steps": 400},
        "cp": {**_SHORT, "dim": 4, "observed": 48, "components": 8, "init_std": (1e-1, 1e-2), "steps": 400},
        "ht": {**_SHORT, "dim": 3, "observed": 60, "width": 8, "init_std": (1e-1, 3e-2), "steps": 400},
        "ht16": {**_SHORT, "dim": 4, "observed": 200, "width": 8, "init_std": (3e-2,), "steps": 400},
    },
    rate_steps=600,
    rate_seeds=1,
    norm_decades=2,
    norm_seeds=2,
)
_FORMATS = {"mf": "mf", "cp": "cp", "ht": "ht", "ht16": "ht"}
NORMS = (0.5, 1.0, 2.0, float("inf"))


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    scale = SMALL if options.scale == "small" else FULL
    check_writable(options.out)
    report_file = options.out / "dynamics.json"
    made_by = {"scale": options.scale, **timing.made_by(torch.device(options.device))}
    report: dict[str, Any] = read_json(report_file, sealed=False) if report_file.exists() else {}
    for part in options.only:
        if part in STUDIES:
            found = _study(part, scale, options)
            report[part] = {**about_study(found), **made_by}
            kept = options.out / f"dynamics_{part}.safetensors"
            plots.keep_components(kept, found.history, run_to_show(found))
        else:
            report[part] = {**(rates if part == "rates" else norms)(scale, options), **made_by}
        # As it goes: what was computed for hours is not lost to what comes after.
        write_json(report_file, report)
    draw(options.out)


def draw(out: Path) -> None:
    """Draw all figures of which the data are there."""
    if any((out / f"dynamics_{part}.safetensors").is_file() for part in STUDIES):
        _draw(plots.plot_studies(out), out / "dynamics_components.png")
    if (starts := plots.plot_starts(out / "dynamics.json")) is not None:
        _draw(starts, out / "dynamics_init.png")
    if (slopes := out / "dynamics_rates.safetensors").is_file():
        _draw(plots.plot_slopes(slopes), out / "dynamics_rates.png")
    if all((out / f"dynamics_norms_{depth}.safetensors").is_file() for depth in plots.DEPTHS):
        _draw(plots.plot_norms(out), out / "dynamics_norms.png")


def _study(part: str, scale: Scale, options: argparse.Namespace) -> Study:
    found = study(
        _FORMATS[part], out=options.runs / part, device=options.device, progress=options.progress, **scale.studies[part]
    )
    print(found.table(), htf.dynamics.compare_rates(found.history).table(), sep="\n", end="\n\n")
    return found


def about_study(found: Study) -> dict[str, Any]:
    """Settings and numbers of a study."""
    comparison = htf.dynamics.compare_rates(found.history)
    return {
        "settings": found.settings.describe(),
        "planted": found.history.settings["problem"],
        "summary": [_plain(asdict(row)) for row in found.summary()],
        "exponents": _of_exponents(comparison),
        "seconds": found.history.seconds,
    }


def run_to_show(found: Study) -> int:
    """The first seed of the smallest start that learned something."""
    learned = [std for std in found.settings.init_std if float(found.errors(std).min()) < 0.5]
    return found.runs.index((min(learned or found.settings.init_std), found.settings.seeds[0]))


# -- rates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RateCase:
    """A network whose components have a number of factors, the problem that it fits, and what is tracked."""

    name: str
    factors: int
    problem: Callable[..., htf.datasets.CompletionProblem]
    network: Callable[..., Factorization]
    tracker: Tracker
    start: float


def rate_cases() -> list[RateCase]:
    """Products of L matrices, CP components of order N and local components of order K, each of 2 to 5 factors."""
    matrices = [_matrix_case(depth) for depth in (2, 3, 4, 5)]
    components = [_cp_case("N", order, dim, htf.dynamics.component_norms(4)) for order, dim in _CP_SIZES]
    # Nodes have two children at least, so only a root without a matrix has local components of two factors.
    local = _cp_case("K", *_CP_SIZES[0], htf.dynamics.local_component_norms(4))
    return [*matrices, *components, local, *(_ht_case(arity, dim) for arity, dim in ((2, 4), (3, 3), (4, 2)))]


_CP_SIZES = ((2, 12), (3, 6), (4, 4), (5, 3))
_plant = partial(htf.datasets.tensor_completion, seed=1)


def _matrix_case(depth: int) -> RateCase:
    problem = partial(_plant, (12, 12), "matrix", rank=2, observed=120, norm=12.0)
    network = partial(MatrixFactorization, (12, 12), depth)
    return RateCase(f"L = {depth}", depth, problem, network, htf.dynamics.singular_values(4), 1e-3)


def _cp_case(letter: str, order: int, dim: int, tracker: Tracker) -> RateCase:
    shape = (dim,) * order
    problem = partial(_plant, shape, "cp", rank=2, observed=0.8, norm=dim ** (order / 2))
    return RateCase(f"{letter} = {order}", order, problem, partial(CPNetwork, shape, 8), tracker, 1e-2)


def _ht_case(arity: int, dim: int) -> RateCase:
    tree = _two_levels(arity)
    teacher = HTNetwork(tree, dim, 2, init=htf.nn.init.gaussian(std=1.0), seed=0, dtype=torch.float64)
    entries = dim**tree.order
    problem = partial(_plant, teacher=teacher, observed=min(0.8, 4000 / entries), norm=entries**0.5)
    tracker = htf.dynamics.local_component_norms(4)
    # The scale is that of vectors, of which a tensor has one for each node: the more, the smaller it begins.
    return RateCase(f"K = {arity + 1}", arity + 1, problem, partial(HTNetwork, tree, dim, 8), tracker, 0.1 * arity)


def _two_levels(arity: int) -> htf.DimensionTree:
    """Groups of so many modes, as many groups: every node has as many children."""
    return htf.DimensionTree.from_nested(tuple(tuple(range(k * arity, (k + 1) * arity)) for k in range(arity)))


def rates(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """Exponents and constants of every case against theory."""
    found, comparisons = {}, {}
    for case in rate_cases():
        history = _rate_fit(case, scale, options)
        comparison = htf.dynamics.compare_rates(history)
        print(case.name, comparison.table(), sep="\n")
        comparisons[case.name] = comparison
        found[case.name] = {
            "factors": case.factors,
            "planted": history.settings["problem"],
            "steps": int(history.steps[-1]),
            "unbalancedness": _extremes(history["unbalancedness"]["unbalancedness"].max(1).values),
            "exponents": _of_exponents(comparison),
            "loss": _extremes(history.loss[-1]),
            "seconds": history.seconds,
        }
    plots.keep_rates(options.out / "dynamics_rates.safetensors", comparisons)
    return {"cases": found}


def _rate_fit(case: RateCase, scale: Scale, options: argparse.Namespace) -> History:
    seeds = list(range(scale.rate_seeds))
    balanced = htf.nn.init.balanced(case.start)
    network = case.network(runs=len(seeds), init=balanced, seed=seeds, dtype=torch.float64, device=options.device)
    return fit(
        network,
        case.problem(device=options.device),
        lr=1e-3 if scale is FULL else 1e-2,
        steps=scale.rate_steps,
        track=[case.tracker, htf.dynamics.unbalancedness()],
        every=20,
        out=options.runs / "rates" / case.name.replace(" = ", ""),
        progress=options.progress,
    )


# -- norms ----------------------------------------------------------------------------------------------


def norms(scale: Scale, options: argparse.Namespace) -> dict[str, Any]:
    """Norms and effective rank at the end of fits of the diverging problem."""
    found = {}
    for depth in plots.DEPTHS:
        history = _norm_fit(depth, scale, options)
        plots.keep_norms(options.out / f"dynamics_norms_{depth}.safetensors", history)
        bound = htf.dynamics.norm_lower_bound(history.loss[-1])
        at_end = {name: values[-1] for name, values in history["norms"].items()}
        found[str(depth)] = {
            "loss": _extremes(history.loss[-1]),
            "norms": {name: _extremes(values) for name, values in at_end.items()},
            "lower_bound": _extremes(bound),
            "least_spectral_norm_over_bound": float((at_end["schatten inf"] / bound).min()),
            "effective_rank": _extremes(history["effective_ranks"]["end matrix"][-1]),
            "effective_rank_at_start": _extremes(history["effective_ranks"]["end matrix"][0]),
            "steps": int(history.steps[-1]),
            "seconds": history.seconds,
        }
        print(f"depth {depth}", json.dumps(found[str(depth)]))
    return {"seeds": scale.norm_seeds, "depths": found}


def _norm_fit(depth: int, scale: Scale, options: argparse.Namespace) -> History:
    # The flow itself: steps of gradient descent overshoot once the smallest singular value is below them, the
    # determinant changes its sign, and the norms stop.
    network = MatrixFactorization(
        (2, 2),
        depth,
        runs=scale.norm_seeds,
        init=htf.nn.init.balanced(0.1),
        seed=positive_seeds(depth, scale.norm_seeds),
        dtype=torch.float64,
    )
    history = gradient_flow(
        network,
        htf.datasets.diverging_completion(),
        torch.logspace(0, scale.norm_decades, 20 * scale.norm_decades + 1),
        track=[htf.dynamics.norms(NORMS), htf.dynamics.effective_ranks()],
    )
    history.save(options.runs / "norms" / f"depth_{depth}")
    return history


def positive_seeds(depth: int, count: int) -> list[int]:
    """The first seeds whose balanced starts have positive determinants, which gradient flow keeps."""
    seeds = list(range(10 * count + 10))
    starts = MatrixFactorization((2, 2), depth, runs=len(seeds), init="balanced", seed=seeds, dtype=torch.float64)
    positive = (torch.linalg.det(starts.end_matrices().detach()) > 0).nonzero().flatten().tolist()
    return positive[:count]


# -- all ------------------------------------------------------------------------------------------------


def _of_exponents(comparison: htf.dynamics.RateComparison) -> dict[str, Any]:
    exponents, deviations = comparison.exponents(), comparison.deviation((0.5, 0.9))
    found = {}
    for group, records in comparison.groups.items():
        own = [each for each in exponents if each.group == group]
        entry: dict[str, Any] = {"order": records.order, "fitted": len(own)}
        if own:
            entry["slope"] = _extremes(torch.tensor([each.slope for each in own]))
            entry["constant"] = _extremes(torch.tensor([each.constant for each in own]))
            entry["expected_slope"] = own[0].expected_slope
            entry["median_deviation"], entry["deviation_of_90_percent"] = deviations[group].tolist()
        found[group] = entry
    return found


def _extremes(values: torch.Tensor) -> dict[str, float]:
    values = values.double()
    return {"median": float(values.median()), "least": float(values.min()), "most": float(values.max())}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN.
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}


def _draw(figure: Figure, path: Path) -> None:
    write_figure(path, figure)
    print(f"figure: {path}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to compute")
    parser.add_argument("--scale", choices=("full", "small"), default="full", help="small to try the script")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/dynamics"), help="folder of the fits")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of dynamics.json and figures")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bars")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
