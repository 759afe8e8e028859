"""What is predicted: whether a flight arrives late."""

from __future__ import annotations

import narwhals as nw

from ..core.contract import Target
from ..modeling.metrics import AVERAGE_PRECISION, BRIER, LOG_LOSS, ROC_AUC
from .features import LATE_MINUTES

TARGET = Target(
    label="late",
    from_outcome=(nw.col("arrival_delay") > LATE_MINUTES).cast(nw.Float64),
    classes=("punctual", "late"),
    metrics=(ROC_AUC, AVERAGE_PRECISION, LOG_LOSS, BRIER),
    unit=f"probability of arriving more than {LATE_MINUTES} minutes late",
)
