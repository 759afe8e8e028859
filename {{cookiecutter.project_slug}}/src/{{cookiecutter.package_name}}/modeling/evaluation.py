"""How good predictions are: metrics with intervals, by slice, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit

from ..core.contract import PREDICTION_TIME, Array, Metric, Model, Target
from .scores import scores_of

MIN_SLICE_ROWS = 200
OTHERS = "(others)"
RESULTS = {
    "slice": pl.String,
    "metric": pl.String,
    "rows": pl.Int64,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "reference": pl.Float64,
    "gain": pl.Float64,
    "gain_lower": pl.Float64,
    "gain_upper": pl.Float64,
}
_BINS = 10
_UPPER_TAIL = 0.975  # of a 95 % interval
_MAX_CLUSTERS = 60
_SMALLEST = 1e-300


def compare(rows: pl.DataFrame, predicted: Array, reference: Array, model: Model) -> pl.DataFrame:
    """Measure predictions, and how much better they are than a reference on the same rows.

    Intervals (95 %) are Student's t of a jackknife that leaves out whole days: rows of a day share
    what happened on it. A jackknife of clusters holds also where they are few (MacKinnon, Nielsen &
    Webb 2023); where they differ in size, there are fewer of them in effect (Carter, Schnepel &
    Steigerwald 2017). `benchmarks/intervals.py` measures how often the intervals hold.

    Args:
        rows: Label, prediction time and slice columns.
        predicted: Shape (rows,) or (rows, classes).
        reference: What to compare with, of the same shape.
        model: Metrics and slices.

    Returns:
        slice (empty: all rows), metric, rows, value with lower and upper, reference, and gain
        (positive: better than the reference, whichever way the metric points) with its bounds (NaN:
        too few days to tell). All metrics on all rows; the first metric also on slices of at least
        200 rows that can be judged, those that are smaller pooled.
    """
    label = rows[model.target.label].to_numpy()
    cluster = clusters(rows[PREDICTION_TIME])
    results = []
    for metric in model.target.metrics:
        measured = _measure(metric, label, predicted, reference, cluster)
        results.append({"slice": "", **measured})

    def is_enough(inside: Array) -> bool:
        can = can_be_judged(label[inside], cluster[inside], model.target)
        return bool(inside.sum() >= MIN_SLICE_ROWS and can)

    for name, inside in slices(rows, model, is_enough):
        measured = _measure(
            model.target.metrics[0],
            label[inside],
            predicted[inside],
            reference[inside],
            cluster[inside],
        )
        results.append({"slice": name, **measured})
    return pl.DataFrame(results, schema=RESULTS)


def clusters(times: pl.Series) -> Array:
    """Which rows share a fate: those of a day (UTC), or of a run of days where days are many.

    Rows of one and the same moment, which time cannot tell apart, are taken for independent.

    Args:
        times: Prediction times.

    Returns:
        Codes 0, 1, ... of at most 60 clusters, shape (rows,).
    """
    if times.n_unique() == 1:
        return np.arange(times.len()) % _MAX_CLUSTERS
    days, day = np.unique(times.dt.truncate("1d").to_numpy(), return_inverse=True)
    return np.asarray(day * min(len(days), _MAX_CLUSTERS) // len(days))


def can_be_judged(label: Array, cluster: Array, target: Target) -> bool:
    """Whether labels show every class in two clusters or more; of a quantity, several values."""
    if not target.classes:
        return len(np.unique(label)) > 1 and len(np.unique(cluster)) > 1
    shown = (np.unique(cluster[label == code]) for code in range(len(target.classes)))
    return all(len(found) > 1 for found in shown)


def estimate(holdout: pl.DataFrame, predicted: Array, model: Model) -> tuple[float, float, float]:
    """The first metric as it may be on rows whose labels are not known yet.

    Labelled rows are weighted so that their predictions are distributed as those of the new rows:
    importance weighting under covariate shift (Shimodaira 2000), the prediction being the
    covariate. It sees rows that are harder or easier to predict, and is blind to a change of what
    follows from an input.

    Args:
        holdout: Prediction time, scores and label of rows that the model has not learned from.
        predicted: Predictions of the new rows, shape (rows,) or (rows, classes).
        model: Says the metric and the label.

    Returns:
        Value, lower and upper bound (95 %, of the holdout's days).
    """
    metric = model.target.metrics[0]
    known = scores_of(holdout, model.target)
    weights = _importance(known, predicted)
    cluster = clusters(holdout[PREDICTION_TIME])
    label = holdout[model.target.label].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        values = metric.score(label, known, weights * _leave_one_out(cluster))
    lower, upper = _interval_of_value(metric, values, _t(cluster, weights))
    return float(values[0]), lower, upper


def calibration(label: Array, predicted: Array, target: Target) -> pl.DataFrame:
    """Mean prediction and mean label in ten bins of equally many rows.

    Args:
        label: Shape (rows,).
        predicted: Shape (rows,), or (rows, classes): each class is then held against the rest.
        target: Names the classes.

    Returns:
        score (name of what was predicted), predicted, observed, rows.
    """
    if predicted.ndim == 1:
        return _calibration(label, predicted, target.scores[0])
    return pl.concat(
        _calibration((label == code).astype(np.float64), predicted[:, code], name)
        for code, name in enumerate(target.classes)
    )


def group_means(train: pl.DataFrame, rows: pl.DataFrame, model: Model) -> Array:
    """What a person would guess: the mean label of the row's group, of all for a new group.

    Args:
        train: Rows to learn the means from.
        rows: Rows to guess for.
        model: Groups (`baseline`) and label.

    Returns:
        Shape (rows,); of several classes the shares of each, shape (rows, classes).
    """
    label = pl.col(model.target.label)
    if model.target.kind != "multiclass_classification":
        return _means(train, rows, model, label)
    codes = range(len(model.target.classes))
    shares = [_means(train, rows, model, (label == code).cast(pl.Float64)) for code in codes]
    return np.stack(shares, axis=1)


def _means(train: pl.DataFrame, rows: pl.DataFrame, model: Model, value: pl.Expr) -> Array:
    by = list(model.baseline)
    overall = train.select(value.mean()).item()
    if not by:
        return np.full(rows.height, overall)
    means = train.group_by(by).agg(value.mean().alias("_mean"))
    joined = rows.select(by).join(means, on=by, how="left", maintain_order="left")
    return joined["_mean"].fill_null(overall).to_numpy()


def slices(
    rows: pl.DataFrame, model: Model, is_enough: Callable[[Array], bool]
) -> Iterator[tuple[str, Array]]:
    """Name and mask, shape (rows,), of each value of each slice column.

    Values that are not enough, missing ones too, are pooled into one slice of their column; nothing
    is too small to be looked at in company.
    """
    for name in model.slices:
        pooled = rows[name].is_null().to_numpy()
        for value in rows[name].drop_nulls().unique().sort():
            inside = (rows[name] == value).fill_null(value=False).to_numpy()
            if is_enough(inside):
                yield f"{name}={value}", inside
            else:
                pooled = pooled | inside
        if is_enough(pooled):
            yield f"{name}={OTHERS}", pooled


def _leave_one_out(cluster: Array) -> Array:
    """Weights of all rows, then without each cluster, shape (1 + clusters, rows)."""
    left_out = np.unique(cluster)[:, None]
    everything = np.ones((1, len(cluster)))
    return np.vstack([everything, cluster != left_out])


def _measure(
    metric: Metric, label: Array, predicted: Array, reference: Array, cluster: Array
) -> dict[str, Any]:
    weights = _leave_one_out(cluster)
    # Without one of its clusters a label may show one class only: the value is NaN, as the bounds.
    with np.errstate(invalid="ignore", divide="ignore"):
        ours = metric.score(label, predicted, weights)
        theirs = metric.score(label, reference, weights)
    gains = ours - theirs if metric.higher_is_better else theirs - ours
    t = _t(cluster, weights[0])
    lower, upper = _interval_of_value(metric, ours, t)
    gain_lower, gain_upper = _interval(gains, t)
    return {
        "metric": metric.name,
        "rows": len(label),
        "value": ours[0],
        "lower": lower,
        "upper": upper,
        "reference": theirs[0],
        "gain": gains[0],
        "gain_lower": gain_lower,
        "gain_upper": gain_upper,
    }


def _t(cluster: Array, weights: Array) -> float:
    """Student's quantile for as many clusters of equal size as these are worth; NaN below two."""
    sizes = np.bincount(cluster, weights)
    squares = max((sizes**2).sum(), _SMALLEST)
    effective = sizes.sum() ** 2 / squares
    if effective < 2:
        return np.nan
    return float(stdtrit(effective - 1, _UPPER_TAIL))


def _interval(values: Array, t: float) -> tuple[float, float]:
    """An interval around the first value; the others are without one cluster each."""
    left_out = values[1:]
    count = len(left_out)
    deviations = left_out - left_out.mean()
    variance = (count - 1) / count * (deviations**2).sum()
    margin = t * np.sqrt(variance)
    return float(values[0] - margin), float(values[0] + margin)


def _interval_of_value(metric: Metric, values: Array, t: float) -> tuple[float, float]:
    """As `_interval`, of the reciprocal of the distance from a perfect prediction.

    Losses of days are skewed to the right, and so is Student's t of their mean, to the left; that
    of its reciprocal is hardly (Johnson 1978 has the terms). A perfect loss is 0, a perfect score
    1. A metric without a best, or an interval that would have no end, is taken as it is.
    """
    distances = 1 - values if metric.higher_is_better else values
    if not metric.has_best or not (distances > 0).all():
        return _interval(values, t)
    far, near = _interval(1 / distances, t)
    if not far > 0:
        return _interval(values, t)
    if metric.higher_is_better:
        return 1 - 1 / far, 1 - 1 / near
    return 1 / near, 1 / far


def _importance(known: Array, new: Array) -> Array:
    """Weights that make known predictions distributed as new ones, shape (known rows,).

    Of several classes the most probable one and its probability stand for the whole.
    """
    if known.ndim == 2:
        weights = np.zeros(len(known))
        winners = known.argmax(axis=1)
        winners_new = new.argmax(axis=1)
        for code in range(known.shape[1]):
            mine = winners == code
            if mine.any():
                theirs = winners_new == code
                weights[mine] = _importance(known[mine, code], new[theirs, code])
        return weights
    shares = np.linspace(0, 1, 2 * _BINS + 1)[1:-1]
    cuts = np.unique(np.quantile(known, shares))
    bins = np.searchsorted(cuts, known)
    counts = np.bincount(bins, minlength=len(cuts) + 1)
    bins_new = np.searchsorted(cuts, new)
    wanted = np.bincount(bins_new, minlength=len(cuts) + 1)
    weights = wanted / np.maximum(counts, 1)
    return np.asarray(weights[bins])


def _calibration(label: Array, predicted: Array, name: str) -> pl.DataFrame:
    frame = pl.DataFrame({"predicted": predicted, "observed": label})
    ordered = frame.sort("predicted").with_row_index("_row")
    bin_of_row = (pl.col("_row") * _BINS // frame.height).alias("_bin")
    bins = ordered.group_by(bin_of_row, maintain_order=True).agg(
        pl.col("predicted", "observed").mean(), pl.len().alias("rows")
    )
    return bins.select(pl.lit(name).alias("score"), "predicted", "observed", "rows")
