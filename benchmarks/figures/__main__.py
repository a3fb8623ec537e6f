"""Draw every figure of docs/results again, from the files of results there; nothing is trained.

    python -m benchmarks.figures

writes a PNG file for each, 200 dots per inch, and an SVG file where that is small.  With names, those alone; with
--thumbnails, the small pictures of the index in docs/thumbnails, for some of which small fits are made.  Figures that
the files do not give are listed at the end, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Text

from htf._files import write_figure
from htf.plotting.style import SMALLEST, WIDTH

from .drawings import DRAWINGS, NOT_REDRAWN

LARGEST_SVG = 80_000  # bytes


def main(arguments: list[str] | None = None) -> None:
    """Draw what is asked for."""
    options = _options(arguments)
    if options.thumbnails:
        from .thumbnails import THUMBNAILS, draw_thumbnail

        for name in options.names or THUMBNAILS:
            print(f"thumbnail: {draw_thumbnail(name, options.results, options.thumbnails)}", flush=True)
        return
    for name in options.names or DRAWINGS:
        drawing = DRAWINGS[name]
        figure = drawing.draw(*(options.results / file for file in drawing.files))
        for fault in faults(figure):
            print(f"{name}: {fault}", file=sys.stderr)
        out = options.out or options.results
        write_figure(out / f"{name}.png", figure)
        vector = out / f"{name}.svg"
        write_figure(vector, figure)
        if vector.stat().st_size > LARGEST_SVG:
            vector.unlink()
        print(f"figure: {out / name}.png", flush=True)
    if not options.names:
        for name, reason in NOT_REDRAWN.items():
            print(f"not drawn: {name}, {reason}")


def faults(figure: Figure) -> list[str]:
    """What would not be read at half size, or has the code's names in place of words."""
    found = []
    if figure.get_figwidth() > WIDTH:
        found.append(f"it is {figure.get_figwidth()} inches wide; expected at most {WIDTH}")
    for text in figure.findobj(Text):
        words = text.get_text()
        if words and text.get_visible():
            if (size := float(text.get_fontsize())) < SMALLEST:
                found.append(f"{words!r} has letters of {size} points; expected at least {SMALLEST}")
            if "_" in words and "$" not in words:
                found.append(f"{words!r} is a name of the code")
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    docs = Path("docs")
    parser.add_argument("names", nargs="*", help="of figures, without ending; by default all")
    parser.add_argument("--results", type=Path, default=docs / "results", help="folder of the files of results")
    parser.add_argument("--out", type=Path, help="folder of the figures; by default beside the results")
    parser.add_argument(
        "--thumbnails", type=Path, nargs="?", const=docs / "thumbnails", help="draw thumbnails, into this folder"
    )
    options = parser.parse_args(arguments)
    if options.thumbnails is None and (unknown := set(options.names) - set(DRAWINGS)):
        parser.error(f"there is no figure {min(unknown)}; there are {', '.join(DRAWINGS)}")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
