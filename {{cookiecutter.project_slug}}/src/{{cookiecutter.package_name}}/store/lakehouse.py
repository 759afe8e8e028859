"""Delta tables: the few verbs that pipelines need, with schema and keys enforced at the write.

A write is staged to a local parquet file, checked there, then made by one Delta commit: a killed
process leaves the table as it was. With its rows a commit records *until* when the table is complete
(a Delta application transaction); that is how a rerun knows what is done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import narwhals as nw
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from ..core.contract import Frame, Table
from ..core.errors import UserError

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_COMPLETE_UNTIL = "complete_until"
_NEW: dict[str, Any] = {"mode": "error", "configuration": {"delta.checkpointInterval": "10"}}
_MANY_FILES, _ATTEMPTS = 30, 10


class OvertakenError(UserError):
    """Somebody else wrote the table first; nothing was committed."""


@dataclass(frozen=True)
class Lakehouse:
    """The tables of an environment, under `root`; tables that match a mount are only read, there."""

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

    def scan(self, table: Table, version: int | None = None) -> Frame:
        """Rows of a table at a version (default: newest), lazily; none where it was never written.

        Raises:
            UserError: No such version, not readable as a Delta table, or without a declared column.
        """
        delta = self._open(table)
        if delta and version is not None:
            try:
                delta.load_as_version(version)
            except (DeltaError, OSError) as error:
                raise _unreadable(f"{self.place(table.name)} at version {version}", error) from None
        return self._rows(table, delta)

    def _rows(self, table: Table, delta: DeltaTable | None) -> Frame:
        if delta is None:
            return nw.from_native(table.empty())
        held = {field.name for field in delta.schema().fields}
        if missing := [name for name in table.schema if name not in held]:
            message = (
                f"{self.place(table.name)} has no column {', '.join(missing)}, which is declared."
            )
            raise UserError(
                message, "Remove its folder to rebuild it, or take back the declaration."
            )
        return nw.from_native(self._scan_files(delta).select(*table.schema))

    def version(self, table: Table) -> int | None:
        """Newest Delta version; None where the table was never written."""
        delta = self._open(table)
        return delta.version() if delta else None

    def count(self, table: Table) -> int:
        """Rows of the newest version."""
        return int(self.scan(table).select(nw.len()).collect().item())

    def history(self, table: Table) -> list[dict[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""
        delta = self._open(table)
        return delta.history() if delta else []

    def complete_until(self, table: Table) -> datetime | None:
        """The newest `until` that a write recorded; None before the first."""
        return _complete_until(self._open(table))

    def require(self, table: Table, as_of: datetime) -> None:
        """Refuse to build on a table that is not complete until `as_of`.

        Raises:
            UserError: The step that writes it has not run for this as-of.
        """
        done = self.complete_until(table)
        if done is None or done < as_of:
            state = f"complete until {done:%Y-%m-%d %H:%M} only" if done else "not there yet"
            raise UserError(
                f"{table.name} is {state}, but needed until {as_of:%Y-%m-%d %H:%M} (UTC).",
                "Run the steps before this one with the same --as-of, or `run` for all.",
            )

    def append(self, table: Table, rows: Frame, until: datetime) -> int:
        """Add the rows that became known up to `until`, once; returns the rows written.

        Raises:
            UserError: A table that is not ours, wrong schema, bad keys, or an unwritable root.
        """
        seen = self._open(table)
        done = _complete_until(seen)
        if done is not None and done >= until:
            return 0
        with self._staged(table, rows) as staged:
            self._commit(table, staged, seen, until)
            return _count(staged)

    def append_if_unchanged(self, table: Table, rows: Frame, version: int | None) -> bool:
        """Add rows if the table is still at `version` (None: not there yet); False: somebody was first.

        Raises:
            UserError: As `append`.
        """
        with self._staged(table, rows) as staged:
            try:
                write_deltalake(
                    self.place(table.name) if version is None else self._at(table, version),
                    pl.scan_parquet(staged).collect_batches(),
                    **(_NEW if version is None else {"mode": "append"}),
                    storage_options=dict(self.storage_options),
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            except (DeltaError, OSError):
                if self.version(table) == version:
                    raise
                return False
            return True

    def overwrite(self, table: Table, rows: Frame, since: datetime | None, until: datetime) -> int:
        """Replace what the table holds in `(since, until]` of its time by `rows`; returns the rows written.

        Raises:
            UserError: As `append`; also a row outside the interval.
        """
        seen, start = self._open(table), since or datetime(1, 1, 1, tzinfo=UTC)
        inside = (pl.col(table.time) > start) & (pl.col(table.time) <= until)
        with self._staged(table, rows) as staged:
            if stray := pl.scan_parquet(staged).filter(~inside).select(pl.len()).collect().item():
                message = (
                    f"{table.name}: {stray} rows have `{table.time}` outside ({since}, {until}]."
                )
                raise UserError(message, "Nothing was committed; write rows of the interval only.")
            bounds = (
                f"{table.time} {sign} '{at:%Y-%m-%dT%H:%M:%S.%fZ}'"
                for sign, at in ((">", start), ("<=", until))
            )
            self._commit(table, staged, seen, until, replace=" AND ".join(bounds))
            return _count(staged)

    def merge(
        self, table: Table, rows: Frame, until: datetime | None = None, *, update: bool = True
    ) -> int:
        """Insert rows with new keys, update those whose values changed unless told not to; returns how many.

        Nothing is committed where nothing changed and `until` did not move on. Of two who merge at once
        one is overtaken and looks again, so that no row comes twice.

        Raises:
            UserError: As `append`.
        """
        self._accept(table, rows)
        for _ in range(_ATTEMPTS - 1):
            with suppress(OvertakenError):
                return self._merge(table, rows, until, update=update)
        return self._merge(table, rows, until, update=update)

    def _merge(self, table: Table, rows: Frame, until: datetime | None, *, update: bool) -> int:
        seen, new = self._open(table), rows.to_native()
        existing = self._rows(table, seen).to_native()
        if table.time in table.keys:
            time = pl.col(table.time)
            low, high = (
                new.select(time.min().alias("low"), time.max().alias("high")).collect().row(0)
            )
            existing = existing.filter(time.is_between(low, high))
        same = list(table.schema if update else table.keys)
        changed = new.join(existing, on=same, how="anti", nulls_equal=True)
        with self._staged(table, nw.from_native(changed)) as staged:
            count, done, staged_keys = (
                _count(staged),
                _complete_until(seen),
                pl.scan_parquet(staged),
            )
            if (
                seen
                and not existing.join(staged_keys, on=list(table.keys), how="semi")
                .head(1)
                .collect()
                .is_empty()
            ):
                self._update(table, staged, seen, until)
            elif count or (until is not None and (done is None or done < until)):
                self._commit(table, staged, seen, until)
            return count

    def compact(self, table: Table) -> None:
        """Join the files of a table that many small commits have left; its rows stay as they are."""
        delta = self._open(table)
        if delta and len(delta.file_uris()) > _MANY_FILES:
            with suppress(DeltaError):  # somebody writes meanwhile: another time
                delta.optimize.compact()

    def _open(self, table: Table) -> DeltaTable | None:
        try:
            return self._at(table)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise _unreadable(self.place(table.name), error) from None

    def _at(self, table: Table, version: int | None = None) -> DeltaTable:
        return DeltaTable(
            self.place(table.name), version, storage_options=dict(self.storage_options)
        )

    def _scan_files(self, delta: DeltaTable) -> pl.LazyFrame:
        """Scan a table; deltalake percent-encodes local paths (a space), polars opens them as they stand."""
        files = delta.file_uris()
        if files and "%" in files[0] and "://" not in files[0]:
            return pl.scan_parquet([unquote(file) for file in files], glob=False)
        return pl.scan_delta(delta, storage_options=dict(self.storage_options))

    def _accept(self, table: Table, rows: Frame) -> None:
        """Refuse what must not be written: another environment's table, other columns than declared."""
        if not self.owns(table.name):
            raise UserError(
                f"{table.name} is read from {self.place(table.name)}, which is read-only here.",
                "Run this step in the environment that owns it, or remove the mount in conf/.",
            )
        if wrong := _schema_difference(rows.collect_schema(), nw.Schema(table.schema)):
            raise UserError(
                f"{table.name}: {wrong}.", "Nothing was committed; match the declared schema."
            )

    @contextmanager
    def _staged(self, table: Table, rows: Frame) -> Iterator[Path]:
        """Stream rows into a local parquet file and enforce the table's declaration on it."""
        self._accept(table, rows)
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as folder:
            path = Path(folder) / "rows.parquet"
            rows.select(*table.schema).to_native().sink_parquet(path)
            _enforce_keys(table, pl.scan_parquet(path))
            yield path

    def _commit(
        self,
        table: Table,
        staged: Path,
        seen: DeltaTable | None,
        until: datetime | None,
        replace: str | None = None,
    ) -> None:
        """Write on the table as `seen`."""
        how: dict[str, Any] = (
            {"mode": "overwrite", "predicate": replace} if seen and replace else {"mode": "append"}
        )
        with self._writing(table, seen):
            write_deltalake(
                seen or self.place(table.name),
                pl.scan_parquet(staged).collect_batches(),
                **(how if seen else _NEW),
                storage_options=dict(self.storage_options),
                commit_properties=_commit_properties(until),
            )

    def _update(self, table: Table, staged: Path, seen: DeltaTable, until: datetime | None) -> None:
        with self._writing(table, seen):
            seen.merge(
                pl.scan_parquet(staged).collect_batches(),
                predicate=" AND ".join(f"s.{key} = t.{key}" for key in table.keys),
                source_alias="s",
                target_alias="t",
                commit_properties=_commit_properties(until),
            ).when_matched_update_all().when_not_matched_insert_all().execute()

    @contextmanager
    def _writing(self, table: Table, seen: DeltaTable | None) -> Iterator[None]:
        """A write on the table as `seen`; of two, one is refused."""
        version = seen.version() if seen else None
        try:
            yield
        except (DeltaError, OSError) as error:
            now = version
            with suppress(UserError):
                now = self.version(table)
            if now != version:
                message = f"Somebody else wrote {self.place(table.name)} at the same time."
                raise OvertakenError(message, "Nothing was committed; run this again.") from None
            raise UserError(
                f"Cannot write {self.place(table.name)}: {_first_line(error)}",
                "Nothing was committed; check `lakehouse.root` in conf/ and its permissions.",
            ) from None


