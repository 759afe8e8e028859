"""The training set: spine, labels and features as they were known, cut into windows by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import narwhals as nw
import polars as pl

from ..contract import KNOWN_AT, PREDICTION_TIME, Model, Problem, Table
from ..errors import UserError
from ..feature_store import join_features
from ..lakehouse import Lakehouse
from ..settings import TrainingSettings


@dataclass(frozen=True)
class Window:
    """Prediction times in `[start, end)`, UTC."""

    name: str
    start: datetime
    end: datetime

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows whose prediction time lies in the window."""
        return rows.filter(pl.col(PREDICTION_TIME).is_between(self.start, self.end, closed="left"))


Windows = tuple[Window, Window, Window]
"""Train, validation and holdout: adjoining, in this order, the holdout ending at the as-of."""


def windows_until(as_of: datetime, settings: TrainingSettings) -> Windows:
    """Count the windows back from the as-of."""
    holdout = as_of - timedelta(days=settings.holdout_days)
    validation = holdout - timedelta(days=settings.validation_days)
    train = validation - timedelta(days=settings.train_days)
    return (
        Window("train", train, validation),
        Window("validation", validation, holdout),
        Window("holdout", holdout, as_of),
    )


def input_tables(problem: Problem) -> list[Table]:
    """The tables that a training set is read from."""
    return [*(item.prepared_table for item in problem.sources), *(item.table for item in problem.feature_tables)]


def training_set(
    lakehouse: Lakehouse, problem: Problem, windows: Windows, versions: Mapping[str, int | None]
) -> pl.DataFrame:
    """Labelled rows with the features that were available at each prediction time.

    Args:
        lakehouse: Tables of the environment.
        problem: Spine, labels, feature tables and inputs.
        windows: The first begins the rows, the last ends them and is the as-of.
        versions: Delta version to read of each table.

    Returns:
        Keys, prediction time, slices, inputs and label, ordered by time and keys; rows whose label was
        not known by the as-of are absent.
    """
    model, as_of = problem.model, windows[-1].end
    known, time = nw.col(KNOWN_AT) <= as_of, nw.col(PREDICTION_TIME)
    frames = {
        source.name: lakehouse.scan(source.prepared_table, versions[source.prepared_table.name]).filter(known)
        for source in problem.sources
    }
    spine = model.spine(frames).filter(time >= windows[0].start, time < as_of)
    labelled = spine.join(model.labels(frames).drop(KNOWN_AT), on=list(model.keys), how="inner")
    joined = join_features(lakehouse, labelled, problem.feature_tables, as_of, versions)
    kept = dict.fromkeys((*model.keys, PREDICTION_TIME, *model.slices, *model.features, model.target.label))
    rows = model.on_demand(joined).select(*kept).sort(PREDICTION_TIME, *model.keys)
    return pl.DataFrame(rows.collect("polars").to_native())


def require_enough(rows: pl.DataFrame, windows: Windows, model: Model, min_rows: int) -> None:
    """Refuse windows that are too small, or show too few classes, to learn from or to judge by.

    Raises:
        UserError: Names the window, what it holds and what it needs.
    """
    for window in windows:
        labels = window.of(rows)[model.target.label]
        where = f"The {window.name} window ({window.start:%Y-%m-%d} to {window.end:%Y-%m-%d})"
        if labels.len() < min_rows:
            raise UserError(
                f"{where} has {labels.len():,} labelled rows; `training.min_rows` asks for {min_rows:,}.",
                f"Use a later --as-of, or change `training.{window.name}_days` in conf/.",
            )
        if model.target.classes and labels.n_unique() < model.target.classes:
            raise UserError(
                f"{where} shows no other label than {labels[0]:g}.",
                f"Widen `training.{window.name}_days` in conf/, or mend the label in problem/target.py.",
            )
