"""Delta's log, which both engines read and append to with deltalake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from .base import COMMIT, COMMITTED_AT, Interval, OvertakenError, Snapshot, StorageError

NEW_TABLE = {
    "delta.checkpointInterval": "10",
    "delta.isolationLevel": "Serializable",  # of two who write at once, one is refused
}
_FEED = "delta.enableChangeDataFeed"
WITH_FEED = {**NEW_TABLE, _FEED: "true"}
COMPLETE_UNTIL = "complete_until"
"""Each commit records until when its table is complete, as an application transaction of Delta."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MANY_FILES = 30
_JOINING = "OPTIMIZE"


class DeltaLog:
    """What every engine reads of Delta's log in the same way."""

    storage_options: Mapping[str, str]

    def open(self, place: str, version: int | None = None) -> Snapshot | None:
        """A table at a version, by default the newest; None where there is no table."""
        return open_snapshot(place, version, self.storage_options)

    def only_grew(self, snapshot: Snapshot, version: int, column: str, moment: datetime) -> bool:
        """Whether all that changed since a version is new rows whose `column` is after a moment.

        False where that cannot be told.
        """
        try:
            before = self.open(snapshot.place, version)
        except StorageError:  # its log has been cleaned up
            return False
        if before is None:
            return False
        if self._only_joined(snapshot, version):
            return True
        old, new = (_earliest_by_file(item.handle, column) for item in (before, snapshot))
        added = [earliest for path, earliest in new.items() if path not in old]
        return old.keys() <= new.keys() and all(
            earliest is not None and earliest > moment for earliest in added
        )

    def _only_joined(self, snapshot: Snapshot, version: int) -> bool:
        """Whether all commits since a version only joined files."""
        commits = snapshot.handle.history(snapshot.version - version)
        return all(commit["operation"] == _JOINING for commit in commits)

    def identity(self, snapshot: Snapshot) -> str:
        """What tells a table from one that is made anew in its place."""
        table: DeltaTable = snapshot.handle
        return str(table.metadata().id)

    def create_feed(self, place: str, columns: pl.DataFrame) -> None:
        """Make a table without rows that tells which rows each commit adds."""
        with committing(place, None, self.storage_options):
            write_deltalake(
                place,
                columns.clear(),
                mode="error",
                configuration=WITH_FEED,
                storage_options=dict(self.storage_options),
            )

    def appended(self, snapshot: Snapshot, first: int, last: int) -> pl.DataFrame:
        """Rows that the commits from `first` to `last` added, with `COMMIT` and `COMMITTED_AT`.

        Commits that only join files add none.
        """
        table: DeltaTable = snapshot.handle
        if table.metadata().configuration.get(_FEED) != "true":
            raise StorageError(f"it keeps no feed of its changes ({_FEED})")
        try:
            changes = pl.DataFrame(table.load_cdf(first, last))
        except (DeltaError, OSError) as error:
            raise StorageError(reason(error)) from None
        inserted = changes.filter(pl.col("_change_type") == "insert")
        at = pl.col(COMMITTED_AT).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return inserted.select(*snapshot.columns, pl.col(COMMIT).cast(pl.Int64), at)

    def last_batch(self, snapshot: Snapshot, writer: str) -> int:
        """Number of the newest batch of a writer that a commit recorded; 0: none."""
        table: DeltaTable = snapshot.handle
        return table.transaction_version(writer) or 0

    def history(self, place: str) -> list[Mapping[str, Any]]:
        """Commits, newest first: version, timestamp, operation and its metrics."""
        snapshot = self.open(place)
        return snapshot.handle.history() if snapshot else []


def open_snapshot(
    place: str, version: int | None, storage_options: Mapping[str, str]
) -> Snapshot | None:
    """A table at a version, by default the newest; None where there is no table.

    Raises:
        StorageError: No such version, or not readable as a Delta table.
    """
    try:
        table = DeltaTable(place, version, storage_options=dict(storage_options))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise StorageError(reason(error)) from None
    recorded = table.transaction_version(COMPLETE_UNTIL)
    return Snapshot(
        place=place,
        version=table.version(),
        columns=[column.name for column in table.schema().fields],
        complete_until=None if recorded is None else _EPOCH + recorded * _MICROSECOND,
        handle=table,
    )


def has_many_files(snapshot: Snapshot) -> bool:
    """Whether it is time to join them."""
    table: DeltaTable = snapshot.handle
    return len(table.file_uris()) > _MANY_FILES


@contextmanager
def committing(
    place: str,
    seen: Snapshot | None,
    storage_options: Mapping[str, str],
    refusals: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Tell a write that was overtaken from one that the storage refused.

    Args:
        place: Of the table.
        seen: What the write was computed from.
        storage_options: As Delta's library has them.
        refusals: What else than Delta's library raises.
    """
    refused: tuple[type[Exception], ...] = (DeltaError, OSError, *refusals)
    try:
        yield
    except refused as error:
        version = seen.version if seen else None
        now = version
        with suppress(StorageError):
            newest = open_snapshot(place, None, storage_options)
            now = newest.version if newest else None
        kind = StorageError if now == version else OvertakenError
        raise kind(reason(error)) from None


def commit_properties(
    until: datetime | None, batches: Mapping[str, int] = MappingProxyType({})
) -> CommitProperties:
    """Of a commit that is refused where somebody else made one meanwhile."""
    done = [Transaction(writer, number) for writer, number in batches.items()]
    if until is not None:
        done.append(Transaction(COMPLETE_UNTIL, recorded_as(until)))
    return CommitProperties(max_commit_retries=0, app_transactions=done or None)


def recorded_as(until: datetime) -> int:
    """A moment as an application transaction's version: microseconds since 1970."""
    return (until - _EPOCH) // _MICROSECOND


def inside(column: str, interval: Interval) -> str:
    """The condition that a time lies in an interval, in SQL."""
    since, until = interval
    return f"{column} > '{_literal(since)}' AND {column} <= '{_literal(until)}'"


def quoted(column: str) -> str:
    """A column's name in SQL, as Delta's library has it."""
    escaped = column.replace('"', '""')
    return f'"{escaped}"'


def reason(error: BaseException) -> str:
    """The first line of what a library says."""
    return str(error).strip().partition("\n")[0]


def _earliest_by_file(table: DeltaTable, column: str) -> Mapping[str, datetime | None]:
    """The smallest value of a column in each file, as far as the log tells."""
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    bound = f"min.{column}"
    if bound not in files.columns:
        return dict.fromkeys(files["path"])
    return dict(files.filter(pl.col("num_records") != 0).select("path", bound).iter_rows())


def _literal(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
