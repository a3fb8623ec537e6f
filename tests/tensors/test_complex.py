"""Complex tensors: mixed dtypes, conjugation, gradients, files, decompositions."""

import warnings

import numpy as np
import pytest
import tensorly as tl
import torch
from ht_cases import with_imaginary_part

import htf
from htf import ranks, tensors
from htf.tensors import HTTensor, random_ht

Tree = htf.DimensionTree
SHAPE = (3, 2, 4, 3)


def made(seed=0, shape=SHAPE, rank=2, dtype=np.complex128):
    return random_ht(shape, rank, random_state=seed, like=np.zeros(1, dtype))


def test_random_tensors_have_independent_parts_of_half_the_variance():
    whole = made(shape=(6,) * 6, rank=4).to_tensor()
    assert abs(np.var(whole.real) / np.var(whole.imag) - 1) < 0.5
    assert 0.3 < np.mean(abs(whole) ** 2) < 3
    assert random_ht((3, 3), 2, dtype=np.complex64, random_state=0).dtype == np.complex64
    assert random_ht((3, 3), 2, like=torch.zeros(1, dtype=torch.complex64), random_state=0).dtype == torch.complex64


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("float32", "complex64", "complex64"),
        ("float64", "complex128", "complex128"),
        ("float64", "complex64", "complex128"),
        ("float32", "complex128", "complex128"),
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_real_and_complex_are_promoted_as_numpy_does(first, second, expected, backend):
    x = random_ht(SHAPE, 2, random_state=0).to(getattr(np, first)).to_backend(backend)
    y = made(1).to(getattr(np, second)).to_backend(backend)
    a, b = (np.asarray(z.to_tensor()) for z in (x, y))
    matrix, vector = y.factors[0].reshape(2, -1)[:, :3], y.factors[2][:, 0]
    results = {
        "sum": (x + y, a + b),
        "difference": (y - x, b - a),
        "product": (x * y, a * b),
        "inner": (x.inner(y), np.vdot(a, b)),
        "inner, the other way round": (y.inner(x), np.vdot(b, a)),
        "outer": (x.outer(y), np.multiply.outer(a, b)),
        "tensordot": (x.tensordot(y, ([0, 2], [0, 2])), np.tensordot(a, b, ([0, 2], [0, 2]))),
        "matrix": (x.mode_dot(matrix, 0), np.moveaxis(np.tensordot(np.asarray(matrix), a, (1, 0)), 0, 0)),
        "vector": (x.mode_dot(vector, 2), np.tensordot(a, np.asarray(vector), (2, 0))),
        "rounded sum": (tensors.ht_round_sum([x, y], weights=[1, 2j]), a + 2j * b),
        "construction": (HTTensor((x.tree, [y.factors[0], *x.factors[1:]])), None),
    }
    for name, (found, dense) in results.items():
        factors = found.factors if isinstance(found, HTTensor) else [found]
        assert all(str(f.dtype).endswith(expected) for f in factors), name
        if dense is not None:
            found = np.asarray(found.to_tensor() if isinstance(found, HTTensor) else found)
            np.testing.assert_allclose(found, dense, atol=3e-5 * abs(dense).max(), err_msg=name)
    np.testing.assert_allclose(tensors.ht_distance(x, y), np.linalg.norm(a - b), rtol=1e-5)


def test_precisions_of_one_kind_are_not_mixed():
    for x, y in ((made(), made().to(np.complex64)), (made().real, made().real.to(np.float32))):
        with pytest.raises(TypeError, match="the pair of tensors mixes dtypes"):
            x + y


@pytest.mark.parametrize(
    "lose",
    [
        lambda x: x.to(np.float64),
        lambda x: x.to_backend("pytorch").to(torch.float32),
        lambda x: x.to_backend("pytorch").to(torch.zeros(1, dtype=torch.float64)),
        lambda x: x.to_backend("pytorch", dtype=torch.float64),
        lambda x: htf.cross_approximation(x.entries, x.shape, like=np.zeros(1), random_state=0),
        lambda x: htf.nn.HTNetwork.from_tensor(x.to_backend("pytorch")),
        lambda x: htf.nn.HTNetwork.from_tensor([z.to_backend("pytorch") for z in (made(dtype=float), x)]),
        lambda x: ranks.effective_rank(x.factors[0][:, 0]),
    ],
)  # fmt: skip
def test_imaginary_parts_are_not_lost(lose):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"imaginary part would be lost|expected real|expected a real"):
            lose(made())


