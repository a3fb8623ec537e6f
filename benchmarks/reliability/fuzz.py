"""Damage files in every way that disks and people do, read them, and count what comes of it.

    python -m benchmarks.reliability.fuzz --count 10000 --minutes 60 --json docs/results/reliability_fuzz.json

Of each kind of file that the library reads, good ones are written, and one after another is cut short, emptied, changed
in a few bits, half filled with zeros, mixed with another, replaced by another, or, where it is text, changed in its
values.  Some JSON files are sealed anew after the change, so that it is the reader that has to notice.  What comes is

    refused   an error of the documented types whose message names the file;
    harmless  the value that was written: the change hit nothing that is read, or what was saved before took its place;
    other     another value from a file of the user's own, or one sealed anew, which has no checksum that could tell;
    unnamed   an error of the documented types that does not say which file;
    foreign   an error of another type;
    silent    another value from a file with a checksum;
    crashed   the process ended, or took longer than --patience seconds or more than --memory GiB.

The last four must be 0: the exit status is 1 if they are not.  Everything is drawn from --seed and the number of the
file, so that --first N --count 1 repeats file N.  Files are read in a process of its own, which is replaced if it dies.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import nn

import htf
from benchmarks.long_range.plots import plot_link
from htf import _files as files
from htf._folders import read_claim
from htf._machine import describe_machine
from htf._tables import checksum_of, read_table, write_table
from htf.datasets import completion_from_file, far_parity, tensor_completion
from htf.datasets import load as load_images
from htf.datasets._cifar import CifarFiles
from htf.datasets.idx import read_idx
from htf.dynamics import Study, study
from htf.jobs._dask import address_of
from htf.nn import MatrixFactorization
from htf.probes import RankFit, rank_fit
from htf.ranks import SeparationProfile
from htf.training import ClassifyResult, ClassifySettings, FitSettings, classify, fit, load_trained
from htf.training.history import History

BAD = ("unnamed", "foreign", "silent", "crashed")
# Documented: TypeError for arrays of other types, FileNotFoundError where a file of a folder is missing.
DOCUMENTED = (ValueError, TypeError, FileNotFoundError)
_TOKENS = ("nan", "-1", "1e999", "1_0", "٣", "", '"', "[" * 5000, "9" * 5000, "\0", "null", "true", "é", "0x10", "{}")


@dataclass(frozen=True)
class Kind:
    """Files of a kind.

    Attributes
    ----------
    make : callable
        Writes them into a folder; of two variants.
    read : callable
        From the folder to what the files hold.
    names : tuple of str
        The files that are damaged, as patterns.
    guarded : bool
        Whether they have checksums.
    bound : bool
        Whether a good file of another variant is noticed too.
    """

    make: Callable[[Path, int], object]
    read: Callable[[Path], Any]
    names: tuple[str, ...]
    guarded: bool = True
    bound: bool = False


def _probe(folder: Path, variant: int) -> None:
    settings = FitSettings(epochs=1 + variant)
    data = load_images().take(60, 30)
    rank_fit(data, formats=["cp"], ranks=[1], twins=["original"], settings=settings, out=folder, progress=False)


def _read_probe(folder: Path) -> Any:
    found = RankFit.load(folder)
    found.table()
    return [found.settings, found.records, found.variance]


def _read_claim(folder: Path) -> Any:
    return read_claim(folder)


def _fit(folder: Path, variant: int, steps: int = 6) -> History:
    problem = tensor_completion((5, 6), "matrix", 1, observed=20, seed=variant)
    network = MatrixFactorization((5, 6), depth=2, runs=2, init=htf.nn.init.gaussian(std=0.1), seed=variant)
    return fit(network, problem, steps=steps, every=2, out=folder, save_every=0.0)


def _read_fit(folder: Path) -> Any:
    # The same fit again, which reads the checkpoint, goes on, and writes what is missing.
    history = _fit(folder, 0)
    return [history.loss, history.steps]


def _read_history(folder: Path) -> Any:
    history = History.load(folder)
    return [history.tensors(), history.settings, history.stopped]


def _study(folder: Path, variant: int) -> None:
    study("mf", dim=4, rank=1, depth=2, observed=12, init_std=0.1, seeds=[variant], steps=4, every=2, out=folder)


def _read_study(folder: Path) -> Any:
    found = Study.load(folder)
    return [found.settings, found.history.tensors(), found.table()]


def _classification(folder: Path, variant: int) -> None:
    data = far_parity(train=8, validation=4, test=4)
    classify(_network(variant), data, settings=ClassifySettings(epochs=1, batch_size=4), out=folder)


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))


def _read_weights(folder: Path) -> Any:
    model = _network(5)
    load_trained(model, folder, "last")
    return model.state_dict()


def _table(folder: Path, variant: int) -> None:
    rows = [{"name": f"row {k}", "a": k / 7 + variant, "b": None if k % 3 else k} for k in range(8)]
    write_table(folder / "table.csv", ("name", "a", "b"), rows)


def _own_table(folder: Path, variant: int) -> None:
    _table(folder, variant)
    checksum_of(folder / "table.csv").unlink()


def _read_table(folder: Path) -> Any:
    return read_table(folder / "table.csv", ("a", "b"), ("name",), may_be_missing=("b",))


def _problem(folder: Path, variant: int) -> None:
    tensor_completion((4, 5, 3), "cp", 2, observed=20, seed=variant).save(folder / "problem.npz")


def _read_entries(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        problem = completion_from_file(folder / name, test_fraction=None if name == "problem.npz" else 0.2)
        return [problem.indices, problem.values, problem.test_values, problem.shape, problem.tree, problem.describe()]

    return read


def _own_csv(folder: Path, variant: int) -> None:
    problem = tensor_completion((4, 5, 3), "cp", 2, observed=20, seed=variant)
    lines = [",".join([*map(str, i), repr(v)]) for i, v in zip(problem.indices.tolist(), problem.values.tolist())]  # noqa: B905
    (folder / "entries.csv").write_text("user,film,week,stars\n" + "\n".join(lines) + "\n")


def _own_npz(folder: Path, variant: int) -> None:
    problem = tensor_completion((4, 5, 3), "cp", 2, observed=20, seed=variant)
    arrays: dict[str, Any] = {"indices": problem.indices.numpy(), "values": problem.values.numpy()}
    (np.savez_compressed if variant else np.savez)(folder / "entries.npz", **arrays)


def _cifar(folder: Path, variant: int) -> None:
    rng = np.random.default_rng(variant)
    for name in ("train", "test"):
        images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        np.savez_compressed(folder / f"{name}.npz", images=images, labels=rng.integers(0, 10, 3, dtype=np.uint8))


def _idx(folder: Path, variant: int, packed: bool = False) -> None:
    images = np.random.default_rng(variant).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    content = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes()
    (folder / "images").write_bytes(gzip.compress(content, mtime=0) if packed else content)


def _cache(folder: Path, variant: int) -> Any:
    made = far_parity(train=4, validation=2, test=2, seed=variant, cache=folder)
    return [getattr(made, part).tensors() for part in ("train", "validation", "test")]


def _profile(folder: Path, variant: int) -> None:
    SeparationProfile((0, 4), (0.1, variant / 2), (0.0, 0.1), (1e-3, 0.0), (0.0, 1e-4), {"k": variant}).save(
        folder / "profile.json"
    )


def _read_profile(folder: Path) -> Any:
    found = SeparationProfile.load(folder / "profile.json")
    found.table()
    return found


def _link(folder: Path, variant: int) -> None:
    row = {"task": "t", "measure": "m", "regularizer": "none", "value": 0.5, "error": 0.1, "test": 0.7}
    files.write_json(folder / "link.json", {"rows": [row, row | {"value": 0.25 + variant}]})


def _read_link(folder: Path) -> Any:
    plot_link(folder / "link.json")
    return files.read_json(folder / "link.json", sealed=False)["rows"]


def _scheduler(folder: Path, variant: int) -> None:
    (folder / "scheduler.json").write_text(json.dumps({"address": f"tcp://127.0.0.{1 + variant}:8786", "id": "x"}))


KINDS = {
    "settings and fits of a probe": Kind(_probe, _read_probe, ("settings.json", "fits/*.json"), bound=True),
    "claim of a folder": Kind(_probe, _read_claim, ("claim.json",)),
    "checkpoint of a fit": Kind(lambda f, v: _fit(f, v, 4), _read_fit, ("checkpoint.safetensors",), bound=True),
    "history of a fit": Kind(_fit, _read_history, ("settings.json", "history.safetensors"), bound=True),
    "study": Kind(_study, _read_study, ("study.json", "settings.json", "history.safetensors"), bound=True),
    "checkpoint of a training": Kind(_classification, _read_weights, ("checkpoint.safetensors",)),
    "result of a training": Kind(_classification, lambda f: ClassifyResult.load(f / "result.json"), ("result.json",)),
    "HT tensor": Kind(
        lambda f, v: htf.save(htf.random_ht((3, 4, 5), 2, random_state=v), f / "x.safetensors"),
        lambda f: (lambda x: [x.tree, *x.factors])(htf.load(f / "x.safetensors")),
        ("x.safetensors",),
    ),
    "saved problem": Kind(_problem, _read_entries("problem.npz"), ("problem.npz",)),
    "cache of images": Kind(_cache, lambda f: _cache(f, 0), ("*.safetensors",), bound=True),
    "separation profile": Kind(_profile, _read_profile, ("profile.json",)),
    "table": Kind(_table, _read_table, ("table.csv", "table.csv.sha256")),
    "numbers of the link": Kind(_link, _read_link, ("link.json",)),
    "table of the user's": Kind(_own_table, _read_table, ("table.csv",), guarded=False),
    "entries as CSV": Kind(_own_csv, _read_entries("entries.csv"), ("entries.csv",), guarded=False),
    "entries as npz": Kind(_own_npz, _read_entries("entries.npz"), ("entries.npz",), guarded=False),
    "CIFAR-10 as npz": Kind(
        _cifar, lambda f: CifarFiles((f / "train.npz", f / "test.npz"), "").read(), ("*.npz",), guarded=False
    ),
    "IDX": Kind(_idx, lambda f: read_idx(f / "images"), ("images",), guarded=False),
    "IDX, gzipped": Kind(lambda f, v: _idx(f, v, True), lambda f: read_idx(f / "images"), ("images",), guarded=False),
    "scheduler file": Kind(_scheduler, lambda f: address_of(f / "scheduler.json"), ("scheduler.json",), guarded=False),
}


# -- damage ----------------------------------------------------------------------------------------------


def damage(content: bytes, same: bytes | None, foreign: bytes, rng: Generator) -> tuple[str, bytes]:
    """What was done to a file, and what it holds now; `same` is a good file in its place, if that has to be noticed."""
    size = max(len(content), 1)
    half, at = size // 2, int(rng.integers(size))
    ways: dict[str, Callable[[], bytes]] = {
        "cut short": lambda: content[:at],
        "emptied": lambda: b"",
        "bits flipped": lambda: _flipped(content, rng),
        "zeros in the first half": lambda: bytes(half) + content[half:],
        "zeros in the second half": lambda: content[:half] + bytes(size - half),
        "another kind of file": lambda: foreign,
        "mixed with another": lambda: content[:at] + foreign[at:],
        "bytes at random": lambda: content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at + 20 :],
        "a part twice": lambda: content[:at] + content[at // 2 :],
        "a part missing": lambda: content[:at] + content[at + int(rng.integers(1, 30)) :],
        "a longer file": lambda: content + rng.bytes(int(rng.integers(1, 100))),
        "values replaced": lambda: _token(content, rng),
    }
    if same is not None:
        ways["a file of another run"] = lambda: same
    if content[:1] == b"{":
        ways["JSON changed"] = lambda: _changed_json(content, rng, seal=False)
        ways["JSON changed and sealed"] = lambda: _changed_json(content, rng, seal=True)
    how = list(ways)[int(rng.integers(len(ways)))]
    return how, ways[how]()


def _flipped(content: bytes, rng: Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _token(content: bytes, rng: Generator) -> bytes:
    """One field, between commas, quotes, colons or lines, becomes something else."""
    ends = [k for k, byte in enumerate(content) if byte in b',":\n[]{} ']
    if len(ends) < 2:
        return content + b"\n"
    k = int(rng.integers(len(ends) - 1))
    token = _TOKENS[int(rng.integers(len(_TOKENS)))].encode()
    return content[: ends[k] + 1] + token + content[ends[k + 1] :]


def _changed_json(content: bytes, rng: Generator, seal: bool) -> bytes:
    """Some value within becomes one of another type, is left out, or nested deep."""
    whole = json.loads(content)
    kind = whole.pop("seal", {}).get("kind", "")
    places = [place for place in _places(whole) if place[1] is not None]
    holder, key = places[int(rng.integers(len(places)))]
    new: list[Any] = [None, -1, 1e308, "text", [], {}, [[1]], {"a": 1}, True, 10**30, float("nan"), "٣"]
    k = int(rng.integers(len(new) + 1))
    if k == len(new):
        del holder[key]
    else:
        holder[key] = new[k]
    if not seal:
        return json.dumps(json.loads(content) | whole).encode()
    with tempfile.TemporaryDirectory() as folder:
        files.write_json(Path(folder) / "x", whole, kind)
        return (Path(folder) / "x").read_bytes()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


# -- the campaign ----------------------------------------------------------------------------------------


def fingerprint(value: Any) -> str:
    """The same for the same values, NaN included."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            add([[key, value[key]] for key in sorted(value)])
        elif isinstance(value, list | tuple):
            found.update(b"[")
            for each in value:
                add(each)
            found.update(b"]")
        else:
            found.update(repr(value).encode())

    add(value)
    return found.hexdigest()


