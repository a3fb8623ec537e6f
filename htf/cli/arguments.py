"""Types of arguments, and how a command is added, for several commands."""

from __future__ import annotations

import argparse
from typing import Any


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


def add_scheduler(command: argparse.ArgumentParser) -> None:
    """The option that sends a command's jobs to a cluster."""
    command.add_argument(
        "--scheduler",
        default=None,
        metavar="ADDRESS",
        help="run on a dask cluster: tcp://host:8786, or a scheduler file (needs htf[cluster])",
    )


def add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A command with its line of help; defaults are shown, and options are never abbreviated."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=_Formatter, allow_abbrev=False
    )
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Where the default is None, the help itself says what happens then.
        return action.help if action.default is None else super()._get_help_string(action)