def test_conversions_that_lose_nothing():
    x = made()
    assert x.to(np.complex64).to_backend("pytorch").to(torch.complex128).dtype == torch.complex128
    assert x.real.to(np.complex128).dtype == np.complex128
    on_torch = x.to_backend("pytorch").to(torch.device("cpu"))
    assert on_torch.dtype == torch.complex128
    np.testing.assert_array_equal(on_torch.to_backend("numpy").to_tensor(), x.to_tensor())


def test_inner_products_conjugate_the_first_tensor_and_tensordot_none():
    x, y = made(0), made(1)
    a, b = x.to_tensor(), y.to_tensor()
    np.testing.assert_allclose(x.inner(y), np.vdot(a, b))
    np.testing.assert_allclose(x.conj().inner(y), tl.tenalg.inner(a, b))
    np.testing.assert_allclose(x.tensordot(y, (range(4), range(4))), (a * b).sum())
    np.testing.assert_allclose(x.inner(x), x.norm() ** 2)
    assert not np.iscomplexobj(x.norm())
    assert not np.iscomplexobj(tensors.ht_distance(x, y))


def test_parts_have_at_most_twice_the_ranks():
    x = made()
    assert x.real.rank == (3, 2, 4, 3, 4, 4, 1)
    assert x.real.round().rank == x.imag.round().rank == (3, 2, 4, 3, 4, 4, 1)
    np.testing.assert_allclose((x.real + 1j * x.imag).to_tensor(), x.to_tensor(), atol=1e-14)
    assert x.real.conj() is not x
    real = x.real
    assert real.real is real
    assert real.conj() is real
    assert not np.any(real.imag.to_tensor())


def test_what_pytorch_holds_as_flags_is_taken_as_it_is():
    x, y = made(0).to_backend("pytorch"), made(1).to_backend("pytorch")
    flagged = HTTensor((x.tree, [f.conj().resolve_conj().conj() for f in x.factors]))
    assert flagged.factors[0].is_conj()
    torch.testing.assert_close(flagged.norm(), x.norm())
    torch.testing.assert_close(flagged.inner(y), x.inner(y))
    torch.testing.assert_close(flagged.orthogonalize().to_tensor(), x.to_tensor())
    np.testing.assert_allclose(flagged.to_backend("numpy").to_tensor(), flagged.to_tensor().numpy(), atol=1e-13)
    negated = HTTensor((x.tree, [f.conj().imag for f in x.factors]))
    assert negated.factors[0].is_neg()
    plain = HTTensor((x.tree, [f.resolve_neg() for f in negated.factors]))
    torch.testing.assert_close(negated.norm(), plain.norm())
    assert not x.conj().factors[0].is_conj()


def test_norms_at_every_scale():
    for scale in (1e-200, 1e-120, 1.0, 1e120, 1e200):
        x = made() * scale
        np.testing.assert_allclose(x.norm(), made().norm() * scale)
        np.testing.assert_allclose((x * 1j).inner(made()), -1j * made().norm() ** 2 * scale, atol=1e-12 * scale)
    deep = made(shape=(2,) * 512).orthogonalize()
    deep = deep / np.linalg.norm(deep.factors[-1])
    for scale in (3.0, 1 / 3):
        scaled = HTTensor((deep.tree, [f * (scale if n % 2 else 1 / scale) if n < 512 else f
                                       for n, f in enumerate(deep.factors)])).to(np.complex64)  # fmt: skip
        np.testing.assert_allclose(scaled.norm(), 1, rtol=1e-3)


