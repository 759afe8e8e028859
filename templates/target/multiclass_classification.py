"""What is predicted: whether a flight arrives punctually, late, or very late."""

from __future__ import annotations

import narwhals as nw

from ..core.contract import Target
from ..modeling.metrics import ACCURACY, BRIER, LOG_LOSS, MACRO_ROC_AUC
from .features import LATE_MINUTES

VERY_LATE_MINUTES = 60
"""A flight is very late when it arrives more than so many minutes after its scheduled time."""

_DELAY = nw.col("arrival_delay")
_LATE = (_DELAY > LATE_MINUTES).cast(nw.Float64)
_VERY_LATE = (_DELAY > VERY_LATE_MINUTES).cast(nw.Float64)

TARGET = Target(
    label="lateness",
    from_outcome=_LATE + _VERY_LATE,  # the code of the class
    classes=("punctual", "late", "very_late"),
    metrics=(MACRO_ROC_AUC, LOG_LOSS, BRIER, ACCURACY),
    unit=(
        f"probabilities of arriving punctually, more than {LATE_MINUTES} and "
        f"more than {VERY_LATE_MINUTES} minutes late"
    ),
)
