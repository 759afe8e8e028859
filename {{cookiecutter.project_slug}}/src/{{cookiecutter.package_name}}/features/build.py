"""Prepared to feature tables, incrementally."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import narwhals as nw

from ..context import Context
from ..core.contract import AVAILABLE_AT, KNOWN_AT, FeatureTable, Frame, Frames, returned
from ..store import tables
from ..store.parts import in_parts
from ..store.point_in_time import only_finite, prepared


@dataclass(frozen=True)
class Due:
    """A feature table and the interval `(start, end]` to write; start None: from the beginning."""

    table: FeatureTable
    start: datetime | None
    end: datetime


def build_features(
    context: Context, as_of: datetime, since: datetime | None = None
) -> dict[str, int]:
    """Write the feature rows that became available until `as_of`; returns how many, by table.

    A long time is built in parts, each a commit: a build that is cut short goes on from there.

    Args:
        context: Tables, and what the problem declares of them.
        as_of: Rows available later are not written.
        since: Rebuild from then on; by default continue where the last build ended.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or a feature table does not have
            its declared columns or keys.
    """
    due = [
        item
        for table in context.problem.feature_tables
        if (item := _due(context, table, as_of, since)) is not None
    ]
    if not due:
        return {}
    last = max(item.end for item in due)
    for source in context.problem.sources:
        context.lakehouse.require(tables.prepared(source), last)
    frames = prepared(context.lakehouse, context.problem, last, {})
    ends = _ends(context, frames)
    written = dict.fromkeys((item.table.name for item in due), 0)
    for item in due:
        target = tables.features(item.table)
        for part in _parts(item, ends):
            rows = _built(part, frames)
            count = context.lakehouse.overwrite(target, rows, part.start, part.end)
            written[item.table.name] += count
    return written


def _due(
    context: Context, declared: FeatureTable, as_of: datetime, since: datetime | None
) -> Due | None:
    """What there is to write of a table; None: nothing, or it is another environment's."""
    table = tables.features(declared)
    if not context.lakehouse.owns(table.name):
        return None
    done = context.lakehouse.complete_until(table)
    if done is None:
        return Due(declared, None, as_of)
    if since is not None and since <= context.problem.begins:
        return Due(declared, None, max(as_of, done))
    start = min(since, done) if since else done
    end = max(as_of, done)
    return Due(declared, start, end) if start < end else None


def _ends(context: Context, frames: Frames) -> list[datetime]:
    """Moments between which as many rows became known as are to be built of at a time."""
    at_most = context.settings.features.chunk_rows
    known = [rows.select(KNOWN_AT) for rows in frames.values()]
    together = nw.concat(known, how="vertical")
    parts = in_parts(context.lakehouse, together, KNOWN_AT, at_most)
    return [end for _, end in parts][:-1]


def _parts(due: Due, ends: Sequence[datetime]) -> Iterator[Due]:
    """What is due, in parts from the past to the present."""
    start = due.start
    for end in ends:
        if end < due.end and (start is None or start < end):
            yield replace(due, start=start, end=end)
            start = end
    yield replace(due, start=start)


def _built(due: Due, frames: Frames) -> Frame:
    """Rows that became available in the interval, from what they may have been made of.

    What is no finite number becomes null: a share of nothing is not known, and is no reason to stop
    the night's run. Monitoring counts it as missing.
    """
    known = nw.col(KNOWN_AT)
    available = nw.col(AVAILABLE_AT)
    inputs = {name: rows.filter(known <= due.end) for name, rows in frames.items()}
    due_now = available <= due.end
    if due.start is not None:
        needed = known > due.start - due.table.lookback
        inputs = {name: rows.filter(needed) for name, rows in inputs.items()}
        due_now &= available > due.start
    built = returned(f"`build` of {due.table.name}", due.table.build(inputs))
    return only_finite(built.filter(due_now), due.table.values)
