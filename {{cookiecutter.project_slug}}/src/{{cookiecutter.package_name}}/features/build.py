"""Prepared to feature tables, incrementally."""

from __future__ import annotations

from datetime import datetime

import narwhals as nw

from ..context import Context
from ..core.contract import AVAILABLE_AT, KNOWN_AT
from ..store import tables
from ..store.point_in_time import prepared


def build_features(
    context: Context, as_of: datetime, since: datetime | None = None
) -> dict[str, int]:
    """Write the feature rows that became available until `as_of`; returns how many, by table.

    Args:
        context: Tables, and what the problem declares of them.
        as_of: Rows available later are not written.
        since: Rebuild from then on; by default continue where the last build ended.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or a feature table does not have its
            declared columns or keys.
    """
    lakehouse, problem = context.lakehouse, context.problem
    due = []
    for feature in problem.feature_tables:
        done = lakehouse.complete_until(tables.features(feature))
        start = min(since, done) if since and done else done
        end = max(as_of, done) if done else as_of
        if lakehouse.owns(tables.features(feature).name) and (start is None or start < end):
            due.append((feature, start, end))
    if not due:
        return {}
    last = max(end for *_, end in due)
    for source in problem.sources:
        lakehouse.require(tables.prepared(source), last)
    frames, written = prepared(lakehouse, problem, last, {}), {}
    for feature, start, end in due:
        inputs = {name: rows.filter(nw.col(KNOWN_AT) <= end) for name, rows in frames.items()}
        if start is not None:
            needed = nw.col(KNOWN_AT) > start - feature.lookback
            inputs = {name: rows.filter(needed) for name, rows in inputs.items()}
        built = feature.build(inputs).filter(nw.col(AVAILABLE_AT) <= end)
        new = built if start is None else built.filter(nw.col(AVAILABLE_AT) > start)
        written[feature.name] = lakehouse.overwrite(tables.features(feature), new, start, end)
    return written
