"""Sources to raw tables: what became known since the last time, appended once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import narwhals as nw

from ..context import Context
from ..core.contract import KNOWN_AT, UTC_TIME, Frame, Source, returned
from ..store import tables
from .changes import remember, require_unchanged
from .events import arrived


@dataclass(frozen=True)
class Ingested:
    """Rows that were appended, by source, and when the first event among them was sent."""

    rows: dict[str, int]
    earliest: datetime | None


def ingest(context: Context, as_of: datetime) -> dict[str, int]:
    """Append to each raw table of ours what became known until `as_of`; returns rows by source.

    Raises:
        UserError: As `take`.
    """
    return take(context, as_of).rows


def take(context: Context, as_of: datetime) -> Ingested:
    """Append to each raw table of ours what became known until `as_of`: by `load`, and as events.

    Raises:
        OvertakenWriteError: Somebody else took the same events.
        UserError: A source that cannot be read or does not have its declared columns, or is not the
            one that filled its tables.
    """
    require_unchanged(context)
    lakehouse = context.lakehouse
    appended = {}
    sent = []
    for source in context.problem.sources:
        table = tables.raw(source)
        since = lakehouse.complete_until(table)
        done = since is not None and since >= as_of
        if lakehouse.owns(table.name) and not done:
            rows = _known(source, since, as_of, context.problem.begins)
            events = arrived(context, source, since, as_of)
            batch = events.batch if events else None
            appended[source.name] = lakehouse.append(table, rows, as_of, batch)
            if events:
                sent.append(events.earliest)
    remember(context, as_of)
    return Ingested(appended, min(sent, default=None))


def _known(source: Source, since: datetime | None, as_of: datetime, begins: datetime) -> Frame:
    """What a source gives; rows without `known_at` are known from the beginning, and come once."""
    rows = returned(f"`load` of {source.name}", source.load(since, as_of))
    if KNOWN_AT in rows.collect_schema():
        return rows
    dated = rows.with_columns(nw.lit(begins).cast(UTC_TIME).alias(KNOWN_AT))
    return dated if since is None else dated.head(0)
