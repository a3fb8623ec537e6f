"""HT tensors against tensap, HiePy and torchTT, side by side, and how operation counts grow with the order.

    python -m benchmarks.speed.ht --json docs/results/ht_speed.json

Every comparison is on the same tensors, trees and truncation, in one run: spectra and rounding errors must agree
before anything is timed.  A time is the shortest of some repetitions, and all sides take turns: htf with NumPy beside
tensap, htf with PyTorch beside HiePy and torchTT.  Peers that are not installed are left out.  Counts are of
multiplications in matrix products and decompositions, counted as they happen.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import tensorly
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

import htf
from htf._files import write_figure, write_json
from htf.linalg import backend
from htf.plotting.style import MUTED, explain, look, panels, styled

from .peers import imported_before_312
from .timing import made_by, race

# (order, dimension, rank): the corners of what the format is used for, and the middle.
ROUNDING = [(8, 4, 5), (8, 20, 20), (8, 20, 60), (12, 10, 20), (12, 10, 40), (16, 4, 5), (16, 20, 20), (16, 20, 60)]
INNER = ROUNDING
# Ranks multiply, so a product of ranks 10 is rounded from 100.
HADAMARD = [(8, 4, 5), (8, 20, 8), (12, 10, 6), (16, 4, 5), (16, 20, 8), (16, 20, 10)]
# (order, dimension) of dense tensors.
DENSE = [(8, 4), (8, 6), (8, 8), (10, 4), (12, 4), (16, 2)]
LINEAR = [(8, 20, 20), (8, 20, 60), (16, 4, 5), (16, 4, 10), (16, 10, 30), (32, 4, 20)]
# Of which tensap takes minutes; HiePy alone is beside these.
HIGH = [(256, 8, 8), (1024, 8, 8)]
COUNTS = [4, 8, 16, 32, 64, 128, 256, 512, 1024]


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    report = made_by()
    report["peers"] = {name: version(name) for name in ("tensap", "hiepy", "torchtt") if _installed(name)}
    print(report)
    with threadpool_limits(options.threads):
        for name, rows in (("balanced", balanced), ("linear", linear), ("high orders", high_orders)):
            report[name] = []
            for row in rows(options.repeats):
                print(row, flush=True)
                report[name].append(row)
        report["counts"] = [count(order, rank) for rank in (4, 8) for order in COUNTS]
    if options.json:
        write_json(options.json, report)
    if options.figure:
        write_figure(options.figure, plot_counts(report["counts"]))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


Row = dict[str, Any]
Sides = dict[str, Callable[[], Any]]


# -- balanced trees ---------------------------------------------------------------------------------------


def balanced(repeats: int) -> Iterator[Row]:
    """HSVD, rounding, inner product, and Hadamard product with rounding, in double precision."""
    for order, dim in DENSE:
        yield {"what": "hsvd", "order": order, "dim": dim, **_hsvd(order, dim, repeats)}
    yield from _each("rounding", ROUNDING, _rounding, repeats)
    yield from _each("inner", INNER, _inner, repeats)
    yield from _each("hadamard and rounding", HADAMARD, _hadamard, repeats)


def high_orders(repeats: int) -> Iterator[Row]:
    """Rounding and inner product at orders of hundreds."""
    for what, case in (("rounding", _rounding), ("inner", _inner)):
        yield from _each(what, HIGH, functools.partial(case, with_tensap=False), repeats)


Case = Callable[[htf.HTTensor, htf.HTTensor, int, int], Row]


def _each(what: str, sizes: list[tuple[int, int, int]], case: Case, repeats: int) -> Iterator[Row]:
    for order, dim, rank in sizes:
        x, y = (_decaying(order, dim, rank, seed) for seed in (0, 1))
        yield {"what": what, "order": order, "dim": dim, "rank": rank, **case(x, y, rank, repeats)}


def _hsvd(order: int, dim: int, repeats: int, tolerance: float = 1e-6) -> Row:
    tree, dense = htf.DimensionTree.balanced(order), _decaying_dense(order, dim)
    in_torch = torch.from_numpy(dense)
    sides: Sides = {
        "htf": lambda: htf.hierarchical_tucker(dense, tree=tree, tol=tolerance),
        "htf in PyTorch": lambda: htf.hierarchical_tucker(in_torch, tree=tree, tol=tolerance),
    }
    norm = numpy.linalg.norm(dense)
    errors = {"htf": float(numpy.linalg.norm(sides["htf"]().to_tensor() - dense) / norm)}
    if _installed("tensap"):
        import tensap

        full, their_tree, truncate = tensap.FullTensor(dense), _tensap_tree(tree), tensap.Truncator(tolerance=tolerance)
        sides["tensap"] = lambda: truncate.hsvd(full, their_tree)
        errors["tensap"] = float(numpy.linalg.norm(sides["tensap"]().full().numpy() - dense) / norm)
    # HiePy's own tree is this one at powers of two, and for large tensors its decompositions take minutes.
    if _installed("hiepy") and order & (order - 1) == 0 and dense.size <= 2**21:
        hiepy = imported_before_312("hiepy")
        sides["HiePy"] = lambda: hiepy.to_htt(in_torch, {"rtol": tolerance})
        errors["HiePy"] = float(numpy.linalg.norm(sides["HiePy"]().full().numpy() - dense) / norm)
    assert max(errors.values()) <= tolerance, errors
    return {"errors": errors, **_race(sides, repeats)}


def _rounding(x: htf.HTTensor, _: htf.HTTensor, rank: int, repeats: int, with_tensap: bool = True) -> Row:
    low, in_torch = rank // 2, x.to_backend("pytorch")
    sides: Sides = {"htf": lambda: x.round(rank=low), "htf in PyTorch": lambda: in_torch.round(rank=low)}
    found: Row = {}
    rounded = {name: side() for name, side in sides.items()}
    if with_tensap and _installed("tensap"):
        import tensap

        a = _to_tensap(x)
        spectra, theirs, number = x.singular_values(), a.singular_values(), _numbers(x.tree)
        largest = max(float(s[0]) for s in spectra.values())
        worst = max(float(abs(s - theirs[number[node]][: len(s)]).max()) / largest for node, s in spectra.items())
        assert worst < 1e-10, worst
        found["spectra differ by"] = worst
        truncate = tensap.Truncator(tolerance=0, max_rank=low)
        sides["tensap"] = lambda: truncate.hsvd(a)
        rounded["tensap"] = _from_tensap(sides["tensap"](), x.tree)
    if _installed("hiepy"):
        b = _to_hiepy(in_torch)
        sides["HiePy"] = lambda: b.truncate({"max_rank": low})[0]
        rounded["HiePy"] = _from_hiepy(sides["HiePy"](), x.tree)
    return {**found, "errors": _errors(rounded, x), **_race(sides, repeats)}


def _inner(x: htf.HTTensor, y: htf.HTTensor, _: int, repeats: int, with_tensap: bool = True) -> Row:
    s, t = x.to_backend("pytorch"), y.to_backend("pytorch")
    sides: Sides = {"htf": lambda: x.inner(y), "htf in PyTorch": lambda: s.inner(t)}
    if with_tensap and _installed("tensap"):
        a, b = _to_tensap(x), _to_tensap(y)
        sides["tensap"] = lambda: a.dot(b)
    if _installed("hiepy"):
        hiepy, c, d = imported_before_312("hiepy"), _to_hiepy(s), _to_hiepy(t)
        sides["HiePy"] = lambda: hiepy.contract(c, d)
    values, scale = [float(side()) for side in sides.values()], float(x.norm() * y.norm())
    assert max(values) - min(values) <= 1e-10 * scale, values
    return _race(sides, repeats)


def _hadamard(x: htf.HTTensor, y: htf.HTTensor, rank: int, repeats: int) -> Row:
    s, t = x.to_backend("pytorch"), y.to_backend("pytorch")
    sides: Sides = {"htf": lambda: (x * y).round(rank=rank), "htf in PyTorch": lambda: (s * t).round(rank=rank)}
    rounded = {name: side() for name, side in sides.items()}
    if _installed("tensap"):
        import tensap

        a, b, truncate = _to_tensap(x), _to_tensap(y), tensap.Truncator(tolerance=0, max_rank=rank)
        sides["tensap"] = lambda: truncate.hsvd(a * b)
        rounded["tensap"] = _from_tensap(sides["tensap"](), x.tree)
    if _installed("hiepy"):
        hiepy, c, d = imported_before_312("hiepy"), _to_hiepy(s), _to_hiepy(t)
        sides["HiePy"] = lambda: hiepy.ele_mul(c, d).truncate({"max_rank": rank})[0]
        rounded["HiePy"] = _from_hiepy(sides["HiePy"](), x.tree)
    return {"errors": _errors(rounded, x * y), **_race(sides, repeats)}


def _errors(rounded: dict[str, htf.HTTensor], exact: htf.HTTensor) -> dict[str, float]:
    norm = float(exact.orthogonalize().norm())
    errors = {
        name: float(htf.tensors.ht_distance(side.to_backend("numpy"), exact)) / norm for name, side in rounded.items()
    }
    for name, error in errors.items():
        # HiePy decomposes what is truncated above already, by which its errors may be larger or smaller.
        assert abs(error - errors["htf"]) < (0.05 * errors["htf"] if name == "HiePy" else 1e-10), errors
    return errors


def _to_hiepy(x: htf.HTTensor) -> Any:
    """The same factors, of PyTorch, by the modes of their nodes."""
    hiepy, tree = imported_before_312("hiepy"), x.tree
    modes = [tree.modes(node) for node in range(tree.n_nodes)]
    children = {modes[node]: tuple(modes[child] for child in tree.children(node)) for node in tree.inner_nodes}
    leaves = {modes[node]: x.factors[node] for node in tree.leaves}
    inner = {modes[node]: x.factors[node] for node in tree.inner_nodes}
    return hiepy.HTTensor(leaves, inner, hiepy.DimTree(modes[tree.root], children))


def _from_hiepy(x: Any, tree: htf.DimensionTree) -> htf.HTTensor:
    return htf.HTTensor((tree, [{**x.U, **x.B}[tree.modes(node)] for node in range(tree.n_nodes)]))


def _numbers(tree: htf.DimensionTree) -> dict[int, int]:
    """Tensap's number of each node, from 0: the root first, children in order."""
    order = [tree.root]
    for node in order:
        order.extend(tree.children(node))
    return {node: k for k, node in enumerate(order)}


