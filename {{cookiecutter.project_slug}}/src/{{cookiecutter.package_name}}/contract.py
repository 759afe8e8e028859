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

    def empty(self) -> pl.LazyFrame:
        """No rows, with the table's columns."""
        return pl.LazyFrame(schema=polars_schema(self.schema))


@dataclass(frozen=True)
class Source:
    """A raw table, how it is shaped, and what its rows must satisfy."""

    name: str  # the tables are raw_<name>, prepared_<name> and quarantine_<name>
    raw: Schema  # as the source gives it; `known_at` comes on top
    load: Callable[[datetime | None, datetime], pl.LazyFrame]  # rows that became known in (since, until]
    prepared: Schema  # after `prepare`; `known_at` comes on top
    prepare: Callable[[pl.LazyFrame, Mapping[str, pl.LazyFrame]], pl.LazyFrame]  # of new rows and all raw tables
    keys: tuple[str, ...]  # columns that identify a prepared row
    checks: Callable[[pb.Validate], pb.Validate]  # adds checks; those on the keys are there already
    max_rejected: float = 0.01  # share of rows above which the pipeline stops
    max_age: timedelta | None = None  # of the newest row, before the feed counts as silent

    @property
    def raw_table(self) -> Table:
        """Rows as given, appended once."""
        return Table(f"raw_{self.name}", {**self.raw, KNOWN_AT: UTC_TIME}, (), KNOWN_AT)

    @property
    def prepared_table(self) -> Table:
        """Rows that passed every check."""
        return Table(f"prepared_{self.name}", {**self.prepared, KNOWN_AT: UTC_TIME}, self.keys, KNOWN_AT)

    @property
    def quarantine_table(self) -> Table:
        """Rows that failed, with the checks that they failed in `reason`."""
        schema = {**self.prepared, KNOWN_AT: UTC_TIME, "reason": nw.String}
        return Table(f"quarantine_{self.name}", schema, (), KNOWN_AT)


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
    lookback: timedelta

    @property
    def table(self) -> Table:
        """The Delta table that holds it."""
        schema = {**self.keys, AVAILABLE_AT: UTC_TIME, **self.values}
        return Table(f"features_{self.name}", schema, (*self.keys, AVAILABLE_AT), AVAILABLE_AT)


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
    requests: str  # the source whose rows ask for a prediction; the spine is made of it alone
    spine: Callable[[Frames], Frame]  # prepared tables to keys, `prediction_time` and what the row itself tells
    labels: Callable[[Frames], Frame]  # prepared tables to keys, label and `known_at`
    on_demand: Callable[[Frame], Frame]  # adds the features that are computed from the joined row
    target: Target
    features: tuple[str, ...]  # inputs in order
    categorical: tuple[str, ...]  # those inputs that are categories (strings)
    monotone: Mapping[str, int]  # input to 1 or -1 where the prediction may only rise or fall with it
    baseline: tuple[str, ...]  # a person's guess is the mean label by these columns
    slices: tuple[str, ...]  # columns by which results are cut
    forbidden: tuple[str, ...]  # columns that tell the outcome: no version may take them as an input
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
    def requests(self) -> Source:
        """The source whose rows ask for a prediction."""
        return next(source for source in self.sources if source.name == self.model.requests)

    @property
    def predictions(self) -> Table:
        """One row per entity and prediction time: the prediction, and what it was made with."""
        return self._scored("predictions", dict.fromkeys(("model_version", "feature_versions"), nw.String))

    @property
    def inference_log(self) -> Table:
        """One row per scored request: its inputs, the prediction, the version, milliseconds it took."""
        strings = self.model.categorical
        inputs = {name: nw.String if name in strings else nw.Float64 for name in self.model.features}
        return self._scored("inference_log", {**inputs, "model_version": nw.String, "latency_ms": nw.Float64})

    @property
    def outcomes(self) -> Table:
        """One row per prediction whose label is known."""
        return self._scored("outcomes", {"model_version": nw.String, "label": nw.Float64, KNOWN_AT: UTC_TIME})

    def _scored(self, name: str, values: Schema) -> Table:
        keys = {key: self.requests.prepared[key] for key in self.model.keys}
        schema = {**keys, PREDICTION_TIME: UTC_TIME, "prediction": nw.Float64, **values}
        return Table(name, schema, (*keys, PREDICTION_TIME), PREDICTION_TIME)
