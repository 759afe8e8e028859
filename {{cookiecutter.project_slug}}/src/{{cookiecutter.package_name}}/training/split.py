"""Windows of the training set: train, validation and holdout, by time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from ..core.contract import PREDICTION_TIME, Model
from ..core.errors import UserError
from ..core.settings import TrainingSettings


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
    bounds = {
        "train": (train, validation),
        "validation": (validation, holdout),
        "holdout": (holdout, as_of),
    }
    first, second, third = (Window(name, start, end) for name, (start, end) in bounds.items())
    return first, second, third


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
                f"{where} has {labels.len():,} labelled rows; "
                f"`training.min_rows` asks for {min_rows:,}.",
                f"Widen `training.{window.name}_days` or lower `training.min_rows` in conf/.",
            )
        shown = labels.n_unique()
        declared = len(model.target.classes)
        if shown < declared:
            raise UserError(
                f"{where} shows {shown} of the {declared} classes of {model.target.label}.",
                f"Widen `training.{window.name}_days` in conf/, or correct the target's label.",
            )
