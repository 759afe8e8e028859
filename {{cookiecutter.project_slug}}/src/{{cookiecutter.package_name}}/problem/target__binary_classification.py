"""What is predicted: whether a flight arrives late."""

from __future__ import annotations

import narwhals as nw
import numpy as np

from ..core.contract import Array, Metric, Target
from .features import LATE_MINUTES


def _cumulated(label: Array, score: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of late and of punctual flights up to each distinct score, lowest first; shapes (..., distinct)."""
    order = np.argsort(score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # of each run of ties
    label, weights = label[order], weights[..., order]
    late, punctual = (np.cumsum(weights * part, axis=-1)[..., last] for part in (label, 1 - label))
    return late, punctual


def roc_auc(label: Array, prediction: Array, weights: Array) -> Array:
    """Chance that a late flight is ranked above a punctual one, ties counting half (Hanley & McNeil 1982)."""
    late, punctual = _cumulated(label, prediction, weights)
    below = punctual - np.diff(punctual, prepend=0) / 2
    return np.asarray(
        (np.diff(late, prepend=0) * below).sum(-1) / (late[..., -1] * punctual[..., -1])
    )


def average_precision(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean precision at the thresholds of the late flights; the base rate is what guessing gives."""
    found, wrong = _cumulated(label, -prediction, weights)
    precision = found / np.maximum(found + wrong, 1e-12)
    return np.asarray((np.diff(found, prepend=0) * precision).sum(-1) / found[..., -1])


def log_loss(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean cross-entropy, in nats."""
    chance = np.clip(np.where(label == 1, prediction, 1 - prediction), 1e-15, 1)
    return np.asarray((weights * -np.log(chance)).sum(-1) / weights.sum(-1))


def brier(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean squared distance between probability and outcome (Brier 1950)."""
    return np.asarray((weights * (prediction - label) ** 2).sum(-1) / weights.sum(-1))


TARGET = Target(
    label="late",
    from_outcome=(nw.col("arrival_delay") > LATE_MINUTES).cast(nw.Float64),
    classes=2,
    params={"objective": "binary"},
    metrics=(
        Metric("roc_auc", roc_auc, higher_is_better=True, too_good=0.95),
        Metric("average_precision", average_precision, higher_is_better=True, too_good=0.95),
        Metric("log_loss", log_loss, higher_is_better=False, too_good=0.1),
        Metric("brier", brier, higher_is_better=False, too_good=0.03),
    ),
    unit=f"probability of arriving more than {LATE_MINUTES} minutes late",
)
