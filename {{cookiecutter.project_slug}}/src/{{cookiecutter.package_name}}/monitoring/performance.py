"""Performance in a window: measured where labels are known, estimated for all rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Metric
from ..modeling.evaluation import can_be_judged, clusters, compare, estimate
from ..modeling.scores import scores_of
from ..store.tables import MEASUREMENTS
from ..tracking.registry import HOLDOUT
from ..tracking.signing import TRAINING_ID
from .found import Found, as_frame

ESTIMATED = "estimated"
_BOUNDS = ("value", "lower", "upper")


def measure_performance(
    context: Context, version: str, rows: pl.DataFrame, folder: Path
) -> pl.DataFrame:
    """Metrics of labelled rows, and the first one as estimated for all rows.

    These two are judged against the holdout: violated where the better end of the interval is worse
    than the holdout's value by more than `max_drop`.

    Args:
        context: Settings, problem, and the holdout's measurements.
        version: That scored the rows.
        rows: As `windows.scored_rows`.
        folder: The version's files.
    """
    first = context.problem.model.target.metrics[0]
    found = [*_measured(context, rows), _estimated(context, rows, folder)]
    worst = _worst_allowed(context, version, first)
    best_end = pl.col("upper") if first.higher_is_better else pl.col("lower")
    room = best_end - worst if first.higher_is_better else worst - best_end
    status = (
        pl.when(room.fill_nan(None).is_null())
        .then(pl.lit("unknown"))
        .when(room < 0)
        .then(pl.lit("violated"))
        .otherwise(pl.lit("ok"))
    )
    is_judged = pl.col("metric").is_in([first.name, _name_of_estimate(first)])
    return as_frame(found).with_columns(
        threshold=pl.when(is_judged).then(worst), status=pl.when(is_judged).then(status)
    )


def _measured(context: Context, rows: pl.DataFrame) -> list[Found]:
    """All metrics on the labelled rows; of too few, how many there are."""
    settings = context.settings
    model = context.problem.model
    first = model.target.metrics[0]
    labelled = rows.drop_nulls("label").rename({"label": model.target.label})
    label = labelled[model.target.label].to_numpy()
    enough = labelled.height >= settings.monitoring.min_rows
    cluster = clusters(labelled[PREDICTION_TIME])
    if not enough or not can_be_judged(label, cluster, model.target):
        return [{"metric": first.name, "rows": labelled.height}]
    scores = scores_of(labelled, model.target)
    whole = replace(model, slices=())
    overall = compare(labelled, scores, scores, whole)
    return overall.select("metric", "rows", *_BOUNDS).rows(named=True)


def _estimated(context: Context, rows: pl.DataFrame, folder: Path) -> Found:
    """The first metric as it may be on all rows, labelled or not."""
    settings = context.settings
    model = context.problem.model
    found: Found = {
        "metric": _name_of_estimate(model.target.metrics[0]),
        "rows": rows.height,
    }
    if rows.height < settings.monitoring.min_rows:
        return found
    holdout = pl.read_parquet(folder / HOLDOUT)
    scores = scores_of(rows, model.target)
    values = estimate(holdout, scores, model)
    return found | dict(zip(_BOUNDS, values, strict=True))


def _worst_allowed(context: Context, version: str, first: Metric) -> pl.Expr:
    """The holdout's value less the drop that is allowed; null where it was not recorded."""
    training = context.registry.version(version).tags[TRAINING_ID]
    recorded = context.lakehouse.read(
        MEASUREMENTS,
        nw.col("subject") == training,
        nw.col("slice") == "",
        nw.col("metric") == first.name,
    )
    if recorded.is_empty():
        return pl.lit(None, dtype=pl.Float64)
    drop = context.settings.monitoring.max_drop
    share = 1 - drop if first.higher_is_better else 1 + drop
    return pl.lit(float(recorded["value"][0]) * share)


def _name_of_estimate(metric: Metric) -> str:
    return f"{ESTIMATED}_{metric.name}"
