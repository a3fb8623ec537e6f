"""Completion: planted tensors recovered from part of their entries."""

import numpy as np
import pytest
import torch

import htf
from htf.decomposition.completion import CompletionInfo, HTCompletion, ht_completion, ht_completion_masked


def planted(shape, rank, part, seed=0, tree=None):
    """A random HT tensor, index tuples of a random part of its entries, and their values."""
    z = htf.random_ht(shape, rank=rank, tree=tree, random_state=seed)
    rng = np.random.RandomState(seed + 10)
    size = int(np.prod(shape))
    rows = np.stack(np.unravel_index(rng.permutation(size)[: int(part * size)], shape), 1)
    return z, rows, z.entries(rows)


def relative_error(x, z):
    dense = np.asarray(z.to_tensor())
    return np.linalg.norm(np.asarray(x.to_tensor()) - dense) / np.linalg.norm(dense)


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize(("shape", "part"), [((8,) * 4, 0.25), ((6, 5, 4, 7), 0.5)])
@pytest.mark.parametrize("seed", [0, 3])
def test_planted_tensor_is_recovered(shape, part, rank, seed):
    z, rows, values = planted(shape, 3, part, seed)
    x, info = ht_completion(rows, values, shape, rank=rank, random_state=0, return_info=True)
    assert relative_error(x, z) < 1e-6
    assert info.errors[-1] < 1e-9
    assert info.converged
    assert info.rank == x.rank == (3, 3, 3, 3, 3, 3, 1)
    assert info.validation_error < 1e-8


@pytest.mark.parametrize(
    ("shape", "tree"),
    [
        ((5, 6, 4, 5), htf.DimensionTree.linear(4)),
        ((5, 4, 4, 3, 3), htf.DimensionTree.balanced(5, 3)),
        ((5, 4, 5), htf.DimensionTree.balanced(3, 3)),
        ((9, 10), None),
        ((5, 1, 6, 5), None),
    ],
)
def test_other_trees(shape, tree):
    z, rows, values = planted(shape, 2, 0.6, tree=tree)
    assert relative_error(ht_completion(rows, values, shape, rank=2, tree=tree, random_state=0), z) < 1e-6


def test_ranks_of_nodes_differ():
    z, rows, values = planted((8,) * 4, [2, 3, 4, 3, 3, 3, 1], 0.3)
    x = ht_completion(rows, values, z.shape, rank=z.rank, random_state=0)
    assert x.rank == z.rank
    assert relative_error(x, z) < 1e-6


def test_one_mode():
    x = ht_completion(np.array([[0], [1], [2], [1]]), np.array([3.0, 1.0, -2.0, 2.0]), (3,), rank=1, ridge=0.0)
    np.testing.assert_allclose(x.to_tensor(), [3.0, 1.5, -2.0], rtol=1e-12)


def test_repeated_entries_are_averaged():
    rows = np.stack(np.unravel_index(np.arange(12), (3, 4)), 1)
    dense = np.outer([1.0, 2.0, -1.0], [1.0, -1.0, 2.0, 0.5])
    values = dense.reshape(-1)
    x = ht_completion(
        np.concatenate([rows, rows]), np.concatenate([values + 0.1, values - 0.1]), (3, 4), rank=1, ridge=0.0
    )
    np.testing.assert_allclose(x.to_tensor(), dense, atol=1e-8)


def test_noise_does_not_raise_the_rank():
    z, rows, values = planted((8,) * 4, 3, 0.4)
    noise = 0.01 * np.random.RandomState(0).standard_normal(len(values)) * np.sqrt((values**2).mean())
    x, info = ht_completion(rows, values + noise, z.shape, random_state=0, return_info=True)
    assert max(x.rank) == 3
    assert relative_error(x, z) < 0.005
    assert info.validation_error == pytest.approx(0.01, rel=0.5)


def test_backends_agree():
    z, rows, values = planted((6, 5, 4, 7), 2, 0.5)
    ours = ht_completion(rows, values, z.shape, rank=2, random_state=0)
    theirs = ht_completion(torch.as_tensor(rows), torch.as_tensor(values), z.shape, rank=2, random_state=0)
    assert isinstance(theirs.factors[0], torch.Tensor)
    np.testing.assert_allclose(theirs.to_tensor().numpy(), ours.to_tensor(), atol=1e-8)


