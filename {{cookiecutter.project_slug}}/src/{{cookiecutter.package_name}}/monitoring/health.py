"""Health of data and pipelines: volume, quality, freshness, runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, Table
from ..store import tables
from ..store.measurements import RUN
from ..store.point_in_time import prepared, spine_of
from ..store.tables import MEASUREMENTS
from .found import Found, at_least, at_most
from .windows import Window, first_prediction

_HOUR = timedelta(hours=1)


def measure_volume(
    context: Context, rows: pl.DataFrame, window: Window, as_of: datetime
) -> Iterator[Found]:
    """Share of the rows due that were scored, time per row, runs that failed."""
    due = _rows_due(context, window, as_of)
    scored = rows.n_unique([*context.problem.model.keys, PREDICTION_TIME])
    share = scored / due if due else None
    yield at_least("scored", share, context.settings.monitoring.min_scored, due)
    in_batches = pl.col("request_id") == tables.BATCH
    kinds = {"batch_latency_ms": in_batches, "online_latency_ms": ~in_batches}
    for metric, which in kinds.items():
        latency = rows.filter(which)["latency_ms"]
        if len(latency):  # by the clock, in batches of a row's share: told, not judged
            yield {"metric": metric, "value": latency.mean(), "rows": len(latency)}
    runs = context.lakehouse.read(
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
