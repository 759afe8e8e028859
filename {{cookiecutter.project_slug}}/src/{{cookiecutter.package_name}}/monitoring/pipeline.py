"""The monitoring pipeline: what production did in each window, measured and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from .. import drift
from ..contract import KNOWN_AT, PREDICTION_TIME, Table
from ..evaluation import compare, estimate
from ..feature_store import prepared
from ..lakehouse import Lakehouse
from ..metrics import METRICS, RUN, record
from ..registry import HOLDOUT, PROFILE, TRAINING_ID
from ..workspace import Workspace

PRODUCER, PRODUCTION = "monitoring", "production"
ESTIMATED = "estimated"
_BOUNDS = ("value", "lower", "upper")
Found = dict[str, Any]
"""A row for `metrics.record`."""


def monitor(workspace: Workspace, as_of: datetime) -> list[tuple[datetime, datetime]]:
    """Join labels that became known, measure every window that is due, record it; returns the windows.

    A window is due when it has ended, and again when labels in it came late or were corrected.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or the files of a version are lost.
    """
    lakehouse, problem = workspace.lakehouse, workspace.problem
    for source in problem.sources:
        lakehouse.require(source.prepared_table, as_of)
    since = lakehouse.complete_until(problem.outcomes)
    changed = new_outcomes(workspace, since, as_of)
    windows = list(due(workspace, min(filter(None, (since, _earliest(changed))), default=None), as_of))
    for start, end in windows:
        rows = scored_rows(workspace, start, end, changed)
        new, found = since is None or end > since, []
        for (version,), scored in rows.group_by("model_version", maintain_order=True):
            measured = _measure_version(workspace, str(version), scored, new=new)
            found.append(measured.with_columns(subject=pl.lit(f"version {version}")))
        if new:
            health = [*_volume(workspace, rows, start, end, as_of), *_quality(workspace, start, end)]
            health += _freshness(workspace, as_of) if end == windows[-1][1] else []
            found.append(_frame(health))
        if found:
            record(lakehouse, pl.concat(found, how="diagonal"), PRODUCER, PRODUCTION, start, end)
    # Written last: a run that is cut short finds the same labels new, and measures the same windows.
    lakehouse.merge(problem.outcomes, nw.from_native(changed.lazy()), as_of)
    for table in (METRICS, problem.predictions, problem.inference_log, problem.outcomes):
        lakehouse.compact(table)
    return windows


def new_outcomes(workspace: Workspace, since: datetime | None, as_of: datetime) -> pl.DataFrame:
    """Predictions with labels that became known, or were corrected, and are not in `outcomes` yet."""
    lakehouse, problem = workspace.lakehouse, workspace.problem
    model, outcomes, time = problem.model, problem.outcomes, nw.col(PREDICTION_TIME)
    horizon = (since or problem.begins) - timedelta(days=workspace.settings.monitoring.label_days)
    predictions = lakehouse.scan(problem.predictions).filter(time > horizon, time <= as_of)
    labels = model.labels(prepared(lakehouse, problem, as_of, {}))
    label = nw.col(model.target.label).cast(nw.Float64).alias("label")
    joined = predictions.join(labels, on=list(model.keys), how="inner").with_columns(label).select(*outcomes.schema)
    known = lakehouse.scan(outcomes).to_native()
    changed = joined.to_native().join(known, on=list(outcomes.schema), how="anti", nulls_equal=True)
    return pl.DataFrame(changed.collect())


def due(workspace: Workspace, since: datetime | None, as_of: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Windows that ended after `since`, from the first in which scoring missed less than a day."""
    length, begins = timedelta(days=workspace.settings.monitoring.window_days), workspace.problem.begins
    first = _first_prediction(workspace) or as_of - length
    start = begins + (first - begins + length - timedelta(days=1)) // length * length
    while start + length <= as_of:
        if since is None or start + length > since:
            yield start, start + length
        start += length


def _first_prediction(workspace: Workspace) -> datetime | None:
    first = workspace.lakehouse.scan(workspace.problem.predictions).select(nw.col(PREDICTION_TIME).min())
    return _earliest(first.collect("polars").to_native())


def _earliest(rows: pl.DataFrame) -> datetime | None:
    found = rows[PREDICTION_TIME].min()
    return found if isinstance(found, datetime) else None


