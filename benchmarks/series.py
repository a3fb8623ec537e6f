"""Commands that do a series of jobs in one folder: the options that they share, and jobs done one after another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

from htf.jobs import FolderJob, map_jobs

Job = TypeVar("Job", bound=FolderJob)


def command(name: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark, whose description keeps its lines."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_run_options(
    parser: argparse.ArgumentParser, name: str, *, holds: str, data: str = "", few: str = "", workers: bool = False
) -> None:
    """Options of a series, in a folder of that name in runs; --data-dir and --dry-run only where they say of what."""
    add = parser.add_argument
    if few:
        add("--dry-run", action="store_true", help=f"every step on a few {few}, in a folder of its own")
    add("--out", type=Path, default=Path("runs") / name, help=f"folder of {holds}")
    if data:
        add("--data-dir", help=f"folder of {data}; otherwise HTF_DATA, or a download")
    if workers:
        add("--workers", type=int, default=1, help="processes that share the jobs")
    add("--threads", type=int, default=1, help="of torch in each process")
    add("--no-progress", dest="progress", action="store_const", const=False, default=None)


def begin(options: argparse.Namespace) -> Path:
    """Set torch's threads; the folder of the series, as an absolute path."""
    torch.set_num_threads(options.threads)
    out: Path = options.out
    return (out / "dry_run" if getattr(options, "dry_run", False) else out).absolute()


def do(
    run: Any, jobs: Iterable[Job], options: argparse.Namespace, told: Callable[[Job, Any], str]
) -> list[tuple[Job, Any]]:
    """Do the jobs that are not finished; all of them with what they found, which `told` puts in a line to print."""
    given = {"workers": options.workers, "threads": options.threads} if "workers" in options else {}
    found = []
    for job, row in map_jobs(run, list(jobs), progress=options.progress, **given):
        print(told(job, row), flush=True)
        found.append((job, row))
    return found
