"""Images that a distance takes: how many train images a network needs, by distance, with each remedy.

    python -m benchmarks.long_range.images --task pathfinder --distances 3 5 --seeds 0:1 --hours 2 --out runs/images

bisects, for each distance, remedy and seed, the number of train images between --least and --most that is needed to
reach --reach on new images, to a factor of --factor.  What is reached is judged on validation images; test images are
reported beside, for Pathfinder also some without the shortcut by angles (`htf.datasets.pathfinder`, angles="alike").
Every remedy has the same time: --steps of the plain network, of which one with a costlier step takes fewer; a training
ends earlier once it has reached what it should.  --fixed numbers of images are trained on to the end, for accuracies.

Remedies are those of remedies.py, each with one setting, written behind it as in dropout=0.5.  --search chooses
settings before, on validation images at the shortest distance, of three values for each remedy in equal time, and
leaves settings.json, which the same command without --search takes.  With --growing a network goes through all
distances, each going on from the last, and the number is that of images at the first; the remedy helps there alone
unless it is --kept.

No training begins that would, by the time that steps have taken so far, end after --hours; the widest interval comes
first, of equals that of the first seed and the shortest distance.  The same command goes on, also in a training that
was stopped.  It leaves a row for each training and distance, images.csv; the interval between the largest number that
failed and the least that reached, images_needed.csv; and their figure, images.png.  Spread trainings by --workers or
--scheduler as those of `python -m benchmarks.long_range`.  --dry-run does every step on a few images.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from htf._files import read_json, write_figure, write_json
from htf._machine import usable_device
from htf._tables import write_table
from htf.cli.arguments import add_scheduler, int_range
from htf.jobs import map_jobs
from htf.training import Classification, ClassifySettings

from .bisection import Curve, bounds, following, numbers_between
from .growing import LADDERS
from .images_figure import plot_images
from .jobs import make_data
from .points import TABLE, Point, check_recipes, gather
from .recipes import DISTANCE, MODELS, make_model
from .remedies import CHOSEN, REMEDIES, read_remedy

NEEDED, FIGURE, SETTINGS = "images_needed.csv", "images.png", "settings.json"
_SETTINGS = "settings of remedies"
_TRAINING = {"batch_size": 64, "lr": 0.01, "momentum": 0.9}
_DRY = {"least": 8, "most": 16, "steps": 2, "later_steps": 1, "alike": 8, "search_images": 12}
_DRY_IMAGES = {"validation": 8, "test": 8}
_SHOWN = 5_000  # images of a pass
_AT_ONCE = 4  # trainings a worker, after which what comes next is chosen anew


# -- what is trained ------------------------------------------------------------------------------------


def make_curves(options: argparse.Namespace, settings: Mapping[str, float]) -> list[Curve]:
    """All that the options ask for, in the order of their importance."""
    ladder = LADDERS[options.task]
    distances = tuple(options.distances or ladder.distances)
    ladders = [distances] if options.growing else [(distance,) for distance in distances]
    curves = []
    for order, seed in enumerate(options.seeds):
        for each in ladders:
            for text in options.remedies:
                point = make_point(options, each, *_read(text, options.task, settings), seed)
                curves += [Curve(point, distance, order) for distance in each]
    return curves


def make_point(
    options: argparse.Namespace, distances: Sequence[int], remedy: str, setting: float | None, seed: int
) -> Point:
    """A training through these distances, its number of images to be replaced."""
    ladder = LADDERS[options.task]
    later = dict(zip(ladder.distances, ladder.images, strict=True))
    stages = tuple(
        {
            **ladder.data,
            **ladder.of_distance.get(distance, {}),
            **options.data,
            DISTANCE[options.task]: distance,
            "train": options.later_images or later.get(distance, ladder.images[-1]),
            "seed": options.data_seed + distance,
        }
        for distance in distances
    )
    point = Point(
        options.task,
        stages,
        remedy,
        setting,
        REMEDIES[remedy].help(options.task, setting).written,
        options.kept,
        options.model or ladder.model,
        (options.steps, options.later_steps),
        options.reach,
        False,
        options.alike if options.task == "pathfinder" else 0,
        _SHOWN,
        dict(_TRAINING),
        seed,
    )
    return dry(point) if options.dry_run else point


def dry(point: Point) -> Point:
    """The same on a few small batches."""
    stages = tuple({**stage, **_DRY_IMAGES, "train": min(stage["train"], 16)} for stage in point.stages)
    return replace(point, stages=stages, shown=16, training={**point.training, "batch_size": 8})


def _read(text: str, task: str, settings: Mapping[str, float]) -> tuple[str, float | None]:
    try:
        return read_remedy(text, task, settings)
    except ValueError as error:
        raise SystemExit(f"--remedies: {error}") from None


# -- time -----------------------------------------------------------------------------------------------


class Budget:
    """Seconds that there are, and how many a plain step takes.

    Parameters
    ----------
    hours : float
    workers : int
    """

    def __init__(self, hours: float, workers: int) -> None:
        self.ends, self.workers = time.monotonic() + 3600 * hours, workers
        self.hours = hours

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def fitting(self, points: Sequence[Point], seconds_a_step: float) -> list[Point]:
        """The first points that end in time, on all workers, at most some for each."""
        found: list[Point] = []
        busy = [0.0] * self.workers
        for point in points[: self.workers * (_AT_ONCE if self.workers > 1 else 1)]:
            busy[busy.index(min(busy))] += point.most * seconds_a_step
            if max(busy) > self.left:
                break
            found.append(point)
        return found

    def refuse(self, point: Point, seconds_a_step: float) -> SystemExit:
        """What to say where there is no time for the next training."""
        needed = point.most * seconds_a_step
        return SystemExit(
            f"--hours is {self.hours:g}, of which {max(self.left, 0):.0f} seconds are left; the next training, {point}"
            f", may take {needed:.0f} seconds: expected --hours {needed / 3600:.2g} at least, or fewer --steps"
        )


def seconds_of_a_step(point: Point, rows: Sequence[Mapping[str, Any]], where: Mapping[str, Any], device: str) -> float:
    """Seconds of a plain step: as trainings have taken, or as a few take now."""
    taken = [row["seconds"] / row["plain_steps"] for row in rows if row["seconds"] and row["plain_steps"]]
    if taken:
        return median(taken)
    stage = {**point.stages[0], "train": 4 * point.training["batch_size"]}
    data = make_data(point.task, stage, **where)
    training = Classification(make_model(point.model, data), data, ClassifySettings(**point.training), device=device)
    training.advance()
    began = time.perf_counter()
    for _ in range(3):
        training.advance()
    return (time.perf_counter() - began) / 3


# -- running --------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Train while there is time, write the tables, draw the figure."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    out = (options.out or Path("runs") / "images").absolute()
    if options.dry_run:
        vars(options).update(_DRY)
        out /= "dry_run"
    numbers = numbers_between(options.least, options.most, options.factor)
    settings = _settings(out, options.task)
    if options.search:
        _search(out, options)
        return
    curves = make_curves(options, settings)
    try:
        run = _within(out, options)
        check_recipes(out, [curve.point for curve in curves])
    except (ValueError, OSError) as error:
        raise SystemExit(f"--out: {error}") from None
    _work(run, out, options, lambda rows: following(curves, rows, numbers, options.fixed))
    rows = gather(out)
    needed = [_needed(curve, rows) for curve in curves]
    write_table(out / NEEDED, list(needed[0]), needed)
    for each in needed:
        print(_line(each))
    print(f"tables: {out / TABLE} ({len(rows)} rows), {out / NEEDED}")
    write_figure(out / FIGURE, plot_images(out / NEEDED))
    print(f"figure: {out / FIGURE}")


def _within(out: Path, options: argparse.Namespace) -> Any:
    where = {"data_dir": options.data_dir, "cache": options.cache}
    return Point.within(out, **where, device=str(usable_device(options.device)))


def _work(run: Any, out: Path, options: argparse.Namespace, ask: Any) -> bool:
    """Train what is asked for while there is time; whether nothing is left."""
    budget = Budget(options.hours, options.workers)
    where = {"data_dir": options.data_dir, "cache": options.cache}
    begun = False
    while points := ask(rows := [row for content in Point.contents(out) for row in Point.rows(content)]):
        # A training that was stopped goes on before others begin.
        points.sort(key=lambda point: not any(point.folder(out).glob("**/checkpoint.safetensors")))
        seconds = seconds_of_a_step(points[0], rows, where, options.device)
        chosen = points if options.scheduler is not None and budget.left > 0 else budget.fitting(points, seconds)
        if not chosen:
            if begun:
                print(f"no time is left for {len(points)} trainings; the same command goes on", flush=True)
                return False
            raise budget.refuse(points[0], seconds)
        begun = True
        results = map_jobs(
            run,
            chosen,
            workers=options.workers,
            scheduler=options.scheduler,
            threads=options.threads,
            progress=options.progress,
        )
        for _, content in results:
            for row in content["rows"]:
                print(_told(row), flush=True)
            gather(out)
    return True


def _told(row: Mapping[str, Any]) -> str:
    what = f"{row['task']} {row['distance']}, {row['remedy']}, {row['images']} images, seed {row['seed']}"
    if row["test"] is None:
        return f"{what}: {row['stopped']}"
    return (
        f"{what}: validation {row['validation']:.3f}, test {row['test']:.3f} after {row['plain_steps']} plain steps, "
        f"{row['seconds']:.0f} s"
    )


def _needed(curve: Curve, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    outcomes = curve.outcomes(rows)
    low, high = bounds(outcomes)
    point = curve.point
    return {
        "task": point.task,
        "growing": len(point.stages) > 1,
        "remedy": point.remedy,
        "setting": point.setting,
        "kept": point.kept,
        "distance": curve.distance,
        "seed": point.seed,
        "reach": point.reach,
        "failed": low,
        "reached": high,
        # Fewer images may do where more have failed, by chance.
        "failed_above": max((n for n, yes in outcomes.items() if not yes and n > (high or math.inf)), default=None),
        "trainings": len(outcomes),
        "recipe": point.recipe,
    }


def _line(each: Mapping[str, Any]) -> str:
    low, high = each["failed"], each["reached"]
    what = f"{each['task']} {each['distance']}, {REMEDIES[each['remedy']].words}, seed {each['seed']}"
    if not each["trainings"]:
        return f"{what}: not trained yet"
    if high is None:
        return f"{what}: more than {low} images"
    return f"{what}: {high} images or fewer" if low is None else f"{what}: {low} to {high} images"


# -- settings -------------------------------------------------------------------------------------------


def _settings(out: Path, task: str) -> dict[str, float]:
    """Settings that a search has left for a task."""
    path = out / SETTINGS
    found = read_json(path, _SETTINGS) if path.exists() else {}
    return dict(found.get(task, {}))


def _search(out: Path, options: argparse.Namespace) -> None:
    """Choose each remedy's setting on validation images, in a folder of its own below."""
    distance = min(options.distances or LADDERS[options.task].distances)
    names = [text.partition("=")[0] for text in options.remedies]
    for name in names:
        if name not in REMEDIES:
            _read(name, options.task, {})
    points = [
        make_point(options, [distance], name, value, options.seeds[0]).with_images(options.search_images, False)
        for name in names
        for value in REMEDIES[name].tried
    ]
    try:
        run = _within(out / "search", options)
        finished = _work(run, out / "search", options, lambda rows: _open(points, rows))
    except ValueError as error:
        raise SystemExit(f"--out: {error}") from None
    rows = {row["settings_sha256"]: row for row in gather(out / "search")}
    chosen = {}
    for name in names:
        tried = [rows[point.digest] for point in points if point.remedy == name and point.digest in rows]
        if len(tried) == len(REMEDIES[name].tried) and tried:
            best = max(tried, key=_merit)
            chosen[name] = best["setting"]
            print(f"{options.task}, {name}: {best['setting']:g}, validation {best['validation']:.3f}")
    path = out / SETTINGS
    there = read_json(path, _SETTINGS) if path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**there, options.task: {**there.get(options.task, {}), **chosen}}, _SETTINGS)
    print(f"settings: {path}" + ("" if finished else "; some are missing, the same command goes on"))


