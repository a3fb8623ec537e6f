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
