"""The metrics table: what evaluation, comparison and monitoring measured, row by row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import polars as pl

from ..core.contract import polars_schema
from ..core.errors import UserError
from .lakehouse import Lakehouse
from .tables import MEASUREMENTS

RUN = "run"


def record(
    lakehouse: Lakehouse,
    rows: pl.DataFrame,
    producer: str,
    subject: str,
    start: datetime,
    end: datetime,
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
    given = {
        "slice": "",
        "producer": producer,
        "subject": subject,
        "window_start": start,
        "window_end": end,
    }
    filled = {name: pl.lit(given.get(name)) for name in MEASUREMENTS.schema}
    columns = {
        name: pl.coalesce(name, other) if name in rows.columns else other
        for name, other in filled.items()
    }
    shaped = rows.select(**columns).cast(polars_schema(MEASUREMENTS.schema))
    return lakehouse.merge(MEASUREMENTS, shaped)


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

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )
