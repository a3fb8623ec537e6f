"""One test case that every HT tensor inherits: each operation against the dense result, in values and gradients."""

from __future__ import annotations

import functools
import string
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import htf
from htf import tensors


def dense(tree: htf.DimensionTree, factors: list[Any]) -> Any:
    """The tensor from the definition, one einsum over all nodes: shape dims + (outputs,), for either backend."""
    letters = string.ascii_letters
    mode = dict(enumerate(letters[: tree.order]))
    rank = {node: letters[tree.order + node] for node in range(tree.n_nodes)}
    terms = [
        "".join(rank[c] for c in tree.children(node)) + rank[node] if node >= tree.order else mode[node] + rank[node]
        for node in range(tree.n_nodes)
    ]
    equation = ",".join(terms) + "->" + "".join(mode.values()) + rank[tree.root]
    return torch.einsum(equation, *(torch.as_tensor(f) for f in factors))


def squeezed(values: Tensor) -> Tensor:
    """Without the axis of outputs where there is one output."""
    return values[..., 0] if values.shape[-1] == 1 else values


def doubled(values: Tensor) -> Tensor:
    """In double precision."""
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


def densely(result: Any) -> Tensor:
    """An operation's result as a dense torch tensor."""
    return torch.as_tensor(result.to_tensor() if isinstance(result, htf.HTTensor) else result)


def other_trees(order: int) -> list[htf.DimensionTree]:
    tree = htf.DimensionTree
    shapes = [tree.balanced(order), tree.linear(order), tree.interleaved(order), tree.balanced(order, arity=3)]
    backwards = tree.from_nested(_renamed(tree.linear(order).nested, list(range(order))[::-1]))
    return [*shapes, backwards]


def _renamed(nested: Any, names: list[int]) -> Any:
    return tuple(_renamed(n, names) for n in nested) if isinstance(nested, tuple) else names[nested]


Pair = tuple[htf.HTTensor, htf.HTTensor]
Operation = tuple[Callable[..., Any], Callable[..., Any]]


def matrix(like: Any, rows: int, columns: int) -> Any:
    """A fixed matrix beside an array, complex where that is."""
    numbers = 1.0 + np.arange(rows * columns).reshape(rows, columns)
    values = np.exp(1j * numbers) if "complex" in str(like.dtype) else np.cos(numbers)
    if isinstance(like, Tensor):
        return torch.as_tensor(values, dtype=like.dtype)
    return values.astype(like.dtype)


def with_imaginary_part(x: htf.HTTensor, y: htf.HTTensor) -> htf.HTTensor:
    """A complex tensor whose factors have the real parts of those of x and the imaginary parts of those of y."""
    return htf.HTTensor((x.tree, [f + 1j * g for f, g in zip(x.factors, y.factors, strict=True)]))


def _along(d: Tensor, m: Tensor, mode: int) -> Tensor:
    return torch.moveaxis(torch.tensordot(m, d, dims=([1], [mode])), 0, mode)