@dataclass
class Stock:
    """Good files of every kind, in two variants, and what they hold."""

    root: Path
    expected: dict[str, str] = field(default_factory=dict)

    def fill(self) -> None:
        for number, (name, kind) in enumerate(KINDS.items()):
            for variant in (0, 1):
                folder = self.root / f"{number}_{variant}"
                folder.mkdir(parents=True)
                kind.make(folder, variant)
            work = self.root / "work"
            shutil.copytree(self.root / f"{number}_0", work)
            self.expected[name] = fingerprint(kind.read(work))
            shutil.rmtree(work)

    def files_of(self, name: str, variant: int) -> list[Path]:
        folder = self.root / f"{list(KINDS).index(name)}_{variant}"
        return sorted(path for pattern in KINDS[name].names for path in folder.glob(pattern))

    def try_one(self, number: int, seed: int) -> dict[str, Any]:
        """Damage one file, read it, and say what came."""
        rng = np.random.default_rng([seed, number])
        name = list(KINDS)[number % len(KINDS)]
        kind = KINDS[name]
        mine, theirs = self.files_of(name, 0), self.files_of(name, 1)
        k = int(rng.integers(len(mine)))
        # A user's own entries in the place of a saved problem are as good.
        others = [other for other in KINDS if other != name and {name, other} != {"saved problem", "entries as npz"}]
        foreign = self.files_of(others[int(rng.integers(len(others)))], 0)[0]
        same = theirs[k].read_bytes() if kind.bound and k < len(theirs) else None
        how, content = damage(mine[k].read_bytes(), same, foreign.read_bytes(), rng)
        source = self.root / f"{list(KINDS).index(name)}_0"
        work = self.root / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        (work / mine[k].relative_to(source)).write_bytes(content)
        outcome, said = self._read(kind, name, work, unsealed=how == "JSON changed and sealed")
        return {"number": number, "kind": name, "file": mine[k].name, "damage": how, "outcome": outcome, "said": said}

    def _read(self, kind: Kind, name: str, work: Path, unsealed: bool) -> tuple[str, str]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = fingerprint(kind.read(work))
        except DOCUMENTED as error:
            return "refused" if str(work) in str(error) else "unnamed", f"{type(error).__name__}: {error}"[:300]
        except Exception as error:
            return "foreign", f"{type(error).__name__}: {error}"[:300]
        if found == self.expected[name]:
            return "harmless", ""
        return "other" if unsealed or not kind.guarded else "silent", ""


