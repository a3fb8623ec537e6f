"""The `htf` command: a thin skin on the library's functions."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from htf import __version__
from htf.datasets import NAMES, TWINS
from htf.probes.rank_fit import DEFAULT_TWINS, FORMATS, rank_fit
from htf.probes.result import RankFit
from htf.training.loop import FitSettings

FIGURE = "rank_fit.png"


def int_range(text: str) -> list[int]:
    """Integers from "3", "1,2,5" or "1:15" (both ends included)."""
    values: list[int] = []
    for part in text.split(","):
        try:
            first, colon, last = part.partition(":")
            found = list(range(int(first), int(last) + 1)) if colon else [int(first)]
        except ValueError:
            found = []
        if not found:
            raise argparse.ArgumentTypeError(f"{part!r} is not a number or a range such as 1:15")
        values += found
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("htf", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"htf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    formatter = argparse.ArgumentDefaultsHelpFormatter

    probe = commands.add_parser(
        "probe",
        help="how low a rank fits a data set, against its randomized twins",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    probe.add_argument("dataset", nargs="?", default="digits", metavar="DATASET", help=f"one of {', '.join(NAMES)}")
    defaults = FitSettings()
    probe.add_argument("--format", nargs="+", default=list(FORMATS), metavar="F", help=f"from {', '.join(FORMATS)}")
    probe.add_argument("--ranks", type=int_range, default="1:8", help="CP ranks and HT widths: 1:15 or 1,2,4")
    probe.add_argument("--classes", type=int_range, default="6", help="classes to tell from the rest")
    probe.add_argument("--twins", nargs="+", default=list(DEFAULT_TWINS), metavar="T", help=f"from {', '.join(TWINS)}")
    probe.add_argument("--seeds", type=int_range, default="0", help="seeds of starts and twins")
    probe.add_argument("--levels", type=int, default=2, help="grey levels of a pixel")
    probe.add_argument("--epochs", type=int, default=defaults.epochs, help="passes over the data")
    probe.add_argument("--batch-size", type=int, default=None, help="samples of a batch; by default up to 1000")
    probe.add_argument(
        "--step", type=float, default=defaults.step, help="change of the log output in one step, at most"
    )
    probe.add_argument("--holdout", action="store_true", help="test on a sixth of the train set, to choose settings")
    probe.add_argument("--device", default="cpu", help="where to train: cpu, cuda, cuda:1")
    probe.add_argument("--workers", type=int, default=None, help="processes; by default one a core, or 1 on a GPU")
    probe.add_argument("--data-dir", default=None, help="folder of the IDX files; otherwise HTF_DATA, or a download")
    probe.add_argument("--out", type=Path, default=None, help="folder of the run; by default runs/DATASET")

    plot = commands.add_parser(
        "plot",
        help="draw the figure of a run again, and print its table",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    plot.add_argument("run", type=Path, nargs="+", metavar="RUN", help="folder of a run; several are drawn together")
    plot.add_argument("--figure", type=Path, default=None, help=f"file to write; by default {FIGURE} in the first RUN")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 for bad input, 130 after an interrupt."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        print(
            f"htf: unknown option {unknown[0]}; known are {', '.join(_known(parser, options.command))}", file=sys.stderr
        )
        return 2
    try:
        return _probe(options) if options.command == "probe" else _plot(options.run, options.figure)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"htf: {error}", file=sys.stderr)
        return 2


def _known(parser: argparse.ArgumentParser, command: str) -> list[str]:
    """The options of a command."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [option for action in commands.choices[command]._actions for option in action.option_strings]


def _probe(options: argparse.Namespace) -> int:
    workers = options.workers
    if workers is None:
        workers = (os.cpu_count() or 1) if options.device == "cpu" else 1
    out = options.out or Path("runs") / options.dataset
    result = rank_fit(
        options.dataset,
        formats=options.format,
        ranks=options.ranks,
        classes=options.classes,
        twins=options.twins,
        seeds=options.seeds,
        levels=options.levels,
        settings=FitSettings(epochs=options.epochs, batch_size=options.batch_size, step=options.step),
        holdout=options.holdout,
        device=options.device,
        data_dir=options.data_dir,
        out=out,
        workers=workers,
        progress=True,
    )
    return _show(result, out / FIGURE)


def _plot(runs: list[Path], figure: Path | None) -> int:
    first, *others = (RankFit.load(run) for run in runs)
    return _show(first.joined(*others) if others else first, figure or runs[0] / FIGURE)


def _show(result: RankFit, figure: Path) -> int:
    print(result.table())
    result.plot().savefig(figure, dpi=150)
    print(f"figure: {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
