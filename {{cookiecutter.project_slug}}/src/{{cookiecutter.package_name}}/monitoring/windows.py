"""Windows of production: when each is due, and what was scored in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME
from ..store import tables


@dataclass(frozen=True)
class Window:
    """Prediction times in `[start, end)`, UTC."""

    start: datetime
    end: datetime

    @property
    def before(self) -> Window:
        """The window of the same length that ends where this one begins."""
        return Window(self.start - (self.end - self.start), self.start)


def due(context: Context, since: datetime | None, as_of: datetime) -> Iterator[Window]:
    """Windows that ended after `since`, from the first in which scoring missed less than a day."""
    length = timedelta(days=context.settings.monitoring.window_days)
    begins = context.problem.begins
    first = first_prediction(context) or as_of - length
    missed_at_most = timedelta(days=1)
    start = begins + (first - begins + length - missed_at_most) // length * length
    while start + length <= as_of:
        if since is None or start + length > since:
            yield Window(start, start + length)
        start += length


def first_prediction(context: Context) -> datetime | None:
    """The earliest prediction time of all predictions."""
    predictions = context.lakehouse.scan(tables.predictions(context.problem))
    return earliest(context.lakehouse.collect(predictions.select(nw.col(PREDICTION_TIME).min())))


def earliest(rows: pl.DataFrame) -> datetime | None:
    """The earliest prediction time of rows."""
    found = rows[PREDICTION_TIME].min()
    return found if isinstance(found, datetime) else None


def scored_rows(
    context: Context,
    window: Window,
    changed: pl.DataFrame | None = None,
    known_by: datetime | None = None,
) -> pl.DataFrame:
    """Logged rows of a window, with their labels as far as these are known.

    Args:
        context: Tables and problem.
        window: Prediction times.
        changed: Outcomes that are not in their table yet.
        known_by: Moment after which no label counts; None: all do.

    Returns:
        The inference log's columns and `label` (null: not known), ordered by keys.
    """
    lakehouse = context.lakehouse
    problem = context.problem
    keys = [*problem.model.keys, PREDICTION_TIME]
    time = nw.col(PREDICTION_TIME)
    inside = (time >= window.start, time < window.end)
    log = lakehouse.read(tables.inference_log(problem), *inside)
    known = lakehouse.read(tables.outcomes(problem), *inside)
    if changed is not None:
        known = pl.concat([changed, known]).unique(keys, keep="first", maintain_order=True)
    if known_by is not None:
        known = known.filter(pl.col(KNOWN_AT) <= known_by)
    labelled = log.join(known.select(*keys, "label"), on=keys, how="left")
    return labelled.sort(*keys, "request_id")
