"""The embedded engine: polars computes, deltalake commits; rows stream through local files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import narwhals as nw
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from ...core.contract import Frame, Schema, polars_schema
from .base import Interval, OvertakenError, Snapshot, StorageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Each commit records until when its table is complete, as an application transaction of Delta.
_COMPLETE_UNTIL = "complete_until"
_NEW_TABLE: dict[str, Any] = {
    "mode": "error",
    "configuration": {"delta.checkpointInterval": "10"},
}
_MANY_FILES = 30


@dataclass(frozen=True)
class PolarsEngine:
    """Lazy frames of polars over Delta tables; `storage_options` as Delta's library has them."""

    storage_options: Mapping[str, str] = field(default_factory=dict)

    def frame(self, rows: pl.DataFrame) -> Frame:
        """Rows in memory as a frame."""
        return nw.from_native(rows.lazy())

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

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """Rows that agree with none of the others in the columns `on`; two nulls agree."""
        other = _native(others).select(on)
        left = _native(rows).join(other, on=list(on), how="anti", nulls_equal=True)
        return nw.from_native(left)

    def open(self, place: str, version: int | None = None) -> Snapshot | None:
        """A table at a version, by default the newest; None where there is no table."""
        try:
            table = DeltaTable(place, version, storage_options=dict(self.storage_options))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise StorageError(_reason(error)) from None
        recorded = table.transaction_version(_COMPLETE_UNTIL)
        return Snapshot(
            place=place,
            version=table.version(),
            columns=[column.name for column in table.schema().fields],
            complete_until=None if recorded is None else _EPOCH + recorded * _MICROSECOND,
            handle=table,
        )

    def scan(self, snapshot: Snapshot, columns: Sequence[str]) -> Frame:
        """Rows of a table."""
        table: DeltaTable = snapshot.handle
        files = table.file_uris()
        # deltalake percent-encodes local paths (a space), polars opens them as they stand.
        if files and "%" in files[0] and "://" not in files[0]:
            rows = pl.scan_parquet([unquote(file) for file in files], glob=False)
        else:
            rows = pl.scan_delta(table, storage_options=dict(self.storage_options))
        return nw.from_native(rows.select(columns))

    def only_grew(self, snapshot: Snapshot, version: int, column: str, moment: datetime) -> bool:
        """Whether all that changed since a version is new rows whose `column` is after a moment."""
        try:
            before = self.open(snapshot.place, version)
        except StorageError:  # its log has been cleaned up
            return False
        if before is None:
            return False
        old, new = (_earliest_by_file(item.handle, column) for item in (before, snapshot))
        added = [earliest for path, earliest in new.items() if path not in old]
        return old.keys() <= new.keys() and all(
            earliest is not None and earliest > moment for earliest in added
        )

    @contextmanager
    def stage(self, rows: Frame) -> Iterator[Frame]:
        """Compute rows once and keep them, in a local file, for the time of a write."""
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            path = Path(folder) / "rows.parquet"
            _native(rows).sink_parquet(path)
            yield nw.from_native(pl.scan_parquet(path))

    def append(
        self, place: str, staged: Frame, seen: Snapshot | None, until: datetime | None
    ) -> None:
        """Add rows."""
        self._write(place, staged, seen, until, {"mode": "append"})

    def replace(
        self, place: str, staged: Frame, seen: Snapshot | None, column: str, interval: Interval
    ) -> None:
        """Replace the rows whose `column` lies in the interval; complete until its end."""
        since, until = interval
        predicate = f"{column} > '{_literal(since)}' AND {column} <= '{_literal(until)}'"
        how = {"mode": "overwrite", "predicate": predicate}
        self._write(place, staged, seen, until, how)

    def merge(
        self, staged: Frame, seen: Snapshot, keys: Sequence[str], until: datetime | None
    ) -> None:
        """Update rows whose keys are there, add the others."""
        table: DeltaTable = seen.handle
        with self._committing(seen.place, seen):
            merging = table.merge(
                _native(staged).collect_batches(),
                predicate=" AND ".join(f"s.{key} = t.{key}" for key in keys),
                source_alias="s",
                target_alias="t",
                commit_properties=_commit_properties(until),
            )
            merging.when_matched_update_all().when_not_matched_insert_all().execute()

    def history(self, place: str) -> list[Mapping[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""
        snapshot = self.open(place)
        return snapshot.handle.history() if snapshot else []

    def compact(self, place: str) -> None:
        """Join the files that many small commits have left; the rows stay as they are."""
        snapshot = self.open(place)
        if snapshot and len(snapshot.handle.file_uris()) > _MANY_FILES:
            with suppress(DeltaError):  # somebody writes meanwhile: another time
                snapshot.handle.optimize.compact()

    def _write(
        self,
        place: str,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        how: Mapping[str, Any],
    ) -> None:
        with self._committing(place, seen):
            write_deltalake(
                seen.handle if seen else place,
                _native(staged).collect_batches(),
                **(how if seen else _NEW_TABLE),
                storage_options=dict(self.storage_options),
                commit_properties=_commit_properties(until),
            )

    @contextmanager
    def _committing(self, place: str, seen: Snapshot | None) -> Iterator[None]:
        """Tell a write that was overtaken from one that the storage refused."""
        try:
            yield
        except (DeltaError, OSError) as error:
            version = seen.version if seen else None
            now = version
            with suppress(StorageError):
                newest = self.open(place)
                now = newest.version if newest else None
            kind = StorageError if now == version else OvertakenError
            raise kind(_reason(error)) from None


def _earliest_by_file(table: DeltaTable, column: str) -> Mapping[str, datetime | None]:
    """The smallest value of a column in each file, as far as the log tells."""
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    bound = f"min.{column}"
    if bound not in files.columns:
        return dict.fromkeys(files["path"])
    return dict(files.filter(pl.col("num_records") != 0).select("path", bound).iter_rows())


def _native(frame: Frame) -> pl.LazyFrame:
    rows: pl.LazyFrame = frame.to_native()
    return rows


def _commit_properties(until: datetime | None) -> CommitProperties:
    """Of a commit that is refused where somebody else made one meanwhile."""
    if until is None:
        return CommitProperties(max_commit_retries=0)
    done = Transaction(_COMPLETE_UNTIL, (until - _EPOCH) // _MICROSECOND)
    return CommitProperties(max_commit_retries=0, app_transactions=[done])


def _literal(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
