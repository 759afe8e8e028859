"""The monitoring pipeline: what production did in each window, measured and judged."""

from __future__ import annotations

from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Frame
from ..modeling import profile
from ..store import tables
from ..store.measurements import MONITORING, PRODUCTION, record
from ..store.point_in_time import labels_of, prepared
from ..store.tables import MEASUREMENTS
from ..tracking.lifetime import lifetime, parts_of
from ..tracking.registry import PROFILE
from . import drift, shifts
from .found import as_declared, as_frame
from .health import measure_freshness, measure_quality, measure_volume
from .performance import measure_performance
from .seen import look
from .windows import Window, due, earliest, scored_rows


def monitor(context: Context, as_of: datetime) -> list[Window]:
    """Join labels that became known, measure every window that is due, record it.

    A window is due when it has ended, and again when labels in it came late or were corrected.

    Returns:
        The windows that were measured.

    Raises:
        UserError: Prepared tables are not complete until `as_of`, or the files of a version are
            lost.
    """
    lakehouse = context.lakehouse
    problem = context.problem
    for source in problem.sources:
        lakehouse.require(tables.prepared(source), as_of)
    outcomes = tables.outcomes(problem)
    since = lakehouse.complete_until(outcomes)
    with lakehouse.staged(new_outcomes(context, since, as_of)) as changed:
        known = [moment for moment in (since, earliest(context, changed)) if moment is not None]
        windows = list(due(context, min(known, default=None), as_of))
        for window in windows:
            is_new = since is None or window.end > since
            earlier = scored_rows(context, window.before, changed, known_by=window.start)
            with lakehouse.staged(scored_rows(context, window, changed)) as logged:
                found = _by_version(context, logged, earlier, window, is_new=is_new)
                if is_new:
                    is_last = window == windows[-1]
                    found.append(_health(context, logged, window, as_of, is_last=is_last))
            if found:
                measured = pl.concat(as_declared(rows) for rows in found)
                record(lakehouse, measured, MONITORING, PRODUCTION, window.start, window.end)
        # Written last: a run that is cut short finds the same labels new, and measures them again.
        lakehouse.merge(outcomes, changed, as_of)
    scored = (tables.predictions(problem), tables.inference_log(problem))
    for table in (MEASUREMENTS, *scored, outcomes):
        lakehouse.compact(table)
    return windows


def new_outcomes(context: Context, since: datetime | None, as_of: datetime) -> Frame:
    """Predictions with labels that became known, or were corrected, and are not in `outcomes`."""
    lakehouse = context.lakehouse
    problem = context.problem
    model = problem.model
    outcomes = tables.outcomes(problem)
    patience = timedelta(days=context.settings.monitoring.label_days)
    horizon = (since or problem.begins) - patience
    time = nw.col(PREDICTION_TIME)
    predictions = lakehouse.scan(tables.predictions(problem))
    recent = predictions.filter(time > horizon, time <= as_of)
    known = prepared(lakehouse, problem, as_of, {})
    labels = labels_of(problem, known)
    label = nw.col(model.target.label).cast(nw.Float64).alias("label")
    joined = recent.join(labels, on=list(model.keys), how="inner").with_columns(label)
    found = joined.select(*outcomes.schema)
    held = lakehouse.scan(outcomes)
    return lakehouse.without(found, held, list(outcomes.schema))


def _by_version(
    context: Context,
    rows: Frame,
    earlier: Frame,
    window: Window,
    *,
    is_new: bool,
) -> list[pl.DataFrame]:
    """Performance of each version on the rows that it scored; drift, where not yet measured.

    A page shows how each column was distributed.
    """
    found = []
    model = context.problem.model
    versions = context.lakehouse.collect(rows.select("model_version").unique())
    for version in versions["model_version"].sort():
        scored = rows.filter(nw.col("model_version") == version)
        folder = context.registry.download(version) / "artifacts"
        subject = pl.lit(f"version {version}").alias("subject")
        unseen = _unseen(context, version, scored)
        performance = measure_performance(context, version, unseen, earlier, folder)
        found.append(performance.with_columns(subject))
        if is_new:
            reference = profile.load(folder / PROFILE)
            seen = look(context.lakehouse, reference, scored, [*model.keys, "request_id"])
            shifted = drift.measure(reference, seen, context.settings.monitoring)
            found.append(shifted.with_columns(subject))
            shifts.write_page(context.settings, version, window, reference, seen, shifted)
    return found


def _unseen(context: Context, version: str, scored: Frame) -> Frame:
    """Rows without those that the version has learned from, which only rows without times can be.

    They tell nothing of how good it is.
    """
    problem = context.problem
    if problem.holdout == "latest":
        return scored
    learned = parts_of(lifetime(context.registry, version), context.lakehouse, problem).learned
    keys = [*problem.model.keys, PREDICTION_TIME]
    known = context.lakehouse.frame(learned.select(keys))
    return scored.join(known, on=keys, how="anti")


def _health(
    context: Context, rows: Frame, window: Window, as_of: datetime, *, is_last: bool
) -> pl.DataFrame:
    """Health of the window; how old tables are is known of the moment alone, so of the last."""
    found = [
        *measure_volume(context, rows, window, as_of),
        *measure_quality(context, window),
    ]
    if is_last:
        found.extend(measure_freshness(context, as_of))
    return as_frame(found)
