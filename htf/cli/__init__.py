"""The `htf` command: fit, watch and plot low-rank factorizations."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from htf._version import __version__
from htf.cli.arguments import FIGURE, Command, add_command, int_range

__all__ = ["int_range", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 for bad input, 130 after an interrupt.

    See Also
    --------
    htf.probes.rank_fit, htf.dynamics.study : what the commands call.

    Examples
    --------
    >>> from htf.cli import main
    >>> main(["plot", "no/such/folder"])  # a message goes to standard error
    2
    """
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        print(f"htf: unknown option {unknown[0]}; known are {', '.join(_known(parser, options))}", file=sys.stderr)
        return 2
    try:
        with _interruptible():
            if options.command == "plot":
                return _plot(options.run, options.figure)
            return _probe(options) if options.command == "probe" else _dynamics(options)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        print(f"htf: {error}{notes}", file=sys.stderr)
        return 2


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, as Python does, where the command was started with SIGINT ignored.

    A shell starts background jobs of scripts that way (nohup htf probe &), and then no interrupt would save the run.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _parser() -> argparse.ArgumentParser:
    text = "fit, watch and plot low-rank factorizations"
    parser = argparse.ArgumentParser("htf", description=text, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"htf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Command)
    add_command(commands, "probe", "how low a rank fits a data set, against its randomized twins", _fill_probe)
    add_command(
        commands, "dynamics", "which components rise as a planted tensor is fitted from near zero", _fill_dynamics
    )
    plot = add_command(commands, "plot", "draw the figures of a run again, and print its tables")
    plot.add_argument("run", type=Path, nargs="+", metavar="RUN", help="folder of a run; several are drawn together")
    plot.add_argument(
        "--figure",
        type=Path,
        default=None,
        help=f"file to write; by default {FIGURE}, or other names, in the first RUN",
    )
    return parser


# What the commands do is imported once one of them is chosen: it takes torch, which takes seconds to import.


def _fill_probe(parser: argparse.ArgumentParser) -> None:
    from htf.cli.probe import add_probe_arguments

    add_probe_arguments(parser)


def _fill_dynamics(parser: argparse.ArgumentParser) -> None:
    from htf.cli.dynamics import add_formats

    add_formats(parser)


def _probe(options: argparse.Namespace) -> int:
    from htf.cli.probe import run_probe

    return run_probe(options)


def _dynamics(options: argparse.Namespace) -> int:
    from htf.cli.dynamics import run_dynamics

    return run_dynamics(options)


def _known(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The options of a command, and of a command within it."""
    for name in (options.command, getattr(options, "format", None)):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and isinstance(name, str):
                parser = action.choices[name]
    return [option for action in parser._actions for option in action.option_strings]


def _plot(runs: list[Path], figure: Path | None) -> int:
    from htf.cli.dynamics import is_dynamics, plot_dynamics
    from htf.cli.probe import plot_probes

    dynamics = [is_dynamics(run) for run in runs]
    if any(dynamics) and not all(dynamics):
        other = runs[dynamics.index(False)]
        raise ValueError(f"{other} is not the folder of a run of htf dynamics, as others are; draw it by itself")
    return plot_dynamics(runs, figure) if any(dynamics) else plot_probes(runs, figure)
