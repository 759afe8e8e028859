"""Health of data and pipelines: volume, quality, freshness, runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import narwhals as nw

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, Frame, Table
from ..store import tables
from ..store.measurements import RUN
from ..store.point_in_time import prepared, spine_of
from ..store.tables import MEASUREMENTS
from .found import Found, at_least, at_most
from .windows import Window, first_prediction

_HOUR = timedelta(hours=1)


def measure_volume(
    context: Context, rows: Frame, window: Window, as_of: datetime
) -> Iterator[Found]:
    """Share of the rows due that were scored, time per row, runs that failed."""
    due = _rows_due(context, window, as_of)
    lakehouse = context.lakehouse
    scored = lakehouse.rows(rows.select(*context.problem.model.keys, PREDICTION_TIME).unique())
    share = scored / due if due else None
    yield at_least("scored", share, context.settings.monitoring.min_scored, due)
    in_batches = nw.col("request_id") == tables.BATCH
    kind = nw.when(in_batches).then(nw.lit("batch")).otherwise(nw.lit("online"))
    taken = rows.with_columns(kind.alias("kind")).group_by("kind")
    means = taken.agg(nw.col("latency_ms").mean(), nw.len().alias("rows"))
    for name, latency, count in lakehouse.collect(means).sort("kind").iter_rows():
        # By the clock, in batches of a row's share: told, not judged.
        yield {"metric": f"{name}_latency_ms", "value": latency, "rows": count}
    runs = lakehouse.read(
        MEASUREMENTS,
        nw.col("producer") == RUN,
        nw.col("metric") == "failed",
        nw.col("window_end") > window.start,
        nw.col("window_end") <= window.end,
    )
    yield at_most("failed_runs", float(runs["value"].sum()), 0, runs.height)


def measure_quality(context: Context, window: Window) -> Iterator[Found]:
    """Share of the rows known in the window that went to quarantine, by source."""
    for source in context.problem.sources:
        passed = _rows_known(context, tables.prepared(source), window)
        failed = _rows_known(context, tables.quarantine(source), window)
        rows = passed + failed
        if rows:
            found = at_most("quarantined", failed / rows, source.max_rejected, rows)
            yield {**found, "slice": f"source={source.name}"}


def measure_freshness(context: Context, as_of: datetime) -> Iterator[Found]:
    """Hours since a feed gave its newest row, and since a pipeline completed a table."""
    lakehouse = context.lakehouse
    problem = context.problem
    for source in problem.sources:
        if source.max_age:
            known = lakehouse.scan(tables.prepared(source)).filter(nw.col(KNOWN_AT) <= as_of)
            newest = lakehouse.collect(known.select(nw.col(KNOWN_AT).max())).item()
            yield _age(f"source={source.name}", newest, as_of, source.max_age / _HOUR)
    written = [tables.features(declared) for declared in problem.feature_tables]
    for table in (*written, tables.predictions(problem)):
        done = lakehouse.complete_until(table)
        yield _age(f"table={table.name}", done, as_of, context.settings.monitoring.max_age_hours)


def _rows_due(context: Context, window: Window, as_of: datetime) -> int:
    """Rows of the window that were to be scored, from the first prediction on."""
    begun = max(window.start, first_prediction(context) or window.start)
    frames = prepared(context.lakehouse, context.problem, as_of, {})
    time = nw.col(PREDICTION_TIME)
    spine = spine_of(context.problem, frames).filter(time >= begun, time < window.end)
    return context.lakehouse.rows(spine)


def _rows_known(context: Context, table: Table, window: Window) -> int:
    known = nw.col(KNOWN_AT)
    rows = context.lakehouse.scan(table).filter(known > window.start, known <= window.end)
    return context.lakehouse.rows(rows)


def _age(name: str, moment: datetime | None, as_of: datetime, limit: float) -> Found:
    hours = (as_of - moment) / _HOUR if moment else None
    return {**at_most("age_hours", hours, limit, None), "slice": name}
