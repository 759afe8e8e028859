"""What is predicted: whether a flight arrives late."""

from __future__ import annotations

import narwhals as nw

from ..core.contract import Metric, Target
from ..modeling.metrics import average_precision, brier, log_loss, roc_auc
from .features import LATE_MINUTES

TARGET = Target(
    label="late",
    from_outcome=(nw.col("arrival_delay") > LATE_MINUTES).cast(nw.Float64),
    classes=("punctual", "late"),
    metrics=(
        Metric("roc_auc", roc_auc, higher_is_better=True, too_good=0.95),
        Metric("average_precision", average_precision, higher_is_better=True, too_good=0.95),
        Metric("log_loss", log_loss, higher_is_better=False, too_good=0.1),
        Metric("brier", brier, higher_is_better=False, too_good=0.03),
    ),
    unit=f"probability of arriving more than {LATE_MINUTES} minutes late",
)