def _count(staged: Path) -> int:
    return int(pl.scan_parquet(staged).select(pl.len()).collect().item())


def _schema_difference(found: nw.Schema, wanted: nw.Schema) -> str:
    missing = [f"missing column {name}" for name in wanted if name not in found]
    extra = [f"undeclared column {name}" for name in found if name not in wanted]
    retyped = [
        f"{name} is {found[name]}, declared {kind}"
        for name, kind in wanted.items()
        if found.get(name, kind) != kind
    ]
    return "; ".join(missing + extra + retyped)


def _enforce_keys(table: Table, rows: pl.LazyFrame) -> None:
    if not table.keys:
        return
    keys = rows.select(*table.keys)
    nulls = keys.filter(pl.any_horizontal(pl.all().is_null()))
    repeated = keys.group_by(pl.all()).len().filter(pl.col("len") > 1).drop("len")
    for problem, bad in zip(
        ("null", "repeated"), pl.collect_all([nulls.head(1), repeated.head(1)]), strict=True
    ):
        if not bad.is_empty():
            raise UserError(
                f"{table.name}: {problem} key {bad.row(0, named=True)}.",
                "Nothing was committed; mend the rows.",
            )


def _complete_until(delta: DeltaTable | None) -> datetime | None:
    recorded = delta.transaction_version(_COMPLETE_UNTIL) if delta else None
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
