"""`htf dynamics`: which components rise as a planted tensor is fitted from near zero, and how fast."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htf.cli.arguments import add_command, int_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from htf.dynamics import Study
    from htf.training import History

# As in htf.dynamics.settings, which imports torch: what formats there are is told at once.
FORMATS = {
    "mf": "deep matrix factorization",
    "cp": "tensor factorization",
    "ht": "hierarchical tensor factorization",
}
_HELP = {
    "rank": "rank of the planted tensor",
    "dim": "dimension of every mode",
    "order": "number of modes",
    "depth": "matrices that are multiplied",
    "components": "components of the network",
    "width": "width of every node of the network",
    "observed": "entries that are fitted; the others are for testing",
    "noise": "standard deviation of the noise on observed entries, relative to theirs",
    "init_std": "standard deviations of the starts",
    "seeds": "seeds of the starts: 0:9 or 0,1,2",
    "steps": "in all; a finished run can be continued with more",
    "lr": "learning rate, about the norm of a step",
    "loss": "from l2, l1, huber",
    "every": "steps between recorded moments",
    "problem_seed": "seed of the planted tensor and its observed entries",
}
_FIRST = ("rank", "dim", "order", "depth", "components", "width")


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add a command for each format to the parser's."""
    formats = parser.add_subparsers(dest="format", required=True, metavar="{" + ",".join(FORMATS) + "}")
    for name, title in FORMATS.items():
        add_command(formats, name, title, partial(_fill_format, name=name))


def _fill_format(parser: argparse.ArgumentParser, name: str) -> None:
    from htf.dynamics.settings import SETTINGS_OF

    for field in sorted(fields(SETTINGS_OF[name]), key=lambda field: field.name not in _FIRST):
        _add_setting(parser, field.name, field.default)
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, cuda:1")
    parser.add_argument("--out", type=Path, default=None, help=f"folder of the run; by default runs/dynamics_{name}")


def _add_setting(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    kind: dict[str, Any] = {"type": type(default), "default": default}
    if name == "seeds":
        # As text, which is what the help shows: seeds are consecutive by default.
        kind = {"type": int_range, "default": f"{default[0]}:{default[-1]}"}
    elif name == "init_std":
        kind = {"type": float, "nargs": "+", "default": list(default), "metavar": "STD"}
    parser.add_argument(f"--{name.replace('_', '-')}", help=_HELP[name], **kind)


def run_dynamics(options: argparse.Namespace) -> int:
    """Fit, print the tables, draw the figures."""
    from htf.dynamics.settings import SETTINGS_OF
    from htf.dynamics.studies import study

    out = options.out or Path("runs") / f"dynamics_{options.format}"
    settings = {field.name: getattr(options, field.name) for field in fields(SETTINGS_OF[options.format])}
    result = study(options.format, out=out, device=options.device, progress=True, **settings)
    return _show(result, out)


def is_dynamics(folder: Path) -> bool:
    """Whether a folder is that of a study or of another fit, by its files."""
    from htf.dynamics.studies import STUDY
    from htf.training.history import RECORD

    return (folder / STUDY).is_file() or (folder / RECORD).is_file()


def plot_dynamics(runs: list[Path], figure: Path | None) -> int:
    """Print the tables and draw the figures of saved studies and fits; components of several side by side."""
    from htf.dynamics.studies import STUDY, Study
    from htf.plotting import plot_components
    from htf.training.history import History

    found = {str(run): Study.load(run) if (run / STUDY).is_file() else History.load(run) for run in runs}
    if len(found) == 1:
        return _show(found[str(runs[0])], runs[0], figure)
    for name, each in found.items():
        if isinstance(each, Study):
            print(f"{name}\n{each.table()}\n")
    together = plot_components({name: _history(each) for name, each in found.items()})
    _draw({figure or runs[0] / "together.png": together})
    return 0


def _show(result: Study | History, folder: Path, figure: Path | None = None) -> int:
    from htf.dynamics import Study, compare_rates

    figures: dict[Path, Figure] = {}
    if isinstance(result, Study):
        print(result.table())
        figures[figure or folder / "components.png"] = result.plot()
    elif figure is not None:
        figures[figure] = result.plot()
    if figure is None:
        figures[folder / "history.png"] = _history(result).plot()
    try:
        rates = compare_rates(_history(result))
        print(rates.table())
        if figure is None:
            figures[folder / "rates.png"] = rates.plot()
    except ValueError as error:
        # Another optimizer, no record of components, or none that has risen yet: the rest is there to be seen.
        print(f"no rates: {error}")
    if isinstance(result, Study):
        print(result.in_words())
    _draw(figures)
    return 0


def _history(result: Study | History) -> History:
    from htf.dynamics import Study

    return result.history if isinstance(result, Study) else result


def _draw(figures: Mapping[Path, Figure]) -> None:
    from htf._files import write_figure

    for path, figure in figures.items():
        write_figure(path, figure)
        print(f"figure: {path}")
