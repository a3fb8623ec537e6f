"""Accuracy against size on MNIST: factorized and over-parameterized layers cut to lower rank, and plain ones.

    python -m benchmarks.compression --data-dir data --seeds 0:2 --out runs/compression

trains a small CNN with hierarchical Tucker layers (ht), with products of two matrices (matrix), with over-parameterized
layers of depth 3 (deep), and with plain ones (plain), all drawn at random.  Each is then cut to 25, 15, 10 and 5 % of
the plain network's parameters by `htf.truncate`, the plain one by singular value decompositions (`htf.factorize` with
format "matrix"), always with one relative error for all layers.  Accuracy is measured as they are, and after one more
epoch.  The last 5,000 training images are for validation, on which settings are chosen.

Each finished training has a file of its own below --out, from which the table compression.csv is made; the same command
goes on where it was stopped.  settings.json has all settings, the machine and versions.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.series import add_run_options, begin, command, do
from htf._files import write_json
from htf._machine import describe_machine, usable_device
from htf.cli.arguments import int_range
from htf.jobs import collect

from .jobs import RECIPES, Job, make_job, place, splits

TABLE, SETTINGS = "compression.csv", "settings.json"


def main(arguments: list[str] | None = None) -> None:
    """Train what is not trained yet, write the table."""
    options = _options(arguments)
    out = begin(options)
    device = usable_device(options.device)
    given = {"data_dir": options.data_dir, "few": options.dry_run, "device": str(device)}
    run = Job.within(out, **given)
    images = len(splits(train=options.batch_size * 2 if options.dry_run else options.train, **given)[0][1])
    chosen = {"weight_decay": options.weight_decay, "lr": options.lr}
    jobs = [
        make_job(name, seed, chosen, options.epochs, options.batch_size, images)
        for seed in options.seeds
        for name in options.variants
    ]
    write_json(out / SETTINGS, {**describe_machine(device), "variants": {job.variant: job.recipe for job in jobs}})
    do(run, jobs, options, lambda _, found: "\n".join(map(_line, found)))
    rows = collect(Job, out, out / TABLE, key=place)
    print(f"table: {out / TABLE} ({len(rows)} rows)")


def _line(row: dict[str, Any]) -> str:
    tuned = f", after one more epoch {row['test_tuned']:.2%}" if "test_tuned" in row else ""
    size = f"{row['parameters']:,} parameters ({row['collapsed']:,} collapsed)"
    return (
        f"{row['variant']}, seed {row['seed']}, share {row['share']:.0%}: {size}, "
        f"validation {row['validation']:.2%}, test {row['test']:.2%}{tuned}"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = command("compression", __doc__)
    add = parser.add_argument
    add("--variants", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--seeds", type=int_range, default="0:2", help="0:2 or 0,1,2")
    add("--epochs", type=int, default=5)
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, help="by default each recipe's")
    add("--weight-decay", type=float, help="by default each recipe's")
    add("--train", type=int, help="images; by default 55,000")
    add("--device", default="cpu")
    add_run_options(parser, "compression", holds="trained networks and table", data="MNIST files", few="images")
    options = parser.parse_args(arguments)
    options.epochs = 1 if options.dry_run else options.epochs
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
