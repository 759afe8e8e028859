"""Events: rows of a source that others append to a Delta table, read once, in their order.

The commit that adds events to the raw table records how far they are read, so that both are there
or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, Source, Table
from ..store import tables
from ..store.engines import COMMITTED_AT
from ..store.feed import OFFSET, append_each, commit_of, with_offsets
from ..store.lakehouse import Numbered

_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Events:
    """What came of a source, for its raw table."""

    batch: Numbered
    earliest: datetime  # commit of the first of them


def send_events(context: Context, source: Source, rows: Iterable[pl.DataFrame]) -> int:
    """Append events to their table, made where it is not there; returns how many.

    Args:
        context: Tables.
        source: Whose events they are.
        rows: With the columns of its raw table; `known_at` may be absent or null.

    Raises:
        UserError: A table that cannot be written.
    """
    table = tables.events(source)
    events = (_as_events(given, table) for given in rows)
    return append_each(context.lakehouse, table, events)


def newest(context: Context) -> Mapping[str, int | None]:
    """By source of ours, the newest version of its table of events."""
    lakehouse = context.lakehouse
    return {
        source.name: lakehouse.version(tables.events(source))
        for source in context.problem.sources
        if lakehouse.owns(tables.raw(source).name)
    }


def arrived(
    context: Context, source: Source, since: datetime | None, as_of: datetime
) -> Events | None:
    """Events that are not in the raw table yet; None where there are none.

    Read is up to the first that became known after the as-of. An event became known when it says
    so, at the latest when it was committed. One that says a time until which the raw table is
    complete came late: it became known when it was read.

    Args:
        context: Tables.
        source: Whose events.
        since: Until when the raw table is complete.
        as_of: What became known later is left for another time.

    Raises:
        UserError: The table keeps no feed of its changes, or cannot be read.
    """
    lakehouse = context.lakehouse
    table = tables.events(source)
    identity = lakehouse.identity(table)
    if identity is None:
        return None
    writer = f"events:{identity}"
    offset = lakehouse.last_batch(tables.raw(source), writer)
    rows = _after(context, table, offset)
    later = rows.filter(pl.col(KNOWN_AT) > as_of)[OFFSET].min()
    taken = rows if later is None else rows.filter(pl.col(OFFSET) < later)
    if taken.is_empty():
        return None
    earliest: datetime = taken.select(pl.col(COMMITTED_AT).min()).item()
    known = taken if since is None else _late_ones_known_now(taken, since, as_of)
    until = int(taken[OFFSET][-1])
    batch = Numbered(known.select(*table.schema), writer, until, offset, since)
    return Events(batch, earliest)


def _as_events(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Rows of a source with the columns of its table of events."""
    known_at = pl.col(KNOWN_AT) if KNOWN_AT in rows.columns else pl.lit(None)
    return rows.with_columns(known_at.cast(_TIME).alias(KNOWN_AT)).select(*table.schema)


def _after(context: Context, table: Table, offset: int) -> pl.DataFrame:
    """All events after an offset in their order, with offsets and when they became known."""
    lakehouse = context.lakehouse
    first = commit_of(offset)
    last = lakehouse.version(table) or 0
    rows = with_offsets(lakehouse.appended(table, first, max(first, last)), list(table.schema))
    known_at = pl.min_horizontal(KNOWN_AT, COMMITTED_AT)  # nulls do not count
    return rows.filter(pl.col(OFFSET) > offset).with_columns(known_at.alias(KNOWN_AT))


def _late_ones_known_now(rows: pl.DataFrame, since: datetime, as_of: datetime) -> pl.DataFrame:
    """Late events become known at the as-of, a microsecond apart: the last sent is the newest."""
    is_late = pl.col(KNOWN_AT) <= since
    later_ones = is_late.cast(pl.Int64).cum_sum(reverse=True) - 1
    now = pl.lit(as_of, dtype=_TIME) - pl.duration(microseconds=later_ones)
    soonest = pl.lit(since, dtype=_TIME) + pl.duration(microseconds=1)
    known_at = pl.when(is_late).then(pl.max_horizontal(now, soonest)).otherwise(KNOWN_AT)
    return rows.with_columns(known_at.alias(KNOWN_AT))
