"""A long time in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import narwhals as nw

from ..core.contract import Frame
from .lakehouse import Lakehouse

_HOUR = timedelta(hours=1)


def in_parts(
    lakehouse: Lakehouse, rows: Frame, time: str, at_most: int
) -> Iterator[tuple[datetime, datetime]]:
    """Intervals `[start, end)` of whole hours, in order, that hold all rows between them.

    Args:
        lakehouse: Counts the rows.
        rows: Of a table.
        time: Its column of moments (UTC).
        at_most: Rows of an interval; one of a single hour may hold more.
    """
    hour = nw.col(time).dt.truncate("1h").alias("hour")
    by_hour = lakehouse.collect(rows.group_by(hour).agg(nw.len().alias("rows")))
    hours: list[datetime] = []
    held = 0
    for moment, found in by_hour.sort("hour").iter_rows():
        if hours and held + found > at_most:
            yield hours[0], hours[-1] + _HOUR
            hours = []
            held = 0
        hours.append(moment)
        held += found
    if hours:
        yield hours[0], hours[-1] + _HOUR
