"""Measures of predictions, weighted, so that one call serves all days that an interval leaves out.

Each takes labels, shape (rows,), predictions, shape (rows,) or (rows, classes), and weights, shape
(..., rows), and gives a value for each, shape (...). Labels of classes are their codes 0, 1, ...
At the end stand the metrics that a target picks from.
"""

from __future__ import annotations

import numpy as np

from ..core.contract import Array, Metric, proper

_SMALLEST_CHANCE = 1e-15


def roc_auc(label: Array, prediction: Array, weights: Array) -> Array:
    """Chance that a positive is ranked above a negative, ties counting half.

    Source: Hanley & McNeil 1982.
    """
    positive, negative = _cumulated(label, prediction, weights)
    below = negative - np.diff(negative, prepend=0) / 2
    ranked = (np.diff(positive, prepend=0) * below).sum(-1)
    pairs = positive[..., -1] * negative[..., -1]
    return np.asarray(ranked / pairs)


def average_precision(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean precision at the thresholds of the positives; guessing gives their share."""
    found, wrong = _cumulated(label, -prediction, weights)
    precision = found / np.maximum(found + wrong, 1e-12)
    summed = (np.diff(found, prepend=0) * precision).sum(-1)
    return np.asarray(summed / found[..., -1])


@proper
def log_loss(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean cross-entropy, in nats, of two classes or of several."""
    chance = np.clip(chance_of_label(label, prediction), _SMALLEST_CHANCE, 1)
    return _mean(-np.log(chance), weights)


@proper
def brier(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean squared distance between probabilities and outcome (Brier 1950).

    Of two classes the distance of the second's probability; of several the sum over classes.
    """
    if prediction.ndim == 1:
        return _mean((prediction - label) ** 2, weights)
    distance = (prediction - _one_hot(label, prediction.shape[1])) ** 2
    return _mean(distance.sum(axis=1), weights)


def macro_roc_auc(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean over classes of the ROC AUC of one class against the rest, each class counting equally.

    A class that no row shows, weights considered, makes the value NaN.
    """
    areas = [
        roc_auc((label == code).astype(np.float64), prediction[:, code], weights)
        for code in range(prediction.shape[1])
    ]
    return np.asarray(np.mean(areas, axis=0))


def accuracy(label: Array, prediction: Array, weights: Array) -> Array:
    """Share of rows whose most probable class is the right one."""
    likeliest = prediction.argmax(axis=1) if prediction.ndim == 2 else prediction > 0.5
    return _mean((likeliest == label).astype(np.float64), weights)


def rmse(label: Array, prediction: Array, weights: Array) -> Array:
    """Root mean squared error, in units of the label."""
    return np.asarray(np.sqrt(_mean((prediction - label) ** 2, weights)))


def mae(label: Array, prediction: Array, weights: Array) -> Array:
    """Mean absolute error, in units of the label."""
    return _mean(np.abs(prediction - label), weights)


def r2(label: Array, prediction: Array, weights: Array) -> Array:
    """Share of the variance explained; 0 is what predicting the mean gives."""
    variance = _mean(label**2, weights) - _mean(label, weights) ** 2
    unexplained = _mean((prediction - label) ** 2, weights)
    return np.asarray(1 - unexplained / variance)


def _mean(values: Array, weights: Array) -> Array:
    return np.asarray((weights * values).sum(-1) / weights.sum(-1))


def chance_of_label(label: Array, prediction: Array) -> Array:
    """Probability that was given to what came true, shape (rows,)."""
    if prediction.ndim == 1:
        return np.where(label == 1, prediction, 1 - prediction)
    codes = label.astype(np.int64)[:, None]
    return np.take_along_axis(prediction, codes, axis=1)[:, 0]


def _one_hot(label: Array, classes: int) -> Array:
    return np.eye(classes)[label.astype(np.int64)]


def _cumulated(label: Array, score: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of positives and of negatives up to each distinct score, lowest first.

    Returns:
        Two arrays of shape (..., distinct scores).
    """
    order = np.argsort(score, kind="stable")
    changes = np.flatnonzero(np.diff(score[order]))
    last_of_ties = np.append(changes, len(order) - 1)
    ordered = weights[..., order]
    positive = np.cumsum(ordered * label[order], axis=-1)
    negative = np.cumsum(ordered * (1 - label[order]), axis=-1)
    return positive[..., last_of_ties], negative[..., last_of_ties]


ROC_AUC = Metric("roc_auc", roc_auc, higher_is_better=True)
AVERAGE_PRECISION = Metric("average_precision", average_precision, higher_is_better=True)
LOG_LOSS = Metric("log_loss", log_loss, higher_is_better=False)
BRIER = Metric("brier", brier, higher_is_better=False)
MACRO_ROC_AUC = Metric("macro_roc_auc", macro_roc_auc, higher_is_better=True)
ACCURACY = Metric("accuracy", accuracy, higher_is_better=True)
RMSE = Metric("rmse", rmse, higher_is_better=False)
MAE = Metric("mae", mae, higher_is_better=False)
R2 = Metric("r2", r2, higher_is_better=True)