def operations(x: htf.HTTensor) -> dict[str, Operation]:
    """From a name to (what HT tensors do, what dense ones do); each takes x and y."""
    n, dims, trail = x.order, x.dims, x.ndim - x.order
    last = dims[-1] - 1
    found: dict[str, Operation] = {
        "to_tensor": (lambda x, y: x, lambda a, b: a),
        "to_vec": (lambda x, y: x.to_vec(), lambda a, b: a.reshape(-1)),
        "to_unfolded": (lambda x, y: x.to_unfolded(n - 1), lambda a, b: a.movedim(n - 1, 0).reshape(dims[-1], -1)),
        "norm": (lambda x, y: x.norm(), lambda a, b: a.norm()),
        "inner": (lambda x, y: x.inner(y), lambda a, b: (a.conj() * b).sum()),
        "distance": (lambda x, y: tensors.ht_distance(x, y), lambda a, b: (a - b).norm()),
        "add": (lambda x, y: x + y, lambda a, b: a + b),
        "conj": (lambda x, y: x.conj(), lambda a, b: a.conj().resolve_conj()),
        "real": (lambda x, y: x.real * y.real, lambda a, b: a.real * b.real),
        "imag": (lambda x, y: x.imag + y.real, lambda a, b: (a.imag if a.is_complex() else a * 0) + b.real),
        "add three": (lambda x, y: tensors.ht_add(x, y, x), lambda a, b: a + b + a),
        "linear combination": (lambda x, y: 2 * x - y / 4, lambda a, b: 2 * a - b / 4),
        "add a number": (lambda x, y: x + 0.75, lambda a, b: a + 0.75),
        "subtract from a number": (lambda x, y: 1.5 - x, lambda a, b: 1.5 - a),
        "square of a difference": (lambda x, y: (1 - x) ** 2, lambda a, b: (1 - a) ** 2),
        "cube": (lambda x, y: x**3, lambda a, b: a**3),
        "square of sizes": (lambda x, y: abs(x) ** 2 + y.real, lambda a, b: a.abs() ** 2 + b.real),
        "hadamard": (lambda x, y: x * y, lambda a, b: a * b),
        "matrix along a mode": (
            lambda x, y: x.mode_dot(matrix(x.factors[0], 2, dims[0]), 0),
            lambda a, b: _along(a, matrix(a, 2, dims[0]), 0),
        ),
        "matrices along all modes": (
            lambda x, y: tensors.ht_multi_mode_dot(x, [matrix(x.factors[0], 2, d) for d in dims], transpose=False),
            lambda a, b: _all_modes(a, dims),
        ),
        "transposed matrices along all modes": (
            lambda x, y: tensors.ht_multi_mode_dot(
                x, [matrix(x.factors[0], 2, d).conj().T for d in dims], list(range(n)), transpose=True
            ),
            lambda a, b: _all_modes(a, dims),
        ),
        "vector along a mode": (
            lambda x, y: x.mode_dot(matrix(x.factors[0], 1, dims[-1])[0], -1),
            lambda a, b: torch.tensordot(matrix(a, 1, dims[-1])[0], a, dims=([0], [n - 1])),
        ),
        "contract all": (
            lambda x, y: x.contract({m: matrix(x.factors[0], 1, d)[0] for m, d in enumerate(dims)}),
            lambda a, b: _contract_all(a, dims),
        ),
        "contract some": (
            lambda x, y: x.contract([matrix(x.factors[0], 1, dims[0])[0], *[None] * (n - 1)]),
            lambda a, b: torch.tensordot(matrix(a, 1, dims[0])[0], a, dims=([0], [0])),
        ),
        "mean of one": (lambda x, y: x.mean(axis=-1), lambda a, b: a.mean(n - 1)),
        "mean of all": (lambda x, y: x.mean(), lambda a, b: a.mean(tuple(range(n)))),
        "sum of one": (lambda x, y: x.sum(0), lambda a, b: a.sum(0)),
        "sum of all": (lambda x, y: x.sum(), lambda a, b: a.sum(tuple(range(n)))),
        "integer": (lambda x, y: x[last if n == 1 else 0], lambda a, b: a[last if n == 1 else 0]),
        "slices": (
            lambda x, y: x[(slice(None, None, 2),) + (slice(None),) * (n - 1)],
            lambda a, b: a[::2],
        ),
        "rows": (lambda x, y: x[[0, -1, 0]], lambda a, b: a[[0, dims[0] - 1, 0]]),
        "entries": (
            lambda x, y: x[tuple([0, d - 1, -1] for d in dims)],
            lambda a, b: a[tuple([0, d - 1, d - 1] for d in dims)],
        ),
        "orthogonalize": (lambda x, y: x.orthogonalize(), lambda a, b: a),
        "permute": (lambda x, y: x.permute(range(n)[::-1]), lambda a, b: a.permute(*range(n)[::-1], *[n] * trail)),
        "split": (
            lambda x, y: x.reshape([*dims[:-1], 1, dims[-1]]),
            lambda a, b: a.reshape(*dims[:-1], 1, dims[-1], *a.shape[n:]),
        ),
    }
    if n == 1:
        return found
    found |= {
        "outer": (
            lambda x, y: x.outer(_first_output(y).sum(list(range(1, n)))),
            lambda a, b: (
                torch.tensordot(a, _first_output_of(b, trail).sum(tuple(range(1, n))), 0).movedim(n, -1)
                if trail
                else torch.tensordot(a, b.sum(tuple(range(1, n))), 0)
            ),
        ),
        "outer, the other way round": (
            lambda x, y: _first_output(y).sum(list(range(1, n))).outer(x),
            lambda a, b: torch.tensordot(_first_output_of(b, trail).sum(tuple(range(1, n))), a, 0),
        ),
        "merge": (
            lambda x, y: x.reshape([dims[0] * dims[1], *dims[2:]]),
            lambda a, b: a.reshape(dims[0] * dims[1], *a.shape[2:]),
        ),
        "merge all": (
            lambda x, y: x.reshape([int(np.prod(dims))]),
            lambda a, b: a.reshape(-1, *a.shape[n:]),
        ),
        "paired arrays": (
            lambda x, y: x[([0, -1, 0], Ellipsis, [-1, 0, 0]) + (slice(None),) * trail],
            lambda a, b: a[([0, dims[0] - 1, 0], *[slice(None)] * (n - 2), [last, 0, 0])],
        ),
        "integer beside an array": (
            lambda x, y: x[(0, Ellipsis, [0, -1]) + (slice(None),) * trail],
            lambda a, b: a[0].movedim(n - 2, 0)[[0, last]],
        ),
        "tensordot": (
            lambda x, y: x.tensordot(_first_output(y).sum(list(range(1, n))), ([0], [0])),
            lambda a, b: torch.tensordot(a, _first_output_of(b, trail).sum(tuple(range(1, n))), dims=([0], [0])),
        ),
    }
    for k, tree in enumerate(other_trees(n)):
        found[f"tree {k}"] = (lambda x, y, tree=tree: x.change_tree(tree), lambda a, b: a)
    for node in {0, n - 1, x.tree.root - 1}:
        found[f"root above {node}"] = (lambda x, y, node=node: x.move_root(node), lambda a, b: a)
    return found


