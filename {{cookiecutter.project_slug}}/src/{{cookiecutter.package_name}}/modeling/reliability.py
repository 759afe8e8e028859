"""Whether scores can be believed: what is foretold happens as often as foretold, on slices too.

A ranking may be excellent and the probabilities nonsense. Scores are reliable if outcomes,
regressed on them, rise with a slope of 1 (Mincer & Zarnowitz 1969; for probabilities Miller, Hui &
Tierney 1991) and have their mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from scipy.stats import t

from ..core.contract import PREDICTION_TIME, Array, Metric, Model, Target
from .evaluation import compare, slices
from .metrics import chance_of_label

_CERTAINTY = 0.999  # one-sided; many slices are looked at
_MIN_ROWS = 5  # of a slice; what is smaller is pooled
_MIN_DAYS = 3
_NO_CHANCE = 0.01
_SMALLEST_SPREAD = 1e-12
_SURPRISES = 0.1


def slope(label: Array, prediction: Array, weights: Array) -> Array:
    """Slope of outcomes on scores; 1 where they are reliable, more where scores are squeezed.

    Args:
        label: Shape (rows,); codes of several classes.
        prediction: Shape (rows,) or (rows, classes); classes are pooled.
        weights: Shape (..., rows).

    Returns:
        Shape (...); NaN where scores are constant.
    """
    outcome, score = _columns(label, prediction)
    share = weights / weights.sum(-1, keepdims=True)
    outcome = outcome - outcome.mean(axis=0)
    score = score - score.mean(axis=0)
    mean_outcome = share @ outcome
    mean_score = share @ score
    together = share @ (outcome * score) - mean_outcome * mean_score
    alone = share @ score**2 - mean_score**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(together.sum(-1) / alone.sum(-1))


def bias(label: Array, prediction: Array, weights: Array) -> Array:
    """Distance of the mean score from the mean outcome, in spreads of the label.

    Of several classes that of the worst. Arguments and result as of `slope`.
    """
    outcome, score = _columns(label, prediction)
    share = weights / weights.sum(-1, keepdims=True)
    spread = np.maximum(outcome.std(axis=0), _SMALLEST_SPREAD)
    apart = np.abs(share @ (score - outcome)) / spread
    return np.asarray(apart.max(-1))


SLOPE = Metric("calibration_slope", slope, higher_is_better=True, has_best=False)
BIAS = Metric("calibration_bias", bias, higher_is_better=False, has_best=False)


def reliability(
    rows: pl.DataFrame, predicted: Array, reference: Array, model: Model
) -> pl.DataFrame:
    """Slope and bias with intervals, on all rows; arguments and result as of `compare`."""
    metrics = (SLOPE, BIAS) if np.ptp(predicted, axis=0).any() else (BIAS,)
    target = replace(model.target, metrics=metrics)
    asked = replace(model, target=target, slices=())
    return compare(rows, predicted, reference, asked)


def worse_guards(results: pl.DataFrame, target: Target, margin: float) -> list[str]:
    """Guards, such as proper scores, by which one is surely worse than its opponent on all rows.

    Args:
        results: As of `compare`.
        target: Its metrics.
        margin: Share of the opponent's metric by which it may be worse.
    """
    of_all = results.filter(pl.col("metric").is_in(guards(target)), slice="")
    worse = surely_worse(margin * pl.col("reference").abs())
    return of_all.filter(worse.fill_null(value=True))["metric"].to_list()


def guards(target: Target) -> list[str]:
    """Metrics besides the first by which no version may surely be worse."""
    return [metric.name for metric in target.metrics[1:] if metric.is_guard]


def surely_worse(margin: pl.Expr) -> pl.Expr:
    """Results whose gain is below minus the margin, and surely below 0."""
    return (pl.col("gain") < -margin) & (pl.col("gain_upper") < 0)


def surprises(rows: pl.DataFrame, predicted: Array, model: Model) -> dict[str, float]:
    """Slices on which what happened had often been given no chance (below 1 %).

    Args:
        rows: Label, prediction time and slice columns.
        predicted: Probabilities, shape (rows,) or (rows, classes).
        model: Says the label, its classes and the slices.

    Returns:
        Slice (empty: all rows) to the share of such rows, where there are five of them or more and
        their share is above 10 %.
    """
    label = rows[model.target.label].to_numpy()
    surprised = chance_of_label(label, predicted) < _NO_CHANCE
    found = {}
    for name, inside in _everywhere(rows, model):
        count = int(surprised[inside].sum())
        share = count / int(inside.sum())
        if count >= _MIN_ROWS and share > _SURPRISES:
            found[name] = share
    return found


def biases(
    rows: pl.DataFrame, predicted: Array, reference: Array, model: Model
) -> dict[str, float]:
    """Slices on which the mean score is surely more than a spread of the label beside the outcome.

    Sure by a one-sided t interval (99.9 %) of a ratio of sums over days (Cochran 1977, section
    6.3), since rows of a day share what happened on it. Where the reference is as far off, the data
    have moved, and the score is no worse for it.

    Args:
        rows: Label, prediction time and slice columns.
        predicted: Shape (rows,) or (rows, classes).
        reference: What a person would guess, of the same shape.
        model: Says the label and the slices.

    Returns:
        Slice (empty: all rows) to its distance, in spreads of the label.
    """
    outcome, score = _columns(rows[model.target.label].to_numpy(), predicted)
    spread = np.maximum(outcome.std(axis=0), _SMALLEST_SPREAD)
    _, guess = _columns(rows[model.target.label].to_numpy(), reference)
    apart = (score - outcome) / spread
    guessed = (guess - outcome) / spread
    days = rows[PREDICTION_TIME].dt.truncate("1d").to_numpy()
    _, day = np.unique(days, return_inverse=True)
    if not day.any():  # rows of one day, or without times: each stands for itself
        day = np.arange(rows.height)
    found = {}
    for name, inside in _everywhere(rows, model):
        worse = np.abs(apart[inside].mean(axis=0)) > np.abs(guessed[inside].mean(axis=0))
        distances = [_surely_apart(column[inside], day[inside]) for column in apart.T[worse]]
        if max(distances, default=0.0) > 1:
            found[name] = max(distances)
    return found


def _surely_apart(apart: Array, day: Array) -> float:
    """Smallest absolute mean that the interval holds; 0 where it holds 0 or days are too few."""
    counts = np.bincount(day)
    sums = np.bincount(day, apart)[counts > 0]
    counts = counts[counts > 0]
    days = len(counts)
    if days < _MIN_DAYS:
        return 0.0
    rows = counts.sum()
    mean = sums.sum() / rows
    residuals = sums - mean * counts
    variance = days / (days - 1) * (residuals**2).sum()
    error = np.sqrt(variance) / rows
    margin = t.ppf(_CERTAINTY, days - 1) * error
    return float(max(abs(mean) - margin, 0))


def _everywhere(rows: pl.DataFrame, model: Model) -> list[tuple[str, Array]]:
    everything = np.ones(rows.height, dtype=bool)
    return [("", everything), *slices(rows, model, _is_enough)]


def _is_enough(inside: Array) -> bool:
    return bool(inside.sum() >= _MIN_ROWS)


def _columns(label: Array, prediction: Array) -> tuple[Array, Array]:
    """Outcomes and scores, both of shape (rows, scores)."""
    if prediction.ndim == 1:
        return label[:, None].astype(np.float64), prediction[:, None]
    indicators = np.eye(prediction.shape[1])
    return indicators[label.astype(np.int64)], prediction
