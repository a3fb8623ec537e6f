"""Running the jobs of a probe that are not finished yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from htf._files import check_writable, remove_leftovers
from htf.jobs import map_jobs
from htf.probes.jobs import Inputs, Job, Run, cost, finished
from htf.probes.result import FITS_FOLDER
from htf.training.loop import FitSettings


def run_jobs(
    jobs: list[Job],
    inputs: Inputs,
    settings: FitSettings,
    folder: Path | None,
    run: str,
    workers: int,
    scheduler: str | Path | None,
    progress: bool | None,
) -> Iterator[dict[str, Any]]:
    """Yield what each job's file holds, in the order of completion; finished jobs are read, not repeated."""
    left = []
    for job in jobs:
        content = finished(job, folder, run)
        if content is None:
            left.append(job)
        else:
            yield content
    if left and folder is not None:
        # A run that is finished can be read from a disk that is read-only or full.
        check_writable(folder)
        remove_leftovers(folder / FITS_FOLDER)
    results = map_jobs(
        # A worker may be elsewhere, where a relative path means another folder.
        Run(inputs, settings, None if folder is None else folder.absolute(), run),
        # Finished work would make the rate, and so the time left, look better than it is: leave it out.
        left,
        workers=workers,
        scheduler=scheduler,
        name=lambda job: job.name,
        cost=lambda job: cost(job, inputs.data),
        progress=progress,
    )
    for _, content in results:
        yield content
