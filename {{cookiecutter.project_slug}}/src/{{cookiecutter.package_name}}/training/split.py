"""Windows of the training set, and whether its parts hold enough."""

from __future__ import annotations

from datetime import datetime, timedelta

from ..core.contract import Problem
from ..core.errors import UserError
from ..core.settings import TrainingSettings
from ..modeling.split import Parts, Window, Windows

_NAMES = ("train", "validation", "holdout")


def windows_of(problem: Problem, as_of: datetime, settings: TrainingSettings) -> Windows:
    """Windows until the as-of; where rows have no times, each of the three holds all rows."""
    if problem.holdout == "latest":
        return windows_until(as_of, settings)
    first, second, third = (Window(name, problem.begins, as_of) for name in _NAMES)
    return first, second, third


def windows_until(as_of: datetime, settings: TrainingSettings) -> Windows:
    """Count the windows back from the as-of; they adjoin, and the holdout ends at it."""
    holdout = as_of - timedelta(days=settings.holdout_days)
    validation = holdout - timedelta(days=settings.validation_days)
    train = validation - timedelta(days=settings.train_days)
    bounds = ((train, validation), (validation, holdout), (holdout, as_of))
    first, second, third = (
        Window(name, start, end) for name, (start, end) in zip(_NAMES, bounds, strict=True)
    )
    return first, second, third


def require_enough(parts: Parts, windows: Windows, problem: Problem, min_rows: int) -> None:
    """Refuse parts that are too small, or show too few classes, to learn from or to judge by.

    Raises:
        UserError: Names the window, what it holds and what it needs.
    """
    for window in windows:
        labels = getattr(parts, window.name)[problem.model.target.label]
        where, remedy = _where(window, problem)
        if labels.len() < min_rows:
            raise UserError(
                f"{where} has {labels.len():,} labelled rows; "
                f"`training.min_rows` asks for {min_rows:,}.",
                f"{remedy} or lower `training.min_rows` in conf/.",
            )
        shown = labels.n_unique()
        declared = len(problem.model.target.classes)
        if shown < declared:
            raise UserError(
                f"{where} shows {shown} of the {declared} classes of {labels.name}.",
                f"{remedy}, or correct the target's label.",
            )


def _where(window: Window, problem: Problem) -> tuple[str, str]:
    """What a part is called, and what makes it larger."""
    if problem.holdout == "drawn":
        return f"The part drawn for {window.name}", "Bring more labelled rows"
    span = f"{window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}"
    return f"The {window.name} window ({span})", f"Widen `training.{window.name}_days` in conf/"
