"""What is predicted: how many minutes late a flight arrives."""

from __future__ import annotations

import narwhals as nw

from ..core.contract import Metric, Target
from ..modeling.metrics import mae, r2, rmse

TARGET = Target(
    label="minutes_late",
    from_outcome=nw.col("arrival_delay").cast(nw.Float64),
    metrics=(
        Metric("rmse", rmse, higher_is_better=False, too_good=10.0),
        Metric("mae", mae, higher_is_better=False, too_good=5.0),
        Metric("r2", r2, higher_is_better=True, too_good=0.9),
    ),
    unit="minutes late at arrival (negative: early)",
)
