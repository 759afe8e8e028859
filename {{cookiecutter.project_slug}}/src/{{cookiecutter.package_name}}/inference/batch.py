"""Batch inference: the champion scores what is due, in chunks, with the features that were known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..contract import KNOWN_AT, PREDICTION_TIME, Problem
from ..errors import UserError
from ..feature_store import input_tables, prepared, with_features
from ..lakehouse import Lakehouse
from ..registry import CHAMPION, Registry
from ..scoring import Predictor
from ..settings import InferenceSettings

PREDICTION, VERSION, FEATURES_FROM, LATENCY = "prediction", "model_version", "feature_versions", "latency_ms"


def predict_due(
    lakehouse: Lakehouse,
    registry: Registry,
    settings: InferenceSettings,
    problem: Problem,
    as_of: datetime,
    output: Path | None = None,
) -> tuple[str, int]:
    """Score what has become due since the last time; returns the champion and the rows scored.

    Raises:
        UserError: As `predict`; also features that are not built until `as_of`.
    """
    done = lakehouse.complete_until(problem.predictions)
    since = done or as_of - timedelta(days=settings.first_days)
    time_ = nw.col(PREDICTION_TIME)
    frames = prepared(lakehouse, problem, as_of, {})
    due = problem.model.spine(frames).filter(time_ > since, time_ <= as_of).sort(PREDICTION_TIME, *problem.model.keys)
    chunks = due.to_native().collect_batches(chunk_size=settings.chunk_rows, maintain_order=True)
    return predict(lakehouse, registry, problem, as_of, chunks, until=as_of, output=output)


def spines(problem: Problem, requests: Iterable[pl.DataFrame], as_of: datetime) -> Iterator[pl.DataFrame]:
    """Spine rows of requests that come from outside the lakehouse."""
    for rows in requests:
        known = rows.lazy().with_columns(pl.lit(as_of).alias(KNOWN_AT))
        yield problem.model.spine({problem.model.requests: nw.from_native(known)}).collect("polars").to_native()


def predict(
    lakehouse: Lakehouse,
    registry: Registry,
    problem: Problem,
    as_of: datetime,
    chunks: Iterable[pl.DataFrame],
    until: datetime | None = None,
    output: Path | None = None,
) -> tuple[str, int]:
    """Score chunks of spine rows with the champion.

    Args:
        lakehouse: Tables of the environment.
        registry: Holds the champion.
        problem: Feature tables and the tables that predictions go to.
        as_of: Features that became available later are not seen.
        chunks: Spine rows.
        until: Up to when the predictions are complete afterwards.
        output: File (.parquet, .csv) to write instead of the tables.

    Returns:
        The champion and the rows scored.

    Raises:
        UserError: No champion, files that were tampered with, features that the champion does not know,
            a null key, or features that are not built until `as_of`.
    """
    champion = registry.aliased(CHAMPION)
    if champion is None:
        raise UserError("There is no champion yet.", "Promote a version: `deploy`, then `approve` where a person decides.")
    predictor = registry.load(champion)
    versions = {table.name: lakehouse.version(table) for table in input_tables(problem)}
    for item in problem.feature_tables:
        lakehouse.require(item.table, as_of)
    constants = {VERSION: champion, FEATURES_FROM: json.dumps({name: versions[name] for name in sorted(versions)})}
    count = 0
    with ExitStack() as open_files:
        write = _file_writer(output, open_files) if output else None
        for chunk in chunks:
            rows = score(lakehouse, problem, predictor, chunk, as_of, versions)
            rows = rows.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
            count += rows.height
            if write:
                write(rows.select(*problem.predictions.schema))
            else:
                lakehouse.merge(problem.inference_log, _as(rows, problem.inference_log.schema), update=False)
                lakehouse.merge(problem.predictions, _as(rows, problem.predictions.schema))
        if until is not None and write is None:
            nothing = nw.from_native(pl.LazyFrame(schema=nw.Schema(dict(problem.predictions.schema)).to_polars()))
            lakehouse.append(problem.predictions, nothing, until)
    return champion, count


def score(
    lakehouse: Lakehouse,
    problem: Problem,
    predictor: Predictor,
    spine: pl.DataFrame,
    as_of: datetime,
    versions: dict[str, int | None],
) -> pl.DataFrame:
    """Join features to spine rows and predict: keys, prediction time, inputs, prediction, latency (ms a row)."""
    keys = [*problem.model.keys, PREDICTION_TIME]
    if spine.select(pl.any_horizontal(pl.col(keys).is_null()).any()).item():
        raise UserError(f"A row to score has no {' or '.join(keys)}.", "Give every row its keys.")
    started = time.perf_counter()
    lazy = with_features(lakehouse, problem, nw.from_native(spine.lazy()), as_of, versions)
    known = lazy.collect_schema().names()
    if missing := [name for name in predictor.features if name not in known]:
        raise UserError(f"The champion needs {', '.join(missing)}, which no feature table has.", "Roll back, or retrain.")
    rows = pl.DataFrame(lazy.select(*dict.fromkeys([*keys, *predictor.features])).collect("polars").to_native())
    prediction = predictor.predict(rows)
    taken = 1000 * (time.perf_counter() - started) / max(rows.height, 1)
    return rows.with_columns(pl.Series(PREDICTION, prediction), pl.lit(taken).alias(LATENCY))


def _as(rows: pl.DataFrame, schema: Any) -> Any:
    wanted = nw.Schema(dict(schema)).to_polars()
    return nw.from_native(rows.lazy().select(pl.col(name).cast(kind) for name, kind in wanted.items()))


def _file_writer(path: Path, open_files: ExitStack) -> Any:
    """A function that appends rows to a file, which appears under its name when all is written."""
    kinds = {".parquet": pq.ParquetWriter, ".csv": pa_csv.CSVWriter}
    if path.suffix not in kinds:
        raise UserError(f"{path} is neither .parquet nor .csv.", "Name the output one of these.")
    partial, writers = path.with_name(f".{path.name}.partial"), []
    open_files.callback(lambda: partial.replace(path) if writers else None)

    def write(rows: pl.DataFrame) -> None:
        arrow = rows.to_arrow()
        if not writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            writers.append(open_files.enter_context(kinds[path.suffix](partial, arrow.schema)))
        writers[0].write_table(arrow)

    return write
