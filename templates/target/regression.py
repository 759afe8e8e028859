"""What is predicted: how many minutes late a flight arrives."""

from __future__ import annotations

import narwhals as nw

from ..core.contract import Target
from ..modeling.metrics import MAE, R2, RMSE

TARGET = Target(
    label="minutes_late",
    from_outcome=nw.col("arrival_delay").cast(nw.Float64),
    metrics=(RMSE, MAE, R2),
    unit="minutes late at arrival (negative: early)",
)
