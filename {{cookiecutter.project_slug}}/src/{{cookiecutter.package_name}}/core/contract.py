"""What a problem declares and the pipelines rely on: data only; nothing here knows the sample problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import narwhals as nw
import numpy.typing as npt
import polars as pl
from narwhals.typing import IntoDType

if TYPE_CHECKING:
    import optuna
    import pointblank as pb

Array: TypeAlias = npt.NDArray[Any]
Frame: TypeAlias = nw.LazyFrame[Any]
Frames: TypeAlias = Mapping[str, Frame]
Schema: TypeAlias = Mapping[str, IntoDType]

UTC_TIME = nw.Datetime("us", "UTC")
KNOWN_AT, AVAILABLE_AT, PREDICTION_TIME = "known_at", "available_at", "prediction_time"


def polars_schema(schema: Schema) -> pl.Schema:
    """The declared types as polars has them."""
    return nw.Schema(schema).to_polars()


@dataclass(frozen=True)
class Table:
    """A Delta table. A write with another schema, a null key or a repeated key is refused."""

    name: str
    schema: Schema
    keys: tuple[str, ...]  # columns that identify a row; none: not enforced
    time: str  # column that says when, in UTC, a row became known

    def empty(self) -> pl.DataFrame:
        """No rows, with the table's columns."""
        return pl.DataFrame(schema=polars_schema(self.schema))


Load: TypeAlias = Callable[[datetime | None, datetime], Frame]
"""Rows of a source that became known in (since, until]; since None: from the beginning."""

Prepare: TypeAlias = Callable[[pl.DataFrame, Mapping[str, pl.DataFrame]], pl.DataFrame]
"""Shapes a batch of raw rows, each by itself; the second argument holds the raw rows of `lookups`."""

Checks: TypeAlias = "Callable[[pb.Validate], pb.Validate]"
"""Adds checks, each of a row by itself; those on the keys are there already."""


def as_it_is(batch: pl.DataFrame, lookups: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Prepare nothing: the raw columns are the prepared ones."""
    return batch


def no_checks(rows: pb.Validate) -> pb.Validate:
    """Add no check."""
    return rows


@dataclass(frozen=True)
class Source:
    """A raw table, how it is shaped, and what its rows must satisfy."""

    name: str  # the tables are raw_<name>, prepared_<name> and quarantine_<name>
    raw: Schema  # as the source gives it; `known_at` comes on top
    load: Load
    prepared: Schema  # after `prepare`; `known_at` comes on top
    keys: tuple[str, ...]  # columns that identify a prepared row
    prepare: Prepare = as_it_is
    lookups: tuple[str, ...] = ()  # small sources whose raw rows `prepare` looks things up in
    checks: Checks = no_checks
    max_rejected: float = 0.01  # share of rows above which the pipeline stops
    max_age: timedelta | None = None  # of the newest row, before the feed counts as silent


@dataclass(frozen=True)
class FeatureTable:
    """A feature table: a pure function of prepared tables.

    Building day after day equals building at once, because each build reads `lookback` more than it
    writes: no input of a row may lie further before its `available_at`.
    """

    name: str  # the table is features_<name>
    keys: Schema  # entity columns
    values: Schema
    build: Callable[[Frames], Frame]  # prepared tables by source to keys, `available_at` and values
    lookback: timedelta = timedelta(0)


@dataclass(frozen=True)
class Metric:
    """A measure of predictions.

    `score` takes labels and predictions, shape (rows,), and weights, shape (..., rows): how often a
    bootstrap drew each row. It gives a value per draw, shape (...).
    """

    name: str
    score: Callable[[Array, Array, Array], Array]
    higher_is_better: bool
    too_good: float  # a better value is taken for a leak


@dataclass(frozen=True)
class Target:
    """What is predicted and how a prediction is judged."""

    label: str  # name of the label column
    from_outcome: nw.Expr  # outcome columns to label; null where there is none
    classes: int | None  # distinct labels that every window must show; None for a quantity
    params: Mapping[str, Any]  # LightGBM parameters that follow from the kind of problem
    metrics: tuple[Metric, ...]  # comparisons go by the first
    unit: str  # what a prediction is, in words


@dataclass(frozen=True)
class Model:
    """What a prediction is about, what it is made from, and how a model is searched for and judged."""

    keys: tuple[str, ...]  # entity columns of the spine; with `prediction_time` they identify a row
    scored: str  # the source whose rows are to be scored; the spine is made of it alone
    spine: Callable[
        [Frames], Frame
    ]  # prepared tables to keys, `prediction_time` and what the row itself tells
    labels: Callable[[Frames], Frame]  # prepared tables to keys, label and `known_at`
    on_demand: Callable[[Frame], Frame]  # adds the features that are computed from the joined row
    target: Target
    features: tuple[str, ...]  # inputs in order
    categorical: tuple[str, ...]  # those inputs that are categories (strings)
    monotone: Mapping[
        str, int
    ]  # input to 1 or -1 where the prediction may only rise or fall with it
    baseline: tuple[str, ...]  # a person's guess is the mean label by these columns
    slices: tuple[str, ...]  # columns by which results are cut
    forbidden: tuple[
        str, ...
    ]  # columns that tell the outcome: no version may take them as an input
    search_space: Callable[[optuna.Trial], dict[str, Any]]  # LightGBM parameters of a trial
    params: Mapping[str, Any]  # LightGBM parameters that are not searched
    card: str  # model card: intended use and limits


@dataclass(frozen=True)
class Problem:
    """All that `problem/` declares; data lie between `begins` and `ends` (None: a live feed)."""

    sources: tuple[Source, ...]
    feature_tables: tuple[FeatureTable, ...]
    model: Model
    begins: datetime
    ends: datetime | None

    @property
    def scored(self) -> Source:
        """The source whose rows are to be scored."""
        return next(source for source in self.sources if source.name == self.model.scored)
