"""How good predictions are: metrics with intervals, by slice, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ..core.contract import PREDICTION_TIME, Array, Metric, Model

MIN_SLICE_ROWS = 200
_BINS = 10
RESULTS = {"slice": pl.String, "metric": pl.String, "rows": pl.Int64} | dict.fromkeys(
    ("value", "lower", "upper", "reference", "gain", "gain_lower", "gain_upper"), pl.Float64
)


def compare(
    rows: pl.DataFrame, predicted: Array, reference: Array, model: Model, resamples: int, seed: int
) -> pl.DataFrame:
    """Measure predictions, and how much better they are than a reference on the same rows.

    Intervals (95 %) are percentiles (Efron 1981) of a paired bootstrap that draws whole days: rows of a
    day share their weather and their jams, so drawing single rows would give intervals that are too
    narrow (cluster bootstrap: Davison & Hinkley 1997, section 3.8).

    Args:
        rows: Label, prediction time and slice columns.
        predicted: Shape (rows,).
        reference: What to compare with, shape (rows,).
        model: Metrics and slices.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        slice (empty: all rows), metric, rows, value with lower and upper, reference, and gain (positive:
        better than the reference, whichever way the metric points) with its bounds. All metrics on all
        rows; the first metric also on slices of at least 200 rows that show more than one label.
    """
    label = rows[model.target.label].to_numpy()
    draws = _day_weights(rows[PREDICTION_TIME], resamples, seed)
    results = [
        {"slice": "", **_measure(metric, label, predicted, reference, draws)}
        for metric in model.target.metrics
    ]
    for name in model.slices:
        for value in rows[name].drop_nulls().unique().sort():
            inside = (rows[name] == value).fill_null(value=False).to_numpy()
            if inside.sum() >= MIN_SLICE_ROWS and len(np.unique(label[inside])) > 1:
                parts = (label[inside], predicted[inside], reference[inside], draws[:, inside])
                results.append(
                    {"slice": f"{name}={value}", **_measure(model.target.metrics[0], *parts)}
                )
    return pl.DataFrame(results, schema=RESULTS)


def estimate(
    holdout: pl.DataFrame, predicted: Array, model: Model, resamples: int, seed: int
) -> tuple[float, ...]:
    """The first metric as it may be on rows whose labels are not known yet.

    Labelled rows are weighted so that their predictions are distributed as those of the new rows: importance
    weighting under covariate shift (Shimodaira 2000), the prediction being the covariate. It sees rows
    that are harder or easier to predict, and is blind to a change of what follows from an input.

    Args:
        holdout: Prediction time, prediction and label of rows that the model has not learned from.
        predicted: Predictions of the new rows, shape (rows,).
        model: Says the metric and the label.
        resamples: Bootstrap draws of whole days of the holdout.
        seed: Of the draws.

    Returns:
        Value, lower and upper bound (95 %).
    """
    known, label = holdout["prediction"].to_numpy(), holdout[model.target.label].to_numpy()
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, 2 * _BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(cuts, scores), minlength=len(cuts) + 1)
        for scores in (known, predicted)
    ]
    weights = (counts[1] / np.maximum(counts[0], 1))[np.searchsorted(cuts, known)]
    draws = np.vstack([weights, weights * _day_weights(holdout[PREDICTION_TIME], resamples, seed)])
    values = model.target.metrics[0].score(label, known, draws)
    return (
        float(values[0]),
        *(float(bound) for bound in np.nanpercentile(values[1:], [2.5, 97.5])),
    )


def calibration(label: Array, predicted: Array) -> pl.DataFrame:
    """Mean prediction and mean label in ten bins of equally many rows: predicted, observed, rows."""
    frame = (
        pl.DataFrame({"predicted": predicted, "observed": label})
        .sort("predicted")
        .with_row_index("_row")
    )
    bins = frame.group_by(
        (pl.col("_row") * _BINS // frame.height).alias("_bin"), maintain_order=True
    )
    return bins.agg(pl.col("predicted", "observed").mean(), pl.len().alias("rows")).drop("_bin")


def group_means(train: pl.DataFrame, rows: pl.DataFrame, by: Sequence[str], label: str) -> Array:
    """What a person would guess: the mean label of the row's group in `train`, of all for a new group."""
    means = train.group_by(*by).agg(pl.col(label).mean().alias("_mean"))
    joined = rows.select(*by).join(means, on=list(by), how="left", maintain_order="left")
    return joined["_mean"].fill_null(train[label].mean()).to_numpy()


def _day_weights(times: pl.Series, resamples: int, seed: int) -> Array:
    """How often each row's day is drawn, shape (resamples, rows)."""
    _, day = np.unique(times.dt.truncate("1d").to_numpy(), return_inverse=True)
    days = int(np.max(day)) + 1
    counts = np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=resamples)
    return counts[:, day].astype(np.float64)


def _measure(
    metric: Metric, label: Array, predicted: Array, reference: Array, draws: Array
) -> dict[str, Any]:
    sign = 1 if metric.higher_is_better else -1
    weights = np.vstack([np.ones_like(label), draws])
    with np.errstate(
        invalid="ignore"
    ):  # a draw of a small slice may show one label only; it is left out
        ours, theirs = (metric.score(label, scores, weights) for scores in (predicted, reference))
    gains = sign * (ours - theirs)
    lower, upper = np.nanpercentile(ours[1:], [2.5, 97.5])
    gain_lower, gain_upper = np.nanpercentile(gains[1:], [2.5, 97.5])
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
