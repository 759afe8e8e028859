"""Prepared to feature tables, incrementally."""

from __future__ import annotations

from datetime import datetime

import narwhals as nw

from ..contract import AVAILABLE_AT, KNOWN_AT, Problem
from ..feature_store import prepared
from ..lakehouse import Lakehouse


def build_features(
    lakehouse: Lakehouse, problem: Problem, as_of: datetime, since: datetime | None = None
) -> dict[str, int]:
    """Write the feature rows that became available until `as_of`; returns how many, by table.

    Args:
        lakehouse: Tables of the environment.
        problem: Feature tables and their sources.
        as_of: Rows available later are not written.
        since: Rebuild from then on; by default continue where the last build ended.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or a feature table does not have its
            declared columns or keys.
    """
    due = []
    for feature in problem.feature_tables:
        done = lakehouse.complete_until(feature.table)
        start = min(since, done) if since and done else done
        end = max(as_of, done) if done else as_of
        if lakehouse.owns(feature.table.name) and (start is None or start < end):
            due.append((feature, start, end))
    if not due:
        return {}
    last = max(end for *_, end in due)
    for source in problem.sources:
        lakehouse.require(source.prepared_table, last)
    frames, written = prepared(lakehouse, problem, last, {}), {}
    for feature, start, end in due:
        inputs = {name: rows.filter(nw.col(KNOWN_AT) <= end) for name, rows in frames.items()}
        if start is not None:
            needed = nw.col(KNOWN_AT) > start - feature.lookback
            inputs = {name: rows.filter(needed) for name, rows in inputs.items()}
        built = feature.build(inputs).filter(nw.col(AVAILABLE_AT) <= end)
        new = built if start is None else built.filter(nw.col(AVAILABLE_AT) > start)
        written[feature.name] = lakehouse.overwrite(feature.table, new, start, end)
    return written
