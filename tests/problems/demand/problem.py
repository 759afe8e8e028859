"""Bicycles an hour from now: a quantity, one feature table, one file.

Columns are called as a spreadsheet calls them.
"""

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
HOUR = "Hour No."
OF_DAY = "Hour (of day)"
BICYCLES = "Bicycles: count"
BEFORE = "Bicycles [a day before]"
HOURS: Schema = {HOUR: nw.Int64, "starts_at": UTC_TIME, OF_DAY: nw.Int64}
COUNTS: Schema = {HOUR: nw.Int64, OF_DAY: nw.Int64, BICYCLES: nw.Float64}


def everything() -> pl.DataFrame:
    """Every hour, and how many bicycles passed in it."""
    random = np.random.default_rng(5)
    hour = np.arange(24 * DAYS)
    rush = 1 + np.cos(2 * np.pi * (hour % 24 - 8) / 12)
    frame = pl.DataFrame({HOUR: hour, BICYCLES: random.poisson(20 + 30 * rush).astype(float)})
    starts_at = pl.lit(BEGINS).cast(pl.Datetime("us", "UTC")) + pl.duration(hours=pl.col(HOUR))
    of_day = (pl.col(HOUR) % 24).alias(OF_DAY)
    return frame.with_columns(of_day, starts_at=starts_at)


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
    return frames["counts"].select(OF_DAY, available_at, nw.col(BICYCLES).alias(BEFORE))


def spine(frames: Frames) -> Frame:
    """One row per hour, as it begins."""
    return frames["hours"].drop(KNOWN_AT).rename({"starts_at": PREDICTION_TIME})


def labels(frames: Frames) -> Frame:
    """What was counted."""
    return frames["counts"].select(HOUR, BICYCLES, KNOWN_AT)


PROBLEM = Problem(
    sources=(
        Source(name="hours", raw=HOURS, load=load_hours, keys=(HOUR,)),
        Source(name="counts", raw=COUNTS, load=load_counts, keys=(HOUR,)),
    ),
    feature_tables=(
        FeatureTable(
            name="before",
            keys={OF_DAY: nw.Int64},
            values={BEFORE: nw.Float64},
            build=last_count,
        ),
    ),
    model=Model(
        keys=(HOUR,),
        scored="hours",
        spine=spine,
        labels=labels,
        target=Target(
            label=BICYCLES,
            from_outcome=nw.col(BICYCLES),
            metrics=(RMSE, MAE),
            unit="bicycles in the hour",
        ),
        estimator=LightGBM,
        features=(OF_DAY, BEFORE),
        forbidden=(BICYCLES,),
    ),
    begins=BEGINS,
    ends=BEGINS + timedelta(days=DAYS),
)
