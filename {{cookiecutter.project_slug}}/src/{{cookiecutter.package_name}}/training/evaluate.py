"""How good the model is on rows later than all it has seen, and against what a person would guess."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..contract import PREDICTION_TIME, Array, Metric, Model
from ..scoring import encode
from .fit import Fitted

MIN_SLICE_ROWS = 200
_BINS = 10
_EXPLAINED_ROWS = 2_000
_SLICES = {"slice": pl.String, "rows": pl.Int64} | dict.fromkeys(
    ("model", "lower", "upper", "baseline"), pl.Float64
)


@dataclass(frozen=True)
class Evaluation:
    """Results on the holdout.

    Attributes:
        metrics: metric, model, model_lower, model_upper, baseline, gain, gain_lower, gain_upper
            (95 % intervals; gain is positive where the model is better).
        slices: slice (`column=value`), rows, model, lower, upper, baseline: the first metric by slice.
        calibration: predicted, observed, rows: means in bins of equal size.
        contributions: feature, contribution: mean absolute contribution to a prediction.
        rows: Holdout rows.
    """

    metrics: pl.DataFrame
    slices: pl.DataFrame
    calibration: pl.DataFrame
    contributions: pl.DataFrame
    rows: int


def evaluate(
    fitted: Fitted,
    train: pl.DataFrame,
    holdout: pl.DataFrame,
    model: Model,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Measure the model and the baseline on the holdout.

    Args:
        fitted: What to measure.
        train: Rows that the baseline's means are taken from.
        holdout: Rows later than train and validation.
        model: Metrics, baseline and slices.
        resamples: Bootstrap draws per interval.
        seed: Of the draws.
    """
    label = holdout[model.target.label].to_numpy()
    predicted = fitted.predict(holdout)
    guessed = baseline(train, holdout, model)
    draws = day_weights(holdout[PREDICTION_TIME], resamples, seed)
    rows = [
        _compare(metric, label, predicted, guessed, draws) for metric in model.target.metrics
    ]
    return Evaluation(
        metrics=pl.DataFrame(rows),
        slices=_slices(holdout, label, predicted, guessed, draws, model),
        calibration=calibration(label, predicted),
        contributions=_contributions(fitted, holdout, seed),
        rows=holdout.height,
    )


def baseline(train: pl.DataFrame, rows: pl.DataFrame, model: Model) -> Array:
    """Mean label of the row's group in the training window; of all rows for a group not seen."""
    label = pl.col(model.target.label)
    means = train.group_by(*model.baseline).agg(label.mean().alias("_mean"))
    joined = rows.select(*model.baseline).join(
        means, on=list(model.baseline), how="left", maintain_order="left"
    )
    return joined["_mean"].fill_null(train.select(label.mean()).item()).to_numpy()


def day_weights(times: pl.Series, resamples: int, seed: int) -> Array:
    """Row weights of a bootstrap that draws whole days.

    Rows of one day share their weather and their jams, so drawing single rows would give intervals
    that are too narrow (cluster bootstrap: Davison & Hinkley 1997, section 3.8).

    Returns:
        Shape (resamples, rows): how often each row's day was drawn.
    """
    _, day = np.unique(times.dt.truncate("1d").to_numpy(), return_inverse=True)
    days = int(day.max()) + 1
    counts = np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=resamples)
    return counts[:, day].astype(np.float64)


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The central 95 % of bootstrap values (percentile method: Efron 1981)."""
    lower, upper = np.nanpercentile(list(values), [2.5, 97.5])
    return float(lower), float(upper)


def calibration(label: Array, predicted: Array) -> pl.DataFrame:
    """Mean prediction and mean label in bins of equally many rows: predicted, observed, rows."""
    frame = pl.DataFrame({"predicted": predicted, "observed": label}).sort("predicted")
    return (
        frame.with_row_index("_row")
        .group_by((pl.col("_row") * _BINS // frame.height).alias("_bin"), maintain_order=True)
        .agg(pl.col("predicted", "observed").mean(), pl.len().alias("rows"))
        .drop("_bin")
    )


def _compare(
    metric: Metric, label: Array, predicted: Array, guessed: Array, draws: Array
) -> dict[str, Any]:
    sign = 1 if metric.higher_is_better else -1
    once = np.ones_like(label)
    model, base = metric.score(label, predicted, once), metric.score(label, guessed, once)
    resampled = [
        (metric.score(label, predicted, draw), metric.score(label, guessed, draw))
        for draw in draws
    ]
    model_lower, model_upper = interval(ours for ours, _ in resampled)
    gain_lower, gain_upper = interval(sign * (ours - theirs) for ours, theirs in resampled)
    return {
        "metric": metric.name,
        "model": model,
        "model_lower": model_lower,
        "model_upper": model_upper,
        "baseline": base,
        "gain": sign * (model - base),
        "gain_lower": gain_lower,
        "gain_upper": gain_upper,
    }


def _slices(
    holdout: pl.DataFrame,
    label: Array,
    predicted: Array,
    guessed: Array,
    draws: Array,
    model: Model,
) -> pl.DataFrame:
    metric = model.target.metrics[0]
    rows = []
    for name in model.slices:
        column = holdout[name]
        for value in column.drop_nulls().unique().sort():
            inside = (column == value).fill_null(value=False).to_numpy()
            if inside.sum() < MIN_SLICE_ROWS or len(np.unique(label[inside])) < 2:
                continue
            truth, ours, once = label[inside], predicted[inside], np.ones(inside.sum())
            lower, upper = interval(metric.score(truth, ours, draw[inside]) for draw in draws)
            rows.append(
                {
                    "slice": f"{name}={value}",
                    "rows": int(inside.sum()),
                    "model": metric.score(truth, ours, once),
                    "lower": lower,
                    "upper": upper,
                    "baseline": metric.score(truth, guessed[inside], once),
                }
            )
    return pl.DataFrame(rows, schema=_SLICES)


def _contributions(fitted: Fitted, holdout: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Mean absolute SHAP value per feature (Lundberg et al. 2020), in raw score units."""
    sample = holdout.sample(min(_EXPLAINED_ROWS, holdout.height), seed=seed)
    matrix = encode(sample, fitted.features, fitted.categories)
    values = np.asarray(fitted.booster.predict(matrix, pred_contrib=True))[:, :-1]
    return pl.DataFrame(
        {"feature": fitted.features, "contribution": np.abs(values).mean(axis=0)}
    ).sort("contribution", descending=True)
