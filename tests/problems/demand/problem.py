"""Bicycles an hour from now: a quantity, one feature table, one file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl

from ..core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    UTC_TIME,
    FeatureTable,
    Frame,
    Frames,
    Model,
    Problem,
    Schema,
    Source,
    Target,
)
from ..modeling.lightgbm import LightGBM
from ..modeling.metrics import MAE, RMSE

BEGINS = datetime(2022, 5, 1, tzinfo=UTC)
DAYS = 60
HOURS: Schema = {"hour": nw.Int64, "starts_at": UTC_TIME, "hour_of_day": nw.Int64}
COUNTS: Schema = {"hour": nw.Int64, "hour_of_day": nw.Int64, "bicycles": nw.Float64}


def everything() -> pl.DataFrame:
    """Every hour, and how many bicycles passed in it."""
    random = np.random.default_rng(5)
    hour = np.arange(24 * DAYS)
    rush = 1 + np.cos(2 * np.pi * (hour % 24 - 8) / 12)
    frame = pl.DataFrame({"hour": hour, "bicycles": random.poisson(20 + 30 * rush).astype(float)})
    starts_at = pl.lit(BEGINS).cast(pl.Datetime("us", "UTC")) + pl.duration(hours=pl.col("hour"))
    return frame.with_columns(starts_at=starts_at, hour_of_day=pl.col("hour") % 24)


def published(columns: Schema, known_at: pl.Expr, since: datetime | None, until: datetime) -> Frame:
    """Rows that became known in `(since, until]`."""
    rows = everything().lazy().select(*columns, known_at.alias(KNOWN_AT))
    rows = rows.filter(pl.col(KNOWN_AT) <= until)
    return nw.from_native(rows if since is None else rows.filter(pl.col(KNOWN_AT) > since))


def load_hours(since: datetime | None, until: datetime) -> Frame:
    """The calendar, known a day ahead."""
    return published(HOURS, pl.col("starts_at") - timedelta(days=1), since, until)


def load_counts(since: datetime | None, until: datetime) -> Frame:
    """Counts, known when the hour is over."""
    return published(COUNTS, pl.col("starts_at") + timedelta(hours=1), since, until)


def last_count(frames: Frames) -> Frame:
    """The newest count at each hour of the day."""
    available_at = nw.col(KNOWN_AT).alias(AVAILABLE_AT)
    return frames["counts"].select(
        "hour_of_day", available_at, nw.col("bicycles").alias("bicycles_before")
    )


def spine(frames: Frames) -> Frame:
    """One row per hour, as it begins."""
    return frames["hours"].drop(KNOWN_AT).rename({"starts_at": PREDICTION_TIME})


def labels(frames: Frames) -> Frame:
    """What was counted."""
    return frames["counts"].select("hour", "bicycles", KNOWN_AT)


PROBLEM = Problem(
    sources=(
        Source(name="hours", raw=HOURS, load=load_hours, keys=("hour",)),
        Source(name="counts", raw=COUNTS, load=load_counts, keys=("hour",)),
    ),
    feature_tables=(
        FeatureTable(
            name="before",
            keys={"hour_of_day": nw.Int64},
            values={"bicycles_before": nw.Float64},
            build=last_count,
        ),
    ),
    model=Model(
        keys=("hour",),
        scored="hours",
        spine=spine,
        labels=labels,
        target=Target(
            label="bicycles",
            from_outcome=nw.col("bicycles"),
            metrics=(RMSE, MAE),
            unit="bicycles in the hour",
        ),
        estimator=LightGBM,
        features=("hour_of_day", "bicycles_before"),
        forbidden=("bicycles",),
    ),
    begins=BEGINS,
    ends=BEGINS + timedelta(days=DAYS),
)
