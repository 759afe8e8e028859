"""What a model says, as columns of a frame and as an array."""

from __future__ import annotations

import numpy as np
import polars as pl

from ..core.contract import PREDICTION, Array, Target


def with_scores(rows: pl.DataFrame, predicted: Array, target: Target) -> pl.DataFrame:
    """Rows with `target.scores`; of several classes also `prediction`, the most probable.

    Args:
        rows: Rows that were scored.
        predicted: Shape (rows,), or (rows, classes) of several classes.
        target: Names the columns.
    """
    by_column = predicted.reshape(len(predicted), len(target.scores)).T
    scored = rows.with_columns(
        pl.Series(name, values) for name, values in zip(target.scores, by_column, strict=True)
    )
    if PREDICTION in target.scores:
        return scored
    likeliest = np.asarray(target.classes)[predicted.argmax(axis=1)]
    return scored.with_columns(pl.Series(PREDICTION, likeliest, dtype=pl.String))


def scores_of(rows: pl.DataFrame, target: Target) -> Array:
    """What `with_scores` was given: shape (rows,), or (rows, classes) of several classes."""
    scores = rows.select(target.scores).to_numpy()
    return scores[:, 0] if len(target.scores) == 1 else scores
