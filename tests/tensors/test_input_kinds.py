"""Every kind of array that users have, at every entry that takes one: the right result, or one clear sentence."""

import re

import numpy as np
import pytest
import scipy.sparse
import torch

import htf
from htf.linalg.backend import to_numpy
from htf.ranks import cp_rank, effective_rank, kernel_matrix, numerical_rank, spectra, stable_rank
from htf.tensors import cp_to_ht, ht_contract, ht_mode_dot, tt_to_ht, tucker_to_ht

BASE = np.abs(np.random.default_rng(0).standard_normal((4, 4))) + 0.1
SUPPORTED = "expected float32, float64, complex64 or complex128"
REAL = "expected a real floating type, float32 or float64"
X = htf.random_ht((4, 4), 4, random_state=0)


class Subclass(np.ndarray):
    """Of the kind that packages for physical units define."""


def torch_base():
    return torch.from_numpy(BASE.copy())


# What is refused: how it is made, and what the message has to say.
REFUSED = {
    "masked": (lambda: np.ma.masked_array(BASE, BASE > 1), "MaskedArray, whose mask would be lost"),
    "matrix": (lambda: BASE.view(np.matrix), "matrix, whose products are those of matrices"),
    "subclass": (lambda: BASE.view(Subclass), "Subclass, which may compute by rules of its own"),
    "csr": (lambda: scipy.sparse.csr_array(BASE), "csr_array, which is sparse; expected a dense array"),
    "coo": (lambda: scipy.sparse.coo_matrix(BASE), "coo_matrix, which is sparse; expected a dense array"),
    "torch sparse": (lambda: torch_base().to_sparse(), "layout torch.sparse_coo; expected a dense one"),
    "meta": (lambda: torch_base().to("meta"), "meta"),
    "torch half": (lambda: torch_base().half(), "float16"),
    "bfloat16": (lambda: torch_base().bfloat16(), "bfloat16"),
    "torch integer": (lambda: torch_base().long(), "int64"),
    "torch bool": (lambda: torch_base() > 0, "bool"),
    "half": (lambda: BASE.astype(np.float16), "float16"),
    "longdouble": (lambda: BASE.astype(np.longdouble), np.dtype(np.longdouble).name),
    "big-endian": (lambda: BASE.astype(">f8"), ">f8"),
    "object": (lambda: BASE.astype(object), "object"),
    "text": (lambda: BASE.astype(str), "<U"),
    "datetime": (lambda: BASE.astype("i8").astype("M8[s]"), "datetime64"),
    "bool": (lambda: BASE > 0, "bool"),
    "integer": (lambda: BASE.astype(int), "int64"),
    "list": (lambda: BASE.tolist(), "list; expected an array of one of TensorLy's backends"),
    "text alone": (lambda: "text", "str; expected an array"),
    "number": (lambda: 3.0, "float; expected an array"),
}
# What is as good as any: how it is made from a plain array.
WELCOME = {
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "other order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "torch": torch.from_numpy,
    "torch strided": lambda a: torch.from_numpy(np.asfortranarray(a)),
    "parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a)),
    "complex": lambda a: a + 0j,
    "single complex": lambda a: (a + 0j).astype(np.complex64),
    "torch complex": lambda a: torch.from_numpy(a + 0j),
    # Flags on the memory of another tensor, which NumPy does not take.
    "torch conjugate": lambda a: torch.from_numpy(a + 0j).conj(),
    "torch negated": lambda a: torch.from_numpy(-1j * a).conj().imag,
}


def column(array):
    """One axis of an array, where it has axes."""
    if scipy.sparse.issparse(array) or not hasattr(array, "shape"):
        return array
    return array[:, 0]


def like(array):
    return X.to_backend("pytorch") if isinstance(array, torch.Tensor) else X


