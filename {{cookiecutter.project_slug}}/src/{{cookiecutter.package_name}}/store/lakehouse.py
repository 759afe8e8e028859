"""Delta tables: the few verbs that pipelines need, with schema and keys enforced at the write.

A write is staged, checked there, then made by one Delta commit: a killed process leaves the table
as it was. With its rows a commit records *until* when the table is complete; that is how a rerun
knows what is done. Which engine computes and commits, nobody above this module knows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from typing import Any, TypeAlias, TypeVar

import narwhals as nw
import polars as pl

from ..core.contract import Frame, Schema, Table, polars_schema
from ..core.errors import UserError
from .engines import (
    COMMIT,
    COMMITTED_AT,
    Engine,
    OvertakenError,
    PolarsEngine,
    Snapshot,
    StorageError,
)

Rows: TypeAlias = Frame | pl.DataFrame
Batches: TypeAlias = Mapping[str, int]
"""Numbers of batches, by their writer."""
Done = TypeVar("Done")
_ATTEMPTS = 50
_PAUSE = 0.01  # seconds at most after the first attempt, twice as many after the second, and so on
_LONGEST_PAUSE = 0.2
_TIMES = "_times"
_BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)


class OvertakenWriteError(UserError):
    """Somebody else wrote the table first; nothing was committed."""


@dataclass(frozen=True)
class Numbered:
    """Rows of a writer that numbers its batches, for a table as it was seen."""

    rows: pl.DataFrame  # with the table's columns
    writer: str
    number: int
    after: int  # number of the batch before it
    since: datetime | None  # until when the table was complete


@dataclass(frozen=True)
class Lakehouse:
    """An environment's tables, under `root`; those that match a mount are read there only."""

    root: str
    mounts: Mapping[str, str] = field(default_factory=dict)
    engine: Engine = field(default_factory=PolarsEngine)  # computes and commits
    storage_options: InitVar[Mapping[str, str] | None] = None  # of the engine, if it is polars

    def __post_init__(self, storage_options: Mapping[str, str] | None) -> None:
        """Hand on what a notebook has from the settings."""
        if storage_options:
            object.__setattr__(self, "engine", PolarsEngine(storage_options))

    # Places ----------------------------------------------------------------------------------

    def place(self, name: str) -> str:
        """Address of a table's folder."""
        for pattern, root in self.mounts.items():
            if fnmatch(name, pattern):
                return f"{root.rstrip('/')}/{name}"
        return f"{self.root.rstrip('/')}/{name}"

    def owns(self, name: str) -> bool:
        """Whether this environment may write the table."""
        return not any(fnmatch(name, pattern) for pattern in self.mounts)

    # Reading ---------------------------------------------------------------------------------

    def scan(self, table: Table, version: int | None = None) -> Frame:
        """Rows of a table at a version (default: newest), lazily; none where it was never written.

        Raises:
            UserError: No such version, not readable as a Delta table, or without a declared column.
        """
        return self._rows(table, self._open(table, version))

    def read(self, table: Table, *conditions: nw.Expr, order: Sequence[str] = ()) -> pl.DataFrame:
        """Rows of a table that is small by nature, in memory.

        Args:
            table: What to read.
            conditions: All of which hold for the rows that are read.
            order: Columns to sort by.

        Raises:
            UserError: As `scan`.
        """
        rows = self.scan(table)
        if conditions:
            rows = rows.filter(*conditions)
        if order:
            rows = rows.sort(*order)
        return self.engine.collect(rows)

    def collect(self, frame: Frame) -> pl.DataFrame:
        """What is small by nature, in memory."""
        return self.engine.collect(frame)

    def batches(self, frame: Frame, rows: int) -> Iterator[pl.DataFrame]:
        """A frame in its order, so many rows at a time."""
        return self.engine.batches(frame, rows)

    def map_batches(
        self, frame: Frame, function: Callable[[pl.DataFrame], pl.DataFrame], schema: Schema
    ) -> Frame:
        """Apply a function to the rows of a frame, some at a time; it must treat each row alone."""
        return self.engine.map_batches(frame, function, schema)

    def each_row(self, frame: Frame, function: Callable[[Frame], Frame]) -> Frame:
        """Apply a function that treats each row alone; it is given frames of polars."""
        return self.engine.each_row(frame, function)

    def frame(self, rows: pl.DataFrame) -> Frame:
        """Rows in memory as a frame of the engine."""
        return self.engine.frame(rows)

    def without(self, rows: Frame, others: Frame, on: Sequence[str]) -> Frame:
        """Rows that agree with none of the others in the columns `on`; two nulls agree."""
        return self.engine.without(rows, others, on)

    def rows(self, frame: Frame) -> int:
        """How many rows a frame has."""
        return int(self.collect(frame.select(nw.len().alias("rows"))).item())

    @contextmanager
    def staged(self, rows: Frame) -> Iterator[Frame]:
        """Compute rows once, to be read several times."""
        with self.engine.stage(rows) as staged:
            yield staged

    def version(self, table: Table) -> int | None:
        """Newest Delta version; None where the table was never written."""
        snapshot = self._open(table)
        return snapshot.version if snapshot else None

    def count(self, table: Table) -> int:
        """Rows of the newest version."""
        return self.rows(self.scan(table))

    def history(self, table: Table) -> list[Mapping[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""
        with self._reading(table):
            return self.engine.history(self.place(table.name))

    def identity(self, table: Table) -> str | None:
        """What tells a table from one that is made anew in its place; None where there is none."""
        snapshot = self._open(table)
        return self.engine.identity(snapshot) if snapshot else None

    def appended(self, table: Table, first: int, last: int) -> pl.DataFrame:
        """Rows that the commits from `first` to `last` added, with `COMMIT` and `COMMITTED_AT`.

        Raises:
            UserError: The table keeps no feed of its changes, these commits are gone from its log,
                or a declared column is missing.
        """
        with self._reading(table, last):
            snapshot = self.engine.open(self.place(table.name))
            if snapshot is None:
                return table.empty().with_columns(
                    pl.lit(0, dtype=pl.Int64).alias(COMMIT),
                    pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias(COMMITTED_AT),
                )
            self._require_columns(table, snapshot)
            rows = self.engine.appended(snapshot, first, last)
        types = polars_schema(table.schema)
        declared = (pl.col(name).cast(kind) for name, kind in types.items())
        return rows.select(*declared, COMMIT, COMMITTED_AT)

    def complete_until(self, table: Table) -> datetime | None:
        """The newest `until` that a write recorded; None before the first."""
        snapshot = self._open(table)
        return snapshot.complete_until if snapshot else None

    def only_grew(self, table: Table, version: int, moment: datetime) -> bool:
        """Whether all that changed since a version is new rows whose time is after a moment."""
        snapshot = self._open(table)
        return snapshot is not None and self.engine.only_grew(snapshot, version, table.time, moment)

    def require(self, table: Table, as_of: datetime) -> None:
        """Refuse to build on a table that is not complete until `as_of`.

        Raises:
            UserError: The step that writes it has not run for this as-of.
        """
        done = self.complete_until(table)
        if done is not None and done >= as_of:
            return
        state = f"complete until {done:%Y-%m-%d %H:%M} only" if done else "not there yet"
        raise UserError(
            f"{table.name} is {state}, but needed until {as_of:%Y-%m-%d %H:%M} (UTC).",
            "Run the steps before this one with the same --as-of, or `run` for all.",
        )

    # Writing ---------------------------------------------------------------------------------

    def append(
        self, table: Table, rows: Rows, until: datetime, batch: Numbered | None = None
    ) -> int:
        """Add the rows that became known up to `until`, once; returns the rows written.

        Args:
            table: Where to.
            rows: What became known.
            until: From then on the table is complete until then.
            batch: Rows besides, whose number the same commit records.

        Raises:
            OvertakenWriteError: Somebody else wrote since the batch was made.
            UserError: A table that is not ours, wrong schema, bad keys, an unwritable root, or a
                row that became known at another time: its step would never see it.
        """
        seen = self._open(table)
        since = seen.complete_until if seen else None
        if since and since >= until:
            return 0
        given = self._accepted(table, rows)
        batches = {}
        if batch is not None:
            self._require_next(table, seen, batch)
            given = nw.concat([given, self._accepted(table, batch.rows)], how="vertical")
            batches = {batch.writer: batch.number}
        return self._append(seen, table, given, until, batches)

    def append_known(self, table: Table, rows: Rows, until: datetime) -> int:
        """Add those rows that the table is not complete for yet; returns how many.

        As `append`, but where somebody else was first, the rows that they have added are left out.

        Raises:
            UserError: As `append`.
        """
        return self._insisting(partial(self._append_known, table, rows, until))

    def create_feed(self, table: Table) -> None:
        """Make a table, where there is none, that tells which rows each commit adds.

        Raises:
            UserError: A table that is not ours, or an unwritable root.
        """
        if self._open(table) is not None:
            return
        self._accepted(table, table.empty())
        with suppress(OvertakenWriteError), self._writing(table):
            self.engine.create_feed(self.place(table.name), table.empty())

    def append_once(
        self, table: Table, rows: Rows, writer: str, number: int, after: int | None = None
    ) -> bool:
        """Add a batch that a writer numbered, exactly once, whoever else appends meanwhile.

        The commit records the writer's number (an application transaction of Delta), so both are
        there or neither.

        Args:
            table: Where to.
            rows: The batch.
            writer: Numbers its batches one after the other.
            number: Of this batch, greater than those before.
            after: Number of the batch before it, where batches of the same rows may differ in
                extent: it is not added after any other. None: after any.

        Returns:
            False where the batch was there already, or another than `after` came before.

        Raises:
            UserError: As `append`; also a table that others never leave alone.
        """
        since = None if after is None else {writer: after}
        return self.append_batches(table, rows, {writer: number}, since)

    def append_batches(
        self, table: Table, rows: Rows, until: Batches, since: Batches | None = None
    ) -> bool:
        """Add batches of several writers in one commit; arguments as of `append_once`, by writer.

        Returns:
            False where one of them was there already, or did not follow on `since`.

        Raises:
            UserError: As `append_once`.
        """
        with self._checked(table, rows) as staged:
            return self._insisting(partial(self._append_batches, table, staged, until, since))

    def last_batch(self, table: Table, writer: str) -> int:
        """Number of the newest batch of a writer; 0 before the first."""
        return self.last_batches(table, [writer])[writer]

    def last_batches(self, table: Table, writers: Iterable[str]) -> dict[str, int]:
        """Numbers of the newest batches of several writers, at one version of the table."""
        seen = self._open(table)
        return {writer: self._last_batch(seen, writer) for writer in writers}

    def append_if_unchanged(self, table: Table, rows: Rows, version: int | None) -> bool:
        """Add rows if the table is still at `version` (None: not there yet).

        Returns:
            False where somebody was first; nothing was committed.

        Raises:
            UserError: As `append`.
        """
        seen = self._open(table)
        if (seen.version if seen else None) != version:
            return False
        try:
            with self._checked(table, rows) as staged, self._writing(table):
                self.engine.append(self.place(table.name), staged, seen, until=None)
        except OvertakenWriteError:
            return False
        return True

    def overwrite(self, table: Table, rows: Rows, since: datetime | None, until: datetime) -> int:
        """Replace what the table holds in `(since, until]` of its time; returns the rows written.

        It is complete until then, or until later if it was before.

        Raises:
            UserError: As `append`; also a row outside the interval.
        """
        seen = self._open(table)
        with self._checked(table, rows) as staged:
            self._require_between(table, staged, since, until)
            with self._writing(table):
                place = self.place(table.name)
                interval = (since or _BEFORE_ALL, until)
                done = seen.complete_until if seen else None
                self.engine.replace(
                    place, staged, seen, table.time, interval, max(until, done or until)
                )
            return self.rows(staged)

    def merge(
        self, table: Table, rows: Rows, until: datetime | None = None, *, update: bool = True
    ) -> int:
        """Insert rows with new keys, update those whose values changed unless told not to.

        Nothing is committed where nothing changed and `until` did not move on. Of two who merge at
        once one is overtaken and looks again, so that no row comes twice.

        Returns:
            How many rows are new or changed.

        Raises:
            UserError: As `append`.
        """
        return self._insisting(partial(self._merge, table, rows, until, update=update))

    def merge_known(self, table: Table, rows: Rows, until: datetime) -> int:
        """Merge the rows that became known up to `until`, once; returns how many made a change.

        Where the table is complete until then already, nothing is merged: whoever completed it,
        perhaps meanwhile, knew these rows, and newer ones of the same keys.

        Raises:
            UserError: As `append`.
        """
        return self._insisting(partial(self._merge_known, table, rows, until))

    def merge_once(
        self, table: Table, rows: Rows, writer: str, number: int, after: int | None = None
    ) -> bool:
        """Merge a batch that a writer numbered, exactly once; arguments as of `append_once`.

        Returns:
            False where the batch was there already, or another than `after` came before.

        Raises:
            UserError: As `append`.
        """
        since = None if after is None else {writer: after}
        return self.merge_batches(table, rows, {writer: number}, since)

    def merge_batches(
        self, table: Table, rows: Rows, until: Batches, since: Batches | None = None
    ) -> bool:
        """Merge batches of several writers in one commit; arguments as of `append_batches`.

        Spark records one writer of a merge: give it no more.
        """
        return self._insisting(partial(self._merge_batches, table, rows, until, since))

    def compact(self, table: Table) -> None:
        """Join the files of a table that many small commits have left; its rows stay."""
        with self._reading(table):
            self.engine.compact(self.place(table.name))

    # -----------------------------------------------------------------------------------------

    def _append_known(self, table: Table, rows: Rows, until: datetime) -> int:
        seen = self._open(table)
        if not _moves_on(seen, until):
            return 0
        given = self._accepted(table, rows)
        if seen and seen.complete_until:
            given = given.filter(nw.col(table.time) > seen.complete_until)
        return self._append(seen, table, given, until, {})

    def _append(
        self, seen: Snapshot | None, table: Table, given: Rows, until: datetime, batches: Batches
    ) -> int:
        """Add rows of the time after what was seen, up to `until`."""
        since = seen.complete_until if seen else None
        with self._checked(table, given) as staged:
            self._require_between(table, staged, since, until)
            with self._writing(table):
                self.engine.append(self.place(table.name), staged, seen, until, batches)
            return self.rows(staged)

    def _append_batches(
        self, table: Table, staged: Frame, until: Batches, since: Batches | None
    ) -> bool:
        seen = self._open(table)
        if not self._are_next(seen, until, since):
            return False
        with self._writing(table):
            self.engine.append(self.place(table.name), staged, seen, None, until)
        return True

    def _merge_batches(
        self, table: Table, rows: Rows, until: Batches, since: Batches | None
    ) -> bool:
        seen = self._open(table)
        if not self._are_next(seen, until, since):
            return False
        self._merge_into(seen, table, rows, None, until)
        return True

    def _require_next(self, table: Table, seen: Snapshot | None, batch: Numbered) -> None:
        """Refuse a batch that was made for a table as it is no more."""
        since = seen.complete_until if seen else None
        until, after = {batch.writer: batch.number}, {batch.writer: batch.after}
        if since != batch.since or not self._are_next(seen, until, after):
            message = f"Somebody else wrote {self.place(table.name)} at the same time."
            raise OvertakenWriteError(message, "Nothing was committed; run this again.")

    def _are_next(self, seen: Snapshot | None, until: Batches, since: Batches | None) -> bool:
        """Whether batches are those to write on what was seen."""
        last = {writer: self._last_batch(seen, writer) for writer in until}
        is_new = all(last[writer] < number for writer, number in until.items())
        return is_new and since in (None, last)

    def _last_batch(self, seen: Snapshot | None, writer: str) -> int:
        return self.engine.last_batch(seen, writer) if seen else 0

    def _insisting(self, write: Callable[[], Done]) -> Done:
        """Write, on the table as it is by then where somebody else was first.

        Two who write all the time would overtake each other for ever: pauses, of random lengths,
        let each be first now and then.
        """
        for attempt in range(1, _ATTEMPTS):
            with suppress(OvertakenWriteError):
                return write()
            time.sleep(random.uniform(0, min(attempt * _PAUSE, _LONGEST_PAUSE)))  # noqa: S311
        return write()

    def _merge_known(self, table: Table, rows: Rows, until: datetime) -> int:
        seen = self._open(table)
        if not _moves_on(seen, until):
            return 0
        return self._merge_into(seen, table, rows, until, {})

    def _merge(self, table: Table, rows: Rows, until: datetime | None, *, update: bool) -> int:
        return self._merge_into(self._open(table), table, rows, until, {}, update=update)

    def _merge_into(
        self,
        seen: Snapshot | None,
        table: Table,
        rows: Rows,
        until: datetime | None,
        batches: Mapping[str, int],
        *,
        update: bool = True,
    ) -> int:
        new = self._accepted(table, rows)
        existing = self._rows(table, seen)
        if table.time in table.keys:
            existing = self._of_the_same_time(table, existing, new)
        compared = list(table.schema) if update else list(table.keys)
        changed = self.without(new, existing, compared)
        with self._checked(table, changed) as staged, self._writing(table):
            count = self.rows(staged)
            if seen and count and self._holds_any(existing, staged, table.keys):
                self.engine.merge(staged, seen, table.keys, until, batches)
            elif count or batches or _moves_on(seen, until):
                self.engine.append(self.place(table.name), staged, seen, until, batches)
            return count

    def _of_the_same_time(self, table: Table, existing: Frame, new: Frame) -> Frame:
        """Existing rows whose time is one that new rows may have."""
        time = nw.col(table.time)
        bounds = new.select(time.min().alias("low"), time.max().alias("high"))
        low, high = self.collect(bounds).row(0)
        return existing.filter(time >= low, time <= high) if low else existing.head(0)

    def _holds_any(self, existing: Frame, staged: Frame, keys: Sequence[str]) -> bool:
        held = existing.join(staged.select(*keys), on=list(keys), how="semi").head(1)
        return not self.collect(held).is_empty()

    def _open(self, table: Table, version: int | None = None) -> Snapshot | None:
        with self._reading(table, version):
            return self.engine.open(self.place(table.name), version)

    @contextmanager
    def _reading(self, table: Table, version: int | None = None) -> Iterator[None]:
        place = self.place(table.name)
        try:
            yield
        except StorageError as error:
            what = place if version is None else f"{place} at version {version}"
            remedy = "Restore it, or remove its folder to rebuild it."
            raise UserError(f"Cannot read {what}: {error}", remedy) from None

    def _rows(self, table: Table, seen: Snapshot | None) -> Frame:
        if seen is None:
            return self.frame(pl.DataFrame(schema=polars_schema(table.schema)))
        self._require_columns(table, seen)
        return self.engine.scan(seen, list(table.schema))

    def _require_columns(self, table: Table, seen: Snapshot) -> None:
        if missing := [name for name in table.schema if name not in seen.columns]:
            raise UserError(
                f"{seen.place} has no column {', '.join(missing)}, which is declared.",
                "Remove its folder to rebuild it, or take back the declaration.",
            )

    def _accepted(self, table: Table, rows: Rows) -> Frame:
        """Rows as a frame; refuses another environment's table and undeclared columns or types."""
        if not self.owns(table.name):
            raise UserError(
                f"{table.name} is read from {self.place(table.name)}, which is read-only here.",
                "Run this step in the environment that owns it, or remove the mount in conf/.",
            )
        frame = self.frame(rows) if isinstance(rows, pl.DataFrame) else self.engine.adopt(rows)
        wrong = _schema_difference(frame.collect_schema(), nw.Schema(table.schema))
        if wrong:
            remedy = "Nothing was committed; match the declared schema."
            raise UserError(f"{table.name}: {wrong}.", remedy)
        return frame.select(*table.schema)

    @contextmanager
    def _checked(self, table: Table, rows: Rows) -> Iterator[Frame]:
        """Stage rows and enforce the table's declaration on them."""
        with self.engine.stage(self._accepted(table, rows)) as staged:
            self._enforce_keys(table, staged)
            yield staged

    def _enforce_keys(self, table: Table, rows: Frame) -> None:
        if not table.keys:
            return
        times = rows.group_by(*table.keys).agg(nw.len().alias(_TIMES))
        is_null = nw.any_horizontal(nw.col(*table.keys).is_null(), ignore_nulls=True)
        bad = times.filter(is_null | (nw.col(_TIMES) > 1)).drop(_TIMES).head(1)
        for key in self.collect(bad).iter_rows(named=True):
            fault = "null" if None in key.values() else "repeated"
            raise UserError(
                f"{table.name}: {fault} key {key}.", "Nothing was committed; correct the rows."
            )

    def _require_between(
        self, table: Table, rows: Frame, since: datetime | None, until: datetime
    ) -> None:
        """Refuse rows whose time does not lie in `(since, until]`, or is not there."""
        time = nw.col(table.time)
        outside = time.is_null() | (time > until)
        if since is not None:
            outside = outside | (time <= since)
        if stray := self.rows(rows.filter(outside)):
            after = f"{since:%Y-%m-%d %H:%M}" if since else "the beginning"
            raise UserError(
                f"{table.name}: {stray:,} rows have no `{table.time}` after {after} "
                f"and until {until:%Y-%m-%d %H:%M} (UTC).",
                "Nothing was committed; give rows of that time only.",
            )

    @contextmanager
    def _writing(self, table: Table) -> Iterator[None]:
        place = self.place(table.name)
        try:
            yield
        except OvertakenError:
            message = f"Somebody else wrote {place} at the same time."
            raise OvertakenWriteError(message, "Nothing was committed; run this again.") from None
        except StorageError as error:
            remedy = "Nothing was committed; check `lakehouse.root` in conf/ and its permissions."
            raise UserError(f"Cannot write {place}: {error}", remedy) from None


def _moves_on(seen: Snapshot | None, until: datetime | None) -> bool:
    """Whether a write would say that the table is complete until later than before."""
    if until is None:
        return False
    return seen is None or seen.complete_until is None or seen.complete_until < until


def _schema_difference(found: nw.Schema, wanted: nw.Schema) -> str:
    missing = [f"missing column {name}" for name in wanted if name not in found]
    extra = [f"undeclared column {name}" for name in found if name not in wanted]
    retyped = [
        f"{name} is {found[name]}, declared {kind}"
        for name, kind in wanted.items()
        if name in found and found[name] != kind
    ]
    return "; ".join(missing + extra + retyped)
