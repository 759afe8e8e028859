"""The monitoring pipeline: what production did in each window, measured and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, Table
from ..modeling import drift
from ..modeling.evaluation import compare, estimate
from ..store import tables
from ..store.lakehouse import Lakehouse
from ..store.measurements import RUN, record
from ..store.point_in_time import prepared
from ..store.tables import MEASUREMENTS
from ..tracking.registry import HOLDOUT, PROFILE, TRAINING_ID

PRODUCER, PRODUCTION = "monitoring", "production"
ESTIMATED = "estimated"
_BOUNDS = ("value", "lower", "upper")
Found = dict[str, Any]
"""A row for `metrics.record`."""


def monitor(context: Context, as_of: datetime) -> list[tuple[datetime, datetime]]:
    """Join labels that became known, measure every window that is due, record it; returns the windows.

    A window is due when it has ended, and again when labels in it came late or were corrected.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or the files of a version are lost.
    """
    lakehouse, problem = context.lakehouse, context.problem
    for source in problem.sources:
        lakehouse.require(tables.prepared(source), as_of)
    since = lakehouse.complete_until(tables.outcomes(problem))
    changed = new_outcomes(context, since, as_of)
    windows = list(
        due(context, min(filter(None, (since, _earliest(changed))), default=None), as_of)
    )
    for start, end in windows:
        rows = scored_rows(context, start, end, changed)
        new, found = since is None or end > since, []
        for (version,), scored in rows.group_by("model_version", maintain_order=True):
            measured = _measure_version(context, str(version), scored, new=new)
            found.append(measured.with_columns(subject=pl.lit(f"version {version}")))
        if new:
            health = [*_volume(context, rows, start, end, as_of), *_quality(context, start, end)]
            health += _freshness(context, as_of) if end == windows[-1][1] else []
            found.append(_frame(health))
        if found:
            record(lakehouse, pl.concat(found, how="diagonal"), PRODUCER, PRODUCTION, start, end)
    # Written last: a run that is cut short finds the same labels new, and measures the same windows.
    lakehouse.merge(tables.outcomes(problem), changed, as_of)
    for table in (
        MEASUREMENTS,
        tables.predictions(problem),
        tables.inference_log(problem),
        tables.outcomes(problem),
    ):
        lakehouse.compact(table)
    return windows


def new_outcomes(context: Context, since: datetime | None, as_of: datetime) -> pl.DataFrame:
    """Predictions with labels that became known, or were corrected, and are not in `outcomes` yet."""
    lakehouse, problem = context.lakehouse, context.problem
    model, outcomes, time = problem.model, tables.outcomes(problem), nw.col(PREDICTION_TIME)
    horizon = (since or problem.begins) - timedelta(days=context.settings.monitoring.label_days)
    predictions = lakehouse.scan(tables.predictions(problem)).filter(time > horizon, time <= as_of)
    labels = model.labels(prepared(lakehouse, problem, as_of, {}))
    label = nw.col(model.target.label).cast(nw.Float64).alias("label")
    joined = (
        predictions.join(labels, on=list(model.keys), how="inner")
        .with_columns(label)
        .select(*outcomes.schema)
    )
    known = lakehouse.scan(outcomes)
    return lakehouse.collect(lakehouse.without(joined, known, list(outcomes.schema)))


def due(
    context: Context, since: datetime | None, as_of: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Windows that ended after `since`, from the first in which scoring missed less than a day."""
    length, begins = timedelta(days=context.settings.monitoring.window_days), context.problem.begins
    first = _first_prediction(context) or as_of - length
    start = begins + (first - begins + length - timedelta(days=1)) // length * length
    while start + length <= as_of:
        if since is None or start + length > since:
            yield start, start + length
        start += length


def _first_prediction(context: Context) -> datetime | None:
    first = context.lakehouse.scan(tables.predictions(context.problem)).select(
        nw.col(PREDICTION_TIME).min()
    )
    return _earliest(context.lakehouse.collect(first))


def _earliest(rows: pl.DataFrame) -> datetime | None:
    found = rows[PREDICTION_TIME].min()
    return found if isinstance(found, datetime) else None


