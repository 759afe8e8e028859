"""Delta tables: the few verbs that pipelines need, with schema and keys enforced at the write.

A write is staged to a local parquet file first, checked there, then committed by one Delta commit:
a killed process leaves the table as it was. Together with its rows a commit may record *until* when
the table is complete (a Delta application transaction); that is how a rerun knows what is done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import narwhals as nw
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from .contract import Table
from .errors import UserError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COMPLETE_UNTIL = "complete_until"


@dataclass(frozen=True)
class Lakehouse:
    """The tables of an environment.

    Args:
        root: Folder or object store address for tables that this environment writes.
        mounts: Table name pattern to a root that is only read (another environment's).
        storage_options: Passed to the object store.
    """

    root: str
    mounts: Mapping[str, str] = field(default_factory=dict)
    storage_options: Mapping[str, str] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """Address of a table's folder."""
        mounted = (root for pattern, root in self.mounts.items() if fnmatch(name, pattern))
        return f"{next(mounted, self.root).rstrip('/')}/{name}"

    def owns(self, name: str) -> bool:
        """Whether this environment may write the table."""
        return not any(fnmatch(name, pattern) for pattern in self.mounts)

    def scan(self, table: Table, version: int | None = None) -> nw.LazyFrame[Any]:
        """Rows of a table, lazily; no rows where it has never been written.

        Args:
            table: What to read.
            version: Delta version; by default the newest.

        Raises:
            UserError: No such version, or the files are not readable as a Delta table.
        """
        try:
            delta = self._open(table.name)
            if delta and version is not None:
                delta.load_as_version(version)
        except (DeltaError, OSError) as error:
            wanted = "" if version is None else f" at version {version}"
            raise UserError(
                f"Cannot read {self.place(table.name)}{wanted}: {_first_line(error)}",
                f"Versions 0 to {self.version(table)} exist."
                if version is not None
                else "Restore the folder from a backup, or delete it and run again.",
            ) from None
        if delta is None:
            schema = nw.Schema(dict(table.schema)).to_polars()
            return nw.from_native(pl.LazyFrame(schema=schema))
        return nw.from_native(self._scan_files(delta).select(*table.schema))

    def version(self, table: Table) -> int | None:
        """Newest Delta version; None where the table has never been written."""
        delta = self._open(table.name)
        return delta.version() if delta else None

    def count(self, table: Table) -> int:
        """Rows of the newest version."""
        counted = self.scan(table).select(nw.len()).collect()
        return int(counted.item())

    def complete_until(self, table: Table) -> datetime | None:
        """The newest `until` that a write recorded; None before the first."""
        delta = self._open(table.name)
        recorded = delta.transaction_version(_COMPLETE_UNTIL) if delta else None
        return None if recorded is None else _EPOCH + recorded * _MICROSECOND

    def require(self, table: Table, as_of: datetime) -> None:
        """Refuse to build on a table that is not complete until `as_of`.

        Raises:
            UserError: The step that writes it has not run for this as-of.
        """
        done = self.complete_until(table)
        if done is None or done < as_of:
            state = f"complete until {done:%Y-%m-%d %H:%M} only" if done else "not there yet"
            raise UserError(
                f"{table.name} is {state}, but is needed until {as_of:%Y-%m-%d %H:%M} (UTC).",
                "Run the steps before this one with the same --as-of, or `run` for all.",
            )

    def history(self, table: Table) -> list[dict[str, Any]]:
        """Commits of a table, newest first: version, timestamp, operation and its metrics."""
        delta = self._open(table.name)
        return delta.history() if delta else []

    def append(self, table: Table, rows: nw.LazyFrame[Any], until: datetime) -> int:
        """Add rows that became known up to `until`, once.

        Returns:
            Rows written; 0 where the table was complete until then already.

        Raises:
            UserError: Not ours to write, wrong schema, null or repeated keys, or unwritable root.
        """
        done = self.complete_until(table)
        if done is not None and done >= until:
            return 0
        with self._staged(table, rows) as staged:
            self._commit(table, staged, "append", until)
            return staged.metadata.num_rows

    def overwrite(
        self, table: Table, rows: nw.LazyFrame[Any], since: datetime | None, until: datetime
    ) -> int:
        """Replace what the table holds in `(since, until]` of its event time by `rows`.

        Returns:
            Rows written.

        Raises:
            UserError: As `append`; also for a row outside the interval.
        """
        start = since or datetime(1, 1, 1, tzinfo=UTC)
        with self._staged(table, rows) as staged:
            scan = pl.scan_parquet(staged.path)
            outside = (pl.col(table.time) <= start) | (pl.col(table.time) > until)
            if stray := scan.filter(outside).select(pl.len()).collect().item():
                raise UserError(
                    f"{table.name}: {stray} rows lie outside ({since}, {until}].",
                    f"Make `{table.time}` fall into the interval that is written.",
                )
            predicate = f"{table.time} > '{start:%Y-%m-%dT%H:%M:%S.%fZ}' AND "
            predicate += f"{table.time} <= '{until:%Y-%m-%dT%H:%M:%S.%fZ}'"
            exists = self._open(table.name) is not None
            mode: Literal["append", "overwrite"] = "overwrite" if exists else "append"
            self._commit(table, staged, mode, until, predicate if exists else None)
            return staged.metadata.num_rows

    def merge(self, table: Table, rows: nw.LazyFrame[Any], until: datetime | None = None) -> int:
        """Insert rows with new keys and update those whose values changed.

        Returns:
            Rows inserted or updated; with 0 nothing is committed unless `until` moved on.

        Raises:
            UserError: As `append`.
        """
        with self._staged(table, rows) as staged:
            existing = self.scan(table).to_native()
            changed = pl.scan_parquet(staged.path).join(
                existing, on=list(table.schema), how="anti", nulls_equal=True
            )
            with self._staged(table, nw.from_native(changed)) as delta_rows:
                count: int = delta_rows.metadata.num_rows
                matched = existing.join(changed, on=list(table.keys), how="semi")
                updates = bool(matched.head(1).collect().height)
                done = self.complete_until(table)
                if updates:
                    self._merge_changed(table, delta_rows, until)
                elif count or (until and (done is None or done < until)):
                    self._commit(table, delta_rows, "append", until)
                return count

    def _scan_files(self, delta: DeltaTable) -> pl.LazyFrame:
        """Scan a table; a local path with a space is spelled out.

        deltalake gives such paths percent-encoded, and polars opens them as they stand.
        """
        files = delta.file_uris()
        if files and "%" in files[0] and "://" not in files[0]:
            return pl.scan_parquet([unquote(file) for file in files], glob=False)
        return pl.scan_delta(delta, storage_options=dict(self.storage_options))

    def _open(self, name: str) -> DeltaTable | None:
        try:
            return DeltaTable(self.place(name), storage_options=dict(self.storage_options))
        except TableNotFoundError:
            return None

    @contextmanager
    def _staged(self, table: Table, rows: nw.LazyFrame[Any]) -> Iterator[_Staged]:
        """Stream rows into a local parquet file and enforce the table's declaration on it."""
        if not self.owns(table.name):
            raise UserError(
                f"{table.name} is read from {self.place(table.name)}, which is read-only here.",
                "Run this step in the environment that owns it, or remove the mount in conf/.",
            )
        found, wanted = rows.collect_schema(), nw.Schema(dict(table.schema))
        if wrong := _schema_difference(found, wanted):
            raise UserError(f"{table.name}: {wrong}", "Make the rows match the declared schema.")
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            path = Path(folder) / "rows.parquet"
            rows.select(*table.schema).to_native().sink_parquet(path)
            _enforce_keys(table, pl.scan_parquet(path))
            yield _Staged(path)

    def _commit(
        self,
        table: Table,
        staged: _Staged,
        mode: Literal["append", "overwrite"],
        until: datetime | None,
        predicate: str | None = None,
    ) -> None:
        with self._writing(table):
            write_deltalake(
                self.place(table.name),
                staged.reader(),
                mode=mode,
                predicate=predicate,
                storage_options=dict(self.storage_options),
                commit_properties=_commit_properties(until),
            )

    def _merge_changed(self, table: Table, staged: _Staged, until: datetime | None) -> None:
        delta = self._open(table.name)
        assert delta is not None, "rows to update exist, so the table does"
        with self._writing(table):
            delta.merge(
                staged.reader(),
                predicate=" AND ".join(f"s.{key} = t.{key}" for key in table.keys),
                source_alias="s",
                target_alias="t",
                commit_properties=_commit_properties(until),
            ).when_matched_update_all().when_not_matched_insert_all().execute()

    @contextmanager
    def _writing(self, table: Table) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError) as error:
            raise UserError(
                f"Cannot write {self.place(table.name)}: {_first_line(error)}",
                "Nothing was committed; check `lakehouse.root` in conf/ and its permissions.",
            ) from None