def test_single_precision():
    z, rows, values = planted((6, 5, 4, 7), 2, 0.5)
    x = ht_completion(rows, torch.as_tensor(values, dtype=torch.float32), z.shape, rank=2, random_state=0)
    assert x.dtype == torch.float32
    assert relative_error(x, z) < 1e-4


def test_conjugate_gradients_do_what_the_normal_equations_do(monkeypatch):
    z, rows, values = planted((6, 5, 4, 7), 2, 0.5)
    monkeypatch.setattr("htf.decomposition._least_squares._LARGEST_DIRECT", 0)
    monkeypatch.setattr("htf.decomposition._least_squares._LARGEST_GROUPED", 0)
    monkeypatch.setattr("htf.decomposition._least_squares._CHUNK_ENTRIES", 1000)
    assert relative_error(ht_completion(rows, values, z.shape, rank=2, random_state=0), z) < 1e-6


@pytest.mark.parametrize("chunk", [2**22, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, np.float64])
@pytest.mark.parametrize("nested", [((0, 1), (2, 3)), (0, (1, 2), 3), (((0, 1), 2), 3)])
def test_entries_in_groups_give_the_same_normal_equations(monkeypatch, nested, dtype, chunk):
    shape, tree = (6, 5, 4, 7), htf.DimensionTree.from_nested(nested)
    _, rows, values = planted(shape, 3, 0.5, tree=tree)
    if dtype != np.float64:
        values = torch.as_tensor(values)
    if dtype == torch.complex128:
        values = values + 1j * torch.as_tensor(planted(shape, 3, 0.5, seed=1, tree=tree)[0].entries(rows))
    monkeypatch.setattr("htf.decomposition._least_squares._SMALLEST_GROUPED", 1)
    monkeypatch.setattr("htf.decomposition._least_squares._CHUNK_ENTRIES", chunk)
    # One pass, from where rounding has not grown.
    found = {}
    for worth in (0.0, np.inf):
        monkeypatch.setattr("htf.decomposition._least_squares._WORTH_GROUPING", worth)
        calls = {"rank": 3, "tree": tree, "n_iter_max": 1, "ridge": 0.1, "random_state": 0}
        with pytest.warns(UserWarning, match="does not predict|still improving"):
            found[worth] = torch.as_tensor(ht_completion(rows, values, shape, **calls).to_tensor())
    torch.testing.assert_close(found[np.inf], found[0.0], rtol=1e-8, atol=1e-8 * float(found[0.0].abs().max()))


def test_a_number_has_no_entries_to_mask():
    with pytest.raises(ValueError, match="tensor has no axes"):
        ht_completion_masked(np.array(3.0), np.array(True), rank=1)


def test_masks_that_pytorch_holds_as_flags():
    """An imaginary part of a conjugate is a negated view, of which NumPy takes no notice."""
    z, rows, _ = planted((6, 5, 4), 1, 0.7)
    mask = torch.zeros(z.shape, dtype=torch.complex128)
    mask[tuple(rows.T)] = 1j
    x = ht_completion_masked(z.to_tensor(), mask.conj().imag, rank=1, random_state=0)
    assert relative_error(x, z) < 1e-8


def test_masked_form_and_estimator_agree():
    z, rows, _ = planted((6, 5, 4, 7), 2, 0.5)
    mask = np.zeros(z.shape)
    mask[tuple(rows.T)] = 1
    tensor = np.where(mask, z.to_tensor(), np.nan)
    x = ht_completion_masked(tensor, mask, rank=2, random_state=0)
    estimator = HTCompletion(rank=2, random_state=0)
    y = estimator.fit_transform(tensor, mask)
    assert relative_error(x, z) < 1e-6
    assert y is estimator.decomposition_
    assert isinstance(estimator.info_, CompletionInfo)
    for a, b in zip(x.factors, y.factors, strict=True):
        np.testing.assert_array_equal(a, b)
    assert estimator.fit(tensor, mask=mask) is estimator
    on_torch = ht_completion_masked(torch.as_tensor(tensor), torch.as_tensor(mask) > 0, rank=2, random_state=0)
    np.testing.assert_allclose(on_torch.to_tensor().numpy(), x.to_tensor(), atol=1e-8)


