"""Sources to raw tables: what became known since the last time, appended once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import narwhals as nw

from ..contract import Source
from ..lakehouse import Lakehouse


def ingest(lakehouse: Lakehouse, sources: Sequence[Source], as_of: datetime) -> dict[str, int]:
    """Append to each raw table of ours what became known until `as_of`; returns rows by source.

    Raises:
        UserError: A source that cannot be read or does not have its declared columns.
    """
    appended = {}
    for source in sources:
        since = lakehouse.complete_until(source.raw_table)
        if lakehouse.owns(source.raw_table.name) and (since is None or since < as_of):
            rows = nw.from_native(source.load(since, as_of))
            appended[source.name] = lakehouse.append(source.raw_table, rows, as_of)
    return appended
