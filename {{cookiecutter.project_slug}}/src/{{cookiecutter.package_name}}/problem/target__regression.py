"""What is predicted: how many minutes late a flight arrives."""

from __future__ import annotations

import narwhals as nw
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from ..contract import Array, Metric, Target


def rmse(label: Array, prediction: Array, weight: Array) -> float:
    """Root mean squared error, minutes."""
    return float(root_mean_squared_error(label, prediction, sample_weight=weight))


def mae(label: Array, prediction: Array, weight: Array) -> float:
    """Mean absolute error, minutes."""
    return float(mean_absolute_error(label, prediction, sample_weight=weight))


def r2(label: Array, prediction: Array, weight: Array) -> float:
    """Share of the variance explained; 0 is what predicting the mean gives."""
    return float(r2_score(label, prediction, sample_weight=weight))


TARGET = Target(
    label="minutes_late",
    from_outcome=nw.col("arrival_delay").cast(nw.Float64),
    classes=None,
    params={"objective": "regression"},
    metrics=(
        Metric("rmse", rmse, higher_is_better=False, too_good=10.0),
        Metric("mae", mae, higher_is_better=False, too_good=5.0),
        Metric("r2", r2, higher_is_better=True, too_good=0.9),
    ),
    unit="minutes late at arrival (negative: early)",
)
