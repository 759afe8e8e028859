"""Batch inference: the champion scores what is due, in chunks, from features that were known."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, ROW, Frame, Table
from ..core.errors import UserError
from ..store import tables
from ..store.parts import in_parts
from ..store.point_in_time import prepared, seen_by, spine_of
from ..tracking.stages import require_untouched
from .score import score

_SINKS: dict[str, Callable[..., object]] = {
    ".parquet": pl.LazyFrame.sink_parquet,
    ".csv": pl.LazyFrame.sink_csv,
}

_PART_ROWS = 100_000


@dataclass(frozen=True)
class Predicted:
    """The champion that scored, and how many rows."""

    version: str
    rows: int


def due(context: Context, as_of: datetime) -> Iterator[Frame]:
    """Spine rows that became due since the last scoring, in chunks of whole hours."""
    settings = context.settings.inference
    problem = context.problem
    for source in problem.sources:
        context.lakehouse.require(tables.prepared(source), as_of)
    done = context.lakehouse.complete_until(tables.predictions(problem))
    first = as_of - timedelta(days=settings.first_days)
    if problem.holdout == "drawn":
        first = problem.begins - timedelta(days=1)
    since = done or first
    spine = spine_of(problem, prepared(context.lakehouse, problem, as_of, {}))
    time = nw.col(PREDICTION_TIME)
    rows = spine.filter(time > since, time <= as_of)
    for start, end in in_parts(context.lakehouse, rows, PREDICTION_TIME, settings.chunk_rows):
        yield rows.filter(time >= start, time < end)


def spines(
    context: Context, inputs: Iterable[pl.DataFrame], as_of: datetime, first: int = 0
) -> Iterator[Frame]:
    """Spine rows of scoring inputs from outside the lakehouse; `first` numbers rows without key."""
    problem = context.problem
    number = first
    for given in inputs:
        rows = given
        if ROW in problem.scored.prepared and ROW not in given.columns:
            rows = given.with_columns(pl.int_range(number, number + given.height).alias(ROW))
            number += given.height
        known = rows.with_columns(pl.lit(as_of).alias(KNOWN_AT))
        yield spine_of(problem, {problem.model.scored: context.lakehouse.frame(known)})


def predict(
    context: Context,
    as_of: datetime,
    chunks: Iterable[Frame],
    output: Path | None = None,
    *,
    complete: bool = False,
) -> Predicted:
    """Score chunks of spine rows with the champion.

    Args:
        context: Holds the champion, its features, and the tables that predictions go to.
        as_of: Features that became available later are not seen.
        chunks: Spine rows.
        output: File (.parquet, .csv) to write instead of the tables; it is there whole or not at
            all.
        complete: The tables hold all predictions until `as_of` afterwards.

    Raises:
        UserError: No champion, a registry or files that were changed by hand, features that are not
            those of its training, a null key, or features that are not built until `as_of`.
    """
    lakehouse = context.lakehouse
    problem = context.problem
    champion = require_untouched(lakehouse, context.registry).champion
    if champion is None:
        remedy = "Promote one: `deploy`, then `approve` where a person decides."
        raise UserError("There is no champion yet.", remedy)
    if output and output.suffix not in _SINKS:
        raise UserError(f"{output} is neither .parquet nor .csv.", "Name the output one of these.")
    estimator = context.registry.load(champion)
    for declared in problem.feature_tables:
        lakehouse.require(tables.features(declared), as_of)
    versions = {table.name: lakehouse.version(table) for table in tables.inputs(problem)}
    made_with = [
        nw.lit(tables.BATCH).alias("request_id"),
        nw.lit(champion).alias("model_version"),
        nw.lit(json.dumps(versions, sort_keys=True)).alias("feature_versions"),
    ]
    scored = 0
    with _writing(context, output) as write:
        for chunk, features in seen_by(lakehouse, problem, chunks, as_of, versions):
            rows = score(context, estimator, chunk, features).with_columns(*made_with)
            with lakehouse.staged(rows) as staged:
                write(staged)
                scored += lakehouse.rows(staged)
    if complete and output is None:
        table = tables.predictions(problem)
        lakehouse.append(table, table.empty(), as_of)
    return Predicted(champion, scored)


@contextmanager
def _writing(context: Context, output: Path | None) -> Iterator[Callable[[Frame], None]]:
    """A function that takes scored rows, for the tables or for a file."""
    predictions = tables.predictions(context.problem)
    if output is not None:
        with _whole_file(context, output, predictions) as write:
            yield write
        return
    log = tables.inference_log(context.problem)

    def merge(rows: Frame) -> None:
        context.lakehouse.merge(log, _as(rows, log), update=False)
        context.lakehouse.merge(predictions, _as(rows, predictions))

    yield merge


@contextmanager
def _whole_file(context: Context, path: Path, table: Table) -> Iterator[Callable[[Frame], None]]:
    """A function that takes rows for a file, which gets its name when all are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    numbers = count()
    with tempfile.TemporaryDirectory(prefix="predictions-") as folder:

        def write(rows: Frame) -> None:
            in_parts = context.lakehouse.batches(_as(rows, table), _PART_ROWS)
            for part in in_parts:
                part.write_parquet(f"{folder}/{next(numbers):09}.parquet")

        table.empty().write_parquet(f"{folder}/{next(numbers):09}.parquet")
        yield write
        try:
            _SINKS[path.suffix](pl.scan_parquet(folder), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _as(rows: Frame, table: Table) -> Frame:
    """Rows with the table's columns and types."""
    return rows.select(*(nw.col(name).cast(kind) for name, kind in table.schema.items()))