def scored_rows(
    context: Context, start: datetime, end: datetime, changed: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Logged rows of a window, with their labels as far as these are known; `changed`: not in `outcomes` yet."""
    problem, lakehouse, time = context.problem, context.lakehouse, nw.col(PREDICTION_TIME)
    keys, inside = (
        [*problem.model.keys, PREDICTION_TIME],
        time.is_between(start, end, closed="left"),
    )
    log, known = (
        lakehouse.read(it, inside)
        for it in (tables.inference_log(problem), tables.outcomes(problem))
    )
    newer = tables.outcomes(problem).empty() if changed is None else changed
    labels = (
        pl.concat([newer, known])
        .unique(keys, keep="first", maintain_order=True)
        .select(*keys, "label")
    )
    return log.join(labels, on=keys, how="left").sort(keys)


def _measure_version(
    context: Context, version: str, rows: pl.DataFrame, *, new: bool
) -> pl.DataFrame:
    """Performance, known and estimated, of a version on rows that it scored; drift, where not yet measured."""
    settings = context.settings.monitoring
    folder = context.registry.download(version) / "artifacts"
    found = _performance(context, version, rows, folder)
    if not new:
        return found
    shifted = drift.measure(drift.load(folder / PROFILE), rows, settings)
    return pl.concat([found, shifted], how="diagonal")


def _performance(context: Context, version: str, rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Metrics of labelled rows, and the first one as estimated for all rows; these two judged against the holdout.

    Violated: the better end of the interval is worse than the holdout's value by more than `max_drop`.
    """
    settings, model, first = (
        context.settings,
        context.problem.model,
        context.problem.model.target.metrics[0],
    )
    resamples, enough = settings.training.bootstrap_resamples, settings.monitoring.min_rows
    labelled = rows.drop_nulls("label").rename({"label": model.target.label})
    found: list[Found] = [{"metric": first.name, "rows": labelled.height}]
    if labelled.height >= enough and labelled[model.target.label].n_unique() >= (
        model.target.classes or 1
    ):
        scores = labelled["prediction"].to_numpy()
        overall = compare(
            labelled, scores, scores, replace(model, slices=()), resamples, settings.seed
        )
        found = overall.select("metric", "rows", *_BOUNDS).rows(named=True)
    estimated: Found = {"metric": f"{ESTIMATED}_{first.name}", "rows": rows.height}
    if rows.height >= enough:
        known, scored = pl.read_parquet(folder / HOLDOUT), rows["prediction"].to_numpy()
        values = estimate(known, scored, model, resamples, settings.seed)
        estimated |= dict(zip(_BOUNDS, values, strict=True))
    training = (
        nw.col("subject") == context.registry.version(version).tags[TRAINING_ID],
        nw.col("slice") == "",
    )
    holdout = (
        context.lakehouse.scan(MEASUREMENTS)
        .filter(*training, nw.col("metric") == first.name)
        .collect()
    )
    sign = 1 if first.higher_is_better else -1
    worst = pl.lit(
        float(holdout["value"][0]) * (1 - sign * settings.monitoring.max_drop)
        if len(holdout)
        else None
    )
    margin = sign * (pl.col("upper" if first.higher_is_better else "lower") - worst)
    status = (
        pl.when(margin.is_null()).then(pl.lit("unknown")).when(margin < 0).then(pl.lit("violated"))
    )
    judged = pl.col("metric").is_in([first.name, estimated["metric"]])
    return _frame([*found, estimated]).with_columns(
        threshold=pl.when(judged).then(worst),
        status=pl.when(judged).then(status.otherwise(pl.lit("ok"))),
    )


def _volume(
    context: Context, rows: pl.DataFrame, start: datetime, end: datetime, as_of: datetime
) -> Iterator[Found]:
    """Share of the rows due that were scored, time per row, runs that failed."""
    settings, problem, time = context.settings, context.problem, nw.col(PREDICTION_TIME)
    begun = max(start, _first_prediction(context) or start)
    spine = problem.model.spine(prepared(context.lakehouse, problem, as_of, {}))
    due = int(spine.filter(time >= begun, time < end).select(nw.len()).collect().item())
    yield _at_least(
        "scored", rows.height / due if due else None, settings.monitoring.min_scored, due
    )
    latency = rows["latency_ms"].mean()
    slow = latency if isinstance(latency, float) else None
    yield _at_most("latency_ms", slow, settings.deployment.max_latency_ms, rows.height)
    runs = context.lakehouse.scan(MEASUREMENTS).filter(
        nw.col("producer") == RUN, nw.col("window_end") > start, nw.col("window_end") <= end
    )
    failed = runs.filter(nw.col("metric") == "failed").select("value").collect()["value"]
    yield _at_most("failed_runs", float(failed.sum()), 0, len(failed))


def _quality(context: Context, start: datetime, end: datetime) -> Iterator[Found]:
    """Share of the rows that became known in the window and went to quarantine, by source."""
    for source in context.problem.sources:
        passed, failed = (
            _in_window(context.lakehouse, table, start, end)
            for table in (tables.prepared(source), tables.quarantine(source))
        )
        if rows := passed + failed:
            found = _at_most("quarantined", failed / rows, source.max_rejected, rows)
            yield {**found, "slice": f"source={source.name}"}


def _in_window(lakehouse: Lakehouse, table: Table, start: datetime, end: datetime) -> int:
    known = nw.col(KNOWN_AT)
    return int(
        lakehouse.scan(table).filter(known > start, known <= end).select(nw.len()).collect().item()
    )


def _freshness(context: Context, as_of: datetime) -> Iterator[Found]:
    """Hours since a feed gave its newest row, and since a pipeline completed a table."""
    lakehouse, problem = context.lakehouse, context.problem
    ages: list[tuple[str, datetime | None, float]] = []
    for source in problem.sources:
        if source.max_age:
            rows = lakehouse.scan(tables.prepared(source)).filter(nw.col(KNOWN_AT) <= as_of)
            newest = rows.select(nw.col(KNOWN_AT).max()).collect().item()
            ages.append((f"source={source.name}", newest, source.max_age / timedelta(hours=1)))
    written = [
        *(tables.features(feature) for feature in problem.feature_tables),
        tables.predictions(problem),
    ]
    limit = context.settings.monitoring.max_age_hours
    ages += [(f"table={table.name}", lakehouse.complete_until(table), limit) for table in written]
    for name, moment, most in ages:
        hours = (as_of - moment) / timedelta(hours=1) if moment else None
        yield {**_at_most("age_hours", hours, most, None), "slice": name}


def _at_most(metric: str, value: float | None, limit: float, rows: int | None) -> Found:
    status = "unknown" if value is None else "violated" if value > limit else "ok"
    return {"metric": metric, "value": value, "threshold": limit, "status": status, "rows": rows}


def _at_least(metric: str, value: float | None, limit: float, rows: int | None) -> Found:
    found = _at_most(metric, None if value is None else -value, -limit, rows)
    return {**found, "value": value, "threshold": limit}


def _frame(found: Any) -> pl.DataFrame:
    kinds = dict.fromkeys(("slice", "metric", "status"), pl.String)
    numbers = dict.fromkeys(("value", "lower", "upper", "threshold"), pl.Float64)
    return pl.DataFrame(list(found), schema={**kinds, **numbers, "rows": pl.Int64}).with_columns(
        pl.col("slice").fill_null("")
    )