def test_reproducible():
    z, rows, values = planted((6, 5, 4, 7), 2, 0.5)
    first, second = (ht_completion(rows, values, z.shape, random_state=3) for _ in range(2))
    for a, b in zip(first.factors, second.factors, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rank", [2, None])
def test_zero_values_give_the_zero_tensor(rank):
    z, rows, values = planted((5, 4, 3), 2, 0.8)
    x, info = ht_completion(rows, values * 0, z.shape, rank=rank, return_info=True)
    assert not x.to_tensor().any()
    assert set(x.rank) == {1}
    assert info.errors == (0.0,)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale_of_the_values(scale):
    z, rows, values = planted((6, 5, 4), 2, 0.6)
    x = ht_completion(rows, values * scale, z.shape, rank=2, random_state=0)
    assert relative_error(x / scale, z) < 1e-6


def test_a_norm_beyond_all_numbers_is_no_obstacle():
    z, rows, values = planted((8,) * 4, 1, 0.3)
    scale = 1.5e308 / abs(values).max()
    x = ht_completion(rows, values * scale, z.shape, rank=1, random_state=0)
    np.testing.assert_allclose(x.entries(rows) / scale, values, atol=1e-8 * abs(values).max())


def test_a_penalty_that_leaves_nothing_is_not_converged():
    z, rows, values = planted((6, 5, 4, 7), 2, 0.6)
    with pytest.warns(UserWarning, match="hardly better than zero"):
        _, info = ht_completion(rows, values, z.shape, rank=2, ridge=1e9, random_state=0, return_info=True)
    assert not info.converged


def test_slices_that_are_not_observed_stay_finite():
    z, rows, values = planted((6, 5, 4, 7), 2, 0.6)
    seen = rows[:, 3] != 2
    with pytest.warns(UserWarning, match=r"mode 3 has fewer observed entries than its rank 2 at index 2 \(none\)"):
        x, info = ht_completion(rows[seen], values[seen], z.shape, rank=2, random_state=0, return_info=True)
    assert not info.converged
    assert info.validation_error < 1e-8
    dense, true = x.to_tensor(), z.to_tensor()
    rest = np.arange(7) != 2
    np.testing.assert_allclose(dense[..., rest], true[..., rest], atol=1e-6)
    assert np.abs(dense).max() <= 10 * np.abs(true).max()


def test_too_few_entries():
    z, rows, values = planted((6, 5, 4, 7), 3, 0.5)
    with pytest.warns(UserWarning, match="values has 20 entries, fewer than the 129 parameters .* of rank 3"):
        ht_completion(rows[:20], values[:20], z.shape, rank=3, random_state=0)


ROWS, VALUES = np.stack(np.unravel_index(np.arange(60), (3, 4, 5)), 1), np.arange(60.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"indices": ROWS + 1}, IndexError, r"indices\[3\] has 4 for mode 1|indices\[4\] has 5 for mode 2"),
        ({"indices": ROWS - 1}, IndexError, r"indices\[0\] has -1 for mode 0; expected 0 to 2"),
        ({"indices": ROWS[:, :2]}, ValueError, r"indices has shape \(60, 2\); expected \(n, 3\)"),
        ({"indices": ROWS * 1.0}, TypeError, "indices have dtype float64; expected integers"),
        ({"indices": ROWS[:0], "values": VALUES[:0]}, ValueError, "indices is empty"),
        ({"values": VALUES[:-1]}, ValueError, r"values has shape \(59,\); expected \(60,\)"),
        ({"values": np.where(VALUES == 7, np.nan, VALUES)}, ValueError, r"values\[7\] is nan"),
        ({"values": np.where(VALUES == 9, np.inf, VALUES)}, ValueError, r"values\[9\] is inf"),
        (
            {"values": VALUES.astype(int)},
            TypeError,
            "values has dtype int64; expected float32, float64, complex64 or complex128",
        ),
        ({"values": np.where(VALUES == 7, np.nan * 1j, VALUES)}, ValueError, r"values\[7\] is \S*nan"),
        ({"values": list(VALUES)}, TypeError, "values is a list"),
        ({"tol": -1.0}, ValueError, "tol is -1.0; expected a number of at least 0"),
        ({"ridge": -1.0}, ValueError, "ridge is -1.0; expected a number of at least 0"),
        ({"ridge": "x"}, TypeError, "ridge is 'x'"),
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": None, "validation": 1.0}, ValueError, "validation is 1.0"),
        ({"validation": 0.0}, ValueError, "validation is 0.0"),
        ({"validation": "all"}, TypeError, "validation is 'all'"),
        ({"n_iter_max": 0}, ValueError, "n_iter_max is 0"),
        ({"shape": (3, 4)}, ValueError, r"expected \(n, 2\)"),
        ({"shape": 3}, TypeError, "shape is 3; expected a sequence of dimensions"),
        ({"random_state": -1}, ValueError, r"random_state is -1; expected an integer from 0 to 2\*\*32 - 1"),
        ({"random_state": np.random.default_rng(0)}, TypeError, "random_state is Generator"),
        ({"tree": htf.DimensionTree.balanced(4)}, ValueError, "tree has 4 modes"),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"indices": ROWS, "values": VALUES, "shape": (3, 4, 5), "rank": 1, **changes}
    with pytest.raises(error, match=message):
        ht_completion(**arguments)


