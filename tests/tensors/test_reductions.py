"""Numbers, reductions and sizes of HT tensors, and the functions of other packages that are called on them."""

import numpy as np
import pytest
import tensorly as tl
import torch

import htf
from htf import tensors
from htf.linalg import stored
from htf.tensors import HTTensor, comparison, random_ht

SHAPE = (3, 2, 4, 3)


def made(seed=0, **options):
    return random_ht(SHAPE, 2, random_state=seed, **options)


def test_numbers_are_added_at_the_cost_of_one_rank():
    x = made()
    assert (x + 1).rank == (3, 2, 3, 3, 3, 3, 1)
    assert (1 - x).rank == (3, 2, 3, 3, 3, 3, 1)
    assert (x + 0) is x
    assert sum([x, x]).rank == (x + x).rank
    for number in (2, 2.0, np.float32(2), np.int8(2), np.array(2.0), torch.tensor(2)):
        for y in (x + number, number + x):
            assert y.dtype == np.float64
            np.testing.assert_allclose(y.to_tensor(), x.to_tensor() + 2)
        np.testing.assert_allclose((number - x).to_tensor(), 2 - x.to_tensor())
        np.testing.assert_allclose((x - number).to_tensor(), x.to_tensor() - 2)
    np.testing.assert_allclose((x + 2j).to_tensor(), x.to_tensor() + 2j)
    assert {f.dtype for f in (x.to(np.float32) + 2j).factors} == {np.dtype(np.complex64)}
    for other in (True, "2", None, np.ones(3), torch.ones(3)):
        with pytest.raises(TypeError):
            x + other
        with pytest.raises(TypeError):
            other - x
    several = made(outputs=2)
    np.testing.assert_allclose((several - 3).to_tensor(), several.to_tensor() - 3)


def test_added_numbers_pass_gradients():
    x = made().to_backend("pytorch")
    number = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(*torch.autograd.grad((x + number).sum(), number), torch.tensor(72.0).double())


def test_powers_that_are_none():
    x = made()
    np.testing.assert_allclose((x**0).to_tensor(), 1)
    assert (x**1).rank == x.rank
    for exponent in (0.5, 2.0, True, "2", x):
        with pytest.raises(TypeError, match="expected an integer"):
            x**exponent
    with pytest.raises(ValueError, match=r"exponent is -1; expected at least 0; htf\.apply"):
        x**-1
    with pytest.raises(TypeError, match=r"quotients have no low rank; htf\.apply"):
        x / x
    with pytest.raises(TypeError, match=r"inverses have no low rank; htf\.apply"):
        1 / x


def test_sizes_of_entries():
    x = made(like=np.zeros(1, complex))
    whole = x.to_tensor()
    np.testing.assert_allclose((abs(x) ** 4).to_tensor(), abs(whole) ** 4)
    assert (abs(x) ** 2).dtype == np.float64
    np.testing.assert_allclose(abs(x).to_tensor(), abs(whole))
    np.testing.assert_allclose(abs(x)[1, 0, 2, 2], abs(whole[1, 0, 2, 2]))
    np.testing.assert_allclose(abs(x)[1].to_tensor(), abs(whole[1]))
    np.testing.assert_allclose(abs(x).entries([[0, 1, 2, 0]]), abs(whole[0, 1, 2, 0]))
    np.testing.assert_allclose(abs(x).norm(), x.norm())
    assert "sizes of the entries of an HTTensor" in repr(abs(x))
    with pytest.raises(TypeError, match="is no HT tensor; expected an even exponent"):
        abs(x) ** 3


@pytest.mark.parametrize("axis", [0, -1, (0, 3), [1], (3, 1, 0), (), None])
def test_sums_and_means_over_axes(axis):
    x = made()
    for function in ("sum", "mean"):
        found = getattr(x, function)(axis=axis)
        expected = getattr(x.to_tensor(), function)(axis=tuple(axis) if isinstance(axis, list) else axis)
        np.testing.assert_allclose(found.to_tensor() if isinstance(found, HTTensor) else found, expected)
    np.testing.assert_allclose(x.sum(modes=[0]).to_tensor(), x.sum(0).to_tensor())


