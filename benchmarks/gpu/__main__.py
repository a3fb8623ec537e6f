"""The command; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

# Imported by htf; pooch only where data have to be downloaded.
NEEDED = (
    "torch",
    "numpy",
    "scipy",
    "tensorly",
    "opt_einsum",
    "matplotlib",
    "tqdm",
    "safetensors",
    "filelock",
    "sklearn",
)
STAGES = ("limits", "tests", "probe", "dynamics", "tensors", "layers", "models", "long_range")


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that are asked for; 0 if all were run and passed, 1 if one failed, 3 if one had no time."""
    options = _options(arguments)
    if options.wheels is not None:
        _use_wheels(options.wheels)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} cannot be imported: install them, or put their wheels into --wheels")
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    from .run import run_all

    return run_all(options)


def _use_wheels(folder: Path) -> None:
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not wheels:
        raise SystemExit(f"--wheels is {folder}, which holds no .whl file")
    target = Path(tempfile.mkdtemp(prefix="wheels-"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    # Behind what is installed: wheels fill gaps, they do not replace.
    sys.path.append(str(target))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=sys.modules[__package__ or "benchmarks.gpu"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), metavar="NAME", help="some stages")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: a rehearsal, whose times mean nothing")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for packages that are not installed")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's and Fashion-MNIST's files")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < 24 * 60:
        parser.error(f"argument --minutes: {options.minutes} given, expected above 0 and below a day")
    return options


if __name__ == "__main__":
    sys.exit(main())
