import gzip
import struct

import numpy as np
import pytest

from htf.datasets import read_idx


def idx(array, kind=0x08):
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_plain_and_gzipped(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(idx(ARRAY)))
    np.testing.assert_array_equal(read_idx(path), ARRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (idx(ARRAY)[:10], "cut short within its header"),
        (idx(ARRAY)[:-3], r"cut short: its header says \(2, 3, 4\), 24 bytes, and 21 follow"),
        (idx(ARRAY) + b"xx", "too long"),
        (idx(ARRAY, kind=0x0D), "IDX type 0x0d"),
        (b"PNG\x00" * 10, "not the magic number"),
        # Without a time stamp, or every process would know the test by another name.
        (gzip.compress(b"something else entirely", mtime=0), "not the magic number"),
        (gzip.compress(idx(ARRAY), mtime=0)[:-9], "damaged gzip"),
        (b"\x1f\x8bgarbage that is not gzip", "damaged gzip"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert "train-images-idx3-ubyte" in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")


def test_a_bomb_stops_at_what_the_header_declares(tmp_path, monkeypatch):
    path, taken = tmp_path / "bomb.gz", []
    path.write_bytes(gzip.compress(idx(ARRAY) + bytes(50_000_000)))
    read = gzip.GzipFile.read

    def noted(self, size=-1):
        taken.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", noted)
    with pytest.raises(ValueError, match=r"bomb\.gz is too long"):
        read_idx(path)
    assert min(taken) >= 0
    assert sum(taken) < ARRAY.size + 100


@pytest.mark.parametrize("packed", [False, True])
def test_headers_that_promise_more_than_a_file_can_hold(tmp_path, packed):
    path = tmp_path / "large"
    content = bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(100)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=r"large is cut short: its header says \(4294967295"):
        read_idx(path)
    content = bytes([0, 0, 8, 200]) + b"\0\0\0\1" * 200 + b"x"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match="large has 200 dimensions"):
        read_idx(path)
