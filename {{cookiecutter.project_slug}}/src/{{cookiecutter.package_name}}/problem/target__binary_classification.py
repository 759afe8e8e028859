"""What is predicted: whether a flight arrives late."""

from __future__ import annotations

import narwhals as nw
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from ..contract import Array, Metric, Target
from .features import LATE_MINUTES


def roc_auc(label: Array, prediction: Array, weight: Array) -> float:
    """Chance that a late flight is ranked above a punctual one (Hanley & McNeil 1982)."""
    return float(roc_auc_score(label, prediction, sample_weight=weight))


def average_precision(label: Array, prediction: Array, weight: Array) -> float:
    """Area under the precision-recall curve; the base rate is what guessing gives."""
    return float(average_precision_score(label, prediction, sample_weight=weight))


def cross_entropy(label: Array, prediction: Array, weight: Array) -> float:
    """Mean log loss, in nats."""
    return float(log_loss(label, prediction, sample_weight=weight, labels=[0.0, 1.0]))


def brier(label: Array, prediction: Array, weight: Array) -> float:
    """Mean squared distance between probability and outcome (Brier 1950)."""
    return float(brier_score_loss(label, prediction, sample_weight=weight, pos_label=1.0))


TARGET = Target(
    label="late",
    from_outcome=(nw.col("arrival_delay") > LATE_MINUTES).cast(nw.Float64),
    classes=2,
    params={"objective": "binary"},
    metrics=(
        Metric("roc_auc", roc_auc, higher_is_better=True, too_good=0.95),
        Metric("average_precision", average_precision, higher_is_better=True, too_good=0.95),
        Metric("log_loss", cross_entropy, higher_is_better=False, too_good=0.1),
        Metric("brier", brier, higher_is_better=False, too_good=0.03),
    ),
    unit=f"probability of arriving more than {LATE_MINUTES} minutes late",
)
