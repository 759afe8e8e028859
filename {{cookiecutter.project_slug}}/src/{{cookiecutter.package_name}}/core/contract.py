"""What a problem declares and the pipelines rely on: data only, whatever the problem is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

import narwhals as nw
import numpy.typing as npt
import polars as pl
from narwhals.typing import IntoDataFrame, IntoDType

from .errors import UserError

if TYPE_CHECKING:
    import optuna
    import pointblank as pb

Array: TypeAlias = npt.NDArray[Any]
Frame: TypeAlias = nw.LazyFrame[Any]
Frames: TypeAlias = Mapping[str, Frame]
Schema: TypeAlias = Mapping[str, IntoDType]
Kind: TypeAlias = Literal["binary_classification", "multiclass_classification", "regression"]

UTC_TIME = nw.Datetime("us", "UTC")
KNOWN_AT = "known_at"
AVAILABLE_AT = "available_at"
PREDICTION_TIME = "prediction_time"
PREDICTION = "prediction"
ROW = "row"
"""Key of rows that have none of their own: their number, which scoring inputs need not bring."""
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")


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


def unchanged(rows: pl.DataFrame, lookups: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Raw rows that have the shape of prepared ones already."""
    return rows


def unchecked(rows: pb.Validate) -> pb.Validate:
    """No checks but those that hold for every source."""
    return rows


@dataclass(frozen=True)
class Form:
    """How a source writes what it holds; the same holds of files with rows to score."""

    names: Mapping[str, str] = field(default_factory=dict)  # its name of a column to ours
    separator: str = ","  # of text files, like all that follows
    decimal: str = "."
    encoding: str = "utf8"
    times: Mapping[str, str] = field(default_factory=dict)  # column to format; none: ISO 8601


@dataclass(frozen=True)
class Source:
    """A raw table, how it is shaped, and what its rows must satisfy.

    `load` gives the rows that became known in `(since, until]`, with `known_at`; since None: all.
    Rows without `known_at` are known from the beginning and loaded once. `prepare` shapes some of
    these rows at a time, each row alone: it gets a batch with `known_at`, and the raw rows of the
    sources that `lookups` names.

    Raises:
        UserError: A key by whose name no table can be merged into.
    """

    name: str  # the tables are raw_<name>, prepared_<name> and quarantine_<name>
    raw: Schema  # as the source gives it; `known_at` comes on top
    load: Callable[[datetime | None, datetime], Frame]
    keys: tuple[str, ...]  # columns that identify a prepared row
    prepared: Schema = field(default_factory=dict)  # after `prepare`, likewise; none: as raw
    prepare: Callable[[pl.DataFrame, Mapping[str, pl.DataFrame]], pl.DataFrame] = unchanged
    lookups: tuple[str, ...] = ()  # small sources
    checks: Callable[[pb.Validate], pb.Validate] = unchecked  # added to those on keys and times
    max_rejected: float = 0.01  # share of rows above which the pipeline stops
    max_age: timedelta | None = None  # of the newest row, before the feed counts as silent
    form: Form = field(default_factory=Form)  # for `core.reading`
    snapshot: str = ""  # file of the project that is read once, whole: a change of it is noticed
    # A row's times lie between so long before it became known, and so long after; a source that
    # tells of what has happened gives none after it: `max_ahead=timedelta(0)`.
    max_past: timedelta = timedelta(days=3_660)
    max_ahead: timedelta = timedelta(days=366)

    def __post_init__(self) -> None:
        """Prepared rows look like raw ones unless it is said otherwise."""
        if not self.prepared:
            object.__setattr__(self, "prepared", self.raw)
        for key in self.keys:
            if "`" in key:
                message = f"Key {key} of source {self.name}: Delta merges by no such name."
                raise UserError(message, "Give it another name: `form.names`, or in `prepare`.")


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
    max_age: timedelta | None = None  # of a row that is served online, before it counts as stale


Score: TypeAlias = Callable[[Array, Array, Array], Array]
PROPER_SCORES: set[Score] = set()
"""Scores that are best where probabilities are right (Gneiting & Raftery 2007)."""


