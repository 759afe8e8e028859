"""What retraining is worth: the windows of a replay as they would have been with other policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import polars as pl

from ..context import Context
from ..modeling.evaluation import compare
from ..modeling.scores import scores_of
from ..store.measurements import BACKTEST, DRIFT, NEVER, SCHEDULE, record
from .windows import Window, drawn, scored_rows

_NOTHING = pl.Schema(
    {"subject": pl.String(), "window_end": pl.Datetime("us", "UTC"), "gain": pl.Float64()}
)


def measure_policies(
    context: Context, windows: Sequence[Window], scheduled: Sequence[datetime]
) -> pl.DataFrame:
    """Measure and record three policies on the same labelled rows of each window.

    The first champion scores all of it (never), or the newest version trained at one of the
    `scheduled` moments does (schedule: whatever it is like, as without gates), or what was in
    production did (drift).

    Returns:
        subject, window_start, window_end, value, lower, upper, and gain over never; a row per
        policy and window.
    """
    registry = context.registry
    settings = context.settings
    target = context.problem.model.target
    first_only = replace(target, metrics=target.metrics[:1])
    model = replace(context.problem.model, slices=(), target=first_only)
    trained = {item.tags["as_of"]: str(item.version) for item in reversed(registry.versions())}
    found: list[pl.DataFrame] = []
    for window in windows:
        scored = scored_rows(context, window).drop_nulls("label")
        labelled = drawn(context, scored, scored.collect_schema().names())
        rows = labelled.rename({"label": target.label})
        moments = [at.isoformat() for at in scheduled if at <= window.start]
        usable = [trained[moment] for moment in moments if moment in trained]
        if rows.height < settings.monitoring.min_rows or not usable:
            continue
        never = registry.load(trained[scheduled[0].isoformat()]).predict(rows)
        policies = {
            NEVER: never,
            SCHEDULE: registry.load(usable[-1]).predict(rows),
            DRIFT: scores_of(rows, target),
        }
        for policy, scores in policies.items():
            measured = compare(rows, scores, never, model)
            record(context.lakehouse, measured, BACKTEST, policy, window.start, window.end)
            where = {"window_start": window.start, "window_end": window.end}
            found.append(measured.with_columns(subject=pl.lit(policy), **where))
    return pl.concat(found) if found else pl.DataFrame(schema=_NOTHING)