def test_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4\); the tensor has \(3, 4, 5\)"):
        ht_completion_masked(np.ones((3, 4, 5)), np.ones((3, 4)), rank=1)


def test_progress_is_shown_on_request(capsys):
    z = htf.random_ht((4, 4, 4), 1, random_state=0)
    indices = np.random.RandomState(0).randint(0, 4, (50, 3))
    for progress in (False, True):
        ht_completion(indices, z.entries(indices), z.shape, rank=1, random_state=0, progress=progress)
        shown = capsys.readouterr().err
        assert ("pass" in shown and "error" in shown) == progress
        HTCompletion(rank=1, random_state=0, progress=progress).fit(z.to_tensor(), np.ones(z.shape))
        assert ("pass" in capsys.readouterr().err) == progress


@pytest.mark.parametrize("order", [6, 12, 20])
def test_high_orders_start_where_least_squares_lead_on(order):
    rows = np.random.RandomState(0).randint(0, 3, (2000, order))
    for seed in range(3):
        _, info = ht_completion(rows, np.ones(2000), (3,) * order, rank=1, random_state=seed, return_info=True)
        assert info.errors[-1] < 1e-8


def test_a_fit_that_found_nothing_says_so():
    rows = np.random.RandomState(0).randint(0, 2, (2000, 8))
    signs = np.random.RandomState(1).choice([-1.0, 1.0], 2000)
    with pytest.warns(UserWarning, match="hardly better than zero"):
        _, info = ht_completion(rows, signs, (2,) * 8, rank=1, n_iter_max=5, random_state=0, return_info=True)
    assert not info.converged


def test_the_estimator_fits_and_returns_itself():
    z = htf.random_ht((5, 4, 5), 1, random_state=0)
    mask = np.random.default_rng(0).random(z.shape) < 0.6
    estimator = HTCompletion(rank=1, random_state=0)
    assert estimator.fit(z.to_tensor(), mask) is estimator
    np.testing.assert_allclose(estimator.decomposition_.to_tensor(), z.to_tensor(), atol=1e-6)


# -- what decides whether a fit converged ----------------------------------------------------------------


def observed(shape, rank, count, seed, tree=None):
    """A random HT tensor, `count` of its entries, and 4,000 more to test on."""
    z = htf.random_ht(shape, rank=rank, tree=tree, random_state=seed)
    rng = np.random.RandomState(seed + 100)
    rows = np.stack(np.unravel_index(rng.choice(int(np.prod(shape)), count, replace=False), shape), 1)
    test = rng.randint(0, shape, (4000, len(shape)))
    return z, rows, z.entries(rows), test


def error_at(x, z, rows):
    return np.linalg.norm(x.entries(rows) - z.entries(rows)) / np.linalg.norm(z.entries(rows))


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_few_entries_are_enough_from_spectral_starts(seed):
    """520 degrees of freedom from 2,600 of 600,000 entries, where random starts end in local minima."""
    z, rows, values, test = observed((100, 100, 60), 2, 2600, seed)
    x, info = ht_completion(rows, values, z.shape, rank=2, random_state=seed, return_info=True)
    assert error_at(x, z, test) < 1e-6
    assert info.converged
    assert info.validation_error < 1e-8


