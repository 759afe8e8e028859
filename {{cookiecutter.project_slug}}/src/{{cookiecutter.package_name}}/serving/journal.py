"""The request log on the local disk: a line is written before its answer leaves.

A worker appends to a segment that it holds a lock on. When it moves on to the next, or dies, the
lock is gone and the segment is complete; a last line without its end was never answered for.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from ..core.errors import UserError

SUFFIX = ".jsonl"
_SEGMENT_BYTES = 8 * 2**20


class JournalFullError(UserError):
    """There is no room for another line."""


class Journal:
    """The segments that one worker writes."""

    def __init__(self, folder: Path, max_bytes: int, max_seconds: float) -> None:
        """Nothing is written yet.

        Args:
            folder: Is made; workers and shipper share it.
            max_bytes: Of all segments that wait there, before lines are refused.
            max_seconds: How long a segment with lines stays open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._file = -1
        self._size = 0
        self._opened = 0.0
        self.waiting = waiting_bytes(folder)  # of all segments but the open one

    def write(self, lines: bytes) -> None:
        """Append whole lines: all of them or, where it raises, none.

        Raises:
            JournalFullError: The disk is full, or too much waits to be shipped.
        """
        self.require_room(len(lines))
        try:
            if self._file < 0:
                self._open()
            written = os.write(self._file, lines)
        except OSError as error:
            self._take_back()
            raise self._full(str(error.strerror)) from None
        if written < len(lines):
            self._take_back()
            raise self._full("the disk is full")
        self._size += len(lines)
        if self._size > _SEGMENT_BYTES:
            self.close()

    def require_room(self, size: int = 0) -> None:
        """Refuse what would make the log larger than it may be.

        Raises:
            JournalFullError: Too much waits to be shipped.
        """
        if self.waiting + self._size + size >= self._max_bytes:
            message = f"The request log in {self._folder} holds {self._max_bytes:,} bytes."
            raise JournalFullError(message, "Make Delta reachable: what waits is then shipped.")

    def tick(self) -> None:
        """Move on where the segment is old; look how much waits."""
        if self._size and time.monotonic() - self._opened > self._max_seconds:
            self.close()
        self.waiting = waiting_bytes(self._folder) - self._size

    def close(self) -> None:
        """Let go of the segment; the next line begins another."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = -1, 0

    def _open(self) -> None:
        name = f"{time.time_ns():020}-{os.getpid()}"
        hidden, path = self._folder / f".{name}", self._folder / f"{name}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        file = os.open(hidden, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            hidden.rename(path)  # nobody sees it without its lock
        except OSError:
            os.close(file)
            raise
        self._file, self._size, self._opened = file, 0, time.monotonic()

    def _take_back(self) -> None:
        """Cut off what was written of a line; what cannot be cut off is its segment's end."""
        if self._file >= 0:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self.close()

    def _full(self, reason: str) -> JournalFullError:
        message = f"The request log in {self._folder} cannot be written: {reason}."
        return JournalFullError(message, "Make room on the disk.")


def waiting_bytes(folder: Path) -> int:
    """Bytes of all segments, open ones among them."""
    total = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # shipped meanwhile
            continue
    return total


def is_complete(path: Path) -> bool:
    """Whether nobody writes a segment any more."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