@pytest.mark.parametrize(
    ("axis", "error"),
    [(4, IndexError), (-5, IndexError), ((0, 0), ValueError), ((0, -4), ValueError), (0.5, TypeError)],
)
def test_axes_out_of_range(axis, error):
    for function in (made().sum, made().mean):
        with pytest.raises(error):
            function(axis=axis)


def test_means_of_more_entries_than_numbers_reach():
    x = tensors.cp_to_ht((None, [np.full((8, 1), 2.0 if m % 2 else 0.5) for m in range(1200)]))
    np.testing.assert_allclose(x.mean(), 1)
    # A thousand factors of 1e-3 and as many of 1e3 leave the range on the way.
    parts = [np.full((2, 1), 1e-3 if m < 300 else 1e3) / 2 for m in range(600)]
    np.testing.assert_allclose(tensors.cp_to_ht((None, parts), htf.DimensionTree.linear(600)).sum(), 1)


def test_integrals_by_a_weight_vector_a_mode():
    x = made()
    weights = [np.linspace(0.1, 1, n) for n in SHAPE]
    np.testing.assert_allclose(x.contract(weights), np.einsum("ijkl,i,j,k,l", x.to_tensor(), *weights))
    part = x.contract([weights[0], None, weights[2], None])
    np.testing.assert_allclose(part.to_tensor(), np.einsum("ijkl,i,k->jl", x.to_tensor(), weights[0], weights[2]))
    with pytest.raises(ValueError, match="there are 3 vectors for 4 modes; expected one each"):
        x.contract(weights[:3])
    with pytest.raises(ValueError, match=r"the operand of mode 1 has shape \(3,\)"):
        x.contract([weights[0]] * 4)


def test_counts_and_bytes():
    x = made(outputs=2)
    assert (x.size, x.nbytes) == (144, 8 * x.n_parameters)
    assert x.compression == 144 / x.n_parameters
    assert made().to(np.float32).to_backend("pytorch").nbytes == 4 * made().n_parameters
    assert random_ht((2,) * 60, 2, random_state=0).compression > 1e14
    assert random_ht((2,) * 1100, 1, random_state=0).compression == np.inf


@pytest.mark.parametrize("limit", [2**22, 200, 1])
def test_errors_relative_to_an_array_are_found_block_by_block(limit, monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "BLOCK", limit)
    monkeypatch.setattr(stored, "BLOCK", limit)
    x = made()
    other = x.to_tensor() + 0.1 * made(1).to_tensor()
    expected = np.linalg.norm(x.to_tensor() - other) / np.linalg.norm(other)
    np.testing.assert_allclose(x.relative_error(other), expected)
    np.testing.assert_allclose(x.to_backend("pytorch").relative_error(torch.from_numpy(other)), expected)
    mapped = np.memmap(tmp_path / "array", dtype=np.float64, shape=SHAPE, mode="w+")
    mapped[:] = other
    np.testing.assert_allclose(x.relative_error(mapped), expected)
    both = made(outputs=2)
    assert both.relative_error(both.to_tensor()) < 1e-15


def test_errors_relative_to_what_has_none():
    x = made()
    assert x.relative_error(np.zeros(SHAPE)) == np.inf
    assert (0 * x).relative_error(np.zeros(SHAPE)) == 0
    assert (x * 1e200).relative_error(x.to_tensor() * 1e200) < 1e-14
    with pytest.raises(ValueError, match=r"array has shape \(3, 2, 4\)"):
        x.relative_error(np.zeros(SHAPE[:3]))
    with pytest.raises(ValueError, match="array has NaN or infinite entries"):
        x.relative_error(np.full(SHAPE, np.nan))
    with pytest.raises(TypeError, match="array is a list"):
        x.relative_error([1, 2])
    with pytest.raises(TypeError, match="array has dtype object; expected float32"):
        x.relative_error(np.full(SHAPE, None))


