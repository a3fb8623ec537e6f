"""Kill runs at random moments, resume them, and compare what they come to with a run that no one disturbed.

    python -m benchmarks.reliability.kills --kills 50 --minutes 120 --json docs/results/reliability_kills.json

Of each kind, a probe, a fit, a classification and a series of jobs, one run is left alone.  Others get SIGKILL again
and again: at a moment drawn between the start of the process and the time at which it would be done, the process
itself, all processes of its group at once as if the machine had died, or one of its workers.  Each is started again
until it ends; then every bit of what it returns and of what it has saved must be that of the run left alone.

Moments and victims are drawn from --seed; times are those of the machine, so that a campaign repeats in kind and not
in moment.  The exit status is 1 if a run differs or ends in an error.  Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

import htf
from htf._machine import describe_machine
from htf.datasets import far_parity, tensor_completion
from htf.dynamics import singular_values
from htf.jobs import Progress, claimed, map_jobs
from htf.nn.init import gaussian
from htf.probes import RankFit, rank_fit
from htf.regularizers import InputGradientChange, random_patches
from htf.training import ClassifyResult, ClassifySettings, FitSettings, History, classify, fit

BEGUN, RESULT = "begun", "result "
# A process whose folder is locked by what was left of the one before it waits so long, in seconds, in all.
PATIENCE = 120.0


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign, print and write the report; returns 1 if a run came to something else."""
    options = _options(arguments)
    if options.child:
        torch.set_num_threads(1)
        print(f"{RESULT}{KINDS[options.child](options.variant, options.length, options.out)}", flush=True)
        return 0
    deadline = time.monotonic() + 60 * options.minutes
    found = {}
    for number, kind in enumerate(options.kinds):
        # What is left of the time is shared by the kinds that are left.
        share = (deadline - time.monotonic()) / (len(options.kinds) - number)
        found[kind] = _campaign(kind, options, time.monotonic() + share)
        print(kind, json.dumps(asdict(found[kind])), flush=True)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(torch.device("cpu")),
        "seed": options.seed,
        "length": options.length,
        **{kind: asdict(count) for kind, count in found.items()},
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(count.differing or count.errors for count in found.values()))


# -- what is killed: each returns a digest of all that the run comes to ------------------------------------------------


def probe(variant: int, length: float, out: Path) -> str:
    """A probe by two workers; variants are seeds."""
    _begin()
    settings = FitSettings(epochs=max(int(12 * length), 1))
    result = rank_fit(
        "digits", formats=("cp", "ht"), ranks=(1, 2, 3), twins=("original", "random_labels"), seeds=(variant,),
        settings=settings, out=out, workers=2, progress=False,
    )  # fmt: skip
    records = [[asdict(record) for record in each.records] for each in (result, RankFit.load(out))]
    return _digest(records, [])


def one_fit(variant: int, length: float, out: Path) -> str:
    """A fit of several runs; variants are a network and an optimizer each."""
    network, options = _network(variant)
    steps = max(int((3000, 1500, 1500)[variant % 3] * length), 20)
    data = tensor_completion(
        (8,) * network.order, "cp", rank=2, observed=60 if network.order == 2 else 600, seed=variant
    )
    _begin()
    history = fit(network, data, steps=steps, every=10, out=out, save_every=0.1, **options)
    return _digest([], [*network.parameters(), *_tensors(history), *_tensors(History.load(out))])


def classification(variant: int, length: float, out: Path) -> str:
    """A classification with dropout, momentum and a regularizer that draws; variants are seeds."""
    data = far_parity((6, 6), 3, train=256, validation=64, test=64, seed=variant)
    model = htf.nn.ResNet(
        (4, 8), (1, 1), 1, 1, stem=htf.nn.Stem(4, kernel=3, stride=1, pool=False), dropout=0.2, seed=variant
    )
    regularizer = InputGradientChange(random_patches(2), weight=0.5, seed=variant)
    settings = ClassifySettings(epochs=max(int(8 * length), 1), batch_size=16, seed=variant)
    _begin()
    result = classify(model, data, regularizer=regularizer, settings=settings, out=out, save_every=0.1)
    found = [_untimed(each) for each in (result, ClassifyResult.load(out / "result.json"))]
    return _digest(found, model.state_dict().values())


