"""Windows of production: when each is due, and what was scored in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, Frame, Schema
from ..store import tables
from .seen import HASHES, with_hash

_HASH = "_hash"


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
    return earliest(context, context.lakehouse.scan(tables.predictions(context.problem)))


def earliest(context: Context, rows: Frame) -> datetime | None:
    """The earliest prediction time of rows."""
    found = context.lakehouse.collect(rows.select(nw.col(PREDICTION_TIME).min())).item()
    return found if isinstance(found, datetime) else None


def scored_rows(
    context: Context,
    window: Window,
    changed: Frame | None = None,
    known_by: datetime | None = None,
) -> Frame:
    """Logged rows of a window, with their labels as far as these are known.

    Args:
        context: Tables and problem.
        window: Prediction times.
        changed: Outcomes that are not in their table yet.
        known_by: Moment after which no label counts; None: all do.

    Returns:
        The inference log's columns and `label` (null: not known).
    """
    lakehouse = context.lakehouse
    problem = context.problem
    keys = [*problem.model.keys, PREDICTION_TIME]
    time = nw.col(PREDICTION_TIME)
    inside = (time >= window.start, time < window.end)
    log = lakehouse.scan(tables.inference_log(problem)).filter(*inside)
    known = lakehouse.scan(tables.outcomes(problem)).filter(*inside)
    if changed is not None:
        known = nw.concat([changed, lakehouse.without(known, changed, keys)], how="vertical")
    if known_by is not None:
        known = known.filter(nw.col(KNOWN_AT) <= known_by)
    return log.join(known.select(*keys, "label"), on=keys, how="left")


def drawn(context: Context, rows: Frame, columns: Sequence[str]) -> pl.DataFrame:
    """Rows in memory, in order: of more than `monitoring.sample_rows` about so many.

    They are drawn by a hash of their keys: the same again, whoever draws them.

    Args:
        context: Says how many.
        rows: Of `scored_rows`.
        columns: To read beside keys and prediction time.
    """
    lakehouse = context.lakehouse
    keys = [*context.problem.model.keys, PREDICTION_TIME]
    wanted = rows.select(*dict.fromkeys([*keys, *columns]))
    found = lakehouse.rows(wanted)
    at_most = context.settings.monitoring.sample_rows
    if found > at_most:
        schema: Schema = {**wanted.collect_schema(), _HASH: nw.Int64}
        hashed = lakehouse.map_batches(wanted, partial(with_hash, keys=keys, name=_HASH), schema)
        wanted = hashed.filter(nw.col(_HASH) < HASHES * at_most // found).drop(_HASH)
    collected = lakehouse.collect(wanted)
    return collected.sort(collected.columns)
