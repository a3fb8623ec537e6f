import errno
from pathlib import Path

import pytest
import torch

from htf import _files as files


def test_round_trips(tmp_path):
    files.write_json(tmp_path / "a" / "x.json", {"k": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a" / "x.json") == {"k": [1, 2.5, None]}
    tensors = {"w": torch.randn(2, 3, dtype=torch.float64)[:, ::2], "n": torch.tensor(3)}
    files.write_tensors(tmp_path / "x.safetensors", tensors, {"epoch": 7})
    read, about = files.read_tensors(tmp_path / "x.safetensors")
    assert about == {"epoch": 7}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_a_full_disk_keeps_the_previous_state(tmp_path, monkeypatch, kind):
    path = tmp_path / "state"
    write = {
        "json": lambda value: files.write_json(path, {"v": value}),
        "tensors": lambda value: files.write_tensors(path, {"v": torch.tensor(value)}, {}),
    }[kind]
    write(1)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*state .*No space left.*saved before is kept"):
        write(2)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_kill_in_the_middle_leaves_the_previous_state(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    files.write_json(path, 1)

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, 2)
    assert files.read_json(path) == 1


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "x"
    path.write_text("{")
    with pytest.raises(ValueError, match="x is not valid JSON"):
        files.read_json(path)
    with pytest.raises(ValueError, match="x is not a checkpoint of this library, or is cut short"):
        files.read_tensors(path)
    files.write_tensors(path, {"w": torch.ones(100)}, {})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut short"):
        files.read_tensors(path)
