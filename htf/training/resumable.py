"""Training that survives interrupts, kills and crashes: checkpoints, and how a run goes on from one."""

from __future__ import annotations

import json
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
from htf._folders import Folder
from htf._version import __version__

CHECKPOINT_KIND = "a checkpoint"
_VERSION: dict[str, dict[str, Any]] = {"versions": {"htf": __version__}}


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
        about = {**_VERSION, **self.about, "state": state}
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
        for part, mine in json.loads(json.dumps(_VERSION | self.about)).items():
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