def _first_output(x: htf.HTTensor) -> htf.HTTensor:
    """One output of a tensor."""
    return x if x.outputs == 1 else x[..., 0]


def _first_output_of(d: Tensor, trail: int) -> Tensor:
    return d[..., 0] if trail else d


def _all_modes(a: Tensor, dims: tuple[int, ...]) -> Tensor:
    for mode, d in enumerate(dims):
        a = _along(a, matrix(a, 2, d), mode)
    return a


def _contract_all(a: Tensor, dims: tuple[int, ...]) -> Tensor:
    for d in dims:
        a = torch.tensordot(matrix(a, 1, d)[0], a, dims=([0], [0]))
    return a


# What comes as an array; all else is an HT tensor while a mode is left.
ARRAYS = {"to_vec", "to_unfolded", "norm", "inner", "distance", "contract all", "sum of all", "mean of all", "entries"}
# So do entries that arrays of indices choose along all modes that integers leave.
ENTRIES_OF_ORDER = {1: {"rows"}, 2: {"paired arrays", "integer beside an array"}}


class HTTensorTestCase(ABC):
    """Subclasses say how to make one, in NumPy and double precision; y is another one of its tree and shape.

    Complex ones have the factors of two as real and imaginary parts.
    """

    @abstractmethod
    def make(self, seed: int) -> htf.HTTensor: ...

    def pair(self) -> Pair:
        return self.make(0), self.make(1)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test of its own for each operation that a tensor of this order has."""
        if "operation" in metafunc.fixturenames:
            metafunc.parametrize("operation", list(operations(self.make(0))))

    @classmethod
    @functools.cache
    def both(cls, backend: str, dtype: str, requires_grad: bool = False) -> tuple[Pair, tuple[Tensor, Tensor]]:
        """The pair, and the same densely in double precision; made once for all tests, which must not change it."""
        x, y = cls().pair()
        if "complex" in dtype:
            x, y = (with_imaginary_part(z, cls().make(2 + seed)) for seed, z in enumerate((x, y)))
        x, y = (z.to(getattr(np, dtype)).to_backend(backend) for z in (x, y))
        if requires_grad:
            x, y = x.requires_grad_(), y.requires_grad_()
        a, b = (squeezed(doubled(dense(z.tree, z.factors))) for z in (x, y))
        return (x, y), (a, b)

    # Complex values on PyTorch are compared where their gradients are.
    @pytest.mark.parametrize(
        ("backend", "dtype", "tolerance"),
        [
            ("numpy", "float64", 1e-10),
            ("pytorch", "float64", 1e-10),
            ("numpy", "float32", 2e-4),
            ("pytorch", "float32", 2e-4),
            ("numpy", "complex128", 1e-10),
        ],
    )
    def test_operations_are_those_of_the_dense_tensor(self, operation, backend, dtype, tolerance):
        (x, y), (a, b) = self.both(backend, dtype)
        ours, theirs = operations(x)[operation]
        result, expected = ours(x, y), theirs(a, b)
        kind = type(x.factors[0])
        if operation in ARRAYS | ENTRIES_OF_ORDER.get(x.order, set()) or expected.ndim == x.ndim - x.order:
            assert not isinstance(result, htf.HTTensor)
        else:
            assert isinstance(result, htf.HTTensor)
            assert tensors.HTTensor((result.tree, result.factors)).shape == result.shape == tuple(expected.shape)
            assert all(isinstance(f, kind) for f in result.factors)
            dtype = x.dtype if operation not in ("real", "imag", "square of sizes") else x.factors[0].real.dtype
            assert all(f.dtype == dtype for f in result.factors)
        scale = float(expected.abs().max()) + 1
        torch.testing.assert_close(doubled(densely(result)), expected, rtol=0, atol=tolerance * scale)

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_gradients_are_those_of_the_dense_tensor(self, operation, dtype):
        (x, y), (a, b) = self.both("pytorch", dtype, requires_grad=True)
        parameters = [*x.factors, *y.factors]
        ours, theirs = operations(x)[operation]
        result, expected = densely(ours(x, y)), theirs(a, b)
        scale = float(expected.detach().abs().max()) + 1
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-10 * scale)
        angles = torch.as_tensor(1.0 + np.arange(expected.numel())).reshape(tuple(expected.shape))
        weight = torch.exp(1j * angles) if expected.is_complex() else torch.sin(angles)
        wanted = torch.autograd.grad((expected * weight).sum().real, parameters, retain_graph=True, allow_unused=True)
        found = torch.autograd.grad((result * weight).sum().real, parameters, allow_unused=True)
        assert any(g is not None and bool(g.any()) for g in wanted)
        for node, (f, w) in enumerate(zip(found, wanted, strict=True)):
            f, w = (torch.zeros_like(parameters[node]) if g is None else g for g in (f, w))
            scale = float(w.abs().max()) + 1
            torch.testing.assert_close(
                f, w, rtol=0, atol=1e-7 * scale, msg=lambda text, node=node: f"factor {node}: {text}"
            )

    def test_raw_form_does_as_well(self):
        x, y = self.pair()
        tree, factors = x
        raw = (tree, tuple(factors))
        np.testing.assert_array_equal(tensors.ht_to_tensor(raw), x.to_tensor())
        np.testing.assert_array_equal(tensors.ht_to_vec(raw), x.to_vec())
        np.testing.assert_array_equal(tensors.ht_to_unfolded(raw, 0), x.to_unfolded(0))
        np.testing.assert_array_equal(tensors.ht_inner(raw, y), x.inner(y))
        np.testing.assert_array_equal(tensors.ht_norm(raw), x.norm())
        np.testing.assert_array_equal(tensors.ht_add(raw, y).to_tensor(), (x + y).to_tensor())
        np.testing.assert_array_equal(tensors.ht_round(raw, rank=1).to_tensor(), x.round(rank=1).to_tensor())

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_frames_are_orthonormal_and_the_root_has_the_norm(self, dtype):
        (x, _), _ = self.both("numpy", dtype)
        x = x.orthogonalize()
        for factor in x.factors[:-1]:
            frame = factor.reshape(-1, factor.shape[-1])
            np.testing.assert_allclose(frame.conj().T @ frame, np.eye(frame.shape[1]), atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(x.factors[-1]), np.linalg.norm(x.to_tensor()))

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    @pytest.mark.parametrize("backend", ["numpy", "pytorch"])
    def test_singular_values_are_those_of_the_matricizations(self, backend, dtype):
        (x, _), _ = self.both("numpy", dtype)
        whole = x.to_tensor()
        for node, values in x.to_backend(backend).singular_values().items():
            rows = x.tree.modes(node)
            matrix = np.moveaxis(whole, rows, range(len(rows))).reshape(np.prod([x.dims[m] for m in rows]), -1)
            expected = np.zeros(len(values))
            found = np.linalg.svd(matrix, compute_uv=False)[: len(values)]
            expected[: len(found)] = found
            np.testing.assert_allclose(np.asarray(values), expected, atol=1e-12 * expected[0])

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_rounding_keeps_what_its_spectra_promise(self, dtype):
        (x, y), _ = self.both("numpy", dtype)
        z = x + y * 0.01
        whole, norm, spectra = z.to_tensor(), float(z.norm()), z.singular_values()
        for tol in (1e-12, 0.05, 0.4):
            assert np.linalg.norm(z.round(tol=tol).to_tensor() - whole) <= tol * norm * (1 + 1e-9) + 1e-13 * norm
        for rank in (1, 2):
            rounded = z.round(rank=rank)
            assert max((*rounded.rank[:-1], 1)) <= max(rank, 1) or x.order == 1
            error = np.linalg.norm(rounded.to_tensor() - whole)
            tails = [float((s[rank:] ** 2).sum()) for s in spectra.values()]
            if x.outputs == 1 and x.order > 1 and len(x.tree.children(x.tree.root)) == 2:
                # Both children of a binary root have the same spectrum, and dropping it once drops it for both.
                tails.remove(float((spectra[x.tree.children(x.tree.root)[0]][rank:] ** 2).sum()))
            assert max(tails, default=0) ** 0.5 - 1e-10 <= error <= sum(tails) ** 0.5 + 1e-10

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_sums_are_rounded_as_if_they_had_been_formed(self, dtype):
        (x, y), _ = self.both("numpy", dtype)
        formed = (2 * x - y).round(tol=0.1)
        spared = tensors.ht_round_sum([x, y], weights=[2, -1], tol=0.1)
        assert formed.rank == spared.rank
        np.testing.assert_allclose(spared.to_tensor(), formed.to_tensor(), atol=1e-11 * float(x.norm()))

    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_randomized_rounding_is_exact_at_the_exact_ranks(self, dtype):
        (x, _), _ = self.both("numpy", dtype)
        ranks = x.round().rank
        z = tensors.ht_round_sum([x, x, x], weights=[1, 1, -1], rank=ranks, method="randomized", random_state=0)
        np.testing.assert_allclose(z.to_tensor(), x.to_tensor(), atol=1e-9 * float(x.norm()))

    def test_saving_keeps_everything(self, tmp_path):
        kinds = [(b, t) for b in ("numpy", "pytorch") for t in ("float64", "float32", "complex64", "complex128")]
        for z in (self.both(*kind)[0][0] for kind in kinds):
            htf.save(z, tmp_path / "x.safetensors")
            back = htf.load(tmp_path / "x.safetensors")
            assert back.tree == z.tree
            assert type(back.factors[0]) is type(z.factors[0])
            assert back.dtype == z.dtype
            for f, g in zip(back.factors, z.factors, strict=True):
                np.testing.assert_array_equal(np.asarray(f), np.asarray(g))
