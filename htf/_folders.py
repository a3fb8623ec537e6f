"""Folders of runs: each belongs to the run that it holds, and is written by one process at a time.

A run claims its folder by a file, claim.json, that says what kind of run it is and all that makes it; another run is
refused with what differs.  The same run may come again, to go on or to be read; while it writes, it holds a lock.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from htf._files import check_writable, read_json, remove_leftovers, write_json

CLAIM, LOCK, HOLDER = "claim.json", ".lock", ".lock.holder"
_KIND = "a claim"
# Files that runs leave: a folder that holds one and no claim belongs to a run of htf 0.1, or to a part of one.
_OF_RUNS = ("settings.json", "study.json", "checkpoint.safetensors", "history.safetensors", "result.json", "row.json")
# How long a claim takes to be written, at most, by someone who is at it at the same moment.
_PATIENCE = 10.0
# How long someone looks at a claim, about.
_MOMENT = 1.0


class Folder(os.PathLike[str]):
    """A folder that a run has claimed.

    Attributes
    ----------
    path : Path
    kind : str
        Of the run.
    about : dict
        All that makes the run, as JSON can hold it.
    """

    def __init__(self, path: Path, kind: str, about: dict[str, Any], made: tuple[Path, ...] | None) -> None:
        self.path, self.kind, self.about = path, kind, about
        self._made = made  # folders that were made for it, the innermost first; None if it was claimed before
        self._lock: FileLock | None = None
        self._depth = 0

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r}, kind={self.kind!r})"

    def require_writable(self, size: int = 4096) -> None:
        """Make sure that files can be written, before what they are to hold is computed.

        Raises
        ------
        OSError
            If not, or if there is not room for `size` bytes; the message names the folder.
        """
        check_writable(self.path, size)
        remove_leftovers(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, at once or not at all; the operating system frees it when its holder dies.

        Who looks at the claim only, as one that is about to be refused, holds it for a moment, which is waited for.

        Raises
        ------
        BlockingIOError
            If another process, or another thread, holds it; the message names the holder.
        """
        if self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _acquired(self.path, _MOMENT)
            if not (self.path / CLAIM).exists():  # it was taken back, and the run begins again
                _write_claim(self.path, self.kind, self.about)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                _release(self._lock, self.path)
                self._lock = None

    def forget(self, *files: str) -> None:
        """Take the claim back, if this made it and nothing but these files was written, which are deleted too."""
        own = {CLAIM, LOCK, HOLDER, *files}
        if self._made is None or not {entry.name for entry in self.path.iterdir()} <= own:
            return
        for name in own:
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # in use by someone else by now
            for folder in self._made:
                folder.rmdir()


def claim_folder(
    folder: str | os.PathLike[str], kind: str, about: Mapping[str, Any], *, grows: Collection[str] = ()
) -> Folder:
    """Claim a folder for a run, or find it claimed by the same one.

    Parameters
    ----------
    folder : str, Path or Folder
        One that is claimed already, as by a study for the fit that it consists of, is returned as it is.
    kind : str
        "probe" (`htf.probes.rank_fit`), "study", "fit", "training" (`htf.training.classify`), or a benchmark's.
    about : mapping
        All that makes the run, as JSON can hold it.
    grows : collection of str
        Keys whose values may be larger than when the folder was claimed, as the number of steps.

    Returns
    -------
    Folder

    Raises
    ------
    ValueError
        If the folder holds another run, of another kind or with other settings; the message names what differs.
    OSError
        If the folder is free and cannot be written, or is no folder.
    """
    if isinstance(folder, Folder):
        return folder
    path = Path(folder)
    # Compare after a JSON round trip: tuples become lists.
    mine: dict[str, Any] = json.loads(json.dumps(dict(about)))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"out {path} is a file; expected a folder")
    if (path / CLAIM).exists():
        grown = _compare(path, kind, mine, grows)
        if not grown:
            return Folder(path, kind, mine, None)
    missing = tuple(each for each in (path, *path.parents) if not each.exists())
    try:
        check_writable(path)
    except OSError:
        with suppress(OSError):  # not made at all, or in use by someone else by now
            for each in missing:
                each.rmdir()
        raise
    lock = _acquired(path, _PATIENCE)
    try:
        made = None
        if (path / CLAIM).exists():
            grown = _compare(path, kind, mine, grows)
        else:
            _check_free(path, kind)
            grown, made = True, missing
        if grown:
            _write_claim(path, kind, mine)
    finally:
        _release(lock, path)
    return Folder(path, kind, mine, made)