def _worker(root: Path, expected: dict[str, str], seed: int, memory: float, tasks: Connection) -> None:
    torch.set_num_threads(1)
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    stock = Stock(root, expected)
    while (number := tasks.recv()) is not None:
        tasks.send(stock.try_one(number, seed))


def campaign(options: argparse.Namespace, root: Path) -> Iterator[dict[str, Any]]:
    """What came of each file, until the count or the time is over."""
    stock = Stock(root)
    stock.fill()
    context = multiprocessing.get_context("spawn")
    ends = time.monotonic() + 60 * options.minutes
    process, tasks = None, None
    for number in range(options.first, options.first + options.count):
        if time.monotonic() > ends:
            break
        if process is None or tasks is None:
            tasks, theirs = context.Pipe()
            arguments = (root, stock.expected, options.seed, options.memory, theirs)
            process = context.Process(target=_worker, args=arguments, daemon=True)
            process.start()
            theirs.close()
        tasks.send(number)
        # The first file waits for the process to import the library.
        patience = options.patience + 120 * (number == options.first)
        try:
            if not tasks.poll(patience):
                raise EOFError(f"no answer within {patience:g} s")
            yield tasks.recv()
        except (EOFError, ConnectionError) as error:
            process.kill()
            process.join()
            name = list(KINDS)[number % len(KINDS)]
            said = f"{error or 'the process ended'} (exit code {process.exitcode})"
            yield {"number": number, "kind": name, "damage": "", "outcome": "crashed", "said": said}
            process = None
    if process is not None and tasks is not None:
        tasks.send(None)
        process.join()


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign, print and write its counts; 1 if something went wrong that must not."""
    options = _options(arguments)
    began, counts, ways, bad = time.monotonic(), Counter[tuple[str, str]](), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        for found in campaign(options, Path(folder)):
            counts[found["kind"], found["outcome"]] += 1
            ways[found["damage"]] += 1
            if found["outcome"] in BAD:
                bad.append(found)
                print(json.dumps(found), flush=True)
    total = Counter(dict.fromkeys(("refused", "harmless", "other", *BAD), 0))
    for (_, outcome), count in counts.items():
        total[outcome] += count
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(torch.device("cpu")),
        "seed": options.seed,
        "first": options.first,
        "files": sum(total.values()),
        "asked": options.count,
        "minutes": round((time.monotonic() - began) / 60, 2),
        "outcomes": dict(total),
        "kinds": {name: {o: c for (kind, o), c in sorted(counts.items()) if kind == name} for name in KINDS},
        "damage": dict(sorted(ways.items())),
        "bad": bad[:100],
    }
    for name, outcomes in report["kinds"].items():
        print(f"{name:30} " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    print(f"{report['files']} files in {report['minutes']} minutes: {report['outcomes']}")
    if options.json:
        files.write_json(options.json, report)
    return int(bool(bad))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int, default=1000, help="files, at most")
    add("--minutes", type=float, default=10.0, help="time, at most")
    add("--seed", type=int, default=0)
    add("--first", type=int, default=0, help="number of the first file")
    add("--patience", type=float, default=60.0, help="seconds for one file, at most")
    add("--memory", type=float, default=16.0, help="GiB of address space of the reading process")
    add("--json", type=Path, help="where the counts go")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
