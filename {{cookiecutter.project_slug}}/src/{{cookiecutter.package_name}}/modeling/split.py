"""Which rows a version learns from, and which it is judged by.

Rows with times are cut into windows: the holdout is later than all that was learned from. Rows
without times are drawn by their keys, a class at a time, and a row stays where it was drawn to:
rows that become known later do not move it. So what a version was judged by, no other version has
learned from, whichever way it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import polars as pl

from ..core.contract import PREDICTION_TIME, Problem

_DRAWN = ("train", "holdout", "validation", "train", "train")
_PART = "_part"
_HASH = "_hash"
_NUMBER = "_number"


@dataclass(frozen=True)
class Window:
    """Prediction times in `[start, end)`, UTC."""

    name: str
    start: datetime
    end: datetime

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows whose prediction time lies in the window."""
        return rows.filter(pl.col(PREDICTION_TIME).is_between(self.start, self.end, closed="left"))


Windows: TypeAlias = tuple[Window, Window, Window]
"""Train, validation and holdout; of rows without times each of them holds all."""


@dataclass(frozen=True)
class Parts:
    """A training set, split: rows to learn from, to stop by, and to be judged by."""

    train: pl.DataFrame
    validation: pl.DataFrame
    holdout: pl.DataFrame

    @property
    def learned(self) -> pl.DataFrame:
        """Rows that a version has seen: those of the holdout are new to it."""
        return pl.concat([self.train, self.validation])


def split(rows: pl.DataFrame, windows: Windows, problem: Problem) -> Parts:
    """Split a training set.

    Args:
        rows: Keys, prediction time and label.
        windows: Prediction times of the parts.
        problem: Whether its rows have times.
    """
    if problem.holdout == "latest":
        return Parts(*(window.of(rows) for window in windows))
    drawn = windows[0].of(rows).with_columns(_draw(rows, problem))
    train, validation, holdout = (
        drawn.filter(pl.col(_PART) == window.name).drop(_PART) for window in windows
    )
    return Parts(train, validation, holdout)


def judged_on(problem: Problem) -> str:
    """What kind of rows a holdout has, in words."""
    if problem.holdout == "latest":
        return "later than all that it has seen"
    return "drawn among all, which it has not seen"


def _draw(rows: pl.DataFrame, problem: Problem) -> pl.Series:
    """The part of each row: three fifths learn, one stops the fit, one judges; in every class.

    Rows are dealt out in the order in which they became known, those of one moment by a hash of
    their keys.
    """
    model = problem.model
    digests = pl.Series(_HASH, hashes(rows.select(model.keys)))
    dealt = rows.select(PREDICTION_TIME, model.target.label).with_columns(digests)
    ordered = dealt.with_row_index(_NUMBER).sort(PREDICTION_TIME, _HASH)
    place = pl.int_range(pl.len()) % len(_DRAWN)
    if model.target.classes:
        place = place.over(model.target.label)
    part = place.replace_strict(dict(enumerate(_DRAWN)), return_dtype=pl.String)
    return ordered.with_columns(part.alias(_PART)).sort(_NUMBER)[_PART]


def hashes(keys: pl.DataFrame) -> list[bytes]:
    """A hash of each row's keys that is the same everywhere and always."""
    return [hashlib.blake2b(repr(key).encode(), digest_size=8).digest() for key in keys.iter_rows()]