# What takes arrays, as a function of one; vectors are columns of it.
ENTRIES = {
    "hierarchical_tucker": lambda a: htf.hierarchical_tucker(a, tol=0).to_tensor(),
    "HierarchicalTucker": lambda a: htf.HierarchicalTucker(rank=4).fit_transform(a).to_tensor(),
    "ht_als": lambda a: htf.ht_als(a, rank=4, n_iter_max=2).to_tensor(),
    "ht_als from init": lambda a: htf.ht_als(a, init=like(a)).to_tensor(),
    "cp_rank": lambda a: np.array(cp_rank(a, max_rank=1, n_init=1, n_iter_max=2).lower_bound),
    "cp_to_ht": lambda a: cp_to_ht((None, [a, a])).to_tensor(),
    "tucker_to_ht, core": lambda a: tucker_to_ht((a, [a, a])).to_tensor(),
    "HTTensor": lambda a: htf.HTTensor((X.tree, [a, a, like(a).factors[2]])).to_tensor(),
    "ht_mode_dot": lambda a: ht_mode_dot(like(a), a, 1).to_tensor(),
    "random_ht": lambda a: htf.random_ht((3, 3), 2, like=a, random_state=0).to_tensor(),
}
VECTOR_ENTRIES = {
    "mode_dot with a vector": lambda v: like(v).mode_dot(v, 0).to_tensor(),
    "ht_contract": lambda v: ht_contract(like(v), {0: v}).to_tensor(),
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
    "numerical_rank": lambda v: np.array(numerical_rank(v)),
}
# What has to do with singular values, which are real, or with TensorLy's CP decomposition.
REAL_ONLY = ("cp_rank", "effective_rank", "stable_rank", "numerical_rank")
BOTH = {**ENTRIES, **{name: lambda a, f=f: f(column(a)) for name, f in VECTOR_ENTRIES.items()}}


# What the decomposition of whole arrays takes, and nothing else does.
PROMOTED = ("integer", "torch integer", "csr", "coo", "torch sparse")
# What reads no entries makes HT tensors without entries of such.
ON_META = ("cp_to_ht", "tucker_to_ht, core", "random_ht")


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("entry", [*BOTH, "ht_completion", "optimize_tree"])
def test_what_is_not_supported_is_named(entry, kind):
    if kind == "meta" and entry in ON_META:
        assert BOTH[entry](REFUSED[kind][0]()).is_meta
        return
    calls = {
        **BOTH,
        "optimize_tree": lambda a: htf.optimize_tree(a, 0.1),
        "ht_completion": lambda a: htf.ht_completion([[0, 0], [0, 1], [1, 0], [1, 1]], column(a), (2, 2), rank=1),
    }
    if kind in PROMOTED and entry in ("hierarchical_tucker", "HierarchicalTucker"):
        given = REFUSED[kind][0]()
        dense = (
            given.toarray() if scipy.sparse.issparse(given) else given.to_dense() if kind == "torch sparse" else given
        )
        found = np.asarray(calls[entry](given))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, np.asarray(dense), atol=1e-12)
        return
    make, message = REFUSED[kind]
    given = make()
    # A column of a tensor on the meta device is on another device than the HT tensor that it is multiplied with.
    elsewhere = kind == "meta" and ("mode_dot" in entry or entry in ("ht_contract", "HTTensor"))
    expected = ValueError if elsewhere else TypeError
    with pytest.raises(expected, match=re.escape(message)) as caught:
        calls[entry](given)
    assert "\n" not in str(caught.value)
    # Of a dtype the message says what is supported, or what it does not go with.
    if "dtype" in str(caught.value):
        assert SUPPORTED in str(caught.value) or "expected one" in str(caught.value)


@pytest.mark.parametrize("kind", WELCOME)
@pytest.mark.parametrize("entry", BOTH)
def test_any_layout_in_memory_gives_the_same(entry, kind):
    given = WELCOME[kind](BASE.copy())
    if "complex" in str(given.dtype):
        if entry in REAL_ONLY:
            with pytest.raises(TypeError, match=f"has dtype {given.dtype}; {REAL}"):
                BOTH[entry](given)
            return
        if "entries" in entry or entry == "random_ht":
            return
    expected = np.asarray(BOTH[entry](BASE))
    found = BOTH[entry](given)
    found = to_numpy(found) if isinstance(found, torch.Tensor) else np.asarray(found)
    np.testing.assert_allclose(found, expected, atol=1e-5 if kind == "single complex" else 1e-12)