@pytest.mark.parametrize(
    ("shape", "rank", "count", "tree"),
    [
        ((20, 20, 20, 20), 2, 2000, htf.DimensionTree.linear(4)),
        ((10,) * 5, 2, 2500, None),
        ((8,) * 6, 2, 3000, htf.DimensionTree.interleaved(6)),
        ((600, 30, 5), 2, 9000, None),
    ],
)
def test_few_entries_of_other_orders(shape, rank, count, tree):
    z, rows, values, test = observed(shape, rank, count, 1, tree)
    x, info = ht_completion(rows, values, shape, rank=rank, tree=tree, random_state=0, return_info=True)
    assert error_at(x, z, test) < 1e-6
    assert info.converged


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize("copies", [1, 20])
def test_a_fit_that_predicts_nothing_is_not_converged(copies, rank):
    """Fewer entries than parameters are met by many tensors; copies of them, held out, would show nothing."""
    z, rows, values, test = observed((20, 20, 20), 2, 90, 0)
    rows, values = np.repeat(rows, copies, 0), np.repeat(values, copies)
    message = rf"at entries held out and .* give more entries than {len(rows)} \(of the order of"
    with pytest.warns(UserWarning, match=message):
        x, info = ht_completion(rows, values, z.shape, rank=rank, n_iter_max=40, random_state=0, return_info=True)
    assert not info.converged
    assert info.validation_error > 0.3
    assert error_at(x, z, test) > 0.3


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_under_noise_a_fit_converges_to_the_noise(noise):
    z, rows, values, test = observed((30, 25, 20), 2, 3000, 0)
    rms = np.sqrt((values**2).mean())
    noisy = values + noise * rms * np.random.RandomState(1).standard_normal(len(values))
    x, info = ht_completion(rows, noisy, z.shape, rank=2, random_state=0, return_info=True)
    assert info.converged
    assert info.validation_error == pytest.approx(noise / np.sqrt(1 + noise**2), rel=0.25)
    assert error_at(x, z, test) < 0.5 * noise


def test_noise_alone_is_not_fitted():
    rng = np.random.RandomState(0)
    rows = np.stack(np.unravel_index(rng.choice(3000, 600, replace=False), (20, 15, 10)), 1)
    with pytest.warns(UserWarning, match="does not predict|hardly better than zero"):
        _, info = ht_completion(
            rows, rng.standard_normal(600), (20, 15, 10), rank=2, random_state=0, n_iter_max=40, return_info=True
        )
    assert not info.converged
    assert info.validation_error > 0.9


def test_slices_without_enough_entries_are_named():
    z, rows, values, _ = observed((12, 10, 8), 2, 600, 0)
    empty = rows[:, 0] != 7
    single = np.cumsum(rows[:, 2] == 3) <= 1
    chosen = empty & (single | (rows[:, 2] != 3))
    message = (
        r"mode 0 has fewer observed entries than its rank 2 at index 7 \(none\); .*"
        r"mode 2 has fewer observed entries than its rank 2 at index 3 \(1\); what the tensor holds there is not"
    )
    with pytest.warns(UserWarning, match=message):
        x, info = ht_completion(rows[chosen], values[chosen], z.shape, rank=2, random_state=0, return_info=True)
    assert not info.converged
    # All else is found.
    rest = np.ix_(np.arange(12) != 7, np.arange(10), np.arange(8) != 3)
    np.testing.assert_allclose(x.to_tensor()[rest], z.to_tensor()[rest], atol=1e-7)


def test_many_empty_slices_are_counted():
    z, rows, values, _ = observed((40, 10, 8), 1, 1500, 0)
    chosen = rows[:, 0] < 30
    with pytest.warns(UserWarning, match=r"at index 30 \(none\), .*, index 34 \(none\) and 5 more; what"):
        ht_completion(rows[chosen], values[chosen], z.shape, rank=1, random_state=0)


def test_a_fit_that_was_cut_short_says_so():
    z, rows, values, _ = observed((14, 12, 10), 2, 700, 0)
    with pytest.warns(UserWarning, match="still improving after 2 passes, at a relative error of .*; raise n_iter_max"):
        _, info = ht_completion(rows, values, z.shape, rank=2, n_iter_max=2, random_state=0, return_info=True)
    assert not info.converged


@pytest.mark.parametrize("backend", [np.asarray, torch.from_numpy])
def test_single_precision_ends_where_its_rounding_error_begins(backend):
    z, rows, values, test = observed((30, 25, 20), 2, 2000, 0)
    _, double = ht_completion(rows, values, z.shape, rank=2, random_state=0, return_info=True)
    single = backend(values.astype(np.float32))
    x, info = ht_completion(rows, single, z.shape, rank=2, random_state=0, return_info=True)
    assert len(info.errors) <= len(double.errors)
    assert info.converged
    assert info.errors[-1] < 1e-6
    assert error_at(x.to_backend("numpy"), z, test) < 1e-5


