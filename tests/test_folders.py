"""Folders of runs: claimed, locked, and read where they cannot be written."""

import errno
import json
import os
import threading

import pytest

from htf._folders import CLAIM, claim_folder, claim_for_saving, read_claim

ABOUT = {"lr": 0.1, "steps": 10, "net": {"dims": (3, 4), "init": float("nan")}}


def test_the_same_run_comes_again(tmp_path):
    first = claim_folder(tmp_path / "a" / "run", "fit", ABOUT)
    assert claim_folder(first, "study", {}) is first
    assert os.fspath(first) == str(tmp_path / "a" / "run")
    before = (first.path / CLAIM).read_bytes()
    claim_folder(str(first.path), "fit", dict(reversed(ABOUT.items())))
    assert (first.path / CLAIM).read_bytes() == before
    kind, about = read_claim(first.path)
    assert (kind, about["net"]["dims"]) == ("fit", [3, 4])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "fit",
            {"lr": 0.2},
            r"out .* holds a fit with lr = 0\.1; this one has 0\.2\. Name another folder",
        ),
        ("fit", {"net": {"dims": (3, 5), "init": float("nan")}}, r"with dims = \[3, 4\]; this one has \[3, 5\]"),
        ("fit", {"lr": None}, r"with lr = 0\.1; this one has None"),
        ("fit", {"seed": 1}, "with seed = None; this one has 1"),
        ("fit", {"steps": 20}, "with steps = 10; this one has 20"),
        ("study", {}, "holds a run that is no study but a fit; name another folder"),
    ],
)
def test_another_run_is_refused_with_what_differs(tmp_path, kind, change, message):
    claim_folder(tmp_path, "fit", ABOUT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        claim_folder(tmp_path, kind, ABOUT | change)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_may_grow(tmp_path):
    claim_folder(tmp_path, "study", ABOUT, grows=("steps",))
    claim_folder(tmp_path, "study", ABOUT | {"steps": 30}, grows=("steps",))
    assert read_claim(tmp_path)[1]["steps"] == 30
    with pytest.raises(ValueError, match="with steps = 30; this one has 10"):
        claim_folder(tmp_path, "study", ABOUT, grows=("steps",))


def test_of_many_at_once_one_run_gets_the_folder(tmp_path):
    got, refused = [], []

    def claim(lr):
        try:
            got.append(claim_folder(tmp_path / "run", "fit", {"lr": lr}))
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=claim, args=(k / 10,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = got
    assert len(refused) == 7
    assert all(f"holds a fit with lr = {winner.about['lr']}" in each for each in refused)


@pytest.mark.parametrize("name", ["settings.json", "checkpoint.safetensors", "row.json"])
def test_files_of_a_run_without_a_claim(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"is no fit of this version: it has {name} and no claim\.json"):
        claim_folder(tmp_path, "fit", {})
    assert [path.name for path in tmp_path.iterdir()] in ([name], [name, ".lock"], [".lock", name])


def test_a_damaged_claim_is_named(tmp_path):
    claim_folder(tmp_path, "fit", ABOUT)
    content = json.loads((tmp_path / CLAIM).read_text())
    content["about"]["lr"] = 0.2
    (tmp_path / CLAIM).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"claim\.json is damaged"):
        claim_folder(tmp_path, "fit", ABOUT | {"lr": 0.2})
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file; expected a folder"):
        claim_folder(tmp_path / "file", "fit", ABOUT)


def test_one_writes_at_a_time_and_is_named(tmp_path):
    first, second = claim_folder(tmp_path, "fit", ABOUT), claim_folder(tmp_path, "fit", ABOUT)
    with (
        first.locked(),
        first.locked(),
        pytest.raises(BlockingIOError, match=rf"is being written by process {os.getpid()} on \S+, since"),
        second.locked(),
    ):
        pass
    with second.locked():
        pass


def test_a_claim_is_taken_back_where_nothing_was_written(tmp_path):
    folder = claim_folder(tmp_path / "a" / "run", "fit", ABOUT)
    folder.forget()
    assert not list(tmp_path.iterdir())
    with folder.locked():  # the run begins again
        assert read_claim(folder.path)[0] == "fit"
    (folder.path / "checkpoint.safetensors").touch()
    folder.forget()
    assert read_claim(folder.path)[0] == "fit"
    claim_folder(tmp_path / "a" / "run", "fit", ABOUT).forget()
    assert read_claim(folder.path)[0] == "fit"


def test_what_is_saved_by_hand_does_not_replace_a_run(tmp_path):
    claim_for_saving(tmp_path / "free", "history", {}, {"fit": {}})
    claim_for_saving(tmp_path / "free", "history", {}, {"fit": {}})
    claim_folder(tmp_path / "fit", "fit", ABOUT)
    claim_for_saving(tmp_path / "fit", "history", {}, {"fit": {"lr": 0.1, "more": 3, "net": {"dims": [3, 4]}}})
    with pytest.raises(ValueError, match=r"holds a fit with lr = 0\.1; this one has 0\.3"):
        claim_for_saving(tmp_path / "fit", "history", {}, {"fit": {"lr": 0.3}})
    claim_folder(tmp_path / "probe", "probe", {})
    with pytest.raises(ValueError, match="holds a run that is no history but a probe"):
        claim_for_saving(tmp_path / "probe", "history", {}, {"fit": {}})


def read_only(monkeypatch):
    """As a mount that is read-only: permission bits do not stop an administrator."""
    opened = os.open

    def mkdir(path, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def refuse(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "open", refuse)


def test_a_read_only_folder_is_claimed_by_the_run_that_it_holds_only(tmp_path, monkeypatch):
    claim_folder(tmp_path / "run", "fit", ABOUT)
    (tmp_path / "free").mkdir()
    read_only(monkeypatch)
    folder = claim_folder(tmp_path / "run", "fit", ABOUT)
    with pytest.raises(OSError, match=rf"cannot write to the folder {folder.path} \(.*Read-only"):
        folder.require_writable()
    with pytest.raises(OSError, match=rf"cannot lock the folder {folder.path} \(.*Read-only"), folder.locked():
        pass
    for name in ("free", "new"):
        with pytest.raises(OSError, match=rf"cannot write to the folder {tmp_path / name} \(.*Read-only"):
            claim_folder(tmp_path / name, "fit", ABOUT)