def _tensap_tree(tree: htf.DimensionTree) -> Any:
    import tensap

    number = _numbers(tree)
    adjacency = numpy.zeros((tree.n_nodes, tree.n_nodes), dtype=int)
    for node in tree.inner_nodes:
        for child in tree.children(node):
            adjacency[number[node], number[child]] = 1
    return tensap.DimensionTree([number[mode] + 1 for mode in tree.leaves], adjacency)


def _to_tensap(x: htf.HTTensor) -> Any:
    import tensap

    number = _numbers(x.tree)
    cores: list[Any] = [None] * x.tree.n_nodes
    for node, factor in enumerate(x.factors):
        cores[number[node]] = factor[..., 0] if node == x.tree.root else factor
    return tensap.TreeBasedTensor([tensap.FullTensor(core) for core in cores], _tensap_tree(x.tree))


def _from_tensap(tensor: Any, tree: htf.DimensionTree) -> htf.HTTensor:
    number = _numbers(tree)
    factors = [numpy.asarray(tensor.tensors[number[node]].data) for node in range(tree.n_nodes)]
    factors[-1] = factors[-1][..., None]
    return htf.HTTensor((tree, factors))


# -- linear trees ----------------------------------------------------------------------------------------


def linear(repeats: int) -> Iterator[Row]:
    """Rounding, inner product, and Hadamard product with rounding on linear trees, PyTorch on all sides."""
    for order, dim, rank in LINEAR:
        for what, row in _trains(order, dim, rank, repeats).items():
            yield {"what": what, "order": order, "dim": dim, "rank": rank, **row}