def test_all_entries_need_no_others():
    for shape, rank in (((3, 3), 3), ((5, 4, 3), 3)):
        z = htf.random_ht(shape, rank=rank, random_state=0)
        rows = np.argwhere(np.ones(shape))
        x, info = ht_completion(rows, z.entries(rows), shape, rank=rank, random_state=0, return_info=True)
        assert info.converged
        assert relative_error(x, z) < 1e-9


# -- masks and options -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked():
    z, rows, _ = planted((6, 5, 7), 1, 0.5)
    known = np.zeros(z.shape, dtype=bool)
    known[tuple(rows.T)] = True
    # What is hidden would spoil the fit, if it were read.
    return z, known, np.where(known, z.to_tensor(), 1e3)


def test_masks_of_any_type_say_the_same(masked):
    z, known, tensor = masked
    expected = ht_completion_masked(tensor, known, rank=1, random_state=0).to_tensor()
    np.testing.assert_allclose(expected, z.to_tensor(), atol=1e-6)
    for mask in (
        known.astype(np.float16),
        known.astype(">i4"),
        known.tolist(),
        torch.from_numpy(known).bfloat16(),
        -2.0 * known,
    ):
        np.testing.assert_array_equal(ht_completion_masked(tensor, mask, rank=1, random_state=0).to_tensor(), expected)


def test_masked_arrays_are_honoured(masked):
    z, known, tensor = masked
    expected = ht_completion_masked(tensor, known, rank=1, random_state=0).to_tensor()
    for given, mask in (
        (np.ma.masked_array(tensor, ~known), None),
        (np.ma.masked_array(tensor, ~known), np.ones(z.shape)),
        (np.ma.masked_where(~known & (z.to_tensor() > 0), tensor), known),
    ):
        np.testing.assert_array_equal(ht_completion_masked(given, mask, rank=1, random_state=0).to_tensor(), expected)
    estimator = HTCompletion(rank=1, random_state=0).fit(np.ma.masked_array(tensor, ~known))
    np.testing.assert_array_equal(estimator.decomposition_.to_tensor(), expected)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (None, ValueError, "mask is None; expected an array that says which entries of the tensor are known"),
        (np.where(np.eye(3) > 0, np.nan, 1), ValueError, r"mask\[0, 0\] is nan; expected booleans"),
        (np.ma.masked_array(np.ones((3, 3)), np.eye(3)), TypeError, "mask is a MaskedArray, whose mask would be lost"),
        (np.ones((3, 3), dtype=complex), TypeError, "mask has dtype complex128; expected booleans or real numbers"),
        (np.full((3, 3), "yes"), TypeError, "mask has dtype <U3; expected booleans or real numbers"),
        (np.full((3, 3), None), TypeError, "mask has dtype object"),
        (
            torch.ones(3, 3).to_sparse(),
            TypeError,
            r"mask is a tensor of layout torch\.sparse_coo; expected a dense one",
        ),
        (torch.ones(3, 3, device="meta"), TypeError, "mask is on the meta device"),
        ([[1, 1, 1], [1]], ValueError, "mask has rows of several lengths"),
        (np.zeros((3, 3)), ValueError, "mask selects no entry"),
    ],
)
def test_bad_masks(mask, error, message):
    with pytest.raises(error, match=message):
        ht_completion_masked(np.ones((3, 3)), mask, rank=1)


def test_what_a_mask_selects_has_to_be_finite():
    tensor = np.ones((3, 4))
    tensor[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"tensor\[1, 2\] is nan, and the mask selects it; expected finite numbers"):
        ht_completion_masked(tensor, np.ones((3, 4)), rank=1)


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match=r"ht_completion takes its options by name: write rank=0\.001 or tol=0\.001"):
        ht_completion(ROWS, VALUES, (3, 4, 5), 1e-3)
    with pytest.raises(TypeError, match="ht_completion_masked takes its options by name: write rank=2 or tol=2"):
        ht_completion_masked(np.ones((3, 3)), np.ones((3, 3)), 2)
    with pytest.raises(TypeError, match="HTCompletion takes its options by name: write rank=2 or tol=2"):
        HTCompletion(2)
