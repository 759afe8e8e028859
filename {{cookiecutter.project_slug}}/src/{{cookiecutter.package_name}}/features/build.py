"""Prepared to feature tables, incrementally."""

from __future__ import annotations

from datetime import datetime

import narwhals as nw

from ..contract import AVAILABLE_AT, KNOWN_AT, Problem
from ..lakehouse import Lakehouse


def build_features(
    lakehouse: Lakehouse,
    problem: Problem,
    as_of: datetime,
    since: datetime | None = None,
) -> dict[str, int]:
    """Write the feature rows that became available until `as_of`.

    Args:
        lakehouse: Tables of the environment.
        problem: Feature tables, and the sources they are made of.
        as_of: Rows available later are not written.
        since: Rebuild from then on; by default continue where the last build ended.

    Returns:
        Rows written by feature table.

    Raises:
        UserError: A feature table that does not have its declared columns or keys.
    """
    written = {}
    for feature in problem.feature_tables:
        table = feature.table
        if not lakehouse.owns(table.name):
            continue
        done = lakehouse.complete_until(table)
        start = min(since, done) if since and done else done
        if start is not None and start >= as_of:
            continue
        for source in problem.sources:
            lakehouse.require(source.prepared_table, as_of)
        known = nw.col(KNOWN_AT) <= as_of
        if start is not None:
            known = known & (nw.col(KNOWN_AT) > start - feature.lookback)
        inputs = {
            source.name: lakehouse.scan(source.prepared_table).filter(known)
            for source in problem.sources
        }
        rows = feature.build(inputs).filter(nw.col(AVAILABLE_AT) <= as_of)
        if start is not None:
            rows = rows.filter(nw.col(AVAILABLE_AT) > start)
        written[feature.name] = lakehouse.overwrite(table, rows, start, as_of)
    return written
