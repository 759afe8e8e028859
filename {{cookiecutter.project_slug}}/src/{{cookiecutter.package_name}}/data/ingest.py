"""Sources to raw tables: what became known since the last time, appended once."""

from __future__ import annotations

from datetime import datetime

from ..context import Context
from ..store import tables


def ingest(context: Context, as_of: datetime) -> dict[str, int]:
    """Append to each raw table of ours what became known until `as_of`; returns rows by source.

    Raises:
        UserError: A source that cannot be read or does not have its declared columns.
    """
    lakehouse = context.lakehouse
    appended = {}
    for source in context.problem.sources:
        table = tables.raw(source)
        since = lakehouse.complete_until(table)
        done = since is not None and since >= as_of
        if lakehouse.owns(table.name) and not done:
            appended[source.name] = lakehouse.append(table, source.load(since, as_of), as_of)
    return appended
