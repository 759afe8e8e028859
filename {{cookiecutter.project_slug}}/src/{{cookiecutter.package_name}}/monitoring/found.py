"""Findings: rows for the measurements, with a limit and a status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import polars as pl

Found: TypeAlias = dict[str, Any]
"""A row for `measurements.record`."""
_SCHEMA = {
    "subject": pl.String,
    "slice": pl.String,
    "metric": pl.String,
    "status": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "threshold": pl.Float64,
    "rows": pl.Int64,
}


def at_most(metric: str, value: float | None, limit: float, rows: int | None) -> Found:
    """A value that violates its limit when it is above it; None: unknown."""
    status = "ok"
    if value is None:
        status = "unknown"
    elif value > limit:
        status = "violated"
    return {"metric": metric, "value": value, "threshold": limit, "status": status, "rows": rows}


def at_least(metric: str, value: float | None, limit: float, rows: int | None) -> Found:
    """A value that violates its limit when it is below it; None: unknown."""
    negated = at_most(metric, None if value is None else -value, -limit, rows)
    return {**negated, "value": value, "threshold": limit}


def as_frame(found: Iterable[Found]) -> pl.DataFrame:
    """Findings as a frame of one schema, whatever each of them leaves out."""
    rows = pl.DataFrame(list(found), schema=_SCHEMA)
    return rows.with_columns(pl.col("slice").fill_null(""))


def as_declared(rows: pl.DataFrame) -> pl.DataFrame:
    """A frame of findings with every column of theirs, each of its type; null where it had none."""
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in _SCHEMA.items()
    )
