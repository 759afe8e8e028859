"""The embedded engine: polars computes, deltalake commits; rows stream through local files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import narwhals as nw
import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from ...core.contract import Frame, Schema, polars_schema
from . import delta
from .base import Interval, Snapshot

_NEW_TABLE: dict[str, Any] = {"mode": "error", "configuration": delta.NEW_TABLE}


@dataclass(frozen=True)
class PolarsEngine(delta.DeltaLog):
    """Lazy frames of polars over Delta tables; `storage_options` as Delta's library has them."""

    storage_options: Mapping[str, str] = field(default_factory=dict)

    def frame(self, rows: pl.DataFrame) -> Frame:
        """Rows in memory as a frame."""
        return nw.from_native(rows.lazy())

    def adopt(self, frame: Frame) -> Frame:
        """A frame that a source gave, as one of this engine."""
        return frame

    def collect(self, frame: Frame) -> pl.DataFrame:
        """What is small by nature, in memory."""
        return _native(frame).collect()

    def batches(self, frame: Frame, rows: int) -> Iterator[pl.DataFrame]:
        """A frame in its order, so many rows at a time."""
        yield from _native(frame).collect_batches(chunk_size=rows, maintain_order=True)

    def map_batches(
        self, frame: Frame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Schema
    ) -> Frame:
        """Apply a function to the rows of a frame, some at a time; it must treat each row alone."""
        mapped = _native(frame).map_batches(
            function,
            predicate_pushdown=False,
            projection_pushdown=False,
            schema=polars_schema(schema),
            streamable=True,
        )
        return nw.from_native(mapped)

    def each_row(self, frame: Frame, function: Callable[[Frame], Frame]) -> Frame:
        """Apply a function that treats each row alone; it is given frames of polars."""
        return function(frame)

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """Rows that agree with none of the others in the columns `on`; two nulls agree."""
        other = _native(others).select(on)
        left = _native(rows).join(other, on=list(on), how="anti", nulls_equal=True)
        return nw.from_native(left)

    def scan(self, snapshot: Snapshot, columns: Sequence[str]) -> Frame:
        """Rows of a table."""
        table: DeltaTable = snapshot.handle
        files = table.file_uris()
        # deltalake percent-encodes local paths (a space), polars opens them as they stand.
        if files and "%" in files[0] and "://" not in files[0]:
            rows = pl.scan_parquet([unquote(file) for file in files], glob=False)
        else:
            rows = pl.scan_delta(table, storage_options=self._options_of_polars)
        return nw.from_native(rows.select(columns))

    @contextmanager
    def stage(self, rows: Frame) -> Iterator[Frame]:
        """Compute rows once and keep them, in a local file, for the time of a write."""
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            path = Path(folder) / "rows.parquet"
            _native(rows).sink_parquet(path)
            yield nw.from_native(pl.scan_parquet(path))

    def append(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Add rows, and record the number of a batch by its writer."""
        self._write(place, staged, seen, until, {"mode": "append"}, batches)

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
        how = {"mode": "overwrite", "predicate": delta.inside(column, interval)}
        self._write(place, staged, seen, until, how)

    def merge(
        self,
        staged: Frame,
        seen: Snapshot,
        keys: Sequence[str],
        until: datetime | None,
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Update rows whose keys are there, add the others."""
        table: DeltaTable = seen.handle
        with delta.committing(seen.place, seen, self.storage_options):
            merging = table.merge(
                _native(staged).collect_batches(),
                predicate=" AND ".join(f"s.{name} = t.{name}" for name in map(delta.quoted, keys)),
                source_alias="s",
                target_alias="t",
                commit_properties=delta.commit_properties(until, batches),
            )
            merging.when_matched_update_all().when_not_matched_insert_all().execute()

    def compact(self, place: str) -> None:
        """Join the files that many small commits have left; the rows stay as they are."""
        snapshot = self.open(place)
        if snapshot and delta.has_many_files(snapshot):
            with suppress(DeltaError):  # somebody writes meanwhile: another time
                snapshot.handle.optimize.compact()

    @property
    def _options_of_polars(self) -> dict[str, Any]:
        """As Delta's library has them, but that a number is one."""
        options: dict[str, Any] = dict(self.storage_options)
        if "max_retries" in options:
            options["max_retries"] = int(options["max_retries"])
        return options

    def _write(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        how: Mapping[str, Any],
        batches: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        with delta.committing(place, seen, self.storage_options):
            write_deltalake(
                seen.handle if seen else place,
                _native(staged).collect_batches(),
                **(how if seen else _NEW_TABLE),
                storage_options=dict(self.storage_options),
                commit_properties=delta.commit_properties(until, batches),
            )


def _native(frame: Frame) -> pl.LazyFrame:
    rows: pl.LazyFrame = frame.to_native()
    return rows