def scored_rows(
    workspace: Workspace, start: datetime, end: datetime, changed: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Logged rows of a window, with their labels as far as these are known; `changed`: not in `outcomes` yet."""
    problem, lakehouse, time = workspace.problem, workspace.lakehouse, pl.col(PREDICTION_TIME)
    keys, inside = [*problem.model.keys, PREDICTION_TIME], time.is_between(start, end, closed="left")
    log, known = (lakehouse.scan(it).to_native().filter(inside) for it in (problem.inference_log, problem.outcomes))
    newer = problem.outcomes.empty() if changed is None else changed.lazy()
    labels = pl.concat([newer, known]).unique(keys, keep="first", maintain_order=True).select(*keys, "label")
    return pl.DataFrame(log.join(labels, on=keys, how="left").sort(keys).collect())


def _measure_version(workspace: Workspace, version: str, rows: pl.DataFrame, *, new: bool) -> pl.DataFrame:
    """Performance, known and estimated, of a version on rows that it scored; drift, where not yet measured."""
    settings = workspace.settings.monitoring
    folder = workspace.registry.download(version) / "artifacts"
    found = _performance(workspace, version, rows, folder)
    if not new:
        return found
    shifted = drift.measure(drift.load(folder / PROFILE), rows, settings)
    return pl.concat([found, shifted], how="diagonal")


def _performance(workspace: Workspace, version: str, rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """Metrics of labelled rows, and the first one as estimated for all rows; these two judged against the holdout.

    Violated: the better end of the interval is worse than the holdout's value by more than `max_drop`.
    """
    settings, model, first = workspace.settings, workspace.problem.model, workspace.problem.model.target.metrics[0]
    resamples, enough = settings.training.bootstrap_resamples, settings.monitoring.min_rows
    labelled = rows.drop_nulls("label").rename({"label": model.target.label})
    found: list[Found] = [{"metric": first.name, "rows": labelled.height}]
    if labelled.height >= enough and labelled[model.target.label].n_unique() >= (model.target.classes or 1):
        scores = labelled["prediction"].to_numpy()
        overall = compare(labelled, scores, scores, replace(model, slices=()), resamples, settings.seed)
        found = overall.select("metric", "rows", *_BOUNDS).rows(named=True)
    estimated: Found = {"metric": f"{ESTIMATED}_{first.name}", "rows": rows.height}
    if rows.height >= enough:
        known, scored = pl.read_parquet(folder / HOLDOUT), rows["prediction"].to_numpy()
        values = estimate(known, scored, model, resamples, settings.seed)
        estimated |= dict(zip(_BOUNDS, values, strict=True))
    training = (nw.col("subject") == workspace.registry.version(version).tags[TRAINING_ID], nw.col("slice") == "")
    holdout = workspace.lakehouse.scan(METRICS).filter(*training, nw.col("metric") == first.name).collect()
    sign = 1 if first.higher_is_better else -1
    worst = pl.lit(float(holdout["value"][0]) * (1 - sign * settings.monitoring.max_drop) if len(holdout) else None)
    margin = sign * (pl.col("upper" if first.higher_is_better else "lower") - worst)
    status = pl.when(margin.is_null()).then(pl.lit("unknown")).when(margin < 0).then(pl.lit("violated"))
    judged = pl.col("metric").is_in([first.name, estimated["metric"]])
    return _frame([*found, estimated]).with_columns(
        threshold=pl.when(judged).then(worst), status=pl.when(judged).then(status.otherwise(pl.lit("ok")))
    )


def _volume(
    workspace: Workspace, rows: pl.DataFrame, start: datetime, end: datetime, as_of: datetime
) -> Iterator[Found]:
    """Share of the rows due that were scored, time per row, runs that failed."""
    settings, problem, time = workspace.settings, workspace.problem, nw.col(PREDICTION_TIME)
    begun = max(start, _first_prediction(workspace) or start)
    spine = problem.model.spine(prepared(workspace.lakehouse, problem, as_of, {}))
    due = int(spine.filter(time >= begun, time < end).select(nw.len()).collect().item())
    yield _at_least("scored", rows.height / due if due else None, settings.monitoring.min_scored, due)
    latency = rows["latency_ms"].mean()
    slow = latency if isinstance(latency, float) else None
    yield _at_most("latency_ms", slow, settings.deployment.max_latency_ms, rows.height)
    runs = workspace.lakehouse.scan(METRICS).filter(
        nw.col("producer") == RUN, nw.col("window_end") > start, nw.col("window_end") <= end
    )
    failed = runs.filter(nw.col("metric") == "failed").select("value").collect()["value"]
    yield _at_most("failed_runs", float(failed.sum()), 0, len(failed))


def _quality(workspace: Workspace, start: datetime, end: datetime) -> Iterator[Found]:
    """Share of the rows that became known in the window and went to quarantine, by source."""
    for source in workspace.problem.sources:
        passed, failed = (
            _in_window(workspace.lakehouse, table, start, end)
            for table in (source.prepared_table, source.quarantine_table)
        )
        if rows := passed + failed:
            found = _at_most("quarantined", failed / rows, source.max_rejected, rows)
            yield {**found, "slice": f"source={source.name}"}


def _in_window(lakehouse: Lakehouse, table: Table, start: datetime, end: datetime) -> int:
    known = nw.col(KNOWN_AT)
    return int(lakehouse.scan(table).filter(known > start, known <= end).select(nw.len()).collect().item())


def _freshness(workspace: Workspace, as_of: datetime) -> Iterator[Found]:
    """Hours since a feed gave its newest row, and since a pipeline completed a table."""
    lakehouse, problem = workspace.lakehouse, workspace.problem
    ages: list[tuple[str, datetime | None, float]] = []
    for source in problem.sources:
        if source.max_age:
            rows = lakehouse.scan(source.prepared_table).filter(nw.col(KNOWN_AT) <= as_of)
            newest = rows.select(nw.col(KNOWN_AT).max()).collect().item()
            ages.append((f"source={source.name}", newest, source.max_age / timedelta(hours=1)))
    tables = [*(feature.table for feature in problem.feature_tables), problem.predictions]
    limit = workspace.settings.monitoring.max_age_hours
    ages += [(f"table={table.name}", lakehouse.complete_until(table), limit) for table in tables]
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
