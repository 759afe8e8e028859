"""Performance in a window: measured where labels are known, estimated for all rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Frame, Metric
from ..modeling.evaluation import can_be_judged, clusters, compare, estimate, group_means
from ..modeling.scores import scores_of
from ..store.measurements import GAIN
from ..store.tables import MEASUREMENTS
from ..tracking.registry import HOLDOUT
from ..tracking.signing import TRAINING_ID
from .found import Found, as_frame
from .windows import drawn

ESTIMATED = "estimated"
_BOUNDS = ("value", "lower", "upper")


def measure_performance(
    context: Context, version: str, rows: Frame, earlier: Frame, folder: Path
) -> pl.DataFrame:
    """Metrics of labelled rows, the first one as estimated for all rows, and its gain over a guess.

    The first two are judged against the holdout: violated where the better end of the interval is
    worse than the holdout's value by more than `max_drop`. A holdout on which a version did poorly
    says little; so the gain is violated where it surely does not exceed `min_gain`.

    Args:
        context: Settings, problem, and the holdout's measurements.
        version: That scored the rows.
        rows: As `windows.scored_rows`.
        earlier: The same of the window before, with the labels that were known when it ended.
        folder: The version's files.
    """
    first = context.problem.model.target.metrics[0]
    holdout = pl.read_parquet(folder / HOLDOUT)
    labelled = _labelled(context, rows)
    found = [*_measured(context, labelled), _estimated(context, rows, holdout)]
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
    judged = as_frame(found).with_columns(
        threshold=pl.when(is_judged).then(worst), status=pl.when(is_judged).then(status)
    )
    known = _labelled(context, earlier)
    return pl.concat([judged, as_frame([_gained(context, labelled, known, holdout)])])


def _measured(context: Context, labelled: pl.DataFrame) -> list[Found]:
    """All metrics on the labelled rows; of too few, how many there are."""
    model = context.problem.model
    first = model.target.metrics[0]
    if not _tell(labelled, context):
        return [{"metric": first.name, "rows": labelled.height}]
    scores = scores_of(labelled, model.target)
    whole = replace(model, slices=())
    overall = compare(labelled, scores, scores, whole)
    return overall.select("metric", "rows", *_BOUNDS).rows(named=True)


def _gained(
    context: Context, labelled: pl.DataFrame, known: pl.DataFrame, holdout: pl.DataFrame
) -> Found:
    """How much better than a guess the labelled rows were scored, by the first metric.

    The guess is the baseline's, learned from the window before, or from the holdout where few
    labels of that were known.
    """
    model = context.problem.model
    target = replace(model.target, metrics=model.target.metrics[:1])
    if known.height < context.settings.monitoring.min_rows:
        known = holdout
    groups = tuple(name for name in model.baseline if name in known.columns)
    guessing = replace(model, target=target, slices=(), baseline=groups)
    least = context.settings.deployment.min_gain
    found: Found = {
        "metric": GAIN,
        "rows": labelled.height,
        "threshold": least,
        "status": "unknown",
    }
    if not _tell(labelled, context):
        return found
    guess = group_means(known, labelled, guessing)
    measured = compare(labelled, scores_of(labelled, target), guess, guessing).row(0, named=True)
    gain = {"value": "gain", "lower": "gain_lower", "upper": "gain_upper"}
    found |= {ours: measured[theirs] for ours, theirs in gain.items()}
    if not np.isnan(measured["gain_upper"]):
        found["status"] = "violated" if measured["gain_upper"] < least else "ok"
    return found


def _labelled(context: Context, rows: Frame) -> pl.DataFrame:
    """Label, scores and groups of the rows whose label is known."""
    model = context.problem.model
    there = rows.collect_schema().names()
    groups = [name for name in model.baseline if name in there]
    found = drawn(context, rows.drop_nulls("label"), ["label", *model.target.scores, *groups])
    return found.rename({"label": model.target.label})


def _tell(labelled: pl.DataFrame, context: Context) -> bool:
    """Whether labelled rows are enough to measure by."""
    target = context.problem.model.target
    cluster = clusters(labelled[PREDICTION_TIME])
    label = labelled[target.label].to_numpy()
    enough = labelled.height >= context.settings.monitoring.min_rows
    return enough and can_be_judged(label, cluster, target)


def _estimated(context: Context, rows: Frame, holdout: pl.DataFrame) -> Found:
    """The first metric as it may be on all rows, labelled or not."""
    settings = context.settings
    model = context.problem.model
    scored = drawn(context, rows, model.target.scores)
    found: Found = {
        "metric": _name_of_estimate(model.target.metrics[0]),
        "rows": scored.height,
    }
    if scored.height < settings.monitoring.min_rows:
        return found
    scores = scores_of(scored, model.target)
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