def check_kind(folder: str | os.PathLike[str], kind: str) -> None:
    """Refuse a folder that holds a run of another kind, before anything in it is read; a ValueError as `claim_folder`.

    One that an outer run has claimed passes.
    """
    if not isinstance(folder, Folder) and (Path(folder) / CLAIM).exists():
        _same_kind(Path(folder), read_claim(Path(folder))[0], kind)


def claim_for_saving(folder: Path, kind: str, about: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Claim a folder for what is saved into it by hand, in place of what was saved so before.

    Parameters
    ----------
    folder : Path
        Free, or with something of that kind, which may be another one, or with a run that made what is saved.
    kind, about
        Of what is saved, for the claim of a folder that is free.
    runs : mapping
        Kinds of runs that save such a thing themselves, to what must agree as far as both say.

    Raises
    ------
    ValueError
        If the folder holds another run; the message names what differs.
    OSError
        If the folder cannot be written.
    """
    if (folder / CLAIM).exists() and (found := read_claim(folder))[0] in runs:
        kind, theirs = found
        for key, mine in json.loads(json.dumps(dict(runs[kind]))).items():
            if key in theirs and (difference := _difference(key, theirs[key], mine, common=True)) is not None:
                raise _other_settings(folder, kind, *difference)
    else:
        claim_folder(folder, kind, about)


def read_claim(folder: Path) -> tuple[str, dict[str, Any]]:
    """Kind of the run that a folder holds, and all that makes it.

    Raises
    ------
    FileNotFoundError, ValueError
        If the claim is not there or damaged.
    """
    content = read_json(folder / CLAIM, _KIND)
    try:
        kind, about = content["kind"], content["about"]
        if not isinstance(kind, str) or not isinstance(about, dict):
            raise TypeError("kind or about is of another type")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CLAIM} does not say whose the folder is ({error!r})") from error
    return kind, about


def _compare(path: Path, kind: str, mine: dict[str, Any], grows: Collection[str] = ()) -> bool:
    """Refuse another run; whether this one is the same but for something that has grown."""
    found, theirs = read_claim(path)
    _same_kind(path, found, kind)
    grown = False
    for key in {**theirs, **mine}:
        if key in grows and key in theirs and key in mine and mine[key] > theirs[key]:
            grown = True
        elif (difference := _difference(key, theirs.get(key), mine.get(key))) is not None:
            raise _other_settings(path, kind, *difference)
    return grown


def _same_kind(path: Path, found: str, kind: str) -> None:
    if found != kind:
        raise ValueError(f"out {path} holds a run that is no {kind} but a {found}; name another folder")


def _other_settings(path: Path, kind: str, name: str, theirs: Any, mine: Any) -> ValueError:
    on = f"go on with htf {theirs}" if name == "htf" else "the same settings to go on"
    return ValueError(
        f"out {path} holds a {kind} with {name} = {theirs!r}; this one has {mine!r}. Name another folder, or {on}"
    )


def _difference(name: str, theirs: Any, mine: Any, *, common: bool = False) -> tuple[str, Any, Any] | None:
    """The first key, within dicts, whose values differ, and both of them; of keys that both have, if asked for."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in {**theirs, **mine}:
            if common and not (key in theirs and key in mine):
                continue
            if (found := _difference(key, theirs.get(key), mine.get(key), common=common)) is not None:
                return found
        return None
    # As JSON, for which NaN equals itself.
    return None if json.dumps(theirs) == json.dumps(mine) else (name, theirs, mine)


def _write_claim(path: Path, kind: str, about: dict[str, Any]) -> None:
    remove_leftovers(path)
    write_json(path / CLAIM, {"kind": kind, "about": about}, _KIND)


def _check_free(path: Path, kind: str) -> None:
    found = [name for name in _OF_RUNS if (path / name).exists()]
    if found:
        raise ValueError(
            f"out {path} holds a run that is no {kind} of this version: it has {', '.join(found)} and no {CLAIM}; "
            "name another folder"
        )


def _acquired(path: Path, patience: float) -> FileLock:
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        try:
            holder = (path / HOLDER).read_text().strip()
        except (OSError, ValueError):
            holder = ""
        raise BlockingIOError(
            f"out {path} is being written by {holder or 'another process'}; wait for its end, or name another folder"
        ) from None
    except OSError as error:
        raise type(error)(f"cannot lock the folder {path} ({error})") from error
    with suppress(OSError):  # only a convenience to whoever comes second
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        (path / HOLDER).write_text(f"process {os.getpid()} on {platform.node()}, since {when}\n")
    return lock


def _release(lock: FileLock, path: Path) -> None:
    with suppress(OSError):
        (path / HOLDER).unlink(missing_ok=True)
    lock.release()
