"""Types of arguments, and how a command is added, for several commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

FIGURE = "rank_fit.png"


def int_range(text: str) -> list[int]:
    """Integers from "3", "1,2,5" or "1:15" (both ends included).

    See Also
    --------
    htf.cli.main : the command.

    Examples
    --------
    >>> from htf.cli import int_range
    >>> list(int_range("1:4")), list(int_range("2,3,8"))
    ([1, 2, 3, 4], [2, 3, 8])
    """
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


def add_scheduler(command: argparse.ArgumentParser) -> None:
    """The option that sends a command's jobs to a cluster."""
    command.add_argument(
        "--scheduler",
        default=None,
        metavar="ADDRESS",
        help="run on a dask cluster: tcp://host:8786, or a scheduler file (needs htf-tensors[cluster])",
    )


def add_command(
    commands: Any, name: str, text: str, fill: Callable[[Command], None] | None = None
) -> argparse.ArgumentParser:
    """A command with its line of help; defaults are shown, and options are never abbreviated.

    `fill` adds the arguments once the command is chosen, where their defaults and choices come from modules that take
    long to import.
    """
    parser: Command = commands.add_parser(
        name, help=text, description=text, formatter_class=_Formatter, allow_abbrev=False
    )
    parser.fill = fill
    return parser


class Command(argparse.ArgumentParser):
    """A parser whose arguments can be added when it is first asked to parse."""

    fill: Callable[[Command], None] | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and add the arguments before where that has not happened yet."""
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)
        return super().parse_known_args(args, namespace)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Where the default is None, the help itself says what happens then.
        return action.help if action.default is None else super()._get_help_string(action)
