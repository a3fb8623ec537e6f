"""Running jobs one after another or in several processes, with one progress bar for all."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from htf.probes.jobs import Inputs, Job, cost, finished, run_job
from htf.training.loop import FitSettings


def run_jobs(
    jobs: list[Job],
    inputs: Inputs,
    settings: FitSettings,
    folder: Path | None,
    workers: int,
    progress: bool | None,
) -> Iterator[dict[str, Any]]:
    """Yield what each job's file holds, in the order of completion; finished jobs are read, not repeated."""
    left = []
    for job in jobs:
        content = finished(job, folder)
        if content is None:
            left.append(job)
        else:
            yield content
    with tqdm(
        # Finished work would make the rate, and so the time left, look better than it is: leave it out.
        total=round(sum(cost(job, inputs.data) for job in left) * settings.epochs, 3),
        disable=None if progress is None else not progress,
        bar_format="{l_bar}{bar}| {elapsed} so far, {remaining} left{postfix}",
    ) as bar:
        run = _in_processes if workers > 1 and len(left) > 1 else _one_by_one
        yield from run(left, inputs, settings, folder, bar, workers)


def _one_by_one(
    jobs: list[Job], inputs: Inputs, settings: FitSettings, folder: Path | None, bar: tqdm[Any], workers: int
) -> Iterator[dict[str, Any]]:
    for job in jobs:
        bar.set_postfix_str(job.name)
        weight = cost(job, inputs.data)
        yield run_job(job, inputs, settings, folder, lambda epochs, w=weight: bar.update(epochs * w))  # type: ignore[misc]


def _in_processes(
    jobs: list[Job], inputs: Inputs, settings: FitSettings, folder: Path | None, bar: tqdm[Any], workers: int
) -> Iterator[dict[str, Any]]:
    # "spawn": forking a process whose libraries have started threads can deadlock.
    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    # Longest first, so that no long job is left to run alone at the end.
    jobs = sorted(jobs, key=lambda job: -cost(job, inputs.data))
    pool = ProcessPoolExecutor(workers, context, _start_worker, (news, inputs, settings, folder))
    try:
        waiting = {pool.submit(_work, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            while True:
                try:
                    bar.update(news.get_nowait())
                except queue.Empty:
                    break
            for future in done:
                yield future.result()
    finally:
        # On Ctrl-C the terminal has told the workers too: they save their checkpoints and end.
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(news: Any, inputs: Inputs, settings: FitSettings, folder: Path | None) -> None:
    # One thread a process: the small operations of a fit gain nothing from more.
    torch.set_num_threads(1)
    # A collapsing fit meets subnormal numbers, which cost a hundred times a normal one.
    torch.set_flush_denormal(True)
    _worker.update(news=news, inputs=inputs, settings=settings, folder=folder)


def _work(job: Job) -> dict[str, Any]:
    weight = cost(job, _worker["inputs"].data)
    return run_job(
        job,
        _worker["inputs"],
        _worker["settings"],
        _worker["folder"],
        lambda epochs: _worker["news"].put(epochs * weight),
    )
