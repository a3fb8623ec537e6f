"""Files that are replaced whole or not at all, and that say when they are damaged.

A file is written into a folder of its own beside its place and then renamed: a crash, a kill or a full disk leaves what
was there.  JSON and safetensors files carry a seal, the number of their format and a SHA-256 of what they hold, without
which they are not read; CSV files, which people open elsewhere, have theirs in a file beside them (see `htf._tables`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

if sys.platform != "win32":  # where leftovers of killed writers stay
    import fcntl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of JSON and safetensors files as this module writes them; has nothing to do with the version of the package.
FORMAT = 1
_SEAL = "seal"
_LEFTOVER = ".partial"
# Checkpoints whose content is known to be good, by path: what a file looked like when it was written or read.
_known_good: dict[Path, tuple[int, int, int]] = {}


def write_json(path: Path, content: Any, kind: str = "") -> str:
    """Write JSON with a seal beside `path`, then rename; returns its SHA-256.

    The keys of a dict stay where they are, beside "seal"; anything else lies under "content".

    Parameters
    ----------
    path : Path
    content : dict or whatever JSON can hold
    kind : str
        What the file holds, such as "the settings of a probe", which `read_json` can ask for.

    Raises
    ------
    OSError
        If the file cannot be written; the message names it.
    """
    content = json.loads(json.dumps(content))
    if isinstance(content, dict) and _SEAL in content:
        raise ValueError(f"content has a key {_SEAL!r}, which is for the checksum")
    sha256 = _json_digest(content, kind)
    seal = {_SEAL: {"format": FORMAT, "kind": kind, "sha256": sha256}}
    text = json.dumps(seal | (content if isinstance(content, dict) else {"content": content}), indent=1)
    write_text(path, text + "\n")
    return sha256


def write_text(path: Path, content: str) -> None:
    """Write text beside `path`, then rename."""
    replace_file(path, lambda partial: partial.write_text(content, encoding="utf-8", newline=""))


def write_figure(path: Path, figure: Figure, dpi: int = 200) -> None:
    """Draw a figure into a file beside `path`, of the type that its ending says, then rename.

    The same figure gives the same bytes, with one version of matplotlib.  PNG files have a palette of 256 colours:
    they are a third as large, and look the same.
    """
    replace_file(path, lambda partial: _draw(partial, figure, dpi))


def _draw(path: Path, figure: Figure, dpi: int) -> None:
    import matplotlib
    from PIL import Image

    if path.suffix != ".png":
        with matplotlib.rc_context({"svg.hashsalt": "htf"}):
            figure.savefig(path, dpi=dpi, metadata={"Date": None} if path.suffix == ".svg" else None)
        return
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    picture: Image.Image = Image.open(drawn)
    opaque = picture.getextrema()[-1] == (255, 255)
    # Only the octree's palette has transparent colours.
    method = Image.Quantize.MEDIANCUT if opaque else Image.Quantize.FASTOCTREE
    picture = picture.convert("RGB") if opaque else picture
    picture.quantize(256, method=method, dither=Image.Dither.NONE).save(path, optimize=True)


def read_json(path: Path, kind: str | None = None, *, sealed: bool = True) -> Any:
    """Read JSON that `write_json` wrote.

    Parameters
    ----------
    path : Path
    kind : str, optional
        What the file has to hold; by default anything.
    sealed : bool
        Refuse files without a seal; otherwise they are read as they are.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is damaged, of another format or kind, or has no seal.  The message names it.
    """
    content = read_plain_json(path)
    if not isinstance(content, dict) or _SEAL not in content:
        if sealed:
            raise ValueError(
                f"{path} carries no checksum: it was written by htf 0.1, by something else, or is damaged; make it anew"
            )
        return content
    seal = content.pop(_SEAL)
    found, sha256 = _read_seal(path, seal, kind)
    # A dict lies beside the seal, anything else below "content".
    for each in (content, content.get("content")):
        if _json_digest(each, found) == sha256:
            return each
    raise ValueError(f"{path} is damaged: its content does not match its checksum")


def read_plain_json(path: Path) -> Any:
    """Read JSON of whatever origin, naming the file if it is damaged."""
    try:
        return json.loads(read_bytes(path))
    # Besides syntax: encoding, integers of too many digits, and nesting too deep.
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is not valid JSON ({error or type(error).__name__})") from error


def read_bytes(path: Path) -> bytes:
    """Read a file whole; an error names it."""
    try:
        return path.read_bytes()
    except MemoryError as error:
        raise ValueError(f"{path} is too large for the memory there is") from error


def write_tensors(
    path: Path, tensors: dict[str, Tensor], about: dict[str, Any], kind: str = "", *, keep_previous: bool = False
) -> str:
    """Write tensors and what is to be known about them in one safetensors file, with a seal; returns its SHA-256.

    Parameters
    ----------
    path : Path
    tensors : dict of Tensor
    about : dict
        As JSON can hold it.
    kind : str
        What the file holds, such as "a checkpoint", which `read_tensors` can ask for.
    keep_previous : bool
        Keep the file that is replaced, if it is not damaged, as `previous_of` names it.

    Raises
    ------
    OSError
        If the file cannot be written; the message names it.
    """
    # Copies, as the format refuses tensors that share memory.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    text = json.dumps(about)
    sha256 = _tensor_digest(plain, text, kind)
    seal = json.dumps({"format": FORMAT, "kind": kind, "sha256": sha256})
    if keep_previous:
        _keep(path, kind)
    replace_file(path, lambda partial: save_file(plain, partial, {"about": text, _SEAL: seal}))
    if keep_previous:
        _known_good[path] = _looks(path)
    return sha256


def read_tensors(
    path: Path, kind: str | None = None, *, previous: bool = False, sealed: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote; nothing in the file is executed.

    Parameters
    ----------
    path : Path
    kind : str, optional
        What the file has to hold; by default anything.
    previous : bool
        If the file is damaged, or missing, read the one before it that `write_tensors` kept, if there is one, with a
        RuntimeWarning that says so.
    sealed : bool
        Refuse files without a seal, as those of htf 0.1.

    Returns
    -------
    tensors, about : dict

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is damaged, of another format or kind, or has no seal.  The message names it.
    """
    try:
        found = _read_tensors(path, kind, sealed)
    except (ValueError, FileNotFoundError) as error:
        before = previous_of(path)
        if not previous or not before.exists():
            raise
        try:
            found = _read_tensors(before, kind, sealed)
        except ValueError:
            raise error from None
        warnings.warn(f"{error}; the one before it, {before.name}, is used in its place", RuntimeWarning, stacklevel=3)
    else:
        if previous:
            _known_good[path] = _looks(path)
    return found


