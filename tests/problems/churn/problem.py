"""Will a customer cancel? Two classes, no feature table, an estimator without a search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import narwhals as nw
import numpy as np
import polars as pl

from ..core.contract import (
    KNOWN_AT,
    PREDICTION_TIME,
    UTC_TIME,
    Frame,
    Frames,
    Metric,
    Model,
    Problem,
    Schema,
    Source,
    Target,
)
from ..modeling.lightgbm import LightGBM
from ..modeling.metrics import brier, roc_auc

BEGINS = datetime(2019, 1, 1, tzinfo=UTC)
DAYS = 60
REVIEWS: Schema = {
    "review": nw.Int64,
    "plan": nw.String,
    "complaints": nw.Int64,
    "reviewed_at": UTC_TIME,
}
ANSWERS: Schema = {"review": nw.Int64, "cancelled": nw.Boolean}
_PLANS = ("basic", "family", "premium")
_REVIEWS_A_DAY = 100


def everything() -> pl.DataFrame:
    """Every review of a customer, and whether they cancelled within two days."""
    random = np.random.default_rng(3)
    count = DAYS * _REVIEWS_A_DAY
    complaints = random.poisson(1.5, count)
    leaves = random.random(count) < 1 / (1 + np.exp(2 - complaints))
    frame = pl.DataFrame(
        {
            "review": range(count),
            "plan": random.choice(_PLANS, count),
            "complaints": complaints,
            "cancelled": leaves,
        }
    )
    minutes = pl.col("review") * (24 * 60 // _REVIEWS_A_DAY)
    begins = pl.lit(BEGINS).cast(pl.Datetime("us", "UTC"))
    return frame.with_columns(reviewed_at=begins + pl.duration(minutes=minutes))


def published(columns: Schema, known_at: pl.Expr, since: datetime | None, until: datetime) -> Frame:
    """Rows that became known in `(since, until]`."""
    rows = everything().lazy().select(*columns, known_at.alias(KNOWN_AT))
    rows = rows.filter(pl.col(KNOWN_AT) <= until)
    return nw.from_native(rows if since is None else rows.filter(pl.col(KNOWN_AT) > since))


def load_reviews(since: datetime | None, until: datetime) -> Frame:
    """Reviews, known at once."""
    return published(REVIEWS, pl.col("reviewed_at"), since, until)


def load_answers(since: datetime | None, until: datetime) -> Frame:
    """Who cancelled, known two days later."""
    return published(ANSWERS, pl.col("reviewed_at") + timedelta(days=2), since, until)


def spine(frames: Frames) -> Frame:
    """One row per review."""
    return frames["reviews"].drop(KNOWN_AT).rename({"reviewed_at": PREDICTION_TIME})


def labels(frames: Frames) -> Frame:
    """1 for a customer who cancelled."""
    label = nw.col("cancelled").cast(nw.Float64).alias("leaves")
    return frames["answers"].select("review", label, KNOWN_AT)


PROBLEM = Problem(
    sources=(
        Source(name="reviews", raw=REVIEWS, load=load_reviews, prepared=REVIEWS, keys=("review",)),
        Source(name="answers", raw=ANSWERS, load=load_answers, prepared=ANSWERS, keys=("review",)),
    ),
    feature_tables=(),
    model=Model(
        keys=("review",),
        scored="reviews",
        spine=spine,
        labels=labels,
        target=Target(
            label="leaves",
            from_outcome=nw.col("cancelled").cast(nw.Float64),
            classes=("stays", "leaves"),
            metrics=(
                Metric("roc_auc", roc_auc, higher_is_better=True, too_good=0.95),
                Metric("brier", brier, higher_is_better=False, too_good=0.03),
            ),
            unit="probability of cancelling within two days",
        ),
        estimator=LightGBM,
        features=("plan", "complaints"),
        categorical=("plan",),
        baseline=("plan",),
        forbidden=("cancelled", "leaves"),
        slices=("plan",),
    ),
    begins=BEGINS,
    ends=BEGINS + timedelta(days=DAYS),
)
