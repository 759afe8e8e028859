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

    start: datetime
    end: datetime

    def select(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows whose prediction time lies in the window."""
        return rows.filter(pl.col(PREDICTION_TIME).is_between(self.start, self.end, closed="left"))


@dataclass(frozen=True)
class Windows:
    """Train, validation and holdout: adjoining, in this order, the holdout ending at the as-of."""

    train: Window
    validation: Window
    holdout: Window

    def items(self) -> tuple[tuple[str, Window], ...]:
        """Name and window, earliest first."""
        return (("train", self.train), ("validation", self.validation), ("holdout", self.holdout))


def windows_until(as_of: datetime, settings: TrainingSettings) -> Windows:
    """Count the windows back from the as-of."""
    holdout = as_of - timedelta(days=settings.holdout_days)
    validation = holdout - timedelta(days=settings.validation_days)
    train = validation - timedelta(days=settings.train_days)
    return Windows(
        Window(train, validation), Window(validation, holdout), Window(holdout, as_of)
    )


def input_tables(problem: Problem) -> tuple[Table, ...]:
    """The tables that a training set is read from."""
    prepared = (source.prepared_table for source in problem.sources)
    return (*prepared, *(feature.table for feature in problem.feature_tables))


def training_set(
    lakehouse: Lakehouse,
    problem: Problem,
    windows: Windows,
    versions: Mapping[str, int | None],
) -> pl.DataFrame:
    """Labelled rows with the features that were available at each prediction time.

    Args:
        lakehouse: Tables of the environment.
        problem: Spine, labels, feature tables and inputs.
        windows: From the beginning of train to the end of holdout; the end is the as-of.
        versions: Delta version to read of each table.

    Returns:
        Keys, prediction time, slices, inputs and label; rows whose label was not known by the
        as-of are absent. Ordered by time and keys.
    """
    model, as_of = problem.model, windows.holdout.end
    known = nw.col(KNOWN_AT) <= as_of
    frames = {
        source.name: lakehouse.scan(
            source.prepared_table, versions[source.prepared_table.name]
        ).filter(known)
        for source in problem.sources
    }
    time = nw.col(PREDICTION_TIME)
    spine = model.spine(frames).filter(time >= windows.train.start, time < as_of)
    labelled = spine.join(
        model.labels(frames).filter(known).drop(KNOWN_AT), on=list(model.keys), how="inner"
    )
    joined = join_features(lakehouse, labelled, problem.feature_tables, as_of, versions)
    kept = dict.fromkeys(
        (*model.keys, PREDICTION_TIME, *model.slices, *model.features, model.target.label)
    )
    rows = model.on_demand(joined).select(*kept)
    collected = rows.sort(PREDICTION_TIME, *model.keys).collect("polars").to_native()
    assert isinstance(collected, pl.DataFrame)
    return collected


def require_enough(
    rows: pl.DataFrame, windows: Windows, model: Model, min_rows: int
) -> None:
    """Refuse windows that are too small or show too few classes to learn from or to judge by.

    Raises:
        UserError: Names the window, what it holds and what it needs.
    """
    label = model.target.label
    for name, window in windows.items():
        held = window.select(rows)
        if held.height < min_rows:
            raise UserError(
                f"The {name} window ({window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}) has "
                f"{held.height:,} labelled rows; `training.min_rows` asks for {min_rows:,}.",
                f"Use a later --as-of, or change `training.{name}_days` in conf/.",
            )
        if model.target.classes and held[label].n_unique() < model.target.classes:
            raise UserError(
                f"The {name} window has only the label {held[label][0]:g}.",
                f"Widen `training.{name}_days` in conf/, or look at the label in problem/target.py.",
            )