def _trains(order: int, dim: int, rank: int, repeats: int) -> dict[str, Row]:
    ours, theirs = (_tensor_train(order, dim, rank, seed) for seed in (0, 1))
    x, y = (htf.tensors.tt_to_ht(cores) for cores in (ours, theirs))
    # A train has ranks between neighbours only, so the leaves keep theirs; HiePy limits all by one number.
    low = max(rank // 2, 1)
    limit, product = (dict.fromkeys(x.tree.inner_nodes[:-1], most) for most in (low, rank))
    inner: Sides = {"htf in PyTorch": lambda: x.inner(y)}
    rounding: Sides = {"htf in PyTorch": lambda: x.round(rank=limit)}
    hadamard: Sides = {"htf in PyTorch": lambda: (x * y).round(rank=product)}
    if _installed("torchtt"):
        import torchtt

        a, b = (torchtt.TT([core.clone() for core in cores]) for cores in (ours, theirs))
        assert math.isclose(float(x.inner(y)), float(torchtt.dot(a, b)), rel_tol=1e-9)
        errors = [
            float(htf.tensors.ht_distance(side, x) / x.norm())
            for side in (x.round(rank=limit), htf.tensors.tt_to_ht(a.round(0.0, low).cores))
        ]
        assert errors[0] <= 1.01 * errors[1], errors
        inner["torchTT"] = lambda: torchtt.dot(a, b)
        rounding["torchTT"] = lambda: a.round(0.0, low)
        hadamard["torchTT"] = lambda: (a * b).round(0.0, rank)
    if _installed("hiepy"):
        hiepy, c, d = imported_before_312("hiepy"), _to_hiepy(x), _to_hiepy(y)
        inner["HiePy"] = lambda: hiepy.contract(c, d)
        if low >= dim:
            rounding["HiePy"] = lambda: c.truncate({"max_rank": low})[0]
        if rank >= dim:
            hadamard["HiePy"] = lambda: hiepy.ele_mul(c, d).truncate({"max_rank": rank})[0]
    races = {"inner": _race(inner, repeats), "rounding": _race(rounding, repeats)}
    if rank <= 10:
        races["hadamard and rounding"] = _race(hadamard, repeats)
    return races


def _tensor_train(order: int, dim: int, rank: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *(min(rank, dim**k, dim ** (order - k)) for k in range(1, order)), 1]
    return [
        torch.randn(a, dim, b, generator=generator, dtype=torch.float64) / math.sqrt(a * dim)
        for a, b in itertools.pairwise(ranks)
    ]


# -- operation counts -----------------------------------------------------------------------------------


def count(order: int, rank: int) -> dict[str, Any]:
    """Multiplications of an inner product and of a rounding to half the rank, dimension = rank."""
    x = htf.random_ht((rank,) * order, rank, htf.DimensionTree.balanced(order), random_state=0)
    # Entries of size one have a norm that at order 1,024 no double can hold.
    x = htf.HTTensor((x.tree, [f / math.sqrt(rank) if node < order else f for node, f in enumerate(x.factors)]))
    found: dict[str, Any] = {"order": order, "rank": rank}
    for what, call in (("inner", lambda: x.inner(x)), ("rounding", lambda: x.round(rank=rank // 2))):
        with _counting() as counted:
            call()
        found[what] = counted["multiplications"]
        found[f"{what} / N r^4"] = counted["multiplications"] / (order * rank**4)
    return found


@contextmanager
def _counting() -> Iterator[dict[str, int]]:
    counted = {"multiplications": 0}
    plain = backend._named("numpy")

    class Counting:
        """The backend, with an eye on what its matrix operations cost (Golub & Van Loan, tables 5.2.1 and 8.6.1)."""

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def matmul(self, a: Any, b: Any) -> Any:
            product = plain.matmul(a, b)
            counted["multiplications"] += product.size * a.shape[-1]
            return product

        def qr(self, a: Any) -> Any:
            count_qr(a)
            return plain.qr(a)

        def svd(self, a: Any, **options: Any) -> Any:
            m, n = max(a.shape[-2:]), min(a.shape[-2:])
            counted["multiplications"] += math.prod(a.shape[:-2]) * (7 * m * n * n + 4 * n**3)
            return plain.svd(a, **options)

        def eigh(self, a: Any) -> Any:
            counted["multiplications"] += math.prod(a.shape[:-2]) * 5 * a.shape[-1] ** 3
            return plain.eigh(a)

    def count_qr(a: Any) -> None:
        m, n = max(a.shape[-2:]), min(a.shape[-2:])
        counted["multiplications"] += math.prod(a.shape[:-2]) * 2 * m * n * n

    def batched_qr(a: Any, qr: Any = torch.linalg.qr) -> Any:
        # Batches of NumPy arrays are decomposed by PyTorch.
        count_qr(a)
        return qr(a)

    backend._of_type.cache_clear()
    with (
        mock.patch.object(backend, "_named", return_value=Counting()),
        mock.patch.object(torch.linalg, "qr", batched_qr),
    ):
        yield counted
    backend._of_type.cache_clear()


@styled
def plot_counts(counts: list[dict[str, Any]]) -> Figure:
    """Multiplications against the order, one line per operation and rank, beside lines of slope one."""
    figure, axes = panels(height=3.2)
    ax = axes[0, 0]
    curves = [(what, rank) for rank in sorted({row["rank"] for row in counts}) for what in ("inner", "rounding")]
    for k, (what, rank) in enumerate(curves):
        rows = [row for row in counts if row["rank"] == rank]
        label = f"{'inner product' if what == 'inner' else what}, rank {rank}"
        ax.plot([r["order"] for r in rows], [r[what] for r in rows], label=label, **look(k))
    orders = sorted({row["order"] for row in counts})
    ax.plot(orders, [order * 4**4 for order in orders], color=MUTED, linestyle=":", label="N r⁴, rank 4")
    ax.set(xscale="log", yscale="log", xlabel="order N", ylabel="multiplications")
    explain(figure, "Counted; balanced trees, the dimension of each mode as the rank.", ax)
    return figure


# -- both ------------------------------------------------------------------------------------------------


def _decaying(order: int, dim: int, rank: int, seed: int = 0) -> htf.HTTensor:
    """A random HT tensor, its transfer tensors scaled so that singular values fall by about a factor of 100."""
    x = htf.random_ht((dim,) * order, rank, htf.DimensionTree.balanced(order), random_state=seed)
    factors = []
    for factor in x.factors:
        decay = numpy.logspace(0, -1, factor.shape[-1]) if factor.shape[-1] > 1 else numpy.ones(1)
        factors.append(factor * decay)
    return htf.HTTensor((x.tree, factors))


def _decaying_dense(order: int, dim: int) -> Any:
    """A smooth function on a grid, with full rank in principle and low rank to any tolerance."""
    grid = numpy.linspace(0, 1, dim)
    total = numpy.zeros(())
    for mode in range(order):
        total = numpy.add.outer(total, grid * (1 + mode / order))
    return 1 / (1 + total)


def _race(sides: Sides, repeats: int) -> Row:
    # Short calls are repeated within a timing, for the clock's sake.
    times = dict(zip(sides, race(list(sides.values()), repeats, 0.02), strict=True))
    own = {"tensap": "htf", "HiePy": "htf in PyTorch", "torchTT": "htf in PyTorch"}
    return {
        "ms": {name: 1e3 * seconds for name, seconds in times.items()},
        "ratio": {name: times[name] / times[mine] for name, mine in own.items() if name in times},
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write the report to")
    parser.add_argument("--figure", type=Path, help="file to draw the operation counts to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    tensorly.set_backend("numpy")
    main()