def test_gradients_are_pytorchs():
    x, y = (made(seed, (2, 3, 2)).to_backend("pytorch").requires_grad_() for seed in (0, 1))
    count = len(x.factors)

    def both(f):
        return HTTensor((x.tree, f[:count])), HTTensor((x.tree, f[count:]))

    for function in (
        lambda x, y: x.to_tensor(),
        lambda x, y: x.inner(y),
        lambda x, y: x.norm(),
        lambda x, y: tensors.ht_distance(x, y),
        lambda x, y: (x * y.conj() - 2j * x).real.to_tensor(),
        lambda x, y: x.tensordot(y, ([0, 1], [0, 1])).to_tensor(),
        lambda x, y: x.change_tree(Tree.linear(3)).to_tensor(),
        lambda x, y: x.orthogonalize().to_tensor(),
    ):
        assert torch.autograd.gradcheck(
            lambda *f, function=function: function(*both(f)), [*x.factors, *y.factors], fast_mode=True
        )
    assert torch.autograd.gradgradcheck(lambda *f: HTTensor((x.tree, f)).norm(), x.factors)


def test_gradients_of_rounding_and_spectra():
    x = made(3, (3, 3, 3), 3).to_backend("pytorch").requires_grad_()
    rounded = lambda *f: HTTensor((x.tree, f)).round(rank=2).to_tensor()  # noqa: E731
    assert torch.autograd.gradcheck(rounded, x.factors, fast_mode=True)
    values = lambda *f: tuple(HTTensor((x.tree, f)).singular_values().values())  # noqa: E731
    assert torch.autograd.gradcheck(values, x.factors, fast_mode=True)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_ranks_and_entropies_are_those_of_the_dense_tensor(backend):
    x = made(rank=3).to_backend(backend)
    whole = made(rank=3).to_tensor()
    spectra, entropies, renyi = ranks.spectra(x), ranks.entanglement_entropies(x), ranks.renyi2_entropies(x)
    np.testing.assert_allclose(float(ranks.log_norm(x)), np.log(np.linalg.norm(whole)))
    for node in x.tree.edges:
        rows = x.tree.modes(node)
        matrix = np.moveaxis(whole, rows, range(len(rows))).reshape(np.prod([x.dims[m] for m in rows]), -1)
        expected = np.linalg.svd(matrix / np.linalg.norm(matrix), compute_uv=False)
        found = np.asarray(spectra[node])
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-12)
        shares = expected[expected > 1e-12] ** 2
        np.testing.assert_allclose(float(entropies[node]), -(shares * np.log(shares)).sum(), rtol=1e-8)
        np.testing.assert_allclose(float(renyi[node]), -np.log((shares**2).sum()), rtol=1e-8)


def test_conversions_to_other_formats_and_back():
    x, y = (tl.random.random_cp((4, 3, 2, 3), 2, random_state=s) for s in (0, 1))
    cp = tl.cp_tensor.CPTensor((np.ones(2), [f + 1j * g for f, g in zip(x.factors, y.factors, strict=True)]))
    core = tl.random.random_tucker((4, 3, 2, 3), [2, 2, 2, 2], random_state=0)
    tucker = tl.tucker_tensor.TuckerTensor((core.core, [f * 1j + f**2 for f in core.factors]))
    cores = tl.random.random_tt((4, 3, 2, 3), [1, 2, 3, 2, 1], random_state=0)
    tt = tl.tt_tensor.TTTensor([c + 1j * c**2 for c in cores])
    for source, there, back in (
        (cp, tensors.cp_to_ht, tensors.ht_to_cp),
        (tucker, tensors.tucker_to_ht, tensors.ht_to_tucker),
        (tt, tensors.tt_to_ht, tensors.ht_to_tt),
    ):
        x = there(source)
        assert {f.dtype for f in x.factors} == {np.dtype(np.complex128)}
        np.testing.assert_allclose(x.to_tensor(), source.to_tensor(), atol=1e-12)
        np.testing.assert_allclose(back(x).to_tensor(), source.to_tensor(), atol=1e-12)
        balanced = there(source, Tree.balanced(4))
        np.testing.assert_allclose(balanced.to_tensor(), source.to_tensor(), atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"tol": 1e-10},
        {"tol": 1e-10, "method": "root-to-leaves"},
        {"rank": 3, "svd": "randomized_svd", "oversampling": 2, "random_state": 0},
        {"tol": 0, "tree": Tree.from_nested(((2, 0, 1), 3))},
    ],
)
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_dense_tensors_are_decomposed(options, backend):
    x = made(rank=3, shape=(6, 5, 7, 6)).to_backend(backend)
    found = htf.hierarchical_tucker(x.to_tensor(), **options)
    assert found.dtype == x.dtype
    np.testing.assert_allclose(np.asarray(found.to_tensor()), np.asarray(x.to_tensor()), atol=1e-9)
    assert max(found.rank) <= 9
    for factor in found.factors[:-1]:
        frame = np.asarray(factor).reshape(-1, factor.shape[-1])
        np.testing.assert_allclose(frame.conj().T @ frame, np.eye(frame.shape[1]), atol=1e-12)


