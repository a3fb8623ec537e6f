"""Fourier neural operators whose spectral weights are HT, CP, Tucker or TT tensors, at equal numbers of parameters.

    python -m benchmarks.neural_operators --seeds 1:3 --out runs/neural_operators

TFNO of neuraloperator 2 (pip install neuraloperator; not among the extras) learns Darcy flow: from the logarithm of a
random permeability to the pressure, which finite differences give.  Learning rates are chosen by the error on
validation fields at seed 0; then each network is trained at all seeds of the command line, and only these are measured
on test fields.  neural_operators.json has all rows, means over the seeds, the machine and versions.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.series import add_run_options, begin, command, do
from benchmarks.speed.peers import version_of
from htf._files import write_json
from htf._machine import describe_machine
from htf.cli.arguments import int_range

from .jobs import FACTORIZATIONS, Job

REPORT = "neural_operators.json"
DRY = {"grid": 8, "train": 20, "validation": 4, "test": 4, "modes": 4, "width": 4, "layers": 1, "epochs": 1}


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, write the report."""
    options = _options(arguments)
    out = begin(options)
    shared = DRY if options.dry_run else {name: getattr(options, name) for name in DRY}
    numbers = 1_000 if options.dry_run else options.numbers
    tried = [
        Job(name, lr, 0, "validation", numbers, **shared) for name in options.factorizations for lr in options.rates
    ]
    run = Job.within(out)
    rows = do(run, tried, options, _line)
    chosen = [
        min((pair for pair in rows if pair[0].factorization == name), key=lambda pair: pair[1]["error"])[0]
        for name in options.factorizations
    ]
    final = do(run, [replace(job, seed=s, part="test") for job in chosen for s in options.seeds], options, _line)
    machine = describe_machine(torch.device("cpu"))
    machine["versions"] |= {name: version_of(name) for name in ("neuraloperator", "tensorly-torch", "scipy")}
    write_json(
        out / REPORT,
        {
            **machine,
            "settings": {**shared, "numbers": numbers, "rates": options.rates, "seeds": list(options.seeds)},
            "means": [_mean(job, final) for job in chosen],
            "rows": [
                {key: value for key, value in {**asdict(job), **row}.items() if key not in {*shared, "numbers"}}
                for job, row in [*rows, *final]
            ],
        },
    )
    print(f"results: {out / REPORT}")


def _line(job: Job, row: dict[str, Any]) -> str:
    return f"{job.label}: {row['parameters']:,} parameters, error {row['error']:.4f}"


def _mean(chosen: Job, final: list[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    rows = [row for job, row in final if job.factorization == chosen.factorization]
    errors = [row["error"] for row in rows]
    spread = stdev(errors) if len(errors) > 1 else None
    return {
        "factorization": chosen.factorization,
        "lr": chosen.lr,
        "parameters": rows[0]["parameters"],
        "seeds": len(rows),
        "test_error": mean(errors),
        "standard_deviation": spread,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("neural_operators", __doc__)
    add = parser.add_argument
    add("--factorizations", nargs="+", choices=FACTORIZATIONS, default=list(FACTORIZATIONS))
    add("--rates", nargs="+", type=float, default=[5e-3, 1e-2, 2e-2], help="learning rates")
    add("--seeds", type=int_range, default="1:3", help="of the fits that are measured on test fields; 1:3 or 1,2,3")
    add("--numbers", type=int, default=8_200, help="real numbers in the parameters of a factorized network, about")
    add("--grid", type=int, default=24, help="cells a side")
    add("--train", type=int, default=300, help="fields")
    add("--validation", type=int, default=100, help="fields")
    add("--test", type=int, default=200, help="fields")
    add("--modes", type=int, default=12, help="frequencies kept along an axis")
    add("--width", type=int, default=12, help="channels")
    add("--layers", type=int, default=3)
    add("--epochs", type=int, default=20)
    add_run_options(parser, "neural_operators", holds="fits and report", few="fields")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
