"""The metrics table: what evaluation, comparison and monitoring measured, row by row."""

from __future__ import annotations

from datetime import datetime

import narwhals as nw
import polars as pl

from .contract import UTC_TIME, Table, polars_schema
from .lakehouse import Lakehouse

METRICS = Table(
    name="metrics",
    schema={
        **dict.fromkeys(("producer", "subject"), nw.String),
        **dict.fromkeys(("window_start", "window_end"), UTC_TIME),
        **dict.fromkeys(("slice", "metric"), nw.String),
        **dict.fromkeys(("value", "lower", "upper", "threshold"), nw.Float64),
        "status": nw.String,
        "rows": nw.Int64,
    },
    keys=("producer", "subject", "window_start", "window_end", "slice", "metric"),
    time="window_end",
)


def record(
    lakehouse: Lakehouse, rows: pl.DataFrame, producer: str, subject: str, start: datetime, end: datetime
) -> int:
    """Write measurements; measuring the same again changes nothing.

    Args:
        lakehouse: Tables of the environment.
        rows: `metric` and `value`, and what there is of `slice` (`column=value`; empty: all rows),
            `lower` and `upper` (95 % interval), `threshold`, `status`, `rows`.
        producer: The pipeline that measured.
        subject: What was measured: a training, a version.
        start: Beginning of the window of prediction times, UTC.
        end: End of it.

    Returns:
        How many are new or changed.
    """
    given = {"producer": producer, "subject": subject, "window_start": start, "window_end": end}
    filled = {"slice": pl.lit(""), **{name: pl.lit(value) for name, value in given.items()}}
    columns = {
        name: pl.col(name) if name in rows.columns else filled.get(name, pl.lit(None)) for name in METRICS.schema
    }
    shaped = rows.lazy().select(**columns).cast(polars_schema(METRICS.schema))
    return lakehouse.merge(METRICS, nw.from_native(shaped))
