"""What a lakehouse asks of whatever reads and writes its tables, so that it can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from ...core.contract import Frame, Schema
from ...core.errors import UserError

RowWise = Callable[[pl.DataFrame], pl.DataFrame]
"""Turns a batch of rows into another; a row's result must not depend on the batch that it is in."""


class OvertakenError(UserError):
    """Somebody else wrote the table first; nothing was committed."""


@dataclass(frozen=True)
class Snapshot:
    """A Delta table as it stood when it was opened; good for any number of reads and one write."""

    address: str
    version: int
    columns: tuple[str, ...]
    complete_until: datetime | None  # newest `until` of a write
    native: Any = field(repr=False, compare=False)  # the engine's own handle


class Engine(Protocol):
    """Reads and writes Delta tables, each named by the address of its folder.

    `scan`, `lazy`, `map_batches`, `without` and `stage` give narwhals frames of one kind, which can be
    joined with each other. Every write is one Delta commit on the table as `seen` (None: it is not there
    yet) and is refused where somebody else committed meanwhile. `until` is recorded in the same commit.

    Every method that takes an address or a snapshot raises `UserError` for a table that cannot be read
    or written; a write that came second raises `OvertakenError`.
    """

    def open(self, address: str, version: int | None = None) -> Snapshot | None:
        """The table at a version (default: newest); None where it was never written."""
        ...

    def scan(self, seen: Snapshot) -> Frame:
        """Its rows."""
        ...

    def history(self, seen: Snapshot) -> list[dict[str, Any]]:
        """Its commits, newest first: version, timestamp, operation and its metrics."""
        ...

    def lazy(self, rows: pl.DataFrame) -> Frame:
        """A few rows from memory."""
        ...

    def collect(self, rows: Frame) -> pl.DataFrame:
        """Rows that fit into memory."""
        ...

    def batches(self, rows: Frame, size: int) -> Iterator[pl.DataFrame]:
        """Rows in order, at most `size` at a time."""
        ...

    def map_batches(self, rows: Frame, function: RowWise, schema: Schema) -> Frame:
        """Apply a function to rows, batch by batch, when they are needed; `schema` is what it returns."""
        ...

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """The rows that equal none of the others in the columns `on`; null equals null."""
        ...

    def stage(self, rows: Frame) -> AbstractContextManager[Frame]:
        """Compute rows once, out of memory, to be read several times until the context ends."""
        ...

    def append(
        self, address: str, staged: Frame, seen: Snapshot | None, until: datetime | None
    ) -> None:
        """Add rows; creates the table."""
        ...

    def replace(
        self,
        staged: Frame,
        seen: Snapshot,
        time: str,
        interval: tuple[datetime, datetime],
        until: datetime,
    ) -> None:
        """Replace what the table holds in the interval (start, end] of its time column by rows."""
        ...

    def merge(
        self, staged: Frame, seen: Snapshot, keys: Sequence[str], until: datetime | None
    ) -> None:
        """Update the rows with the same keys, insert the others."""
        ...

    def compact(self, seen: Snapshot) -> None:
        """Join many small files; does nothing where somebody else writes at the same time."""
        ...
