"""Time of the main jobs on 1, 8 and 64 GPUs, from measurements in docs/results.

    python -m benchmarks.scale docs/scale.md

replaces the tables of that page by those of the present measurements: whatever stands between the lines
``<!-- table NAME -->`` and ``<!-- end -->``.  Nothing is measured here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from typing import Any

from htf._files import read_plain_json, write_text

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DEVICES = (1, 8, 64)
SAMPLES, MODES = 60_000, 784  # MNIST
# Components of CP ranks 1 to 15, for ten classes, of the originals and two twins, of two data sets.
COMPONENTS = sum(range(1, 16)) * 10 * 3 * 2
GPU_COMPONENTS = sum(range(1, 16)) * 10 * 2  # of the epoch that was measured
EPOCHS = 10_000
# Bytes a second between GPUs; assumed, of a link within one machine.
LINK = 50e9
RESNET_PARAMETERS = 11_200_000


def read(name: str) -> Any:
    """One file of docs/results."""
    return read_plain_json(RESULTS / name)


# -- constants ------------------------------------------------------------------------------------------


def cp_seconds() -> dict[str, float]:
    """Seconds of an epoch for each sample, mode and component."""
    cpu = read("probe_speed.json")["cp"]["seconds_per_epoch"] / (SAMPLES * MODES * sum(range(1, 16)))
    gpu = read("gpu/probe.json")["epochs_ms"]["float32 eager"] / 1e3 / (SAMPLES * MODES * GPU_COMPONENTS)
    limit = 4 / read("gpu/limits.json")["limits"]["float32_per_s"]
    return {"cpu": cpu, "gpu": gpu, "limit": limit}


def line(one: float, ten: float) -> tuple[float, float]:
    """What an iteration takes however many seeds there are, and what each seed adds."""
    each = (ten - one) / 9
    return one - each, each


def dynamics() -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """Name, and milliseconds of an iteration: constant and per seed, on two cores and on a GPU."""
    on_cpu, on_gpu = read("dynamics_speed.json")["runs together"], read("gpu/replays.json")["iterations"]
    sizes = (("mf", "dim", 64), ("cp", "components", 256), ("ht", "width", 512))
    found = []
    for (kind, size, value), gpu in zip(sizes, on_gpu, strict=True):
        (cpu,) = (row for row in on_cpu[kind] if row[size] == value)
        found.append((gpu["what"], line(cpu["one_ms"], cpu["10_ms"]), line(gpu["one_graphs_ms"], gpu["ten_graphs_ms"])))
    return found


def step_ms() -> dict[str, float]:
    """Milliseconds of a step of ResNet-18 on 64 images in float32, by regularizer."""
    return {row["what"]: row["ms"] for row in read("gpu/long_range.json")["steps"] if row["kind"] == "float32"}


def tensor_ms(what: str) -> dict[str, tuple[float, float]]:
    """Milliseconds of an operation on HT tensors: constant, and per mode, from orders 16 and 128."""
    rows = {row["what"]: row["ms"] for row in read("gpu/tensors.json")["operations"]}
    small, large = (next(ms for name, ms in rows.items() if name.startswith(f"{what}, order {n}")) for n in (16, 128))
    each = {where: (large[where] - small[where]) / 112 for where in ("cpu", "cuda")}
    return {where: (small[where] - 16 * each[where], each[where]) for where in each}


# -- tables ---------------------------------------------------------------------------------------------


def probe_table() -> str:
    """CP rank fits."""
    each = cp_seconds()
    work = SAMPLES * MODES * COMPONENTS * EPOCHS
    rows = [["two cores", _time(work * each["cpu"]), "", ""]]
    for name, key in (("as measured", "gpu"), ("matrix products alone, float32", "limit")):
        rows.append([f"GPU, {name}", *(_time(work * each[key] / n) for n in DEVICES)])
    return _table(["900 CP fits, 10,000 epochs", *_devices()], rows)


def ht_table() -> str:
    """HT rank fits, which are one network for each width."""
    found = read("gpu/probe.json")["ht"]
    rows = [["two cores", _time(60 * 18 * read("probe_speed.json")["ht"]["seconds_per_epoch"]), "", ""]]
    for name, key in (("step by step", "eager"), ("as graphs", "graphs")):
        rows.append([f"GPU, {name}", *(_time(60 * ceil(18 / n) * found[key] / 1e3) for n in DEVICES)])
    return _table(["18 HT fits of width 16, 60 epochs", *_devices()], rows)


def dynamics_table() -> str:
    """Incremental learning: 100 seeds for 30,000 iterations."""
    rows = []
    for name, cpu, gpu in dynamics():
        rows.append([name, f"{cpu[0]:.2f} + {cpu[1]:.3f} n", f"{gpu[0]:.3f} + {gpu[1]:.4f} n",
                     *(_time(30 * (gpu[0] + gpu[1] * ceil(100 / n))) for n in DEVICES)])  # fmt: skip
    head = ["", "ms for n seeds, two cores", "one GPU"]
    return _table([*head, *(f"100 seeds, {text}" for text in _devices())], rows)


def long_range_table() -> str:
    """The papers' 27 points of three seeds, and one point shared by GPUs."""
    steps = ceil(10_000 / 64) * 150
    rows = []
    for name, ms in step_ms().items():
        seconds = steps * ms / 1e3
        rows.append([name, f"{ms:.1f} ms", _time(seconds), *(_time(ceil(81 / n) * seconds) for n in DEVICES)])
    head = ["ResNet-18, 150 × 150, batch 64", "step", "one training"]
    return _table([*head, *(f"81 trainings, {text}" for text in _devices())], rows)


