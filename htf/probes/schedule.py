"""Running jobs one after another or in several processes, with one progress bar for all."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
        total=sum(cost(job, inputs.data) for job in left) * settings.epochs,
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
    news, stop = context.Queue(), context.Event()
    # Longest first, so that no long job is left to run alone at the end.
    left = sorted(jobs, key=lambda job: cost(job, inputs.data))
    pool = ProcessPoolExecutor(workers, context, _start_worker, (news, stop, inputs, settings, folder))
    waiting: set[Future[dict[str, Any]]] = set()
    try:
        while left or waiting:
            # No more than there are processes: what is handed over cannot be called back.
            while left and len(waiting) < workers:
                waiting.add(pool.submit(_work, left.pop()))
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            while True:
                try:
                    bar.update(news.get_nowait())
                except queue.Empty:
                    break
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process ended abruptly (out of memory?); what was finished is kept, run again to go on"
        ) from error
    finally:
        # Workers save their checkpoints at the end of the epoch and stop.
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(news: Any, stop: Any, inputs: Inputs, settings: FitSettings, folder: Path | None) -> None:
    # One thread a process: the small operations of a fit gain nothing from more.
    torch.set_num_threads(1)
    # Progress that nobody reads any more must not keep the process alive.
    news.cancel_join_thread()
    _worker.update(news=news, stop=stop, inputs=inputs, settings=settings, folder=folder)


def _work(job: Job) -> dict[str, Any]:
    weight = cost(job, _worker["inputs"].data)

    def on_epochs(epochs: int) -> None:
        _worker["news"].put(epochs * weight)
        if _worker["stop"].is_set():
            raise KeyboardInterrupt

    return run_job(job, _worker["inputs"], _worker["settings"], _worker["folder"], on_epochs)
