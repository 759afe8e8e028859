"""How good predictions are: metrics with intervals, by slice, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

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
_INTERVAL = (2.5, 97.5)  # percentiles: 95 %


def compare(
    rows: pl.DataFrame,
    predicted: Array,
    reference: Array,
    model: Model,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    """Measure predictions, and how much better they are than a reference on the same rows.

    Intervals (95 %) are percentiles (Efron 1981) of a paired bootstrap that draws whole days: rows
    of a day share what happened on it, so drawing single rows would give intervals that are too
    narrow (cluster bootstrap: Davison & Hinkley 1997, section 3.8).

    Args:
        rows: Label, prediction time and slice columns.
        predicted: Shape (rows,) or (rows, classes).
        reference: What to compare with, of the same shape.
        model: Metrics and slices.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        slice (empty: all rows), metric, rows, value with lower and upper, reference, and gain
        (positive: better than the reference, whichever way the metric points) with its bounds. All
        metrics on all rows; the first metric also on slices of at least 200 rows that show all
        classes, those that are smaller pooled.
    """
    label = rows[model.target.label].to_numpy()
    draws = _day_weights(rows[PREDICTION_TIME], resamples, seed)
    results = []
    for metric in model.target.metrics:
        measured = _measure(metric, label, predicted, reference, draws)
        results.append({"slice": "", **measured})

    def is_enough(inside: Array) -> bool:
        shows_all = shows_all_classes(label[inside], model.target)
        return bool(inside.sum() >= MIN_SLICE_ROWS and shows_all)

    for name, inside in slices(rows, model, is_enough):
        measured = _measure(
            model.target.metrics[0],
            label[inside],
            predicted[inside],
            reference[inside],
            draws[:, inside],
        )
        results.append({"slice": name, **measured})
    return pl.DataFrame(results, schema=RESULTS)


def shows_all_classes(label: Array, target: Target) -> bool:
    """Whether labels show every class; of a quantity, more than one value."""
    return len(np.unique(label)) >= max(2, len(target.classes))


def estimate(
    holdout: pl.DataFrame, predicted: Array, model: Model, resamples: int, seed: int
) -> tuple[float, float, float]:
    """The first metric as it may be on rows whose labels are not known yet.

    Labelled rows are weighted so that their predictions are distributed as those of the new rows:
    importance weighting under covariate shift (Shimodaira 2000), the prediction being the
    covariate. It sees rows that are harder or easier to predict, and is blind to a change of what
    follows from an input.

    Args:
        holdout: Prediction time, scores and label of rows that the model has not learned from.
        predicted: Predictions of the new rows, shape (rows,) or (rows, classes).
        model: Says the metric and the label.
        resamples: Bootstrap draws of whole days of the holdout.
        seed: Of the draws.

    Returns:
        Value, lower and upper bound (95 %).
    """
    known = scores_of(holdout, model.target)
    weights = _importance(known, predicted)
    drawn = weights * _day_weights(holdout[PREDICTION_TIME], resamples, seed)
    label = holdout[model.target.label].to_numpy()
    values = model.target.metrics[0].score(label, known, np.vstack([weights, drawn]))
    lower, upper = np.nanpercentile(values[1:], _INTERVAL)
    return float(values[0]), float(lower), float(upper)


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


def _day_weights(times: pl.Series, resamples: int, seed: int) -> Array:
    """How often each row's day is drawn, shape (resamples, rows)."""
    _, day = np.unique(times.dt.truncate("1d").to_numpy(), return_inverse=True)
    days = int(np.max(day)) + 1
    if days == 1:  # rows of one day, or without times: each is drawn by itself
        days = len(day)
        day = np.arange(days)
    random = np.random.default_rng(seed)
    counts = random.multinomial(days, np.full(days, 1 / days), size=resamples)
    return counts[:, day].astype(np.float64)


def _measure(
    metric: Metric, label: Array, predicted: Array, reference: Array, draws: Array
) -> dict[str, Any]:
    weights = np.vstack([np.ones_like(label), draws])
    # A draw of a small slice may show one label only: its value is NaN and is left out.
    with np.errstate(invalid="ignore"):
        ours = metric.score(label, predicted, weights)
        theirs = metric.score(label, reference, weights)
    gains = ours - theirs if metric.higher_is_better else theirs - ours
    lower, upper = np.nanpercentile(ours[1:], _INTERVAL)
    gain_lower, gain_upper = np.nanpercentile(gains[1:], _INTERVAL)
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


def _importance(known: Array, new: Array) -> Array:
    """Weights that make known predictions distributed as new ones, shape (known rows,).

    Of several classes the most probable one and its probability stand for the whole.
    """
    if known.ndim == 2:
        weights = np.zeros(len(known))
        winners, winners_new = known.argmax(axis=1), new.argmax(axis=1)
        for code in range(known.shape[1]):
            mine = winners == code
            if mine.any():
                theirs = winners_new == code
                weights[mine] = _importance(known[mine, code], new[theirs, code])
        return weights
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, 2 * _BINS + 1)[1:-1]))
    bins = np.searchsorted(cuts, known)
    counts = np.bincount(bins, minlength=len(cuts) + 1)
    wanted = np.bincount(np.searchsorted(cuts, new), minlength=len(cuts) + 1)
    return np.asarray((wanted / np.maximum(counts, 1))[bins])


def _calibration(label: Array, predicted: Array, name: str) -> pl.DataFrame:
    frame = pl.DataFrame({"predicted": predicted, "observed": label})
    ordered = frame.sort("predicted").with_row_index("_row")
    bin_of_row = (pl.col("_row") * _BINS // frame.height).alias("_bin")
    bins = ordered.group_by(bin_of_row, maintain_order=True).agg(
        pl.col("predicted", "observed").mean(), pl.len().alias("rows")
    )
    return bins.select(pl.lit(name).alias("score"), "predicted", "observed", "rows")