def tensor_table() -> str:
    """Rounding and inner products at orders that were not measured."""
    rows = []
    for what in ("rounding", "inner product"):
        both = tensor_ms(what)
        for where, name in (("cpu", "CPU"), ("cuda", "GPU")):
            constant, each = both[where]
            rows.append([what, name, f"{each:.3f} ms", *(f"{constant + each * n:.0f} ms" for n in (128, 1024, 8192))])
    return _table(["operation", "where", "for each mode", "order 128", "order 1,024", "order 8,192"], rows)


def shared_step_table() -> str:
    """One training of ResNet-18 on several GPUs: arithmetic is divided, launches and sums of gradients are not."""
    found, launch = read("gpu/replays.json")["resnet18_64_images_150"], read("gpu/limits.json")["limits"]["launch_s"]
    sums = 1e3 * 2 * 4 * RESNET_PARAMETERS / LINK
    rows = []
    for name, key in (("plain", "plain_float32"), ("GradientFieldChange", "GradientFieldChange_8_samples_float32")):
        row = found[key]
        launches = 1e3 * launch * row["kernels"]
        times = [max(row["kernels_ms"] / n, launches) + (sums if n > 1 else 0) for n in DEVICES]
        rows.append([name, f"{row['kernels_ms']:.1f} ms", f"{launches:.1f} ms", *(f"{t:.1f} ms" for t in times)])
    return _table(["step, 64 images in all", "kernels", "launches", *_devices()], rows)


def models_table() -> str:
    """Tree classifiers, on one thread of a CPU alone."""
    row = read("classifiers_mnist.json")["rows"][0]  # of eight epochs
    images = row["images"]["train"] * row["options"]["epochs"]
    each = row["seconds"] / (images * row["parameters"])
    rows = [
        [
            f"width {width}, {parameters:,} parameters",
            f"{1e6 * each * parameters:.0f} µs",
            _time(images * each * parameters),
        ]
        for width, parameters in ((row["options"]["width"], row["parameters"]), (96, 855_082))
    ]
    return _table(["classifier of 28 × 28 images", "an image, forward and backward", "8 epochs of 55,000"], rows)


def memory_table() -> str:
    """What is held at once, in GiB."""
    peak = read("gpu/probe.json")["peak_GiB"]
    each = peak / (5_000 * GPU_COMPONENTS)
    newton = [(60_000 * (785 * (4 + 2 + 2) + 6 * 4 * k) + 12 * 4 * 785 * k) / 2**30 for k in (150, 310)]
    rows = [
        ["CP probe on a GPU, 2,400 components, batches of 5,000", f"{peak:.2f}", "measured"],
        ["the same, 7,200 components", f"{each * 5_000 * 7_200:.1f}", "batch × components"],
        ["largest batch × components in 80 GB", f"{80e9 / 2**30 / each:.3g}", "numbers, not GiB"],
        [
            "`LevenbergMarquardt`, 60,000 images, 150 components",
            f"{newton[0]:.2f}",
            "samples × (8 pixels + 24 components) bytes",
        ],
        ["the same, 310 components", f"{newton[1]:.2f}", ""],
        [
            "ResNet-18, 64 images of 150 × 150, largest of all regularizers",
            f"{read('gpu/long_range.json')['peak_GiB']:.2f}",
            "measured",
        ],
        [
            "HT tensors, order 1,024, dimension 4, rank 16",
            f"{8 * 1024 * (4 * 16 + 16**3) / 2**30:.3f}",
            "modes × (n r + r³) × 8 bytes",
        ],
    ]
    return _table(["memory", "GiB", "grows as"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "probe": probe_table,
    "ht": ht_table,
    "dynamics": dynamics_table,
    "long_range": long_range_table,
    "shared_step": shared_step_table,
    "tensors": tensor_table,
    "models": models_table,
    "memory": memory_table,
}


def filled(page: str) -> str:
    """A page with its tables replaced.

    Raises
    ------
    ValueError
        For a table that is not known, or one of those that are that the page has not.
    """
    found: list[str] = []

    def table(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"the page has a table {name!r}; known are {', '.join(TABLES)}")
        found.append(name)
        return f"<!-- table {name} -->\n\n{TABLES[name]()}\n\n<!-- end -->"

    page = re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)
    if missing := [name for name in TABLES if name not in found]:
        raise ValueError(f"the page lacks the table {missing[0]}")
    return page


def _devices() -> list[str]:
    return [f"{n} GPU{'s' if n > 1 else ''}" for n in DEVICES]


def _time(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main(arguments: list[str] | None = None) -> None:
    """Replace the tables of a page."""
    options = _options(arguments)
    write_text(options.page, filled(options.page.read_text(encoding="utf-8")))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, nargs="?", default=RESULTS.parent / "scale.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
