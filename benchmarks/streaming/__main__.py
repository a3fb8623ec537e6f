"""Size, error and time of series in HT format: HTStream against HT-RISE of htucker, and a tensor train of the whole.

    python -m benchmarks.streaming --htucker ../htucker_incremental --json docs/results/streaming.json

Fields in three dimensions change in time: a front that crosses the box, and bumps on circles.  Their blocks of moments
are given one after another to `htf.HTStream`, and to HT-RISE (Aksoy & Gorodetsky 2024) from a checkout of
gorodetsky-umich/htucker_incremental; a TT-SVD and htf.hierarchical_tucker get the whole array at once.  All have the
same tolerance.  As each ends with another error below it, "htf at its error" and "tt at its error" have the largest
tolerance, in steps of a quarter of that of HT-RISE's error, with which they err no more than HT-RISE did.
Numbers are those of all factors, the ratio is that of the array's entries to them, errors are measured, and times are
the shortest of some repetitions in turns, of the updates and of the tensor at the end, without the making of blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import htf
from benchmarks.speed.peers import importable
from benchmarks.speed.timing import made_by, race
from htf._files import write_json

from .fields import FIELDS, blocks

Blocks = list[np.ndarray]
DRY = {"times": 12, "grid": 8, "length": 4, "repeats": 1}


def main(arguments: list[str] | None = None) -> None:
    """Compress all fields at all tolerances, print and write the report."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    settings = DRY if options.dry_run else {name: getattr(options, name) for name in DRY}
    rows: list[dict[str, Any]] = []
    for field in options.fields:
        parts = list(blocks(field, settings["times"], settings["grid"], settings["length"]))
        for tol in options.tolerances:
            found = _compared(parts, tol, settings["repeats"], options.htucker)
            for row in found:
                print("{side:22} error {error:.2e} ratio {ratio:9.1f} {seconds:8.3f} s".format(**row), flush=True)
            rows += [{"field": field, "tol": tol, **row} for row in found]
    if options.json:
        write_json(options.json, {**made_by(), "settings": settings, "rows": rows})


def _compared(parts: Blocks, tol: float, repeats: int, checkout: Path | None) -> list[dict[str, Any]]:
    whole = np.concatenate(parts)
    sides: dict[str, Callable[[], Any]] = {
        "htf.HTStream": lambda: _streamed(parts, tol),
        "htf, at once": lambda: htf.hierarchical_tucker(whole, tol=tol),
        "tt, at once": lambda: tt_svd(whole, tol),
    }
    readings = {"htf.HTStream": _of_htf, "htf, at once": _of_htf, "tt, at once": _of_tt}
    if checkout is not None:
        with importable(checkout):
            from htucker import HTucker, createDimensionTree  # type: ignore[import-not-found,unused-ignore]

            sides["HT-RISE"] = lambda: _risen(parts, tol, HTucker, createDimensionTree)
            readings["HT-RISE"] = _of_htucker
            reached, _ = _of_htucker(sides["HT-RISE"](), whole)
            ours = _matching(lambda tol: _of_htf(_streamed(parts, tol), whole)[0], reached)
            trains = _matching(lambda tol: _of_tt(tt_svd(whole, tol), whole)[0], reached)
            sides["htf at its error"] = lambda: _streamed(parts, ours)
            sides["tt at its error"] = lambda: tt_svd(whole, trains)
            readings |= {"htf at its error": _of_htf, "tt at its error": _of_tt}
            return _rows(sides, readings, whole, repeats)
    return _rows(sides, readings, whole, repeats)


def _matching(error: Callable[[float], float], reached: float) -> float:
    """The largest of some tolerances that give no larger error."""
    tolerances = [reached * quarters / 4 for quarters in (7, 6, 5)]
    return next((tol for tol in tolerances if error(tol) <= reached), reached)


def _rows(
    sides: dict[str, Callable[[], Any]], readings: dict[str, Any], whole: np.ndarray, repeats: int
) -> list[dict[str, Any]]:
    seconds = race(list(sides.values()), repeats)
    rows = []
    for (side, call), each in zip(sides.items(), seconds, strict=True):
        error, numbers = readings[side](call(), whole)
        rows.append({"side": side, "error": error, "numbers": numbers, "ratio": whole.size / numbers, "seconds": each})
    return rows


def _streamed(parts: Blocks, tol: float) -> htf.HTTensor:
    stream = htf.HTStream(tol=tol, axis=0)
    for block in parts:
        stream.update(block)
    return stream.tensor


def _of_htf(tensor: htf.HTTensor, whole: np.ndarray) -> tuple[float, int]:
    return float(tensor.relative_error(whole)), int(tensor.n_parameters)


def _risen(parts: Blocks, tol: float, kind: Any, make_tree: Any) -> Any:
    """The series by htucker, whose batches are along the last axis."""
    first, *others = (np.ascontiguousarray(np.moveaxis(block, 0, -1)) for block in parts)
    last = first.ndim - 1
    series = kind()
    series.initialize(first, batch=True, batch_dimension=last)
    tree = make_tree(series.original_shape, 2, 1)
    tree.get_items_from_level()
    series.rtol = tol
    series.compress_leaf2root_batch(first, dimension_tree=tree, batch_dimension=last)
    for block in others:
        series.incremental_update_batch(block, batch_dimension=last, append=True)
    return series


def _of_htucker(series: Any, whole: np.ndarray) -> tuple[float, int]:
    dense = np.moveaxis(series.reconstruct(series.root.core), -1, 0)
    cores = [series.root.core, *(node.core for node in [*series.transfer_nodes, *series.leaves])]
    return _distance(dense, whole), sum(int(core.size) for core in cores)


def tt_svd(array: np.ndarray, tol: float) -> list[np.ndarray]:
    """Cores of a tensor train within a relative error, by singular value decompositions (Oseledets 2011)."""
    allowed = tol * float(np.linalg.norm(array)) / (array.ndim - 1) ** 0.5
    cores, rest, rank = [], array, 1
    for dim in array.shape[:-1]:
        # Of the triangle alone, as LAPACK takes long for wide matrices.
        q, r = np.linalg.qr(rest.reshape(rank * dim, -1).T)
        u, s, vh = np.linalg.svd(r.T, full_matrices=False)
        # The norm of what is left out after so many singular values.
        tails = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])
        kept = max(int((tails > allowed).sum()), 1)
        cores.append(u[:, :kept].reshape(rank, dim, kept))
        rest, rank = s[:kept, None] * (vh[:kept] @ q.T), kept
    return [*cores, rest.reshape(rank, array.shape[-1], 1)]


def _of_tt(cores: list[np.ndarray], whole: np.ndarray) -> tuple[float, int]:
    dense = cores[0]
    for core in cores[1:]:
        dense = np.tensordot(dense, core, 1)
    return _distance(dense.reshape(whole.shape), whole), sum(core.size for core in cores)


def _distance(dense: np.ndarray, whole: np.ndarray) -> float:
    return float(np.linalg.norm(dense - whole) / np.linalg.norm(whole))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--fields", nargs="+", choices=FIELDS, default=list(FIELDS))
    add("--tolerances", nargs="+", type=float, default=[1e-2, 1e-3])
    add("--htucker", type=Path, help="checkout of htucker_incremental; without it HT-RISE is left out")
    add("--times", type=int, default=48, help="moments")
    add("--grid", type=int, default=20, help="points along each of the three axes")
    add("--length", type=int, default=8, help="moments of a block")
    add("--repeats", type=int, default=2)
    add("--threads", type=int, default=1)
    add("--dry-run", action="store_true", help="small fields, each side once")
    add("--json", type=Path, help="file to write the report to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
