"""What is predicted: how many minutes late a flight arrives."""

from __future__ import annotations

import narwhals as nw
import numpy as np

from ..core.contract import Array, Metric, Target


def _mean(values: Array, weights: Array) -> Array:
    return np.asarray((weights * values).sum(-1) / weights.sum(-1))


def rmse(label: Array, prediction: Array, weights: Array) -> Array:
    """Root mean squared error, minutes."""
    return np.asarray(np.sqrt(_mean((prediction - label) ** 2, weights)))


def mae(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean absolute error, minutes."""
    return _mean(np.abs(prediction - label), weights)


def r2(label: Array, prediction: Array, weights: Array) -> Array:
    """Share of the variance explained; 0 is what predicting the mean gives."""
    variance = _mean(label**2, weights) - _mean(label, weights) ** 2
    return np.asarray(1 - _mean((prediction - label) ** 2, weights) / variance)


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
