import errno
import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

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


# -- damage ----------------------------------------------------------------------------------------------


def damaged(content, other, rng):
    """A file that was cut short, emptied, changed in a bit, lost its first or second half, or is another one."""
    how = rng.integers(6)
    if how == 0:
        return content[: rng.integers(1, len(content))]
    if how == 1:
        return b""
    if how == 2:
        return other
    half = len(content) // 2
    if how == 3:
        return bytes(half) + content[half:]
    if how == 4:
        return content[:half] + bytes(len(content) - half)
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(changed)


KINDS = {
    "json": (lambda path, k: files.write_json(path, {"rows": [k, 0.5, "é"], "n": None}, "rows"), files.read_json),
    "list": (lambda path, k: files.write_json(path, [k, [1, 2]], "rows"), files.read_json),
    "tensors": (
        lambda path, k: files.write_tensors(path, {"w": torch.arange(9.0) + k, "b": torch.tensor(k)}, {"k": k}, "rows"),
        files.read_tensors,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed_or_did_no_harm(tmp_path, kind):
    write, read = KINDS[kind]
    write(tmp_path / "good", 3)
    files.write_json(tmp_path / "other", {"epoch": 1}, "something else")
    content, other = (tmp_path / "good").read_bytes(), (tmp_path / "other").read_bytes()
    expected, rng = repr(read(tmp_path / "good", "rows")), np.random.default_rng(0)
    refused = harmless = 0
    path = tmp_path / "file"
    for _ in range(300):
        path.write_bytes(damaged(content, other, rng))
        try:
            found = repr(read(path, "rows"))
        except ValueError as error:
            refused += str(path) in str(error)
        else:
            assert found == expected
            harmless += 1
    assert refused + harmless == 300
    assert refused > 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON|carries no checksum"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b'{"a": 1}', "carries no checksum"),
        (b'{"a": 1, "seal": 3}', "3 is no seal"),
        (
            b'{"seal": {"format": true, "kind": "", "sha256": ""}}',
            "has format True; this version of htf",
        ),
        (b'{"seal": {"format": 2, "kind": "", "sha256": ""}}', "has format 2; this version of htf reads format 1"),
        (b'{"seal": {"format": 1, "kind": "", "sha256": ""}}', "does not match its checksum"),
    ],
)
def test_json_that_is_none_of_ours(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        files.read_json(tmp_path / "x.json")
    assert "x.json" in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is not a checkpoint of this library"),
        ({"about": "[]"}, "what it says of itself is a list"),
        ({"about": "{"}, "is not a checkpoint of this library"),
        ({"about": "[" * 100_000}, "is not a checkpoint of this library"),
        ({"about": "{}"}, "it carries no checksum"),
        ({"about": "{}", "seal": "null"}, "None is no seal"),
        ({"about": "{}", "seam": "{}"}, "it has about, seam"),
    ],
)
def test_tensors_that_are_none_of_ours(tmp_path, metadata, message):
    files.save_file({"w": torch.ones(3)}, tmp_path / "x", metadata)
    with pytest.raises(ValueError, match=message) as error:
        files.read_tensors(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


def test_a_header_that_promises_terabytes(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[2199023255552],"data_offsets":[0,8796093022208]}}'
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
    with pytest.raises(ValueError, match="x is not a checkpoint of this library"):
        files.read_tensors(tmp_path / "x")


def test_a_file_of_another_kind(tmp_path):
    files.write_json(tmp_path / "x.json", {}, "the settings of a probe")
    with pytest.raises(ValueError, match=r"x\.json does not hold a claim; it holds the settings of a probe"):
        files.read_json(tmp_path / "x.json", "a claim")
    files.write_tensors(tmp_path / "x", {}, {}, "a history")
    with pytest.raises(ValueError, match="x does not hold a checkpoint; it holds a history"):
        files.read_tensors(tmp_path / "x", "a checkpoint")


def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"

    def write(k):
        files.write_tensors(path, {"w": torch.tensor(k)}, {"k": k}, "a checkpoint", keep_previous=True)

    def cut():
        path.write_bytes(path.read_bytes()[:-3])

    def read():
        return files.read_tensors(path, "a checkpoint", previous=True)[1]["k"]

    for k in range(3):
        write(k)
    assert read() == 2
    cut()
    with pytest.warns(RuntimeWarning, match=r"checkpoint\.safetensors is not .*\.previous, is used in its place"):
        assert read() == 1
    # The good one is not replaced by the damaged one.
    write(5)
    cut()
    with pytest.warns(RuntimeWarning, match="is used in its place"):
        assert read() == 1
    write(6)
    write(7)
    path.unlink()
    with pytest.warns(RuntimeWarning, match=r"is not there; .*\.previous, is used in its place"):
        assert read() == 6
    cut_both = files.previous_of(path)
    cut_both.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is not there"):
        read()
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is not a checkpoint"):
        read()
    files.remove_saved(path)
    assert not list(tmp_path.iterdir())