def _open(points: Sequence[Point], rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    finished = {row["settings_sha256"] for row in rows}
    return [point for point in points if point.digest not in finished]


def _merit(row: Mapping[str, Any]) -> tuple[bool, float]:
    """What has reached is the better the sooner, anything else by its validation accuracy."""
    return row["reached"], -row["plain_steps"] if row["reached"] else row["validation"]


# -- options --------------------------------------------------------------------------------------------


def _argument(text: str) -> tuple[str, Any]:
    name, equal, value = text.partition("=")
    if not equal or name in ("train", "seed", *DISTANCE.values()):
        expected = "an argument of the task, as size=64 or source=fashion_mnist"
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_range.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", choices=list(LADDERS), required=True)
    add("--distances", nargs="+", type=int, help="from the shortest to the longest; by default those of growing.py")
    add("--remedies", nargs="+", help=f"from {', '.join(REMEDIES)}, as in dropout=0.5; by default those with a setting")
    add("--seeds", type=int_range, default="0", help="0:2 or 0,1,2")
    add("--reach", type=float, default=0.9, help="validation accuracy")
    add("--least", type=int, default=500, help="train images")
    add("--most", type=int, default=50_000, help="train images")
    add("--factor", type=float, default=1.5, help="of one number of images to the next")
    add("--fixed", nargs="+", type=int, default=[], help="numbers of images to train on to the end, for accuracies")
    add("--hours", type=float, default=1.0, help="of this call")
    add("--steps", type=int, default=10_000, help="of the plain network, whose time a training may take")
    add("--growing", action="store_true", help="go through all distances, images being those of the first")
    add("--kept", action="store_true", help="keep the remedy at the later distances")
    add("--later-steps", type=int, default=2_500, help="plain steps of each later distance")
    add("--later-images", type=int, help="train images of each later distance; by default those of growing.py")
    add("--search", action="store_true", help="choose settings of the remedies on validation images")
    add("--search-images", type=int, default=5_000, help="train images of the search")
    add("--alike", type=int, default=1_000, help="Pathfinder's test images without the shortcut by angles; 0 for none")
    add("--model", choices=MODELS, help="by default that of growing.py")
    add("--data", nargs="+", type=_argument, default=[], help="arguments of the task, as size=64")
    add("--data-seed", type=int, default=0, help="of the images, the same for all trainings")
    add("--dry-run", action="store_true", help="every step on a few images")
    add("--out", type=Path, help="folder of the trainings, tables and figure; by default runs/images")
    add("--data-dir", help="folder of MNIST files; otherwise HTF_DATA, or a download")
    add("--cache", help="folder to keep generated images in")
    add("--workers", type=int, default=1, help="processes that share the trainings")
    add_scheduler(parser)
    add("--threads", type=int, default=1, help="of torch in each process")
    add("--device", default="cpu")
    add("--no-progress", dest="progress", action="store_const", const=False, default=None)
    options = parser.parse_args(arguments)
    options.data = dict(options.data)
    if options.distances and sorted(set(options.distances)) != options.distances:
        parser.error(f"--distances are {options.distances}; expected growing ones")
    if not 0.5 < options.reach <= 1:
        parser.error(f"--reach is {options.reach}; expected above 0.5 and at most 1")
    if not 2 <= options.least <= options.most:
        parser.error(f"--least is {options.least} and --most {options.most}; expected 2 <= least <= most")
    if not 1 < options.factor < math.inf:
        parser.error(f"--factor is {options.factor}; expected above 1")
    if not 0 < options.hours < math.inf:
        parser.error(f"--hours is {options.hours}; expected above 0")
    for name, least in {"steps": 1, "later_steps": 1, "alike": 0, "search_images": 2, "workers": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least {least}")
    if min([*options.fixed, options.later_images or 2]) < 2:
        parser.error("--fixed and --later-images hold numbers below 2; expected at least 2 images")
    if options.remedies is None:
        options.remedies = ["plain", *CHOSEN[options.task]]
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