@dataclass(frozen=True)
class _Staged:
    """Checked rows in a local parquet file."""

    path: Path

    @property
    def metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(self.path)

    def reader(self) -> pa.RecordBatchReader:
        file = pq.ParquetFile(self.path)
        return pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches())


def _schema_difference(found: nw.Schema, wanted: nw.Schema) -> str:
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    retyped = [
        f"{name} is {found[name]}, declared {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    parts = [f"missing column {name}" for name in missing]
    return "; ".join(parts + [f"undeclared column {name}" for name in extra] + retyped)


def _enforce_keys(table: Table, rows: pl.LazyFrame) -> None:
    if not table.keys:
        return
    keys = pl.col(*table.keys)
    nulls = rows.filter(pl.any_horizontal(keys.is_null())).select(*table.keys).head(1).collect()
    repeated = rows.group_by(*table.keys).len().filter(pl.col("len") > 1).head(1).collect()
    for problem, found in (("null", nulls), ("repeated", repeated)):
        if found.height:
            raise UserError(
                f"{table.name}: {problem} key {found.select(*table.keys).row(0, named=True)}.",
                "Nothing was committed; make the keys unique and present.",
            )


def _commit_properties(until: datetime | None) -> CommitProperties | None:
    if until is None:
        return None
    version = (until - _EPOCH) // _MICROSECOND
    return CommitProperties(app_transactions=[Transaction(_COMPLETE_UNTIL, version)])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
