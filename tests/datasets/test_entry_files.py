"""Entries in files: problems that were saved, and tables and archives of a user's own."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from planted_problems import SMALL, all_of, rows

import htf
from htf import _files as files
from htf.datasets import completion_from_file, tensor_completion


def test_a_saved_problem_is_read_back(tmp_path):
    tree = htf.DimensionTree.linear(4)
    problem = tensor_completion((4, 5, 6, 2), "ht", 2, observed=40, tree=tree, noise=0.1)
    problem.save(tmp_path / "folder" / "problem.npz")
    read = completion_from_file(tmp_path / "folder" / "problem.npz")
    for name in ("indices", "values", "test_indices", "test_values"):
        assert torch.equal(getattr(read, name), getattr(problem, name))
    assert (read.tree, read.shape, read.describe()) == (tree, problem.shape, problem.describe())
    assert read.target is None
    assert read.teacher is None
    assert completion_from_file(tmp_path / "folder" / "problem.npz", dtype=torch.float32).values.dtype == torch.float32
    half = tensor_completion((4, 5), "matrix", 2, observed=10, dtype=torch.bfloat16)
    half.save(tmp_path / "half.npz")
    assert torch.equal(completion_from_file(tmp_path / "half.npz", dtype=torch.bfloat16).values, half.values)
    with pytest.raises(ValueError, match=r"test_fraction is 0\.1; .*problem\.npz has a split of its own"):
        completion_from_file(tmp_path / "folder" / "problem.npz", test_fraction=0.1)
    with pytest.raises(ValueError, match=r"path is 'problem\.pt'; expected one that ends in \.npz"):
        problem.save("problem.pt")


def test_a_full_disk_keeps_what_was_saved(tmp_path, monkeypatch):
    path = tmp_path / "problem.npz"
    tensor_completion(**SMALL).save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="cannot write"):
        tensor_completion(**SMALL, seed=1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["problem.npz"]


def written(path, indices, values):
    if path.suffix == ".csv":
        lines = [",".join([*(str(i) for i in row), repr(float(v))]) for row, v in zip(indices, values, strict=True)]
        path.write_text("\n".join(lines) + "\n")
    else:
        np.savez(path, indices=np.array(indices), values=np.array(values, dtype=float))
    return path


@pytest.mark.parametrize("name", ["entries.csv", "entries.npz"])
def test_own_entries(tmp_path, name):
    source = tensor_completion((4, 5, 6), "cp", 2, observed=100)
    path = written(tmp_path / name, source.indices.tolist(), source.values.tolist())
    problem = completion_from_file(path)
    assert problem.shape == (4, 5, 6)
    assert problem.tree == htf.DimensionTree.balanced(3)
    assert (len(problem.values), len(problem.test_values)) == (90, 10)
    assert rows(all_of(problem)) == rows(source.indices)
    values = torch.cat([problem.values, problem.test_values])
    assert torch.equal(values, source.target[tuple(all_of(problem).T)])
    again, other = completion_from_file(path), completion_from_file(path, seed=1)
    assert torch.equal(problem.indices, again.indices)
    assert not torch.equal(problem.indices, other.indices)
    assert json.loads(json.dumps(problem.describe()))["file"] == name
    larger = completion_from_file(path, shape=(10, 10, 10), test_fraction=0.5, tree=htf.DimensionTree.linear(3))
    assert (larger.shape, len(larger.test_values)) == ((10, 10, 10), 50)
    assert larger.tree == htf.DimensionTree.linear(3)


@pytest.mark.parametrize(
    "text",
    [
        "user,film,stars\n0,0,5\n1,2,3.5\n",
        "0,0,5\r\n1,2,3.5\r\n\r\n",
        "\ufeffi, j, x\n0, 0, 5\n1, 2, 3.5",
        "0.000e+00,0.000e+00,5.0e+00\n1.000e+00,2.000e+00,3.5e+00\n",
        '"0","0","5"\n"1","2","3.5"\n',
    ],
)
def test_ways_to_write_a_table(tmp_path, text):
    path = tmp_path / "entries.csv"
    path.write_text(text, encoding="utf-8", newline="")
    problem = completion_from_file(path, test_fraction=0.5)
    found = dict(zip(map(tuple, all_of(problem).tolist()), [*problem.values, *problem.test_values], strict=True))
    assert found == {(0, 0): 5.0, (1, 2): 3.5}


def test_the_shape_in_a_file(tmp_path):
    path = tmp_path / "entries.npz"
    np.savez(path, indices=np.array([[0, 1], [1, 0]]), values=np.array([1, 2]), shape=np.array([3, 3]))
    assert completion_from_file(path, test_fraction=0.5).shape == (3, 3)
    with pytest.raises(ValueError, match=r"shape is \(4, 4\); .*entries\.npz says \(3, 3\)"):
        completion_from_file(path, (4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no entries"),
        ("a,b,c\n", "holds no entries"),
        ("0,0,1\n0,1,2\n0,0,1\n", r"line 3 has the indices \(0, 0\) of line 1 again, with the same value"),
        ("h,h,h\n0,0,1\n\n0,0,3\n", r"line 4 has the indices \(0, 0\) of line 2 again, with 3\.0 for 1\.0"),
        ("0,0,1\n0,-1,2\n", "line 2 has the index -1 of mode 1; expected 0 or more"),
        ("0,0,1\n0,1.5,2\n", r"line 2 has the index '1\.5' of mode 1; expected an integer"),
        ("0,0,1\nx,1,2\n", "line 2 has the index 'x' of mode 0; expected an integer"),
        ("0,0,1\n99999999999999999999,1,2\n", "line 2 has the index '99999999999999999999' of mode 0, out of range"),
        ("0,0,1\n0,1,nan\n", "line 2 has the value nan; expected a finite number"),
        ("0,0,1\n0,1,-inf\n", "line 2 has the value -inf"),
        ("0,0,1\n0,1,\n", "line 2 has the value ''; expected a number"),
        ("0,0,1\n0,1\n", "line 2 has 2 fields; the first row has 3"),
        ("0,0,1\n0,1,2\n", r"test_fraction is 0\.1; of 2 entries it leaves none for testing"),
        ("0,1\n1,2\n", r"the shape of the entries in .* is \(2,\); expected two modes at least"),
        ("\x00\x01\udcff", "is not a text file|holds no entries"),
        ("0,0,1\n1_0,1,2\n", "line 2 has the index '1_0' of mode 0; expected an integer"),
        ("0,0,1\n٣,1,2\n", "line 2 has the index '٣' of mode 0; expected an integer"),
        ("0,0,1\n0,1,1_0\n", "line 2 has the value '1_0'; expected a number"),
        ("0,0,1\n0,1,٣\n", "line 2 has the value '٣'; expected a number"),
        ("1_0,0,1\n0,1,2\n", "line 1 has the index '1_0' of mode 0"),
        ("٣,٢,١\n0,1,2\n", "line 1 has the index '٣' of mode 0"),
        ("0,0,1\n1e999,1,2\n", "line 2 has the index '1e999' of mode 0"),
        (f"0,0,1\n{'9' * 5000},1,2\n", "line 2 has the index '9+' of mode 0"),
        ("0,0,1\n0,1,1e999\n", "line 2 has the value inf"),
        ('0,0,1\n0,1,"2\n', "is not a text file with comma-separated values"),
        (f"0,0,1\n0,1,{'2' * 200_000}\n", "is not a text file with comma-separated values"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "entries.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as error:
        completion_from_file(path)
    assert "entries.csv" in str(error.value) or "test_fraction" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "kind", "message"),
    [
        ({"indices": [[0, 0]]}, ValueError, "has the arrays indices; expected indices and values"),
        ({}, ValueError, "has the arrays none"),
        ({"indices": [[0.0, 0.0]], "values": [1.0]}, TypeError, "indices of dtype float64; expected integers"),
        ({"indices": [[0, 0]], "values": ["a"]}, TypeError, "values of dtype <U1; expected real numbers"),
        ({"indices": [[0, 0]], "values": [1.0, 2.0]}, ValueError, r"values of shape \(2,\); expected \(m, order\) and"),
        ({"indices": [0, 0], "values": [1.0, 2.0]}, ValueError, r"indices of shape \(2,\)"),
        ({"indices": [[0, 0], [0, 0]], "values": [1.0, 2.0]}, ValueError, r"row 1 has the indices \(0, 0\) of row 0"),
        (
            {"indices": [[0, 0], [2, 0]], "values": [1.0, 2.0], "shape": [2, 2]},
            ValueError,
            "row 1 has the index 2 of mode",
        ),
        ({"indices": [[0, 0], [1, 0]], "values": [1.0, 2.0], "shape": [2]}, ValueError, "expected two modes"),
        ({"indices": [[0, 0], [1, 0]], "values": [1.0, 2.0], "shape": [2, 0]}, ValueError, "expected at least 1"),
        ({"indices": [[0, 0], [1, 0]], "values": [1.0, 2.0], "shape": [2.5, 2]}, ValueError, "one integer per mode"),
        ({"indices": [[0, 0], [1, 0]], "values": [1.0, 2.0], "shape": [2, 2, 2]}, ValueError, "indices of 2 modes"),
        ({"indices": [[0, 0]], "values": [np.nan]}, ValueError, "row 0 has the value nan"),
        ({"indices": [[0, 0]], "values": [1.0], "test_indices": [[0, 1]]}, ValueError, "has no array test_values"),
        (
            {"indices": [[0, 0]], "values": [1.0], "test_indices": [[0, 0]], "test_values": [2.0]},
            ValueError,
            r"row 0 of test_indices has the indices \(0, 0\) of row 0 again, with 2\.0 for 1\.0",
        ),
        (
            {"indices": [[0, 0]], "values": [1.0], "test_indices": [[0, 1, 0]], "test_values": [2.0]},
            ValueError,
            "indices of 2 modes and test_indices of 3",
        ),
        (
            {"indices": [[0, 0]], "values": [1.0], "test_indices": [[0, 1]], "test_values": [2.0], "about": "{}"},
            ValueError,
            "is damaged",
        ),
        ({"indices": np.zeros((0, 2), dtype=int), "values": np.zeros(0)}, ValueError, "holds no entries"),
    ],
)
def test_bad_archives(tmp_path, arrays, kind, message):
    path = tmp_path / "entries.npz"
    np.savez(path, **{name: np.array(value) for name, value in arrays.items()})
    with pytest.raises(kind, match=message) as error:
        completion_from_file(path)
    assert "entries.npz" in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "entries.npz"
    np.savez(path, indices=np.array([[object(), 1]], dtype=object), values=np.ones(1))
    with pytest.raises(ValueError, match=r"entries\.npz is not an npz file of plain arrays"):
        completion_from_file(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut", b"\x80\x04]q\x00."])
def test_damaged_archives(tmp_path, content):
    path = tmp_path / "entries.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"entries\.npz is not an npz file of plain arrays, or is damaged"):
        completion_from_file(path)


def test_a_cut_or_a_mistaken_archive(tmp_path):
    path = tmp_path / "entries.npz"
    tensor_completion(**SMALL).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="or is damaged"):
        completion_from_file(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="or is damaged"):
        completion_from_file(path)


def test_bad_arguments_for_files(tmp_path):
    with pytest.raises(ValueError, match=r"path is 'entries\.mat'; expected a file that ends in \.csv or \.npz"):
        completion_from_file("entries.mat")
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv is not there"):
        completion_from_file(tmp_path / "nothing.csv")
    path = written(tmp_path / "entries.csv", [[0, 0], [1, 1], [0, 1]], [1, 2, 3])
    for fraction in (0, 1, 1.5, -0.1, float("nan"), "half"):
        with pytest.raises(ValueError, match=r"test_fraction is .*; expected between 0 and 1"):
            completion_from_file(path, test_fraction=fraction)
    with pytest.raises(ValueError, match=r"test_fraction is 0\.9; of 3 entries it leaves none for fitting"):
        completion_from_file(path, test_fraction=0.9)
    with pytest.raises(ValueError, match=r"line 2 has the index 1 of mode 0, whose dimension is 1"):
        completion_from_file(path, (1, 2))
    with pytest.raises(ValueError, match="tree has 3 modes; the tensor has 2"):
        completion_from_file(path, tree=htf.DimensionTree.balanced(3))


def test_a_saved_problem_carries_a_checksum(tmp_path):
    path = tmp_path / "problem.npz"
    problem = tensor_completion(**SMALL)
    problem.save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    assert json.loads(str(arrays["seal"]))["format"] == 1

    def refused(message, **changes):
        np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
        with pytest.raises(ValueError, match=message) as error:
            completion_from_file(path)
        assert str(path) in str(error.value)

    refused("does not match its checksum", values=arrays["values"] + 1e-12)
    refused("does not match its checksum", values=arrays["values"].astype(np.float32))
    refused("has format 2", seal=np.array(json.dumps({"format": 2, "sha256": ""})))
    refused("has no valid seal", seal=np.array("[" * 50_000))
    refused("has no valid seal", seal=np.array(3))
    refused("is damaged: it has the arrays", seal=None, seam=arrays["seal"])
    refused("is damaged", seal=None, about=np.array("[" * 50_000))
    # As htf 0.1 wrote it.
    np.savez(path, **{name: array for name, array in arrays.items() if name != "seal"})
    assert torch.equal(completion_from_file(path).values, problem.values)


def archive_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def header(shape, dtype="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


def array_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (header((1 << 40,)), r"values.npy declares \(1099511627776,\) of float64"),
        (header((2,)) + bytes(10_000), r"values.npy declares \(2,\) of float64, 16 bytes; 10,000 follow"),
        (header((-2, -1)) + bytes(16), "values.npy declares"),
        (header((2,)) + bytes(8), "8 follow"),
        (header((2,), "|O") + bytes(16), "holds Python objects"),
        (b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((((", "is damaged"),
        (b"\x93NUMPY\x03\x00\x10\x00", "has version"),
        (b"raw", "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_members_that_are_no_arrays(tmp_path, values, message):
    path = tmp_path / "entries.npz"
    archive_of(path, {"indices.npy": array_file(np.array([[0, 0], [1, 1]])), "values.npy": values})
    with pytest.raises(ValueError, match=message) as error:
        completion_from_file(path)
    assert str(path) in str(error.value)


def test_members_without_an_ending_are_no_arrays(tmp_path):
    path = tmp_path / "entries.npz"
    archive_of(path, {"indices": array_file(np.zeros((1, 2), dtype=int)), "values": array_file(np.ones(1))})
    with pytest.raises(ValueError, match="has the arrays none; expected indices and values"):
        completion_from_file(path)


def test_an_archive_is_decompressed_no_further_than_it_declares(tmp_path, monkeypatch):
    path = tmp_path / "entries.npz"
    # What does not go together is refused by the headers alone, and what is not asked for is left alone.
    archive_of(
        path,
        {
            "indices.npy": array_file(np.zeros((2, 2), dtype=int)),
            "values.npy": header((4_000_000,)) + bytes(32_000_000),
            "other.npy": header((4_000_000,)) + bytes(32_000_000),
        },
    )
    read = zipfile.ZipExtFile.read

    def bounded(self, n=-1):
        assert n is not None
        assert 0 <= n < 10_000
        return read(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", bounded)
    with pytest.raises(ValueError, match=r"indices of shape \(2, 2\) and values of shape \(4000000,\)"):
        completion_from_file(path)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = written(tmp_path / "entries.npz", [[0, 1], [2, 1]], [1.0, 2.0])
    with zipfile.ZipFile(path) as archive:
        values = archive.read("values.npy")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("values.npy", values)
    with pytest.raises(ValueError, match=r"entries\.npz .*two arrays of one name"):
        completion_from_file(path)