@pytest.mark.parametrize(
    "function",
    [
        np.sum, np.mean, np.max, np.min, np.linalg.norm, np.square, np.negative, np.conj, np.real, np.imag,
        np.transpose, np.shape, np.ndim, np.size, np.asarray, np.copy, tl.norm, tl.sum, tl.mean, tl.max, tl.to_numpy,
        tl.shape, tl.ndim, lambda x: np.sum(x, axis=(0, 2)), lambda x: np.sum(x, 1), lambda x: np.mean(x, axis=0),
        lambda x: np.vdot(x, x),
        lambda x: np.tensordot(x, x, ([0, 2], [0, 2])), lambda x: np.reshape(x, (6, 12)), lambda x: np.abs(x) ** 2,
        lambda x: np.float64(2) + x, lambda x: np.float64(2) - x, lambda x: np.power(x, 2), lambda x: np.int64(2) * x,
        lambda x: np.unravel_index(np.argmax(x), SHAPE) if isinstance(x, np.ndarray) else np.argmax(x),
        lambda x: np.asarray(x, dtype=np.float32), lambda x: np.array(x)[0], lambda x: np.array(2.0) * x,
    ],
)  # fmt: skip
def test_functions_of_numpy_and_tensorly_that_work(function):
    x = made()
    found, expected = function(x), function(x.to_tensor())
    found = found.to_tensor() if isinstance(found, HTTensor) else found
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (np.exp, r"numpy\.exp takes no HTTensor; htf\.apply\(numpy\.exp, x\) approximates"),
        (lambda x: np.maximum(x, x), r"htf\.apply\(numpy\.maximum, x\) approximates"),
        (lambda x: np.dot(x, x), r"numpy\.dot takes no HTTensor; .*x\.to_tensor\(\) writes the tensor out"),
        (lambda x: np.add.reduce(x), r"numpy\.add\.reduce takes no HTTensor"),
        (lambda x: np.add(x, x, out=np.zeros(SHAPE)), r"numpy\.add with out takes no HTTensor"),
        (lambda x: np.sum(x, keepdims=True), "does not take keepdims"),
        (lambda x: np.max(x, axis=0), "max of an HTTensor along axis 0; expected all modes together"),
        (lambda x: np.linalg.norm(x, ord=1), "expected the Frobenius norm"),
        (lambda x: np.ones(SHAPE) * x, "of shape .* expected a number or another HTTensor"),
        (lambda x: x - torch.ones(SHAPE), "of shape .* expected a number or another HTTensor"),
        (lambda x: torch.exp(x), r"torch\.exp takes no HTTensor"),
        (lambda x: np.asarray(1j * x, dtype=float), "imaginary part would be lost"),
        (lambda x: np.asarray(x.to_backend("pytorch").requires_grad_()), r"call numpy\.asarray\(x\.detach\(\)\)"),
    ],
)
def test_functions_that_say_what_to_call(function, message):
    with pytest.raises(TypeError, match=message):
        function(made())
    with pytest.raises(ValueError, match="too many for a dense one"):
        np.asarray(random_ht((2,) * 60, 2, random_state=0))


def test_functions_of_pytorch_that_work():
    x = made().to_backend("pytorch")
    whole = x.to_tensor()
    with tl.backend_context("pytorch"):
        torch.testing.assert_close(tl.norm(x), whole.norm())
        torch.testing.assert_close(tl.sum(x), whole.sum())
        np.testing.assert_allclose(tl.to_numpy(x), whole.numpy())
    torch.testing.assert_close(torch.sum(x, dim=1).to_tensor(), whole.sum(1))
    for number in (torch.tensor(2.0), torch.tensor(2)):
        torch.testing.assert_close((number - x).to_tensor(), 2 - whole)
        torch.testing.assert_close((number + x * number).to_tensor(), 2 + 2 * whole)
    with pytest.raises(TypeError, match="expected a number or another HTTensor"):
        torch.ones(3) * x
