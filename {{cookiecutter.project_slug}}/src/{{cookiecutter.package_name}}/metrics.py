"""The metrics table: what evaluation, comparison and monitoring measured, row by row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import narwhals as nw
import polars as pl

from .contract import UTC_TIME, Table, polars_schema
from .errors import UserError
from .lakehouse import Lakehouse

RUN = "run"

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
            `lower` and `upper` (95 % interval), `threshold`, `status`, `rows`, `subject`.
        producer: The pipeline that measured.
        subject: What was measured (a training, a version), where a row does not say.
        start: Beginning of the window of prediction times, UTC.
        end: End of it.

    Returns:
        How many are new or changed.
    """
    given = {"slice": "", "producer": producer, "subject": subject, "window_start": start, "window_end": end}
    filled = {name: pl.lit(given.get(name)) for name in METRICS.schema}
    columns = {name: pl.coalesce(name, other) if name in rows.columns else other for name, other in filled.items()}
    shaped = rows.lazy().select(**columns).cast(polars_schema(METRICS.schema))
    return lakehouse.merge(METRICS, nw.from_native(shaped))


@contextmanager
def recorded(lakehouse: Lakehouse, verb: str, as_of: datetime) -> Iterator[None]:
    """Record of a pipeline's run as of a moment: seconds, peak memory of the process (MB), whether it failed.

    Nothing is recorded where the lakehouse cannot be written: the run itself will say so.
    """
    started, failed = time.perf_counter(), 1.0
    try:
        yield
        failed = 0.0
    finally:
        values = {"seconds": time.perf_counter() - started, "peak_mb": _peak_mb(), "failed": failed}
        rows = pl.DataFrame({"metric": list(values), "value": list(values.values())})
        with suppress(UserError, OSError):
            record(lakehouse, rows, RUN, verb, as_of, as_of)


def _peak_mb() -> float | None:
    if sys.platform == "win32":  # which does not keep it
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
