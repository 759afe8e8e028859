"""The embedded engine: polars computes, deltalake commits, all in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from polars.io.plugins import register_io_source

from ...core.contract import Frame, Schema, polars_schema
from ...core.errors import UserError
from . import OvertakenError, RowWise, Snapshot

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COMPLETE_UNTIL = "complete_until"
_CONFIGURATION = {"delta.checkpointInterval": "10"}
_MANY_FILES = 30


@dataclass(frozen=True)
class PolarsEngine:
    """Delta tables by polars and deltalake; rows are staged in local parquet files."""

    storage_options: Mapping[str, str] = field(default_factory=dict)
    batch_rows: int = 50_000

    def open(self, address: str, version: int | None = None) -> Snapshot | None:
        """As `Engine.open`."""
        at = address if version is None else f"{address} at version {version}"
        try:
            delta = DeltaTable(address, version, storage_options=dict(self.storage_options))
        except TableNotFoundError as error:
            if version is None:
                return None
            raise _unreadable(at, error) from None
        except (DeltaError, OSError) as error:
            raise _unreadable(at, error) from None
        columns = tuple(column.name for column in delta.schema().fields)
        return Snapshot(address, delta.version(), columns, _complete_until(delta), delta)

    def scan(self, seen: Snapshot) -> Frame:
        """As `Engine.scan`."""
        files = seen.native.file_uris()
        if files and "%" in files[0] and "://" not in files[0]:
            # deltalake percent-encodes local paths (a space); polars opens them as they stand
            return nw.from_native(pl.scan_parquet([unquote(file) for file in files], glob=False))
        return nw.from_native(
            pl.scan_delta(seen.native, storage_options=dict(self.storage_options))
        )

    def history(self, seen: Snapshot) -> list[dict[str, Any]]:
        """As `Engine.history`."""
        commits: list[dict[str, Any]] = seen.native.history()
        return commits

    def lazy(self, rows: pl.DataFrame) -> Frame:
        """As `Engine.lazy`."""
        return nw.from_native(rows.lazy())

    def collect(self, rows: Frame) -> pl.DataFrame:
        """As `Engine.collect`."""
        return _native(rows).collect()

    def batches(self, rows: Frame, size: int) -> Iterator[pl.DataFrame]:
        """As `Engine.batches`; polars alone takes the size for a wish."""
        for batch in _native(rows).collect_batches(chunk_size=size, maintain_order=True):
            yield from batch.iter_slices(size)

    def map_batches(self, rows: Frame, function: RowWise, schema: Schema) -> Frame:
        """As `Engine.map_batches`."""

        def mapped(
            columns: list[str] | None, predicate: pl.Expr | None, most: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            for batch in self.batches(rows, self.batch_rows):
                made = function(batch)
                if predicate is not None:
                    made = made.filter(predicate)
                if most is not None:
                    made = made.head(most)
                    most -= made.height
                yield made.select(columns) if columns else made
                if most == 0:
                    return

        return nw.from_native(register_io_source(mapped, schema=polars_schema(schema)))

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """As `Engine.without`."""
        left = _native(rows)
        return nw.from_native(left.join(_native(others), on=list(on), how="anti", nulls_equal=True))

    @contextmanager
    def stage(self, rows: Frame) -> Iterator[Frame]:
        """As `Engine.stage`."""
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            path = Path(folder) / "rows.parquet"
            _native(rows).sink_parquet(path)
            yield nw.from_native(pl.scan_parquet(path, glob=False))

    def append(
        self, address: str, staged: Frame, seen: Snapshot | None, until: datetime | None
    ) -> None:
        """As `Engine.append`."""
        how: dict[str, Any] = {"mode": "append"}
        if seen is None:
            how = {"mode": "error", "configuration": _CONFIGURATION}
        with self._writing(address, seen):
            self._write(seen.native if seen else address, staged, until, **how)

    def replace(
        self,
        staged: Frame,
        seen: Snapshot,
        time: str,
        interval: tuple[datetime, datetime],
        until: datetime,
    ) -> None:
        """As `Engine.replace`."""
        start, end = (f"'{moment:%Y-%m-%dT%H:%M:%S.%fZ}'" for moment in interval)
        inside = f"{time} > {start} AND {time} <= {end}"
        with self._writing(seen.address, seen):
            self._write(seen.native, staged, until, mode="overwrite", predicate=inside)

    def merge(
        self, staged: Frame, seen: Snapshot, keys: Sequence[str], until: datetime | None
    ) -> None:
        """As `Engine.merge`."""
        with self._writing(seen.address, seen):
            merger = seen.native.merge(
                _native(staged).collect_batches(),
                predicate=" AND ".join(f"s.{key} = t.{key}" for key in keys),
                source_alias="s",
                target_alias="t",
                commit_properties=_commit_properties(until),
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()

    def compact(self, seen: Snapshot) -> None:
        """As `Engine.compact`."""
        if len(seen.native.file_uris()) > _MANY_FILES:
            with suppress(DeltaError):  # somebody writes meanwhile: another time
                seen.native.optimize.compact()

    def _write(
        self, table: DeltaTable | str, staged: Frame, until: datetime | None, **how: Any
    ) -> None:
        write_deltalake(
            table,
            _native(staged).collect_batches(),
            storage_options=dict(self.storage_options),
            commit_properties=_commit_properties(until),
            **how,
        )

    @contextmanager
    def _writing(self, address: str, seen: Snapshot | None) -> Iterator[None]:
        """Tell whether a write failed because of somebody else's."""
        try:
            yield
        except (DeltaError, OSError) as error:
            if self._moved_on(address, seen):
                message = f"Somebody else wrote {address} at the same time."
                raise OvertakenError(message, "Nothing was committed; run this again.") from None
            raise UserError(
                f"Cannot write {address}: {_first_line(error)}",
                "Nothing was committed; check `lakehouse.root` in conf/ and its permissions.",
            ) from None

    def _moved_on(self, address: str, seen: Snapshot | None) -> bool:
        try:
            now = self.open(address)
        except UserError:
            return False
        return (now.version if now else None) != (seen.version if seen else None)


def _native(rows: Frame) -> pl.LazyFrame:
    native: pl.LazyFrame = rows.to_native()
    return native


def _complete_until(delta: DeltaTable) -> datetime | None:
    recorded = delta.transaction_version(_COMPLETE_UNTIL)
    return None if recorded is None else _EPOCH + recorded * _MICROSECOND


def _commit_properties(until: datetime | None) -> CommitProperties:
    """Of a commit that is refused where somebody else made one meanwhile."""
    done = [Transaction(_COMPLETE_UNTIL, (until - _EPOCH) // _MICROSECOND)] if until else None
    return CommitProperties(max_commit_retries=0, app_transactions=done)


def _unreadable(what: str, error: Exception) -> UserError:
    return UserError(
        f"Cannot read {what}: {_first_line(error)}",
        "Restore it, or remove its folder to rebuild it.",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