def previous_of(path: Path) -> Path:
    """Where `write_tensors` keeps the file before: checkpoint.safetensors.previous."""
    return path.with_name(f"{path.name}.previous")


def saved_before(path: Path) -> bool:
    """Whether a file, or the one before it, is there."""
    return path.exists() or previous_of(path).exists()


def remove_saved(path: Path) -> None:
    """Delete a file and the one before it, where they are there."""
    path.unlink(missing_ok=True)
    previous_of(path).unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path`, then rename it there.

    Parameters
    ----------
    path : Path
    write : callable
        Of a path with the same name in a folder of its own; writes that file.

    Raises
    ------
    OSError
        If it cannot be written, of the class that the system raised; what was there is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with _folder_beside(path) as beside:
            partial = beside / path.name
            write(partial)
            # By the umask, as folders are: safetensors writes files that only their owner can read.
            partial.chmod(beside.stat().st_mode & 0o666)
            _sync(partial)
            partial.replace(path)
        _sync(path.parent)
    except Exception as error:
        if not _from_the_system(error):
            raise
        raise _named(error, f"cannot write {path} ({_why(error)}); what was saved before is kept") from error


def check_writable(folder: Path, size: int = 4096) -> None:
    """Make sure that a folder can take files, before hours are spent on what is to be written there.

    Parameters
    ----------
    folder : Path
        Made, with its parents, where it is not there.
    size : int
        Bytes that will be needed, at least.

    Raises
    ------
    OSError
        If nothing can be written there, or the disk has too little room; the message names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _folder_beside(folder / "check") as beside:
            (beside / "check").write_bytes(b"\0" * min(size, 1 << 16))
            _sync(beside / "check")
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free, {size:,} are needed")
    except OSError as error:
        raise _named(
            error, f"cannot write to the folder {folder} ({_why(error)}); what was saved before is kept"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed have left in a folder; those of writers that live stay."""
    if sys.platform == "win32" or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".") and entry.name.endswith(_LEFTOVER)]
    for name in names:
        with suppress(OSError):
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # Writers hold a lock, on whatever machine they are, which ends with them.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder / name, ignore_errors=True)
            finally:
                os.close(descriptor)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A new folder beside a file, for one writer alone, locked until it is gone."""
    while True:
        # Process and thread alone are not unique: containers that share a disk count processes from 1.
        unique = f"{socket.gethostname()[:32]}-{os.getpid()}-{threading.get_ident():x}-{secrets.token_hex(8)}"
        begin = path.name.encode()[:80].decode(errors="ignore")
        folder = path.with_name(f".{begin}.{unique}{_LEFTOVER}")
        folder.mkdir()
        if sys.platform == "win32":
            descriptor = None
            break
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # taken for a leftover before the lock was held, as below
            continue
        with suppress(OSError):  # a file system without locks: there, no one deletes leftovers either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if folder.exists():
            break
        os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk itself."""
    if path.is_dir():
        if sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems do not know it for folders.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def _from_the_system(error: Exception) -> bool:
    """Whether an error comes of disk and folders; libraries in other languages have classes of their own for these."""
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def _why(error: Exception) -> str:
    """Return the system's message without the names of temporary files."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _named(error: Exception, message: str) -> OSError:
    """An error of the same class whose message is the one given."""
    kind = type(error) if isinstance(error, OSError) else OSError
    named = kind(message)
    named.errno = getattr(error, "errno", None)
    return named


def _keep(path: Path, kind: str) -> None:
    """Make the file that is there the one before; a damaged one must not take the place of a good one."""
    if not path.exists():
        return
    if _known_good.get(path) != _looks(path):
        try:
            _read_tensors(path, kind, True)
        except ValueError:
            return
    before = previous_of(path)
    try:
        with _folder_beside(before) as beside:
            # A second name for the same file, so that there is one under the first name at every moment.
            os.link(path, beside / before.name)
            (beside / before.name).replace(before)
    except OSError:  # a file system without second names
        with suppress(OSError):
            path.replace(before)


def _looks(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _read_tensors(path: Path, kind: str | None, sealed: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        text = metadata["about"]
        about = json.loads(text)
        if not isinstance(about, dict):
            raise TypeError(f"what it says of itself is a {type(about).__name__}")
        if set(metadata) - {"about", _SEAL}:
            raise KeyError(f"it has {', '.join(sorted(metadata))}")
        if _SEAL not in metadata:
            if sealed:
                raise KeyError("it carries no checksum, as those of htf 0.1, which cannot be continued")
            return tensors, about
        found, sha256 = _read_seal(path, json.loads(metadata[_SEAL]), kind)
        if _tensor_digest(tensors, text, found) != sha256:
            raise ValueError("its content does not match its checksum")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there") from None
    except _OtherKind:
        raise
    except Exception as error:  # whatever a parser meets in a damaged file
        if isinstance(error, PermissionError | IsADirectoryError):
            raise _named(error, f"cannot read {path} ({error})") from error
        why = error.args[0] if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of this library, or is cut short or damaged ({why})") from error
    return tensors, about


class _OtherKind(ValueError):  # noqa: N818 (an error of its own only within this module)
    """A file that is whole, but not the one that was expected."""


def _read_seal(path: Path, seal: Any, kind: str | None) -> tuple[str, str]:
    """Kind and SHA-256 of a seal; an error if it is none, or of another format or kind."""
    if not isinstance(seal, dict) or set(seal) != {"format", "kind", "sha256"} or not isinstance(seal["kind"], str):
        raise ValueError(f"{path} is damaged: {seal!r} is no seal")
    if type(seal["format"]) is not int or seal["format"] != FORMAT:
        raise _OtherKind(f"{path} has format {seal['format']!r}; this version of htf reads format {FORMAT}")
    if kind is not None and seal["kind"] != kind:
        raise _OtherKind(f"{path} does not hold {kind}; it holds {seal['kind'] or 'something without a name'}")
    return seal["kind"], str(seal["sha256"])


def _json_digest(content: Any, kind: str) -> str:
    text = json.dumps([FORMAT, kind, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _tensor_digest(tensors: dict[str, Tensor], about: str, kind: str) -> str:
    found = hashlib.sha256(json.dumps([FORMAT, kind, about]).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # Flat, as a tensor without axes has no last one to be seen as bytes.
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
