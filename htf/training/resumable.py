"""Training that survives interrupts, kills and crashes: checkpoints, and how a run goes on from one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from htf._files import check_writable, read_tensors, saved_before, write_tensors
from htf._folders import CLAIM, Folder, read_claim
from htf._version import __version__

CHECKPOINT, CHECKPOINT_KIND = "checkpoint.safetensors", "a checkpoint"


class Resumable(ABC):
    """A computation that advances unit by unit and can go on from a file as if nothing had happened.

    Attributes
    ----------
    checkpoint : Path or None
        File to save the state to.
    about : dict of dict
        What the computation is, in named parts, as JSON can hold it; a checkpoint that differs is refused, and so is
        one of another version of the library.
    claim : Folder or None
        The folder of the run, if it has one: it is locked while the run goes on.
    """

    checkpoint: Path | None
    about: dict[str, dict[str, Any]]
    claim: Folder | None = None
    _between_units = True

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def advance(self) -> None:
        """Do one unit: an epoch, or a step."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that changes: tensors, and what JSON can hold."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `state`."""

    def begun_alike(self, start: str, state: dict[str, Any]) -> str:
        """The digest of the parameters that the checkpoint's computation began at, if this one begins there too.

        Parameters
        ----------
        start : str
            Digest of this one's parameters: as they were built, or, in the same session, as an interrupt left them.
        state : dict
            Of the checkpoint, with the digests "start" and "now" of its parameters.

        Raises
        ------
        ValueError
            If it began at others.
        """
        if start not in (state["start"], state["now"]):
            raise ValueError(
                f"{self.checkpoint} was written by a training that began at other parameters: another seed or "
                "initialization"
            )
        begun: str = state["start"]
        return begun

    def run_to_end(self, on_advance: Callable[[], None] | None = None, save_every: float = 20.0) -> None:
        """Advance to the end, saving a checkpoint now and then.

        Parameters
        ----------
        on_advance : callable, optional
            Called after each unit.
        save_every : float
            Seconds between checkpoints.  One is also saved on an interrupt, before it is raised again.

        Raises
        ------
        KeyboardInterrupt
            At the end of the unit in which it came, or at once if it comes twice; then the last checkpoint stands.
        OSError
            If the checkpoint could not be written: on a disk that is full or read-only before anything is computed.
        BlockingIOError
            If another process writes to the run's folder; the message names it.
        """
        if self.finished:
            return
        try:
            with self.writing():
                if self.checkpoint is not None:
                    check_writable(self.checkpoint.parent)
                self._advance_to_end(on_advance, save_every)
        except BaseException:
            # What leaves no trace leaves the folder free for what does.
            if self.claim is not None:
                self.claim.forget()
            raise

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock of the run's folder, if there is one, while a block writes there."""
        return nullcontext() if self.claim is None else self.claim.locked()

    def _advance_to_end(self, on_advance: Callable[[], None] | None, save_every: float) -> None:
        saved = time.monotonic()
        try:
            with _held_back_interrupts() as interrupted:
                while not self.finished:
                    self._between_units = False
                    self.advance()
                    self._between_units = True
                    if self.checkpoint is not None and time.monotonic() - saved > save_every:
                        self.save()
                        saved = time.monotonic()
                    if on_advance is not None:
                        on_advance()
                    if interrupted():
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            # Inside a unit the state is that of no moment: the last saved one stands.
            if self._between_units and self.checkpoint is not None:
                self.save()
            raise

    def save(self) -> None:
        """Write the checkpoint, beside, then rename; the one that was there is kept as the previous one.

        Raises
        ------
        OSError
            If it cannot be written; what was saved before is kept.
        """
        if self.checkpoint is None:
            raise ValueError("there is no file to save to: checkpoint is None")
        tensors, state = self.state()
        about = {"versions": {"htf": __version__}, **self.about, "state": state}
        write_tensors(self.checkpoint, tensors, about, CHECKPOINT_KIND, keep_previous=True)

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; from the previous one, with a warning, if that is damaged.

        Returns
        -------
        bool
            Whether there was.

        Raises
        ------
        ValueError
            If the file was written by something else, naming what differs, or is damaged, and so is the previous one;
            it is kept.

        Warns
        -----
        RuntimeWarning
            If the checkpoint is damaged and the previous one takes its place.
        """
        if self.checkpoint is None or not saved_before(self.checkpoint):
            return False
        tensors, about = read_tensors(self.checkpoint, CHECKPOINT_KIND, previous=True)
        # Through JSON's eyes: tuples come back as lists.
        _check_version(self.checkpoint, about)
        for part, mine in json.loads(json.dumps(self.about)).items():
            theirs = about.get(part)
            if not isinstance(theirs, dict):
                raise ValueError(f"{self.checkpoint} is not a checkpoint of this kind: it says nothing of its {part}")
            for key in {**mine, **theirs}:
                if mine.get(key) != theirs.get(key):
                    raise ValueError(
                        f"{self.checkpoint} was written with {key} = {theirs.get(key)!r}; here it is {mine.get(key)!r}"
                    )
        try:
            self.restore(tensors, about["state"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{self.checkpoint} is not a checkpoint of this fit ({error!r})") from error
        return True


def _check_version(path: Path, about: dict[str, Any]) -> None:
    theirs = about.get("versions")
    if not isinstance(theirs, dict) or not isinstance(theirs.get("htf"), str):
        raise ValueError(f"{path} is not a checkpoint of this kind: it says nothing of its versions")
    if theirs["htf"] != __version__:
        raise ValueError(
            f"{path} was written by htf {theirs['htf']}; this is htf {__version__}, with which the rest may come out "
            f"otherwise.  Go on with htf {theirs['htf']} for the same numbers, or with this one after "
            f"htf.training.adopt({str(path)!r})"
        )


def adopt(path: str | os.PathLike[str]) -> list[Path]:
    """Let trainings of another version of htf go on with this one.

    A training that goes on with the version that began it ends with the same numbers, bit for bit.  Between versions
    that is not promised, so a checkpoint of another one is refused, until it is adopted.

    Parameters
    ----------
    path : str or Path
        A checkpoint, the folder of a training, or one of many such folders.

    Returns
    -------
    list of Path
        The checkpoints that were of another version, adopted now.  Each says in its description who wrote it.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If a checkpoint is damaged, or of a format that this version does not read; it is kept.
    BlockingIOError
        If a training goes on in a folder.

    See Also
    --------
    htf.training.Training.run : goes on from a checkpoint.

    Notes
    -----
    What a training keeps may differ between versions too.  Then it is refused when it goes on, and kept.  The folder of
    a probe is that of one version for good, as its table compares fits.

    Examples
    --------
    >>> import tempfile, htf
    >>> problem = htf.datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=150)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = htf.training.fit(htf.nn.CPNetwork((6, 6, 6), 3, seed=0), problem, steps=10, out=folder)
    ...     htf.training.adopt(folder)  # nothing to do, as it is of this version
    []
    """
    paths = [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob(CHECKPOINT))
    if not paths:
        raise FileNotFoundError(f"{path} holds no {CHECKPOINT}; expected the folder of a training")
    adopted = []
    for file in paths:
        claimed = (file.parent / CLAIM).exists()
        with Folder(file.parent, *read_claim(file.parent), None).locked() if claimed else nullcontext():
            tensors, about = read_tensors(file, CHECKPOINT_KIND)
            versions = about.get("versions")
            if not isinstance(versions, dict) or versions.get("htf") == __version__:
                continue
            written = [*versions.get("written_by", []), versions.get("htf")]
            about["versions"] = {"htf": __version__, "written_by": written}
            write_tensors(file, tensors, about, CHECKPOINT_KIND, keep_previous=True)
            adopted.append(file)
    return adopted


@contextmanager
def _held_back_interrupts() -> Iterator[Callable[[], bool]]:
    """Collect an interrupt until it is asked for; a second one is raised at once.

    Where another handler is set, or outside the main thread, which cannot set one, interrupts come as ever.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: False
        return
    came = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
