"""Batch inference: the champion scores what is due, in chunks, with the features that were known."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import KNOWN_AT, PREDICTION_TIME, Table, polars_schema
from ..core.errors import UserError
from ..modeling.scoring import Predictor
from ..store import tables
from ..store.point_in_time import Versions, prepared, with_features
from ..tracking.registry import CHAMPION

_SINKS: dict[str, Callable[..., object]] = {
    ".parquet": pl.LazyFrame.sink_parquet,
    ".csv": pl.LazyFrame.sink_csv,
}


def due(context: Context, as_of: datetime) -> Iterator[pl.DataFrame]:
    """Spine rows that became due since the last scoring, in chunks."""
    settings, problem = context.settings.inference, context.problem
    since = context.lakehouse.complete_until(tables.predictions(problem)) or as_of - timedelta(
        days=settings.first_days
    )
    for source in problem.sources:
        context.lakehouse.require(tables.prepared(source), as_of)
    spine, at = (
        problem.model.spine(prepared(context.lakehouse, problem, as_of, {})),
        nw.col(PREDICTION_TIME),
    )
    rows = spine.filter(at > since, at <= as_of).sort(PREDICTION_TIME, *problem.model.keys)
    yield from context.lakehouse.batches(rows, settings.chunk_rows)


def spines(
    context: Context, requests: Iterable[pl.DataFrame], as_of: datetime
) -> Iterator[pl.DataFrame]:
    """Spine rows of requests that come from outside the lakehouse."""
    lakehouse = context.lakehouse
    model = context.problem.model
    for rows in requests:
        known = lakehouse.lazy(rows.with_columns(pl.lit(as_of).alias(KNOWN_AT)))
        yield lakehouse.collect(model.spine({model.scored: known}))


def predict(
    context: Context,
    as_of: datetime,
    chunks: Iterable[pl.DataFrame],
    output: Path | None = None,
    *,
    complete: bool = False,
) -> tuple[str, int]:
    """Score chunks of spine rows with the champion; returns its number and the rows scored.

    Args:
        context: Holds the champion, its features, and the tables that predictions go to.
        as_of: Features that became available later are not seen.
        chunks: Spine rows.
        output: File (.parquet, .csv) to write instead of the tables; it is there whole or not at all.
        complete: The tables hold all predictions until `as_of` afterwards.

    Raises:
        UserError: No champion, files that were tampered with, features that are not those of its training,
            a null key, or features that are not built until `as_of`.
    """
    lakehouse, problem, registry = context.lakehouse, context.problem, context.registry
    champion = registry.aliased(CHAMPION)
    if champion is None:
        raise UserError(
            "There is no champion yet.",
            "Promote one: `deploy`, then `approve` where a person decides.",
        )
    if output and output.suffix not in _SINKS:
        raise UserError(f"{output} is neither .parquet nor .csv.", "Name the output one of these.")
    predictor = registry.load(champion)
    for item in problem.feature_tables:
        lakehouse.require(tables.features(item), as_of)
    versions = {table.name: lakehouse.version(table) for table in tables.inputs(problem)}
    constants = {
        "model_version": champion,
        "feature_versions": json.dumps(versions, sort_keys=True),
    }
    scored = 0
    with _opened(output, tables.predictions(problem)) as write:
        for chunk in chunks:
            rows = score(context, predictor, chunk, as_of, versions)
            rows = rows.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
            if write:
                write(_as(rows, tables.predictions(problem)))
            else:
                for table, update in (
                    (tables.inference_log(problem), False),
                    (tables.predictions(problem), True),
                ):
                    lakehouse.merge(table, _as(rows, table), update=update)
            scored += rows.height
            del rows  # the next chunk needs its room
    if complete and output is None:
        lakehouse.append(tables.predictions(problem), tables.predictions(problem).empty(), as_of)
    return champion, scored


def score(
    context: Context, predictor: Predictor, spine: pl.DataFrame, as_of: datetime, versions: Versions
) -> pl.DataFrame:
    """Join features to spine rows and predict: keys, prediction time, inputs, prediction, latency (ms a row)."""
    keys = [*context.problem.model.keys, PREDICTION_TIME]
    if spine.select(pl.any_horizontal(pl.col(keys).is_null()).any()).item():
        raise UserError(
            f"A row to score has no {' or no '.join(keys)}.", "Give every row its keys."
        )
    started = time.perf_counter()
    lazy = with_features(
        context.lakehouse, context.problem, context.lakehouse.lazy(spine), as_of, versions
    )
    known, texts = lazy.collect_schema(), predictor.categories
    if wrong := [
        it
        for it in predictor.features
        if it not in known or (known[it] == nw.String) != (it in texts)
    ]:
        message = f"The champion needs {', '.join(wrong)}, which no feature table has as it was in training."
        raise UserError(message, "Roll back, or retrain.")
    needed = dict.fromkeys([*keys, *predictor.features])
    rows = context.lakehouse.collect(lazy.select(*needed))
    predictions = predictor.predict(rows)
    latency = 1000 * (time.perf_counter() - started) / max(rows.height, 1)
    return rows.with_columns(prediction=predictions, latency_ms=pl.lit(latency))


def _as(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    return rows.select(
        pl.col(name).cast(kind) for name, kind in polars_schema(table.schema).items()
    )


@contextmanager
def _opened(path: Path | None, table: Table) -> Iterator[Callable[[pl.DataFrame], None] | None]:
    """A function that takes rows for a file, which is made and gets its name when all are there."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, numbers = path.with_name(f".{path.name}.partial"), count()
    with tempfile.TemporaryDirectory(prefix="predictions-") as folder:

        def write(rows: pl.DataFrame) -> None:
            rows.write_parquet(f"{folder}/{next(numbers):09}.parquet")

        write(table.empty())
        yield write
        try:
            _SINKS[path.suffix](pl.scan_parquet(folder), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