@dataclass(frozen=True)
class FitJob:
    """One fit of a series, as `map_jobs` wants jobs: claimed, and found if it is finished."""

    folder: Path
    length: float

    def __call__(self, job: int, report: Progress) -> str:
        report(0.0)
        with claimed(self.folder / f"{job}.lock", report):
            return one_fit(job, self.length / 4, self.folder / str(job))


def series(variant: int, length: float, out: Path) -> str:
    """A series of fits by two workers; variants are other fits."""
    _begin()
    jobs = range(6 * variant, 6 * variant + 6)
    return _digest(sorted(map_jobs(FitJob(out, length), jobs, workers=2, progress=False)), [])


KINDS: dict[str, Callable[[int, float, Path], str]] = {
    "probe": probe,
    "fit": one_fit,
    "classification": classification,
    "jobs": series,
}
WITH_WORKERS = ("probe", "jobs")


def _network(variant: int) -> tuple[Any, dict[str, Any]]:
    seed = variant // 3
    if variant % 3 == 0:
        net = htf.nn.MatrixFactorization((8, 8), depth=3, init=gaussian(std=0.1), runs=2, seed=seed)
        return net, {"optimizer": "group_rmsprop", "track": singular_values(3)}
    if variant % 3 == 1:
        return htf.nn.CPNetwork((8,) * 4, [3, 5], init=gaussian(std=0.3), seed=seed), {"optimizer": "adam"}
    tree = htf.DimensionTree.balanced(4)
    return htf.nn.HTNetwork(tree, 8, 8, init=gaussian(std=0.2), runs=2, seed=seed), {"optimizer": "group_rmsprop"}


def _begin() -> None:
    """Tell the killer that the run itself begins; workers do not."""
    if os.environ.get("HTF_KILLS_PARENT") == str(os.getppid()):
        print(BEGUN, flush=True)


def _tensors(history: History) -> Iterable[Tensor]:
    return history.tensors().values()


def _untimed(result: ClassifyResult) -> Any:
    content = asdict(result)
    return [content["test_last"], content["test_best_validation"], content["best_epoch"], content["stopped"]] + [
        [value for name, value in epoch.items() if name != "seconds"] for epoch in content["history"]
    ]


def _digest(content: Any, tensors: Iterable[Tensor]) -> str:
    """SHA-256 of every bit of plain values, whose text is exact, and tensors."""
    found = hashlib.sha256(json.dumps(content).encode())
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