def test_complex_arrays_are_completed_and_have_a_best_tree():
    x = htf.random_ht((3, 3, 3), 1, like=np.zeros(1, dtype=complex), random_state=0)
    rows = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), 1)
    for backend in ("numpy", "pytorch"):
        values = x.to_backend(backend).to_vec()
        z = htf.ht_completion(rows, values, (3, 3, 3), rank=1, random_state=0)
        assert z.dtype == values.dtype
        np.testing.assert_allclose(to_numpy(z.to_vec()), x.to_vec(), atol=1e-6)
        assert htf.optimize_tree(values.reshape(3, 3, 3), 0.1).order == 3


def test_a_memory_map_is_an_array(tmp_path):
    mapped = np.memmap(tmp_path / "array", dtype=np.float64, shape=BASE.shape, mode="w+")
    mapped[:] = BASE
    np.testing.assert_allclose(htf.hierarchical_tucker(mapped, tol=0).to_tensor(), BASE, atol=1e-12)


def test_the_way_out_is_named():
    for kind, name in (("f4", "float32"), ("c16", "complex128")):
        with pytest.raises(TypeError, match=rf"complex128 in the machine's byte order: array\.astype\('{name}'\)"):
            htf.hierarchical_tucker(BASE.astype(">" + kind), tol=0)
    with pytest.raises(TypeError, match="for missing entries ht_completion_masked"):
        htf.hierarchical_tucker(np.ma.masked_array(BASE, BASE > 1), tol=0)
    with pytest.raises(ValueError, match="tensor has no axes; expected one at least"):
        htf.hierarchical_tucker(np.array(3.0), tol=0)
    with pytest.raises(TypeError, match="tensor is a number of type float64; expected an array"):
        htf.hierarchical_tucker(np.float64(3.0), tol=0)