def proper(score: Score) -> Score:
    """Mark a proper score."""
    PROPER_SCORES.add(score)
    return score


@dataclass(frozen=True)
class Metric:
    """A measure of predictions; `modeling.metrics` has a library of them.

    `score` takes labels, shape (rows,), predictions, shape (rows,) or (rows, classes), and weights,
    shape (..., rows): 0 for what an interval leaves out. It gives a value for each, shape (...).
    """

    name: str
    score: Score
    higher_is_better: bool
    too_good: float | None = None  # a better value cannot be: it is taken for a leak
    has_best: bool = True  # the best loss is 0, the best score 1
    guards: bool | None = None  # no version may surely be worse by it; None: where it is proper

    @property
    def is_guard(self) -> bool:
        """Whether a version that is surely worse by it is refused, if it is not the first."""
        return self.score in PROPER_SCORES if self.guards is None else self.guards


def code_of(column: str, values: Sequence[str]) -> nw.Expr:
    """The code of a class, 0.0, 1.0, ...: the position of a text among `values`; else null."""
    text = nw.col(column)
    codes = [nw.when(text == value).then(float(code)) for code, value in enumerate(values)]
    return nw.coalesce(*codes)


@dataclass(frozen=True)
class Target:
    """What is predicted and how a prediction is judged.

    Raises:
        UserError: One class only, or a class that cannot name a column.
    """

    label: str  # name of the label column
    from_outcome: nw.Expr  # outcome columns to label; null where there is none
    metrics: tuple[Metric, ...]  # comparisons go by the first
    unit: str  # what a prediction is, in words
    classes: tuple[str, ...] = ()  # in the order of their codes 0.0, 1.0, ...; none: a quantity
    calibrated: bool = True  # scores are chances or means to be believed; else they only rank

    def __post_init__(self) -> None:
        """Refuse what would fail late."""
        if len(self.classes) == 1:
            message = f"Target {self.label} has one class, {self.classes[0]}."
            raise UserError(message, "Name two or more, or none where a quantity is predicted.")
        for name in self.classes:
            if not _COLUMN.fullmatch(name):
                message = f"Class '{name}' of {self.label} cannot name a column."
                raise UserError(message, "Use lower case, digits and underscores.")

    @property
    def kind(self) -> Kind:
        """What kind of problem this is."""
        if not self.classes:
            return "regression"
        return "binary_classification" if len(self.classes) == 2 else "multiclass_classification"

    @property
    def scores(self) -> tuple[str, ...]:
        """Columns that hold what a model says: a quantity, a probability, or one per class."""
        if self.kind == "multiclass_classification":
            return tuple(f"probability_{name}" for name in self.classes)
        return (PREDICTION,)

    @property
    def said(self) -> Schema:
        """Columns of a prediction: `scores`, and of several classes the most probable."""
        columns: dict[str, IntoDType] = dict.fromkeys(self.scores, nw.Float64)
        if PREDICTION not in columns:
            columns[PREDICTION] = nw.String
        return columns


@dataclass(frozen=True)
class Task:
    """What an estimator is to learn, and with which budget."""

    label: str
    kind: Kind
    classes: int  # 0: a quantity
    features: tuple[str, ...]  # inputs in order
    categories: Mapping[str, Sequence[str]]  # those inputs that are texts, with their known values
    monotone: Mapping[str, int]  # input to 1 or -1 where the prediction may only rise or fall
    parameters: Mapping[str, Any]  # parameters of the estimator that are not searched
    seed: int
    threads: int  # 0: all cores
    rounds: int  # of an iterative fit, at most
    patience: int  # rounds without progress on the validation rows before it stops


Report: TypeAlias = Callable[[int, float], None]
"""Told the round and the validation loss while a fit is under way; it may raise to end the fit."""


