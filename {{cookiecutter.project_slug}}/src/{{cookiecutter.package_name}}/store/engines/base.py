"""What an engine must do: hold frames, and read and write Delta tables in single commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import polars as pl

from ...core.contract import Frame, Schema

COMMIT = "_commit_version"
"""Column that says which commit added a row."""
COMMITTED_AT = "_commit_timestamp"
"""Column that says when that was, in UTC."""
Interval = tuple[datetime, datetime]
"""`(since, until]`, UTC."""


class StorageError(Exception):
    """A table that cannot be read or written; the text is the reason, in a line."""


class OvertakenError(StorageError):
    """Somebody else wrote the table first; nothing was committed."""


@dataclass(frozen=True)
class Snapshot:
    """A table as it was when it was opened. What is written next is written on this version."""

    place: str
    version: int
    columns: Sequence[str]
    complete_until: datetime | None  # the newest `until` that a commit recorded
    handle: Any  # of the engine


class Engine(Protocol):
    """Frames and Delta tables.

    Every write is one commit on a snapshot (None: a new table). It raises `OvertakenError` where
    the table has moved on since, and `StorageError` where the storage refuses.
    """

    def frame(self, rows: pl.DataFrame) -> Frame:
        """Rows in memory as a frame."""

    def adopt(self, frame: Frame) -> Frame:
        """A frame that a source gave, as one of this engine."""

    def collect(self, frame: Frame) -> pl.DataFrame:
        """What is small by nature, in memory."""

    def batches(self, frame: Frame, rows: int) -> Iterator[pl.DataFrame]:
        """A frame in its order, so many rows at a time."""

    def map_batches(
        self, frame: Frame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Schema
    ) -> Frame:
        """Apply a function to the rows of a frame, some at a time; it must treat each row alone."""

    def each_row(self, frame: Frame, function: Callable[[Frame], Frame]) -> Frame:
        """Apply a function that treats each row alone; it is given frames of polars."""

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """Rows that agree with none of the others in the columns `on`; two nulls agree."""

    def open(self, place: str, version: int | None = None) -> Snapshot | None:
        """A table at a version, by default the newest; None where there is no table."""

    def scan(self, snapshot: Snapshot, columns: Sequence[str]) -> Frame:
        """Rows of a table."""

    def only_grew(self, snapshot: Snapshot, version: int, column: str, moment: datetime) -> bool:
        """Whether all that changed since a version is new rows whose `column` is after a moment.

        False where that cannot be told.
        """

    def identity(self, snapshot: Snapshot) -> str:
        """What tells a table from one that is made anew in its place."""

    def create_feed(self, place: str, columns: pl.DataFrame) -> None:
        """Make a table without rows that tells which rows each commit adds."""

    def appended(self, snapshot: Snapshot, first: int, last: int) -> pl.DataFrame:
        """Rows that the commits from `first` to `last` added, with `COMMIT` and `COMMITTED_AT`."""

    def stage(self, rows: Frame) -> AbstractContextManager[Frame]:
        """Compute rows once and keep them for the time of a write."""

    def last_batch(self, snapshot: Snapshot, writer: str) -> int:
        """Number of the newest batch of a writer that a commit recorded; 0: none."""

    def append(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Add rows, and record the number of a batch by its writer."""

    def replace(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        column: str,
        interval: Interval,
        until: datetime,
    ) -> None:
        """Replace the rows whose `column` lies in the interval; the table is complete `until`."""

    def merge(
        self,
        staged: Frame,
        seen: Snapshot,
        keys: Sequence[str],
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Update rows whose keys are there, add the others; record as `append` does.

        `until` or one batch is recorded, not both.
        """

    def history(self, place: str) -> list[Mapping[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""

    def compact(self, place: str) -> None:
        """Join the files that many small commits have left; the rows stay as they are."""