# -- the killer --------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """What became of the runs of a kind.

    Attributes
    ----------
    kills : int
        Of processes that were at work.
    victims : dict
        How many kills were of "the process", "all processes", "a worker".
    runs, identical : int
        Runs that were killed at least once and went on to their end, and those that came to the same.
    waited : int
        Starts that found the folder locked by workers that outlived their parent, and came again.
    differing, errors : list of str
    seconds : float
        Of the run that was left alone, from the moment it began.
    """

    kills: int = 0
    victims: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    identical: int = 0
    waited: int = 0
    differing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _End:
    """How a process ended."""

    killed: bool
    result: str | None  # the digest, if it came to its end
    error: str
    seconds: float  # since it began


def _campaign(kind: str, options: argparse.Namespace, deadline: float) -> Count:
    draw = random.Random(f"{options.seed} {kind}")
    count, victims = Count(), Counter[str]()
    expected: dict[int, _End] = {}
    run = 0
    with tempfile.TemporaryDirectory(prefix="htf-kills-", ignore_cleanup_errors=True) as root:
        while count.kills < options.kills and time.monotonic() < deadline:
            variant = run % options.variants
            if variant not in expected:
                expected[variant] = _process(kind, variant, options, Path(root) / f"alone-{variant}")
                if expected[variant].result is None:
                    count.errors.append(f"variant {variant}, left alone: {expected[variant].error}")
                    return count
                count.seconds = max(count.seconds, expected[variant].seconds)
            out, times = Path(root) / str(run), min(draw.randint(1, 4), options.kills - count.kills)
            before = count.kills
            end = _until_it_ends(kind, variant, options, out, times, expected[variant].seconds, draw, count, victims)
            told = f"run {run}, variant {variant}, {count.kills - before} kills"
            if end.result is None:
                count.errors.append(f"{told}: {end.error}")
            elif count.kills > before:
                count.runs += 1
                if end.result == expected[variant].result:
                    count.identical += 1
                else:
                    count.differing.append(told)
            run += 1
    count.victims = dict(victims)
    return count


def _until_it_ends(
    kind: str,
    variant: int,
    options: argparse.Namespace,
    out: Path,
    times: int,
    seconds: float,
    draw: random.Random,
    count: Count,
    victims: Counter[str],
) -> _End:
    """A run, killed at most so many times and started again, to its end or its first error."""
    patience = time.monotonic() + PATIENCE
    while True:
        victim = draw.choice(["the process", "all processes", "a worker"] if kind in WITH_WORKERS else ["the process"])
        # Now and then while Python starts, or just after the run began; else while it is at work.
        early = draw.random() < 0.1
        delay = draw.uniform(0, seconds if draw.random() < 0.8 else 0.2) if times else None
        end = _process(kind, variant, options, out, victim, delay, early)
        if end.killed:
            times -= 1
            count.kills += 1
            victims[victim] += 1
        elif end.result is None and "is being written by" in end.error and time.monotonic() < patience:
            count.waited += 1
            time.sleep(0.5)
            continue
        if end.result is not None or end.error:
            return end


def _process(
    kind: str,
    variant: int,
    options: argparse.Namespace,
    out: Path,
    victim: str = "",
    delay: float | None = None,
    early: bool = False,
) -> _End:
    """Run in a process of its own; kill so many seconds after it began, or after it was started if early."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", kind, "--variant", str(variant)]
    command += ["--length", str(options.length), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HTF_KILLS_PARENT": str(os.getpid())}
    # Files, as a pipe would not end before workers that outlive their parent do.
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=told, stderr=errors, env=environment, start_new_session=True)
        while not early and process.poll() is None and BEGUN not in _text(told):
            time.sleep(0.01)
        began = time.monotonic()
        killed = delay is not None and _kill(process, victim, delay)
        process.wait()
        seconds = time.monotonic() - began
        lines, text = _text(told).splitlines(), _text(errors)
    result = next((line.removeprefix(RESULT) for line in lines if line.startswith(RESULT)), None)
    died = killed and process.returncode == -signal.SIGKILL
    error = "" if result is not None or died else f"exit status {process.returncode}: {text[-1500:]}"
    return _End(killed, result, error, seconds)


def _text(file: IO[str]) -> str:
    # Not seek: the position is shared with the process that writes.
    return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")


def _kill(process: subprocess.Popen[bytes], victim: str, delay: float) -> bool:
    """Wait, then kill; whether there was still something to kill."""
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(min(0.01, max(deadline - time.monotonic(), 0)))
    if process.poll() is not None:
        return False
    if victim == "a worker":
        workers = _workers(process.pid)
        if not workers:
            return False
        try:
            os.kill(random.Random(delay).choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return False
    elif victim == "all processes":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    return True


def _workers(pid: int) -> list[int]:
    """Worker processes of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in children if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]
    except OSError:
        return []


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    parser.add_argument("--variants", type=int, default=3, help="different runs of each kind")
    parser.add_argument("--length", type=float, default=1.0, help="of the runs; 1 is some seconds each")
    parser.add_argument("--minutes", type=float, default=120.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the report to")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--variant", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