def test_truncation_is_within_its_bound_and_least_squares_lower_the_error():
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((5, 6, 5, 6)) + 1j * generator.standard_normal((5, 6, 5, 6))
    dense += 20 * made(shape=(5, 6, 5, 6)).to_tensor()
    x = htf.hierarchical_tucker(dense, rank=2)
    spectra = htf.hierarchical_tucker(dense, tol=0).singular_values()
    tails = [float((s[2:] ** 2).sum()) for s in spectra.values()]
    error = np.linalg.norm(x.to_tensor() - dense)
    assert max(tails) ** 0.5 <= error <= sum(tails) ** 0.5
    y, errors = htf.ht_als(dense, rank=2, return_errors=True, n_iter_max=5)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]
    np.testing.assert_allclose(errors[-1], np.linalg.norm(y.to_tensor() - dense) / np.linalg.norm(dense), rtol=1e-8)
    # From a real start to a complex tensor, and the other way round.
    start = random_ht(dense.shape, 2, random_state=0)
    np.testing.assert_allclose(htf.ht_als(dense, init=start).to_tensor(), y.to_tensor(), atol=0.2 * abs(dense).max())
    complex_start = with_imaginary_part(start, random_ht(dense.shape, 2, random_state=1))
    assert htf.ht_als(dense.real.copy(), init=complex_start).dtype == np.complex128


@pytest.mark.parametrize("options", [{"rank": 2}, {}])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_entries_are_completed(options, backend):
    z = made(shape=(6,) * 4).to_backend(backend)
    indices = np.random.RandomState(1).randint(0, 6, (600, 4))
    x = htf.ht_completion(indices, z.entries(indices), z.shape, random_state=0, **options)
    assert x.dtype == z.dtype
    assert float(tensors.ht_distance(x, z)) < 1e-6 * float(z.norm())


def test_functions_are_crossed_at_complex_pivots():
    angles = np.random.default_rng(0).uniform(0, 1, 20)

    def wave(rows):
        return np.exp(1j * (rows @ angles)) / (1 + rows @ angles)

    x, info = htf.cross_approximation(wave, (2,) * 20, random_state=0, return_info=True)
    assert info.converged
    rows = np.random.default_rng(1).integers(0, 2, (1000, 20))
    np.testing.assert_allclose(x.entries(rows), wave(rows), atol=1e-7)
    like = torch.zeros(1, dtype=torch.complex64)
    on_torch = htf.cross_approximation(lambda i: torch.from_numpy(wave(i)).conj(), (2,) * 20, random_state=0, like=like)
    assert on_torch.dtype == torch.complex64
    np.testing.assert_allclose(on_torch.entries(rows).numpy(), wave(rows).conj(), atol=1e-4)


def test_values_may_turn_out_complex_late():
    def mostly_real(rows):
        values = 1.0 / (1 + rows.sum(1))
        return values * 1j ** (rows[:, 0] // 2) if np.any(rows[:, 0] > 1) else values

    x = htf.cross_approximation(mostly_real, (4,) * 8, random_state=0)
    rows = np.random.default_rng(1).integers(0, 4, (200, 8))
    np.testing.assert_allclose(x.entries(rows), 1j ** (rows[:, 0] // 2) / (1 + rows.sum(1)), atol=1e-7)
    # A tensor that is read whole.
    y = htf.cross_approximation(lambda i: 1j * i.sum(1), (3, 3), random_state=0)
    np.testing.assert_allclose(y.to_tensor(), 1j * np.add.outer(range(3), range(3)), atol=1e-12)


def test_torch_func_differentiates_complex_tensors():
    x = made(shape=(3, 4, 2)).to_backend("pytorch")
    gradient = torch.func.grad(lambda z: z.inner(z).real)(x)
    for f, g in zip(x.factors, gradient.factors, strict=True):
        torch.testing.assert_close((f.conj() * g).sum(), 2 * x.inner(x))