class Estimator(Protocol):
    """What a version predicts with.

    A version carries a copy of the one file that defines its estimator and scores with that copy.
    The file therefore imports nothing of this project (type checking aside) and pickles nothing.
    """

    packages: ClassVar[tuple[str, ...]]  # distributions that the file imports

    @property
    def features(self) -> Sequence[str]:
        """Inputs, in order."""

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """Those inputs that are texts, with their known values."""

    @classmethod
    def learner(cls, train: pl.DataFrame, validation: pl.DataFrame, task: Task) -> Learner:
        """Make rows ready to learn from, once for any number of fits."""

    def predict(self, rows: IntoDataFrame) -> Array:
        """A quantity or a probability, shape (rows,); of several classes shape (rows, classes)."""

    def explain(self, rows: IntoDataFrame) -> Array:
        """Contribution of each input to the raw score, shape (rows, features).

        Of several classes shape (rows, classes, features).
        """

    def save(self, folder: Path) -> None:
        """Write files to an existing folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


@runtime_checkable
class SingleRow(Protocol):
    """An estimator that also predicts single rows fast; others are served by `predict`."""

    def predictor(self) -> Callable[[Sequence[Any]], Sequence[float]]:
        """A function of a row's values, in the order of `features`: `predict` to the bit.

        It gives a quantity or a probability, shape (1,), or shape (classes,), and is never called
        by two threads at once.
        """


Learner: TypeAlias = Callable[[Mapping[str, Any], Report], tuple[Estimator, float]]
"""Fits with a trial's parameters; gives the estimator and its validation loss (lower: better)."""


Given = TypeVar("Given")


def returned(what: str, given: Given | None) -> Given:
    """What a function of the problem returned.

    Raises:
        UserError: Nothing.
    """
    if given is None:
        raise UserError(f"{what} returns nothing.", "End the function with `return`.")
    return given


def as_it_is(rows: Frame) -> Frame:
    """Rows without a change."""
    return rows


@dataclass(frozen=True)
class Model:
    """What a prediction is about, what it is made from, and how it is searched for and judged."""

    keys: tuple[str, ...]  # entity columns of the spine; with `prediction_time` they identify a row
    scored: str  # the source whose rows are to be scored; the spine is made of it alone
    spine: Callable[[Frames], Frame]  # prepared tables to keys, `prediction_time` and row's columns
    labels: Callable[[Frames], Frame]  # prepared tables to keys, label and `known_at`
    target: Target
    estimator: type[Estimator]
    features: tuple[str, ...]  # inputs in order
    categorical: tuple[str, ...] = ()  # those inputs that are categories (strings)
    baseline: tuple[str, ...] = ()  # a person's guess is the mean label by these columns
    forbidden: tuple[str, ...] = ()  # columns that tell the outcome: no version may take them
    trusted: tuple[str, ...] = ()  # inputs that may tell nearly all: they were known in time
    on_demand: Callable[[Frame], Frame] = as_it_is  # adds features computed from the joined row
    monotone: Mapping[str, int] = field(default_factory=dict)  # input to 1 (may only rise) or -1
    slices: tuple[str, ...] = ()  # columns by which results are cut
    search_space: Callable[[optuna.Trial], dict[str, Any]] | None = None  # parameters of a trial
    params: Mapping[str, Any] = field(default_factory=dict)  # parameters that are not searched
    refit_tolerance: float = 1e-3  # distance of a fit done again, in spreads of its scores
    card: str = ""  # model card: intended use and limits


@dataclass(frozen=True)
class Problem:
    """All that `problem/` declares; data lie between `begins` and `ends` (None: a live feed).

    A version is judged on the latest rows. Where rows have no times, so that none is later than
    another, the holdout is drawn among them instead, by their keys.
    """

    sources: tuple[Source, ...]
    model: Model
    feature_tables: tuple[FeatureTable, ...] = ()
    begins: datetime = LONG_AGO
    ends: datetime | None = None
    holdout: Literal["latest", "drawn"] = "latest"

    @property
    def scored(self) -> Source:
        """The source whose rows are to be scored."""
        return self.source(self.model.scored)

    def source(self, name: str) -> Source:
        """A source by name.

        Raises:
            UserError: There is none.
        """
        for source in self.sources:
            if source.name == name:
                return source
        names = ", ".join(source.name for source in self.sources)
        raise UserError(f"There is no source {name}.", f"Use one of: {names}.")
