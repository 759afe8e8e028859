"""What retraining is worth: the windows of a replay as they would have been with other policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl

from ..context import Context
from ..modeling.evaluation import compare
from ..store.measurements import record
from .pipeline import scored_rows

PRODUCER = "replay"
NEVER, SCHEDULE, DRIFT = "never retrained", "retrained on schedule", "retrained on drift"


def measure_policies(
    context: Context, windows: Sequence[tuple[datetime, datetime]], scheduled: Sequence[datetime]
) -> pl.DataFrame:
    """Measure and record three policies on the same labelled rows of each window.

    The first champion scores all of it (never), or the newest version trained at one of the `scheduled` moments
    does (schedule: whatever it is like, as without gates), or what was in production did (drift).

    Returns:
        subject, window_start, window_end, value, lower, upper, and gain over never; a row per policy and window.
    """
    registry, settings, seed = context.registry, context.settings, context.settings.seed
    target = context.problem.model.target
    model = replace(
        context.problem.model, slices=(), target=replace(target, metrics=target.metrics[:1])
    )
    trained = {item.tags["as_of"]: str(item.version) for item in reversed(registry.versions())}
    found: list[pl.DataFrame] = []
    for start, end in windows:
        rows = (
            scored_rows(context, start, end)
            .drop_nulls("label")
            .rename({"label": model.target.label})
        )
        usable = [
            trained[at.isoformat()] for at in scheduled if at <= start and at.isoformat() in trained
        ]
        if rows.height < settings.monitoring.min_rows or not usable:
            continue
        alone = [
            registry.load(number).predict(rows)
            for number in (trained[scheduled[0].isoformat()], usable[-1])
        ]
        for subject, scores in zip(
            (NEVER, SCHEDULE, DRIFT), (*alone, rows["prediction"].to_numpy()), strict=True
        ):
            measured = compare(
                rows, scores, alone[0], model, settings.training.bootstrap_resamples, seed
            )
            record(context.lakehouse, measured, PRODUCER, subject, start, end)
            found.append(
                measured.with_columns(subject=pl.lit(subject), window_start=start, window_end=end)
            )
    return pl.concat(found) if found else pl.DataFrame(schema={"subject": pl.String})


def mean_gains(measured: pl.DataFrame, seed: int) -> list[tuple[str, float, float, float, float]]:
    """Policy, mean value, mean gain over never with its 95 % interval: a bootstrap (Efron 1981) of whole windows."""
    random, results = np.random.default_rng(seed), []
    for (subject,), rows in measured.group_by("subject", maintain_order=True):
        gains = rows["gain"].to_numpy()
        draws = random.choice(gains, size=(2_000, len(gains))).mean(axis=1)
        lower, upper = (float(bound) for bound in np.percentile(draws, [2.5, 97.5]))
        value = float(rows["value"].to_numpy().mean())
        results.append((str(subject), value, float(gains.mean()), lower, upper))
    return results