# -- writers ---------------------------------------------------------------------------------------------


def test_threads_and_processes_of_equal_numbers_write_one_path(tmp_path, monkeypatch):
    # As in two containers that share a disk.
    monkeypatch.setattr(files.os, "getpid", lambda: 1)
    monkeypatch.setattr(files.socket, "gethostname", lambda: "htf")
    monkeypatch.setattr(files, "threading", SimpleNamespace(get_ident=lambda: 1))
    path, errors = tmp_path / "x", []

    def write(k):
        try:
            for _ in range(30):
                files.write_tensors(path, {"w": torch.full((100,), k)}, {"k": k}, keep_previous=True)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    tensors, about = files.read_tensors(path)
    assert tensors["w"].tolist() == [about["k"]] * 100
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x", "x.previous"]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_modes_are_those_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_json(tmp_path / "a", 1)
        files.write_tensors(tmp_path / "b", {"w": torch.ones(1)}, {})
        files.write_figure(tmp_path / "c.png", Figure())
        for name in "a", "b", "c.png":
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "x").exists()))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", note)
    files.write_json(tmp_path / "x", 1)
    (file, before), (folder, after) = synced
    assert (Path(file).name, before, folder, after) == ("x", False, str(tmp_path), True)


KILLED = """
import sys, time
from pathlib import Path
from htf import _files as files

def stay(path):
    path.write_text("half")
    print("here", flush=True)
    time.sleep(600)

files.replace_file(Path(sys.argv[1]), stay)
"""


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    path = tmp_path / "x.json"
    (tmp_path / ".notes.partial").write_text("a user's own")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"here\n"
        (leftover,) = tmp_path.glob(".x.json.*.partial")
        files.write_json(tmp_path / "y.json", 1)
        assert leftover.exists()
        writer.kill()
    files.write_json(tmp_path / "y.json", 2)
    assert not leftover.exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".notes.partial", "y.json"]


@contextmanager
def full_disk():
    """No file can grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["json", "tensors", "figure", "text"])
def test_errors_of_the_disk_name_the_file(tmp_path, kind):
    path = tmp_path / f"some.{'png' if kind == 'figure' else kind}"
    write = {
        "json": lambda: files.write_json(path, list(range(1000))),
        "tensors": lambda: files.write_tensors(path, {"w": torch.ones(1000)}, {}),
        "figure": lambda: files.write_figure(path, Figure()),
        "text": lambda: files.write_text(path, "x" * 1000),
    }[kind]
    write()
    before = path.read_bytes()
    with full_disk(), pytest.raises(OSError, match=rf"cannot write {path} .*what was saved before is kept"):
        write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_is_checked_before_the_work(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    with full_disk(), pytest.raises(OSError, match=rf"cannot write to the folder {tmp_path} \(.*File too large"):
        files.check_writable(tmp_path)
    with pytest.raises(OSError, match=r"bytes are free, 1,152,921,504,606,846,976 are needed") as error:
        files.check_writable(tmp_path, 1 << 60)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="cannot write to the folder /proc/none"):
        files.check_writable(Path("/proc/none"))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"cannot write to the folder .*file"):
        files.check_writable(tmp_path / "file")


def test_the_file_before_is_kept_where_files_have_one_name_only(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no second names here")

    monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "state.safetensors"
    for number in (1.0, 2.0):
        files.write_tensors(path, {"x": torch.tensor(number)}, {}, "a state", keep_previous=True)
    path.write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match="the one before it"):
        tensors, _ = files.read_tensors(path, "a state", previous=True)
    assert float(tensors["x"]) == 1.0


def test_the_order_of_names_in_a_file_does_not_matter(tmp_path):
    path = tmp_path / "settings.json"
    files.write_json(path, {"rate": 0.5, "epochs": 3}, "settings")

    def turned(value):
        return {k: turned(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    path.write_text(json.dumps(turned(json.loads(path.read_text()))))
    assert files.read_json(path, "settings") == {"rate": 0.5, "epochs": 3}
