"""Scoring: a version, its own code, and the features that were known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import narwhals as nw
import polars as pl

from ..context import Context
from ..core.contract import PREDICTION_TIME, Estimator, Frame, Frames, Schema, Target
from ..core.errors import UserError
from ..modeling.scores import with_scores
from ..store.point_in_time import with_features

LATENCY = "latency_ms"


def score(context: Context, estimator: Estimator, spine: Frame, features: Frames) -> Frame:
    """Join features to spine rows and predict, some rows at a time.

    Args:
        context: Tables and problem.
        estimator: Of a version, loaded with the version's own code.
        spine: Keys, prediction time, and what the row itself tells.
        features: Rows of each feature table that the spine can see.

    Returns:
        Keys, prediction time, the estimator's inputs, scores, and `latency_ms` (of predicting a
        row, in its batch). A null key in it raises `UserError` when it is computed.

    Raises:
        UserError: Inputs that are not there as they were in training.
    """
    lakehouse = context.lakehouse
    problem = context.problem
    keys = [*problem.model.keys, PREDICTION_TIME]
    joined = with_features(lakehouse, problem, spine, features)
    _require_inputs(estimator, joined.collect_schema())
    inputs = joined.select(*dict.fromkeys([*keys, *estimator.features]))
    predict = partial(_predicted, estimator=estimator, target=problem.model.target, keys=keys)
    said = problem.model.target.said
    schema: Schema = {**inputs.collect_schema(), **said, LATENCY: nw.Float64}
    return lakehouse.map_batches(inputs, predict, schema)


def _predicted(
    rows: pl.DataFrame, estimator: Estimator, target: Target, keys: Sequence[str]
) -> pl.DataFrame:
    _require_keys(rows, keys)
    started = time.perf_counter()
    scored = with_scores(rows, estimator.predict(rows), target)
    latency = 1000 * (time.perf_counter() - started) / max(rows.height, 1)
    return scored.with_columns(pl.lit(latency).alias(LATENCY))


def _require_keys(rows: pl.DataFrame, keys: Sequence[str]) -> None:
    for name in keys:
        if rows[name].null_count():
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
