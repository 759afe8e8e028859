"""What a problem declares and the pipelines rely on: data only; nothing here knows the sample problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import narwhals as nw
import numpy as np
from narwhals.dtypes import DType

if TYPE_CHECKING:
    import optuna
    import pointblank as pb
    import polars as pl

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Frame: TypeAlias = nw.LazyFrame[Any]
Frames: TypeAlias = Mapping[str, Frame]
Schema: TypeAlias = Mapping[str, DType | type[DType]]

UTC_TIME = nw.Datetime("us", "UTC")
KNOWN_AT, AVAILABLE_AT, PREDICTION_TIME = "known_at", "available_at", "prediction_time"


@dataclass(frozen=True)
class Table:
    """A Delta table: schema, the columns that identify a row, and when (UTC) a row became known.

    A write with another schema, a null key or a repeated key is refused; no keys: not enforced.
    """

    name: str
    schema: Schema
    keys: tuple[str, ...]
    time: str


@dataclass(frozen=True)
class Source:
    """A raw table, how it is shaped, and what its rows must satisfy.

    Attributes:
        name: The tables are `raw_<name>`, `prepared_<name>` and `quarantine_<name>`.
        raw: Columns as the source gives them; `known_at` comes on top.
        load: `(since, until)` to the rows, with `known_at`, that became known in `(since, until]`.
        prepared: Columns after `prepare`; `known_at` comes on top.
        prepare: `(new raw rows, all raw tables)` to prepared rows, with `known_at`.
        keys: Columns that identify a prepared row.
        checks: Adds checks to a pointblank validation; those on the keys are there already.
        max_rejected: Share of rows, 0 to 1, above which the pipeline stops.
    """

    name: str
    raw: Schema
    load: Callable[[datetime | None, datetime], pl.LazyFrame]
    prepared: Schema
    prepare: Callable[[pl.LazyFrame, Mapping[str, pl.LazyFrame]], pl.LazyFrame]
    keys: tuple[str, ...]
    checks: Callable[[pb.Validate], pb.Validate]
    max_rejected: float = 0.01

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
        """Rows that failed, with the checks they failed in `reason`."""
        schema = {**self.prepared, KNOWN_AT: UTC_TIME, "reason": nw.String}
        return Table(f"quarantine_{self.name}", schema, (), KNOWN_AT)


@dataclass(frozen=True)
class FeatureTable:
    """A feature table: a pure function of prepared tables.

    Attributes:
        name: The table is `features_<name>`.
        keys: Entity columns and types; with `available_at` they identify a row.
        values: Features and types.
        build: Prepared tables by source to rows of keys, `available_at` and values.
        lookback: How far before `available_at` a row's inputs can lie. Building day after day equals
            building at once because each build reads this much more than it writes.
    """

    name: str
    keys: Schema
    values: Schema
    build: Callable[[Frames], Frame]
    lookback: timedelta

    @property
    def table(self) -> Table:
        """The Delta table that holds it."""
        schema = {**self.keys, AVAILABLE_AT: UTC_TIME, **self.values}
        return Table(f"features_{self.name}", schema, (*self.keys, AVAILABLE_AT), AVAILABLE_AT)


@dataclass(frozen=True)
class Metric:
    """A measure: `(labels, predictions, row weights)` to a float; weights count a bootstrap's draws.

    A value better than `too_good` is taken for a leak.
    """

    name: str
    score: Callable[[Array, Array, Array], float]
    higher_is_better: bool
    too_good: float


@dataclass(frozen=True)
class Target:
    """What is predicted and how a prediction is judged.

    Attributes:
        label: Name of the label column.
        from_outcome: Outcome columns to label; null where there is none.
        classes: Distinct labels that every window must show; None for a quantity.
        params: LightGBM parameters that follow from the kind of problem.
        metrics: Measures; comparisons go by the first.
        unit: What a prediction is, in words.
    """

    label: str
    from_outcome: nw.Expr
    classes: int | None
    params: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    unit: str


@dataclass(frozen=True)
class Model:
    """What training needs to know.

    Attributes:
        keys: Entity columns of the spine; with `prediction_time` they identify a row.
        requests: The source whose rows ask for a prediction; the spine is made of it alone.
        spine: Prepared tables to one row per prediction: keys, `prediction_time`, what joins feature
            tables, and what is known of the row itself.
        labels: Prepared tables to keys, label and `known_at`.
        on_demand: Adds the features that are computed from the joined row.
        target: What is predicted.
        features: Inputs in order.
        categorical: Those inputs that are categories (strings).
        monotone: Input to 1 or -1 where the prediction may only rise or fall with it.
        baseline: A person's guess is the mean label by these columns.
        slices: Columns by which results are cut.
        forbidden: Columns that no version may take as an input: they tell the outcome.
        search_space: Optuna trial to LightGBM parameters.
        params: LightGBM parameters that are not searched.
        card: Model card: intended use and limits.
    """

    keys: tuple[str, ...]
    requests: str
    spine: Callable[[Frames], Frame]
    labels: Callable[[Frames], Frame]
    on_demand: Callable[[Frame], Frame]
    target: Target
    features: tuple[str, ...]
    categorical: tuple[str, ...]
    monotone: Mapping[str, int]
    baseline: tuple[str, ...]
    slices: tuple[str, ...]
    forbidden: tuple[str, ...]
    search_space: Callable[[optuna.Trial], dict[str, Any]]
    params: Mapping[str, Any]
    card: str


@dataclass(frozen=True)
class Problem:
    """All that `problem/` declares; data lie between `begins` and `ends` (None: a live feed)."""

    sources: tuple[Source, ...]
    feature_tables: tuple[FeatureTable, ...]
    model: Model
    begins: datetime
    ends: datetime | None

    @property
    def predictions(self) -> Table:
        """One row per entity and prediction time: the prediction, and what it was made with."""
        values = {"prediction": nw.Float64, **dict.fromkeys(("model_version", "feature_versions"), nw.String)}
        return self._scored("predictions", values)

    @property
    def inference_log(self) -> Table:
        """One row per scored request: its inputs, the prediction, the version, milliseconds it took."""
        model = self.model
        inputs = {name: nw.String if name in model.categorical else nw.Float64 for name in model.features}
        values = {"prediction": nw.Float64, "model_version": nw.String, "latency_ms": nw.Float64}
        return self._scored("inference_log", {**inputs, **values})

    def _scored(self, name: str, values: Schema) -> Table:
        requests = next(source for source in self.sources if source.name == self.model.requests)
        keys = {key: requests.prepared[key] for key in self.model.keys}
        return Table(name, {**keys, PREDICTION_TIME: UTC_TIME, **values}, (*keys, PREDICTION_TIME), PREDICTION_TIME)
