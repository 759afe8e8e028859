"""The metrics table: what evaluation, comparison and monitoring measured, row by row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import narwhals as nw
import polars as pl

from .contract import UTC_TIME, Table
from .lakehouse import Lakehouse

METRICS = Table(
    name="metrics",
    schema={
        "producer": nw.String,
        "subject": nw.String,
        "window_start": UTC_TIME,
        "window_end": UTC_TIME,
        "slice": nw.String,
        "metric": nw.String,
        "value": nw.Float64,
        "lower": nw.Float64,
        "upper": nw.Float64,
        "threshold": nw.Float64,
        "status": nw.String,
        "rows": nw.Int64,
    },
    keys=("producer", "subject", "window_start", "window_end", "slice", "metric"),
    time="window_end",
)


@dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        producer: The pipeline that measured.
        subject: What was measured, for example a training or a model version.
        window_start: Beginning of the window of prediction times, UTC.
        window_end: End of it.
        metric: Name of the metric.
        value: Its value; None where it could not be measured.
        lower: Lower end of the 95 % interval, where there is one.
        upper: Upper end of it.
        slice: `column=value`; empty for all rows.
        threshold: What the value was held against, if anything.
        status: Outcome against the threshold, if there is one.
        rows: Rows measured.
    """

    producer: str
    subject: str
    window_start: datetime
    window_end: datetime
    metric: str
    value: float | None
    lower: float | None = None
    upper: float | None = None
    slice: str = ""
    threshold: float | None = None
    status: str | None = None
    rows: int | None = None


def record(lakehouse: Lakehouse, measurements: Iterable[Measurement]) -> int:
    """Write measurements; measuring the same again changes nothing.

    Returns:
        Rows that are new or changed.
    """
    schema = nw.Schema(dict(METRICS.schema)).to_polars()
    rows = pl.DataFrame([asdict(item) for item in measurements], schema=schema)
    return lakehouse.merge(METRICS, nw.from_native(rows.lazy()))
