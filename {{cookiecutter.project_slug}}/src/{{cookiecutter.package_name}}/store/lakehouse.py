"""Delta tables: the few verbs that pipelines need, with schema and keys enforced at the write.

Rows are staged outside memory, checked there, then written by one Delta commit: a killed process leaves
the table as it was. With its rows a commit records *until* when the table is complete (a Delta
application transaction); that is how a rerun knows what is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import narwhals as nw
import polars as pl

from ..core.contract import Frame, Schema, Table
from ..core.errors import UserError
from .engines import Engine, OvertakenError, RowWise, Snapshot
from .engines.polars import PolarsEngine

Rows = Frame | pl.DataFrame
"""What can be written: a frame of the lakehouse, or rows in memory."""

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_ATTEMPTS = 10


@dataclass(frozen=True)
class Lakehouse:
    """The tables of an environment, under `root`; tables that match a mount are only read, there."""

    root: str
    mounts: Mapping[str, str] = field(default_factory=dict)
    storage_options: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def engine(self) -> Engine:
        """What reads and writes the tables."""
        return PolarsEngine(self.storage_options)

    def place(self, name: str) -> str:
        """Address of a table's folder."""
        mounted = (root for pattern, root in self.mounts.items() if fnmatch(name, pattern))
        root = next(mounted, self.root)
        return f"{root.rstrip('/')}/{name}"

    def owns(self, name: str) -> bool:
        """Whether this environment may write the table."""
        return not any(fnmatch(name, pattern) for pattern in self.mounts)

    # Reading ----------------------------------------------------------------------------------------

    def scan(self, table: Table, version: int | None = None) -> Frame:
        """Rows of a table at a version (default: newest), lazily; none where it was never written.

        Raises:
            UserError: No such version, not readable as a Delta table, or without a declared column.
        """
        seen = self._open(table)
        if seen and version is not None:
            seen = self.engine.open(self.place(table.name), version)
        return self._rows(table, seen)

    def read(self, table: Table, *conditions: nw.Expr) -> pl.DataFrame:
        """Rows of a small table that meet the conditions, in memory.

        Raises:
            UserError: As `scan`.
        """
        rows = self.scan(table)
        return self.collect(rows.filter(*conditions) if conditions else rows)

    def lazy(self, rows: Rows) -> Frame:
        """Rows in memory as a frame, which can be joined with those of `scan`."""
        return self.engine.lazy(rows) if isinstance(rows, pl.DataFrame) else rows

    def collect(self, rows: Frame) -> pl.DataFrame:
        """Rows of a frame that fit into memory."""
        return self.engine.collect(rows)

    def count(self, rows: Table | Frame) -> int:
        """Rows of a table's newest version, or of a frame."""
        frame = self.scan(rows) if isinstance(rows, Table) else rows
        return int(self.collect(frame.select(nw.len())).item())

    def batches(self, rows: Frame, size: int) -> Iterator[pl.DataFrame]:
        """Rows in order, at most `size` at a time."""
        return self.engine.batches(rows, size)

    def map_batches(self, rows: Frame, function: RowWise, schema: Schema) -> Frame:
        """Apply a function to rows, a batch of polars rows at a time, when they are needed.

        Args:
            rows: Any number of rows.
            function: Of each row alone; it cannot know which rows share its batch.
            schema: Columns that it returns.
        """
        return self.engine.map_batches(rows, function, schema)

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """The rows that equal none of the others in the columns `on`; null equals null."""
        return self.engine.without(rows, others, on)

    def stage(self, rows: Frame) -> AbstractContextManager[Frame]:
        """Compute rows once, to be read several times until the context ends; they do not fill memory."""
        return self.engine.stage(rows)

    def version(self, table: Table) -> int | None:
        """Newest Delta version; None where the table was never written."""
        seen = self._open(table)
        return seen.version if seen else None

    def history(self, table: Table) -> list[dict[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""
        seen = self._open(table)
        return self.engine.history(seen) if seen else []

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

    # Writing ----------------------------------------------------------------------------------------

    def append(self, table: Table, rows: Rows, until: datetime) -> int:
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
            return self.count(staged)

    def append_if_unchanged(self, table: Table, rows: Rows, version: int | None) -> bool:
        """Add rows if the table is still at `version` (None: not there yet); False: somebody was first.

        Raises:
            UserError: As `append`.
        """
        address = self.place(table.name)
        with self._staged(table, rows) as staged:
            seen = None if version is None else self.engine.open(address, version)
            try:
                self.engine.append(address, staged, seen, until=None)
            except OvertakenError:
                return False
            return True

    def overwrite(self, table: Table, rows: Rows, since: datetime | None, until: datetime) -> int:
        """Replace what the table holds in `(since, until]` of its time by `rows`; returns rows written.

        Raises:
            UserError: As `append`; also a row outside the interval.
        """
        seen = self._open(table)
        start = since or _BEGINNING
        time = nw.col(table.time)
        with self._staged(table, rows) as staged:
            stray = self.count(staged.filter(~((time > start) & (time <= until))))
            if stray:
                message = (
                    f"{table.name}: {stray} rows have `{table.time}` outside ({since}, {until}]."
                )
                raise UserError(message, "Nothing was committed; write rows of the interval only.")
            self._commit(table, staged, seen, until, replace_from=start)
            return self.count(staged)

    def merge(
        self, table: Table, rows: Rows, until: datetime | None = None, *, update: bool = True
    ) -> int:
        """Insert rows with new keys and, unless told not to, update those whose values changed.

        Nothing is committed where nothing changed and `until` did not move on. Of two who merge at once
        one is overtaken and looks again, so that no row comes twice.

        Returns:
            Rows inserted or updated.

        Raises:
            UserError: As `append`.
        """
        new = self.lazy(rows)
        self._accept(table, new)
        for _ in range(_ATTEMPTS - 1):
            with suppress(OvertakenError):
                return self._merge(table, new, until, update=update)
        return self._merge(table, new, until, update=update)

    def compact(self, table: Table) -> None:
        """Join the files of a table that many small commits have left; its rows stay as they are."""
        seen = self._open(table)
        if seen:
            self.engine.compact(seen)

    # How --------------------------------------------------------------------------------------------

    def _open(self, table: Table) -> Snapshot | None:
        return self.engine.open(self.place(table.name))

    def _rows(self, table: Table, seen: Snapshot | None) -> Frame:
        if seen is None:
            return self.lazy(table.empty())
        missing = [name for name in table.schema if name not in seen.columns]
        if missing:
            place = self.place(table.name)
            raise UserError(
                f"{place} has no column {', '.join(missing)}, which is declared.",
                "Remove its folder to rebuild it, or take back the declaration.",
            )
        return self.engine.scan(seen).select(*table.schema)

    def _merge(self, table: Table, new: Frame, until: datetime | None, *, update: bool) -> int:
        seen = self._open(table)
        existing = self._rows(table, seen)
        if table.time in table.keys:
            existing = self._in_span(existing, new, table.time)
        compared = table.schema if update else table.keys
        changed = self.without(new, existing, list(compared))
        with self._staged(table, changed) as staged:
            count = self.count(staged)
            done = _complete_until(seen)
            moved_on = until is not None and (done is None or done < until)
            if seen and self._any_held(table, existing, staged):
                self._update(table, staged, seen, until)
            elif count or moved_on:
                self._commit(table, staged, seen, until)
            return count

    def _in_span(self, existing: Frame, new: Frame, time: str) -> Frame:
        """Those existing rows that lie between the first and the last moment of the new ones."""
        span = new.select(nw.col(time).min().alias("first"), nw.col(time).max().alias("last"))
        first, last = self.collect(span).row(0)
        if first is None:
            return existing.head(0)
        return existing.filter(nw.col(time).is_between(first, last))

    def _any_held(self, table: Table, existing: Frame, staged: Frame) -> bool:
        """Whether the table holds a row with the keys of a staged one."""
        held = existing.join(staged.select(*table.keys), on=list(table.keys), how="semi")
        return not self.collect(held.head(1)).is_empty()

    def _accept(self, table: Table, rows: Frame) -> None:
        """Refuse what must not be written: another environment's table, other columns than declared."""
        if not self.owns(table.name):
            raise UserError(
                f"{table.name} is read from {self.place(table.name)}, which is read-only here.",
                "Run this step in the environment that owns it, or remove the mount in conf/.",
            )
        wrong = _schema_difference(rows.collect_schema(), nw.Schema(table.schema))
        if wrong:
            raise UserError(
                f"{table.name}: {wrong}.", "Nothing was committed; match the declared schema."
            )

    @contextmanager
    def _staged(self, table: Table, rows: Rows) -> Iterator[Frame]:
        """Stage rows and enforce the table's declaration on them."""
        frame = self.lazy(rows)
        self._accept(table, frame)
        with self.stage(frame.select(*table.schema)) as staged:
            self._enforce_keys(table, staged)
            yield staged

    def _enforce_keys(self, table: Table, staged: Frame) -> None:
        if not table.keys:
            return
        keys = staged.select(*table.keys)
        null = keys.filter(nw.any_horizontal(nw.all().is_null(), ignore_nulls=False))
        counted = keys.group_by(*table.keys).agg(nw.len().alias("_rows"))
        repeated = counted.filter(nw.col("_rows") > 1).drop("_rows")
        for fault, found in (("null", null), ("repeated", repeated)):
            example = self.collect(found.head(1))
            if not example.is_empty():
                raise UserError(
                    f"{table.name}: {fault} key {example.row(0, named=True)}.",
                    "Nothing was committed; correct the rows.",
                )

    def _commit(
        self,
        table: Table,
        staged: Frame,
        seen: Snapshot | None,
        until: datetime | None,
        replace_from: datetime | None = None,
    ) -> None:
        """Write rows on the table as `seen`, in the place of those after `replace_from` if it is given."""
        if seen and until and replace_from:
            self.engine.replace(staged, seen, table.time, (replace_from, until), until)
        else:
            self.engine.append(self.place(table.name), staged, seen, until)

    def _update(self, table: Table, staged: Frame, seen: Snapshot, until: datetime | None) -> None:
        self.engine.merge(staged, seen, table.keys, until)


def _complete_until(seen: Snapshot | None) -> datetime | None:
    return seen.complete_until if seen else None


def _schema_difference(found: nw.Schema, wanted: nw.Schema) -> str:
    missing = [f"missing column {name}" for name in wanted if name not in found]
    extra = [f"undeclared column {name}" for name in found if name not in wanted]
    retyped = [
        f"{name} is {found[name]}, declared {kind}"
        for name, kind in wanted.items()
        if found.get(name, kind) != kind
    ]
    return "; ".join(missing + extra + retyped)
