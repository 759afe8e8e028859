"""Sources to raw tables: what became known since the last time, appended once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import narwhals as nw

from ..contract import Source
from ..lakehouse import Lakehouse


def ingest(lakehouse: Lakehouse, sources: Sequence[Source], as_of: datetime) -> dict[str, int]:
    """Append to each raw table the rows that became known until `as_of`.

    Returns:
        Rows appended by source; tables that another environment owns are left out.

    Raises:
        UserError: A source that cannot be read or does not have its declared columns.
    """
    appended = {}
    for source in sources:
        table = source.raw_table
        if not lakehouse.owns(table.name):
            continue
        since = lakehouse.complete_until(table)
        if since is None or since < as_of:
            rows = nw.from_native(source.load(since, as_of))
            appended[source.name] = lakehouse.append(table, rows, as_of)
    return appended
