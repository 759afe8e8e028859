"""The metrics table: what evaluation, comparison and monitoring measured, row by row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import numpy as np
import polars as pl

from ..core.contract import polars_schema
from ..core.errors import UserError
from .lakehouse import Lakehouse
from .tables import MEASUREMENTS

# Who measures.
RUN = "run"
MONITORING = "monitoring"
SERVING = "serving"
BACKTEST = "replay"
# What is measured where it is no version: production as a whole, and policies of a backtest.
PRODUCTION = "production"
NEVER = "never retrained"
SCHEDULE = "retrained on schedule"
DRIFT = "retrained on drift"
# How much better than a guess a version was in a window, by the problem's first metric.
GAIN = "gain_over_baseline"


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
    columns = {}
    for name, kind in polars_schema(MEASUREMENTS.schema).items():
        otherwise = pl.lit(given.get(name))
        value = pl.coalesce(name, otherwise) if name in rows.columns else otherwise
        columns[name] = value.cast(kind)
    shaped = rows.select(**columns)
    return lakehouse.merge(MEASUREMENTS, shaped)


@contextmanager
def recorded(lakehouse: Lakehouse, verb: str, as_of: datetime) -> Iterator[None]:
    """Record a pipeline's run as of a moment.

    It tells seconds, peak memory of the process (MB), and whether the run failed. Nothing is
    recorded where the lakehouse cannot be written: the run itself will say so.
    """
    started = time.perf_counter()
    failed = True
    try:
        yield
        failed = False
    finally:
        values = {
            "seconds": time.perf_counter() - started,
            "peak_mb": _peak_mb(),
            "failed": float(failed),
        }
        rows = pl.DataFrame({"metric": list(values), "value": list(values.values())})
        with suppress(UserError, OSError):
            record(lakehouse, rows, RUN, verb, as_of, as_of)


def _peak_mb() -> float | None:
    if sys.platform == "win32":  # which does not keep it
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def mean_gains(measured: pl.DataFrame) -> list[tuple[str, float, float, float, float]]:
    """Mean value and gain of each policy over the windows of a backtest.

    Args:
        measured: subject, window_end, value and gain; a row per policy and window.

    Returns:
        Policy, mean value, mean gain over never, and the gain's 95 % interval, Student's t of the
        windows (NaN: of one). In the order of the policies, whatever the order of the rows.
    """
    from scipy.special import stdtrit

    results = []
    ordered = measured.sort("window_end")
    for policy in (NEVER, SCHEDULE, DRIFT):
        rows = ordered.filter(subject=policy)
        if rows.is_empty():
            continue
        value = float(rows["value"].to_numpy().mean())
        gains = rows["gain"].to_numpy()
        gain = float(gains.mean())
        spread = np.nan
        if len(gains) > 1:
            spread = stdtrit(len(gains) - 1, 0.975) * gains.std(ddof=1) / np.sqrt(len(gains))
        results.append((policy, value, gain, float(gain - spread), float(gain + spread)))
    return results
