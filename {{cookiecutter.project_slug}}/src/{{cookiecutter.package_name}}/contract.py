"""What a problem declares and the pipelines rely on: data only, no behaviour.

`problem/` fills these in and everything else reads them; nothing here knows the sample problem.
"""

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
Schema: TypeAlias = Mapping[str, DType | type[DType]]
Frames: TypeAlias = Mapping[str, nw.LazyFrame[Any]]

UTC_TIME = nw.Datetime("us", "UTC")
KNOWN_AT = "known_at"
AVAILABLE_AT = "available_at"
PREDICTION_TIME = "prediction_time"


@dataclass(frozen=True)
class Table:
    """A Delta table: its name, its schema, its keys and its event time.

    Attributes:
        name: Folder under the lakehouse root.
        schema: Column name to type; a write with any other schema is refused.
        keys: Columns that identify a row; null or repeated keys are refused. Empty: not enforced.
        time: Column with the moment (UTC) at which a row became known.
    """

    name: str
    schema: Schema
    keys: tuple[str, ...]
    time: str


@dataclass(frozen=True)
class Source:
    """A raw table, what is done to it, and what its rows must satisfy.

    Attributes:
        name: The tables are `raw_<name>`, `prepared_<name>` and `quarantine_<name>`.
        raw: Columns as the source gives them, without `known_at`.
        load: `(since, until)` to the rows that became known in `(since, until]`, with `known_at`.
        prepared: Columns after `prepare`, without `known_at`.
        prepare: `(new rows, all raw tables)` to rows with the prepared columns and `known_at`.
        keys: Columns that identify a prepared row.
        checks: Adds the source's checks to a pointblank validation; keys and nulls are checked anyway.
        max_rejected: Share of rows, 0 to 1, above which the pipeline stops.
    """

    name: str
    raw: Schema
    load: Callable[[datetime | None, datetime], pl.LazyFrame]
    prepared: Schema
    prepare: Callable[[pl.LazyFrame, Mapping[str, pl.LazyFrame]], pl.LazyFrame]
    keys: tuple[str, ...]
    checks: Callable[[pb.Validate], pb.Validate]
    max_rejected: float

    @property
    def raw_table(self) -> Table:
        """Rows as given: append only, keys not enforced."""
        return Table(f"raw_{self.name}", {**self.raw, KNOWN_AT: UTC_TIME}, (), KNOWN_AT)

    @property
    def prepared_table(self) -> Table:
        """Rows that passed every check."""
        schema = {**self.prepared, KNOWN_AT: UTC_TIME}
        return Table(f"prepared_{self.name}", schema, self.keys, KNOWN_AT)

    @property
    def quarantine_table(self) -> Table:
        """Rows that failed, with the names of the checks they failed in `reason`."""
        schema = {**self.prepared, KNOWN_AT: UTC_TIME, "reason": nw.String}
        return Table(f"quarantine_{self.name}", schema, (), KNOWN_AT)


@dataclass(frozen=True)
class FeatureTable:
    """A feature table: a pure function of prepared tables.

    Attributes:
        name: Folder under the lakehouse root.
        keys: Entity column to type; with `available_at` they identify a row.
        values: Feature name to type.
        build: Prepared tables by source name to rows of keys, `available_at` and values.
        lookback: How far before a row's `available_at` its inputs can lie; building day after day
            equals building at once because each build reads this much more than it writes.
    """

    name: str
    keys: Schema
    values: Schema
    build: Callable[[Frames], nw.LazyFrame[Any]]
    lookback: timedelta

    @property
    def table(self) -> Table:
        """The Delta table that holds it."""
        schema = {**self.keys, AVAILABLE_AT: UTC_TIME, **self.values}
        return Table(f"features_{self.name}", schema, (*self.keys, AVAILABLE_AT), AVAILABLE_AT)


@dataclass(frozen=True)
class Metric:
    """A measure of predictions against labels.

    Attributes:
        name: As it is logged.
        score: `(labels, predictions, row weights)` to a float; weights are counts of a bootstrap draw.
        higher_is_better: Direction of improvement.
    """

    name: str
    score: Callable[[Array, Array, Array], float]
    higher_is_better: bool


@dataclass(frozen=True)
class Target:
    """What is predicted and how a prediction is judged.

    Attributes:
        label: Name of the label column.
        from_outcome: Expression that turns the outcome columns into the label (null: no label).
        classes: Number of distinct labels that training must see; None for a quantity.
        params: LightGBM parameters that follow from the kind of problem.
        metrics: Measures; the first is the one that tuning and comparisons go by.
        unit: What a prediction is, for axes and texts.
    """

    label: str
    from_outcome: nw.Expr
    classes: int | None
    params: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    unit: str


@dataclass(frozen=True)
class Model:
    """All that training needs to know of the problem.

    Attributes:
        keys: Entity columns of the spine, unique with `prediction_time`.
        spine: Prepared tables to one row per prediction: keys, `prediction_time`, feature table keys
            and what is known of the row itself.
        labels: Prepared tables to keys, label and `known_at`, the moment the label became known.
        on_demand: Spine joined with features to the same with features computed from the row itself.
        features: Input columns in order.
        categorical: Those of the inputs that are categories (strings).
        monotone: Input column to 1 or -1 where the prediction may only rise or fall with it.
        baseline: Columns whose mean label in the training window is the baseline prediction.
        slices: Columns of the training set by which results are cut.
        search_space: Optuna trial to LightGBM parameters.
        params: LightGBM parameters that are not searched.
        card: Text of the model card: intended use, data, limits.
    """

    keys: tuple[str, ...]
    spine: Callable[[Frames], nw.LazyFrame[Any]]
    labels: Callable[[Frames], nw.LazyFrame[Any]]
    on_demand: Callable[[nw.LazyFrame[Any]], nw.LazyFrame[Any]]
    target: Target
    features: tuple[str, ...]
    categorical: tuple[str, ...]
    monotone: Mapping[str, int]
    baseline: tuple[str, ...]
    slices: tuple[str, ...]
    search_space: Callable[[optuna.Trial], dict[str, Any]]
    params: Mapping[str, Any]
    card: str


@dataclass(frozen=True)
class Problem:
    """Everything that `problem/` declares.

    Attributes:
        sources: Raw tables, in the order in which they are prepared.
        feature_tables: What is computed from them.
        model: What is trained on those.
        begins: Before then there is no data; an earlier as-of is refused.
        ends: After then there is none; a later as-of is moved back to it. None for a live feed.
    """

    sources: tuple[Source, ...]
    feature_tables: tuple[FeatureTable, ...]
    model: Model
    begins: datetime
    ends: datetime | None