@pytest.mark.parametrize(
    ("convert", "given", "message"),
    [
        (cp_to_ht, 3, "cp_tensor is a int; expected (weights, factors)"),
        (cp_to_ht, (None, 3), "cp_tensor is a tuple; expected (weights, factors)"),
        (tucker_to_ht, (BASE,), "tucker_tensor is a tuple; expected (core, factors)"),
        (tt_to_ht, 3, "tt_tensor is a int; expected cores"),
        (tt_to_ht, [[1.0]], "core 0 is a list; expected an array"),
        (tt_to_ht, [BASE.astype(np.float16)[None]], "cores has dtype float16; " + SUPPORTED),
        (cp_to_ht, (np.ma.masked_array(BASE[0], BASE[0] > 1), [BASE, BASE]), "MaskedArray, whose mask would be lost"),
        (tucker_to_ht, (BASE, [BASE, scipy.sparse.csr_array(BASE)]), "csr_array, which is sparse"),
    ],
)
def test_what_is_converted_is_checked(convert, given, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        convert(given)


def test_factors_that_are_numbers():
    with pytest.raises(ValueError, match=r"factor of mode 0 has shape \(\); expected \(dimension, 1\)"):
        cp_to_ht((None, [np.array(1.0)]))


@pytest.mark.parametrize("kind", ["masked", "subclass", "csr", "torch sparse", "meta"])
def test_indices_are_read_or_refused(kind):
    make, message = REFUSED[kind]
    for call in (X.entries, lambda i: X[i], lambda i: htf.ht_completion(i, BASE[0], (9, 9, 9, 9), rank=1)):
        with pytest.raises(TypeError, match=re.escape(message)):
            call(make())


def test_indices_of_other_types():
    rows, expected = np.array([[0, 1], [3, 2]]), X.to_tensor()[[0, 3], [1, 2]]
    for given in (
        rows.tolist(),
        rows.astype(">i2"),
        rows.astype(np.uint64),
        rows.view(np.matrix),
        torch.from_numpy(rows),
    ):
        np.testing.assert_allclose(X.entries(given), expected, rtol=1e-12)
    for given, dtype in ((torch.ones(1, 2, dtype=torch.bfloat16), "torch.bfloat16"), (rows + 0.5, "float64")):
        with pytest.raises(TypeError, match=f"indices have dtype {dtype}; expected integers"):
            X.entries(given)
    # As signed integers these would count from the end.
    with pytest.raises(IndexError, match="indices hold 18446744073709551615, which is out of range"):
        X.entries(np.array([[0, 2**64 - 1]], dtype=np.uint64))
    with pytest.raises(ValueError, match="indices has rows of several lengths"):
        X.entries([[0, 1], [2]])


def test_numbers_that_scale():
    dense = X.to_tensor()
    for number in (2, 2.0, np.float16(2), np.longdouble(2), np.uint8(2), np.array(2.0), torch.tensor(2)):
        np.testing.assert_allclose((X * number).to_tensor(), 2 * dense, rtol=1e-12)
        assert (X * number).dtype == np.float64
    for number in (2j, np.complex64(2j), np.array(2j), torch.tensor(2j)):
        np.testing.assert_allclose((X * number).to_tensor(), 2j * dense, rtol=1e-12)
        assert {f.dtype for f in (X * number).factors} == {np.dtype(np.complex128)}
        single = X.to(np.float32) * number
        assert {f.dtype for f in single.factors} == {np.dtype(np.complex64)}
        on_torch = X.to_backend("pytorch").to(torch.float32) / number
        assert {f.dtype for f in on_torch.factors} == {torch.complex64}
        np.testing.assert_allclose(on_torch.to_tensor().numpy(), dense / 2j, rtol=1e-5)
    for number in (True, "2", None, torch.tensor(True)):
        with pytest.raises(TypeError):
            X * number
    # NumPy's masked number has a value beneath its mask.
    with pytest.raises(TypeError):
        X * np.ma.masked


def test_ranks_of_cp_tensors_of_any_precision():
    from tensorly.cp_tensor import CPTensor

    expected = spectra(CPTensor((np.ones(4), [BASE, BASE])))[0]
    for dtype in (">f8", np.longdouble):
        found = spectra(CPTensor((np.ones(4), [BASE.astype(dtype), BASE])))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    found = spectra(CPTensor((np.ones(4), [BASE, BASE * 1j])))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(TypeError, match="factor 1 of x has dtype object; expected numbers"):
        spectra(CPTensor((np.ones(4), [BASE, BASE.astype(object)])))


@pytest.mark.parametrize(
    "call",
    [
        kernel_matrix,
        htf.datasets.quantize,
        htf.datasets.affine,
        htf.datasets.trigonometric,
        lambda a: htf.datasets.one_hot(a, 2),
        lambda a: htf.nn.CPNetwork((2, 2, 2, 2), 2, seed=0).plan(a),
        lambda a: htf.nn.CPNetwork((2, 2, 2, 2), 2, seed=0)(a),
        lambda a: htf.regularizers.InputGradientChange(htf.regularizers.random_patches(1))(torch.nn.Flatten(), a),
    ],
)
def test_what_reads_pytorch_alone_says_so(call):
    for given, message in (
        (BASE.astype(int), "is a ndarray; expected a"),
        (BASE.tolist(), "is a list; expected a"),
        ((torch_base() > 0).long().to_sparse(), "of layout torch.sparse_coo; expected a dense one"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            call(given)


def test_encodings_name_bad_numbers():
    with pytest.raises(TypeError, match=r"images has dtype torch\.complex64; expected real numbers from 0 to 255"):
        htf.datasets.affine(torch.ones(1, 2, 2, dtype=torch.complex64))
    with pytest.raises(IndexError, match="indices reach -1; expected 0 to 1"):
        htf.datasets.one_hot(torch.tensor([[-1]]), 2)
    with pytest.raises(TypeError, match=r"indices has dtype torch\.float32; expected integers"):
        htf.datasets.one_hot(torch.ones(1, 2), 2)


def test_saved_factors_may_lie_anyhow_in_memory(tmp_path):
    backwards = htf.HTTensor((X.tree, [f[::-1] for f in X.factors]))
    frozen = X.copy()
    for factor in frozen.factors:
        factor.flags.writeable = False
    for number, tensor in enumerate((backwards, frozen)):
        htf.save(tensor, tmp_path / f"{number}.safetensors")
        np.testing.assert_array_equal(htf.load(tmp_path / f"{number}.safetensors").to_tensor(), tensor.to_tensor())
