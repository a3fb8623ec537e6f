"""Arrays on disk and in chunks, read block by block, and sparse ones."""

import importlib
import sys

import dask.array
import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
import zarr

import htf
from htf.linalg import stored

i, j, k, m = np.ogrid[:12, :10, :9, :8]
X = 1 / (1.0 + i + j + k + m) + 0.3 * np.sin(0.1 * i * j + 0.2 * k - 0.3 * m)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few kilobytes, and arrays of any size are read by them; counts the entries that are read at once."""
    largest = []
    original = stored.blocks

    def blocks(array, axis):
        for block in original(array, axis, 16_000):
            largest.append(block.nbytes)
            yield block

    # Before the constant is replaced, which it would take otherwise.
    module = importlib.import_module("htf.decomposition.hierarchical_tucker")
    monkeypatch.setattr(stored, "BLOCK", 0)
    monkeypatch.setattr(sys.modules[module.__module__ if callable(module) else module.__name__], "BLOCK", 0)
    for name in ("htf.decomposition._stored", "htf.tensors.comparison"):
        monkeypatch.setattr(f"{name}.blocks", blocks)
    return largest


def as_memmap(folder, order="C"):
    mapped = np.memmap(folder / f"array{order}", dtype=X.dtype, shape=X.shape, mode="w+", order=order)
    mapped[:] = X
    return mapped


def as_zarr(folder):
    array = zarr.open_array(str(folder / "array.zarr"), mode="w", shape=X.shape, chunks=(5, 10, 3, 8), dtype="f8")
    array[:] = X
    return array


def as_dask(folder):
    return dask.array.from_array(X, chunks=(12, 3, 9, 4))


def as_hdf5(folder):
    return h5py.File(folder / "array.h5", "w").create_dataset("x", data=X, chunks=(4, 10, 9, 8))


KINDS = {"memmap": as_memmap, "columns": lambda f: as_memmap(f, "F"), "zarr": as_zarr, "dask": as_dask, "hdf5": as_hdf5}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_arrays_are_read_block_by_block(kind, tmp_path, small_blocks):
    array = KINDS[kind](tmp_path)
    x = htf.hierarchical_tucker(array, tol=1e-4)
    assert x.relative_error(X) <= 1e-4
    assert x.relative_error(array) == pytest.approx(x.relative_error(X), rel=1e-9)
    limited = htf.hierarchical_tucker(array, rank=4)
    dense = htf.hierarchical_tucker(X, rank=4)
    assert limited.rank == dense.rank
    assert limited.relative_error(X) <= 1.1 * dense.relative_error(X)
    both = htf.hierarchical_tucker(array, rank=6, tol=0.02)
    assert both.relative_error(X) <= 0.02
    assert max(both.rank) <= 6
    assert len(small_blocks) > 20
    assert max(small_blocks) <= 16_000


@pytest.mark.parametrize("kind", KINDS)
def test_small_arrays_and_other_methods_are_loaded(kind, tmp_path):
    array = KINDS[kind](tmp_path)
    for options in ({"tol": 1e-4}, {"rank": 3, "svd": "randomized_svd", "random_state": 0}):
        found, expected = htf.hierarchical_tucker(array, **options), htf.hierarchical_tucker(X, **options)
        # Singular vectors have signs of their own in another memory layout.
        assert found.rank == expected.rank
        np.testing.assert_allclose(found.to_tensor(), expected.to_tensor(), atol=1e-8 * np.abs(X).max())
    batch = htf.hierarchical_tucker(array, tree=htf.DimensionTree.balanced(3), tol=1e-6)
    assert batch.relative_error(array) <= 1e-6


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_pages_of_a_file_are_given_back_but_not_changes(mode, tmp_path, small_blocks):
    as_memmap(tmp_path).flush()
    mapped = np.memmap(tmp_path / "arrayC", dtype=X.dtype, shape=X.shape, mode=mode)
    expected = X.copy()
    if mode != "r":
        mapped[3, 4] += 0.1
        expected[3, 4] += 0.1
    x = htf.hierarchical_tucker(mapped, tol=1e-5)
    assert x.relative_error(mapped) <= 1e-5
    assert x.relative_error(expected) <= 1e-5
    np.testing.assert_array_equal(mapped, expected)


def test_torch_tensors_are_compared_with_stored_arrays(tmp_path, small_blocks):
    x = htf.hierarchical_tucker(torch.from_numpy(X), tol=1e-3)
    expected = float(torch.linalg.norm(x.to_tensor() - torch.from_numpy(X))) / np.linalg.norm(X)
    assert x.relative_error(as_memmap(tmp_path)) == pytest.approx(expected)
    assert x.relative_error(torch.from_numpy(X)) == pytest.approx(expected)


def test_a_zarr_array_that_misses_chunks_is_refused(tmp_path):
    array = zarr.open_array(str(tmp_path / "array.zarr"), mode="w", shape=(8, 6), chunks=(4, 3), dtype="f8")
    array[:4] = 1.0
    x = htf.random_ht((8, 6), 1, random_state=0)
    for call in (lambda: htf.hierarchical_tucker(array, tol=0.1), lambda: x.relative_error(array)):
        with pytest.raises(ValueError, match=r"misses 2 of its 4 chunks, which would read as 0\.0"):
            call()
    array[4:] = 2.0
    assert htf.hierarchical_tucker(array, tol=0.1).rank == (1, 1, 1)


def test_an_hdf5_data_set_that_misses_chunks_is_refused(tmp_path):
    with h5py.File(tmp_path / "array.h5", "w") as file:
        chunked = file.create_dataset("chunked", (8, 6), chunks=(4, 3), dtype="f8")
        chunked[:4] = 1.0
        whole = file.create_dataset("whole", (8, 6), dtype="f8")
        x = htf.random_ht((8, 6), 1, random_state=0)
        for array, message in ((chunked, "misses 2 of its 4 chunks, which would"), (whole, "misses 1 of its 1 chunks")):
            for call in (lambda: htf.hierarchical_tucker(array, tol=0.1), lambda: x.relative_error(array)):  # noqa: B023
                with pytest.raises(ValueError, match=message):
                    call()
            # Written, those with the fill value are there.
            array[4:] = 0.0
            array[:4] = 1.0
            assert htf.hierarchical_tucker(array, tol=0.1).rank == (1, 1, 1)
        with pytest.raises(ValueError, match="tensor is a data set without a shape"):
            htf.hierarchical_tucker(file.create_dataset("empty", data=h5py.Empty("f8")), tol=0.1)


def test_files_in_the_byte_order_of_other_machines(tmp_path, small_blocks):
    swapped = np.dtype("f8").newbyteorder()
    mapped = np.memmap(tmp_path / "array", dtype=swapped, shape=X.shape, mode="w+")
    mapped[:] = X
    for options in ({"tol": 1e-4}, {"rank": 4}):
        x = htf.hierarchical_tucker(mapped, **options)
        assert x.relative_error(mapped) == pytest.approx(x.relative_error(X))
        assert x.relative_error(X) <= 1.1 * htf.hierarchical_tucker(X, **options).relative_error(X) + 1e-4


def test_nan_text_and_unknown_shapes_are_refused(tmp_path, small_blocks):
    bad = as_memmap(tmp_path)
    bad[3, 2, 1, 0] = np.nan
    for options in ({"tol": 1e-3}, {"rank": 2}):
        with pytest.raises(ValueError, match="has NaN or infinite entries"):
            htf.hierarchical_tucker(bad, **options)
    with pytest.raises(ValueError, match="array has NaN or infinite entries"):
        htf.random_ht(X.shape, 2, random_state=0).relative_error(bad)
    unknown = dask.array.from_array(X, chunks=6)[dask.array.from_array(X[:, 0, 0, 0] > 0, chunks=6)]
    with pytest.raises(ValueError, match="partly unknown"):
        htf.hierarchical_tucker(unknown, tol=0.1)
    for options in ({"tol": 0.1}, {"rank": 2}):
        with pytest.raises(TypeError, match="dtype bool"):
            htf.hierarchical_tucker(dask.array.from_array(X > 0, chunks=6), **options)


def test_complex_arrays_in_chunks(small_blocks):
    array = X[:, :, :, 0] + 1j * np.cos(3 * X[:, :, :, 1] + np.arange(9))
    for options in ({"tol": 1e-6}, {"rank": 6}):
        x = htf.hierarchical_tucker(dask.array.from_array(array, chunks=4), **options)
        assert x.relative_error(array) <= 1.1 * htf.hierarchical_tucker(array, **options).relative_error(array) + 1e-6


def test_integers_in_chunks(small_blocks):
    array = np.arange(120).reshape(4, 5, 6)
    for options in ({"tol": 1e-9}, {"rank": 3}):
        x = htf.hierarchical_tucker(dask.array.from_array(array, chunks=2), **options)
        assert x.dtype == np.float64
        assert x.relative_error(array) < 1e-7


def test_relative_error():
    x = htf.random_ht((3, 4, 5), 2, random_state=0)
    assert x.relative_error(x.to_tensor()) < 1e-15
    assert x.relative_error(2 * x.to_tensor()) == pytest.approx(0.5)
    assert x.relative_error(np.zeros((3, 4, 5))) == np.inf
    assert (x * 0).relative_error(np.zeros((3, 4, 5))) == 0
    outputs = htf.random_ht((3, 4), 2, random_state=0, outputs=3)
    assert htf.tensors.ht_relative_error(tuple(outputs), outputs.to_tensor() * 2) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"array has shape \(3, 4\); expected \(3, 4, 5\)"):
        x.relative_error(np.ones((3, 4)))
    # Of another backend or precision, both are compared in double precision.
    assert x.relative_error(torch.from_numpy(2 * x.to_tensor())) == pytest.approx(0.5)
    assert x.relative_error(x.to_tensor().astype(np.float32)) < 1e-6
    assert (1j * x).relative_error(x.to_tensor()) == pytest.approx(2**0.5)


def planted(dims, rank, seed=0):
    rng = np.random.default_rng(seed)
    vectors = [(rng.random((n, rank)) < 0.3) * rng.standard_normal((n, rank)) for n in dims]
    letters = "abcdefg"[: len(dims)]
    return np.einsum(",".join(f"{c}r" for c in letters) + f"->{letters}", *vectors)


SPARSE = {
    "coo": scipy.sparse.coo_matrix,
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_array,
    "lil": scipy.sparse.lil_array,
    "torch coo": lambda a: torch.from_numpy(a).to_sparse_coo(),
    "torch csr": lambda a: torch.from_numpy(a).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_matrices(kind):
    array = planted((30, 20), 4)
    for options in ({"tol": 1e-8}, {"rank": 4}):
        x = htf.hierarchical_tucker(SPARSE[kind](array), random_state=0, **options)
        assert isinstance(x.factors[0], torch.Tensor if "torch" in kind else np.ndarray)
        assert x.rank == (4, 4, 1)
        assert x.to_backend("numpy").relative_error(array) < 1e-8


@pytest.mark.parametrize("tol", [0.5, 0.1, 1e-3, 1e-10])
def test_sparse_tensors_to_a_tolerance(tol):
    array = planted((9, 8, 7, 6, 5), 6)
    array[np.random.default_rng(1).random(array.shape) < 0.9] = 0
    x = htf.hierarchical_tucker(torch.from_numpy(array).to_sparse_coo(), tol=tol, random_state=0)
    assert x.to_backend("numpy").relative_error(array) <= tol
    assert x.n_parameters <= 2 * htf.hierarchical_tucker(array, tol=tol).n_parameters


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_tensors_are_never_written_out():
    # 10^18 entries, if they were.
    rng = np.random.default_rng(0)
    indices = torch.from_numpy(rng.integers(0, 1000, (6, 40)))
    tensor = torch.sparse_coo_tensor(indices, torch.from_numpy(rng.standard_normal(40)), (1000,) * 6)
    x = htf.hierarchical_tucker(tensor, tol=1e-6, random_state=0)
    found = x.entries(indices.T)
    torch.testing.assert_close(found, tensor.coalesce().values()[_places(tensor, indices)], rtol=1e-5, atol=1e-6)
    assert float(x.norm()) == pytest.approx(float(tensor.coalesce().values().norm()))


def _places(tensor, indices):
    order = {tuple(column.tolist()): place for place, column in enumerate(tensor.coalesce().indices().T)}
    return [order[tuple(column.tolist())] for column in indices.T]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_arrays_that_are_refused():
    matrix = scipy.sparse.coo_array(planted((6, 5), 2))
    with pytest.raises(ValueError, match="default method and svd"):
        htf.hierarchical_tucker(matrix, tol=0.1, method="root-to-leaves")
    with pytest.raises(TypeError, match="sparse of dtype complex128"):
        htf.hierarchical_tucker(matrix * 1j, tol=0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        htf.hierarchical_tucker(matrix * np.inf, tol=0.1)
    tensor = torch.ones(3, 3, 3).to_sparse_coo()
    with pytest.raises(ValueError, match="records gradients"):
        htf.hierarchical_tucker(tensor.requires_grad_(), tol=0.1)
    with pytest.raises(TypeError, match="2 dense axes"):
        htf.hierarchical_tucker(torch.ones(3, 3, 3).to_sparse(1), tol=0.1)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
def test_integers_are_promoted(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for given in (array, torch.from_numpy(array.astype(np.int32))):
        x = htf.hierarchical_tucker(given, tol=1e-12)
        assert str(x.dtype).endswith("float64")
        np.testing.assert_allclose(np.asarray(x.to_tensor()), array, atol=1e-10)
    counts = scipy.sparse.coo_array(array[0])
    np.testing.assert_allclose(htf.hierarchical_tucker(counts, tol=1e-12).to_tensor(), array[0], atol=1e-10)
