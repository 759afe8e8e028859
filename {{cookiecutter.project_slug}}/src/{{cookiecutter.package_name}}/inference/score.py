"""Scoring: a version, its own code, and the features that were known."""

from __future__ import annotations

import time
from datetime import datetime

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Estimator
from ..core.errors import UserError
from ..modeling.scores import with_scores
from ..store.point_in_time import Versions, with_features


def score(
    context: Context, estimator: Estimator, spine: pl.DataFrame, as_of: datetime, versions: Versions
) -> pl.DataFrame:
    """Join features to spine rows and predict.

    Args:
        context: Tables and problem.
        estimator: Of a version, loaded with the version's own code.
        spine: Keys, prediction time, and what the row itself tells.
        as_of: Features that became available later are not seen.
        versions: Delta version to read of each table.

    Returns:
        Keys, prediction time, the estimator's inputs, scores, and `latency_ms` (of a row, in this
        batch).

    Raises:
        UserError: A null key, or inputs that are not there as they were in training.
    """
    keys = [*context.problem.model.keys, PREDICTION_TIME]
    _require_keys(spine, keys)
    started = time.perf_counter()
    lakehouse = context.lakehouse
    asked = lakehouse.frame(spine)
    joined = with_features(lakehouse, context.problem, asked, as_of, versions)
    _require_inputs(estimator, joined.collect_schema())
    kept = dict.fromkeys([*keys, *estimator.features])
    rows = lakehouse.collect(joined.select(*kept))
    scored = with_scores(rows, estimator.predict(rows), context.problem.model.target)
    latency = 1000 * (time.perf_counter() - started) / max(rows.height, 1)
    return scored.with_columns(pl.lit(latency).alias("latency_ms"))


def _require_keys(spine: pl.DataFrame, keys: list[str]) -> None:
    for name in keys:
        if spine[name].null_count():
            raise UserError(f"Null key in rows to score: {name}.", "Give every row its keys.")


def _require_inputs(estimator: Estimator, known: nw.Schema) -> None:
    wrong = []
    for name in estimator.features:
        is_text = name in estimator.categories
        if name not in known or (known[name] == nw.String) != is_text:
            wrong.append(name)
    if wrong:
        raise UserError(
            f"The champion needs {', '.join(wrong)}, which no feature table has as in training.",
            "Roll back, or retrain.",
        )
