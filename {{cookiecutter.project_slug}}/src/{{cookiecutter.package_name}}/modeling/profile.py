"""How a model's training rows were distributed, day by day: what drift is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from ..core.contract import PREDICTION_TIME, Array
from .days import runs
from .neighbours import Neighbours, neighbours
from .relations import Relation, relations

_BINS = 20
_CATEGORIES = 200
_DEALT_DAYS = 56
_FEW_VALUES = 200
_ROWS_OF_VALUE = 5


@dataclass(frozen=True)
class Values:
    """Values that the training knows, and what they tell of others."""

    low: float | None = None  # of numbers
    high: float | None = None
    fullest: float = 1.0  # largest share of rows of a run of days that have the same value
    few: Sequence[float] = ()  # numbers, where they are few
    # The largest share of rows of a run of days that the days before did not tell of:
    farthest: float = 1.0  # beyond their range, as `widened`
    newest: float = 1.0  # none of their values


@dataclass(frozen=True)
class Histogram:
    """Rows of a column by day and bin; the last bin holds what is missing."""

    cuts: Sequence[float]  # numbers: bounds between bins
    categories: Sequence[str]  # texts: a bin each, and the one before the last for all others
    days: Array  # shape (days, bins)
    values: Values = Values()
    relation: Relation | None = None  # to the other columns; None: there is none
    neighbours: Neighbours | None = None  # how it follows time; None: it does not

    @property
    def missing(self) -> float:
        """Share of the training's rows without a value."""
        total = float(self.days.sum())
        return float(self.days[:, -1].sum()) / total if total else 0.0

    def count(self, rows: pl.DataFrame, name: str) -> Array:
        """Rows by bin, shape (bins,); none where there is no such column."""
        bins = self.days.shape[1]
        if name not in rows.columns:
            return np.zeros(bins)
        positions = _bins(rows[name], self.cuts, self.categories)
        return np.bincount(positions, minlength=bins).astype(np.float64)

    def runs(self, length: int) -> tuple[Array, Array]:
        """Rows by bin in runs of so many days, and in all days before each.

        Returns:
            Twice shape (runs, bins).
        """
        return runs(self.days, length)


Profile: TypeAlias = Mapping[str, Histogram]


def profile(
    rows: pl.DataFrame, columns: Sequence[str], length: int = 7, *, related: bool = True
) -> Profile:
    """Histograms of columns, what values they have, and how numbers follow from each other.

    Rows without times are dealt out over 56 days, so that windows of some days are random samples.
    Numbers fall into up to 20 bins of equally many rows, texts into their 200 most frequent values.

    Args:
        rows: Prediction time and the columns.
        columns: Numbers or strings.
        length: Days of the runs in which days are looked at.
        related: Whether numbers are held against each other.
    """
    day = rows[PREDICTION_TIME].dt.epoch("d").to_numpy()
    day = day - day.min()
    is_timed = bool(day.any())
    if not is_timed:  # rows without times are dealt out as they come: windows differ by chance
        day = np.random.default_rng(0).permutation(rows.height) % _DEALT_DAYS
    found = {name: _histogram(rows[name], day, length) for name in columns}
    if not related:
        return found
    numbers = [name for name in columns if rows.schema[name] != pl.String]
    others = relations(rows, day, numbers, length)
    inputs = rows.select(PREDICTION_TIME, *columns)
    successive = neighbours(inputs, day, numbers, length) if is_timed else {}
    return {
        name: replace(each, relation=others.get(name), neighbours=successive.get(name))
        for name, each in found.items()
    }


def save(given: Profile, path: Path) -> None:
    """Write a profile as parquet, a row per column."""
    rows = [
        {
            "column": name,
            "cuts": histogram.cuts,
            "categories": histogram.categories,
            "days": histogram.days.tolist(),
            **_of_values(histogram.values),
            **_of_relation(histogram.relation),
            **_of_neighbours(histogram.neighbours),
        }
        for name, histogram in given.items()
    ]
    pl.DataFrame(rows, schema=_FILE).write_parquet(path)


def load(path: Path) -> Profile:
    """Read what `save` wrote; a version of earlier code has histograms alone."""
    found = {}
    for row in pl.read_parquet(path).iter_rows(named=True):
        histogram = Histogram(row["cuts"], row["categories"], np.asarray(row["days"]))
        if "fullest" in row:
            values = Values(*(row[name] for name in _of_values(Values())))
            histogram = replace(histogram, values=values, relation=_relation(row))
        if "scatter" in row:
            histogram = replace(histogram, neighbours=_neighbours(row))
        found[str(row["column"])] = histogram
    return found


_NUMBERS = pl.List(pl.Float64)
_FILE = {
    "column": pl.String(),
    "cuts": _NUMBERS,
    "categories": pl.List(pl.String),
    "days": pl.List(_NUMBERS),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "fullest": pl.Float64(),
    "few": _NUMBERS,
    "farthest": pl.Float64(),
    "newest": pl.Float64(),
    "center": pl.Float64(),
    "spread": pl.Float64(),
    "weights": _NUMBERS,
    "seen": _NUMBERS,
    "within": pl.String(),
    "scatter": pl.Float64(),
}


def _of_values(values: Values) -> dict[str, Any]:
    return {
        "low": values.low,
        "high": values.high,
        "fullest": values.fullest,
        "few": values.few,
        "farthest": values.farthest,
        "newest": values.newest,
    }


def _of_relation(relation: Relation | None) -> dict[str, Any]:
    if relation is None:
        return {}
    return {
        "center": relation.center,
        "spread": relation.spread,
        "weights": relation.weights.tolist(),
        "seen": relation.seen.tolist(),
    }


def _relation(row: Mapping[str, Any]) -> Relation | None:
    if row["weights"] is None:
        return None
    weights = np.asarray(row["weights"])
    return Relation(row["center"], row["spread"], weights, np.asarray(row["seen"]))


def _of_neighbours(known: Neighbours | None) -> dict[str, Any]:
    return {"within": known.within, "scatter": known.farthest} if known else {}


def _neighbours(row: Mapping[str, Any]) -> Neighbours | None:
    return None if row["scatter"] is None else Neighbours(row["within"], row["scatter"])


def _histogram(column: pl.Series, day: Array, length: int) -> Histogram:
    cuts: list[float] = []
    categories: list[str] = []
    known = column.drop_nulls()
    if known.dtype == pl.String:
        frequent = known.value_counts().sort("count", column.name, descending=[True, False])
        categories = frequent[column.name].head(_CATEGORIES).to_list()
    elif known.len():
        shares = np.linspace(0, 1, _BINS + 1)[1:-1]
        cuts = np.unique(np.quantile(known.cast(pl.Float64).to_numpy(), shares)).tolist()
    bins = _bins(column, cuts, categories)
    count = len(cuts or categories) + 2
    by_day = np.bincount(day * count + bins, minlength=(day.max() + 1) * count)
    days = by_day.reshape(-1, count).astype(np.float64)
    return Histogram(cuts, categories, days, _values(column, day, length))


def _values(column: pl.Series, day: Array, length: int) -> Values:
    known = column.is_not_null().to_numpy()
    present = column.drop_nulls()
    if present.is_empty():
        return Values()
    fullest = _fullest(present, day[known], length)
    if present.dtype == pl.String:
        return Values(fullest=fullest)
    numbers = present.cast(pl.Float64).to_numpy()
    low = float(numbers.min())
    high = float(numbers.max())
    few, codes = np.unique(numbers, return_inverse=True)
    first = np.full(len(few), day.max())
    if len(few) > min(_FEW_VALUES, len(numbers) // _ROWS_OF_VALUE):
        few = few[:0]
    np.minimum.at(first, codes, day[known])
    farthest = [0.0]
    newest = [0.0]
    for before, run in _runs(day[known], length):
        lowest, highest = widened(numbers[before].min(), numbers[before].max())
        values = numbers[run]
        farthest.append(float(((values < lowest) | (values > highest)).mean()))
        newest.append(float((first[codes[run]] >= day[known][run].min()).mean()))
    return Values(low, high, fullest, few.tolist(), max(farthest), max(newest))


def _fullest(present: pl.Series, day: Array, length: int) -> float:
    """The largest share that one value has of a run of days; the last days may make none."""
    rows = pl.DataFrame({"run": day // length, "value": present})
    last = rows["run"].max() if (day.max() + 1) % length else None
    whole = rows.filter(pl.col("run") != last) if last else rows
    times = whole.group_by("run", "value").len()
    shares = times.group_by("run").agg(pl.col("len").max() / pl.col("len").sum())
    return float(shares["len"].max())  # type: ignore[arg-type]


def widened(low: float, high: float) -> tuple[float, float]:
    """A range with its width again on either side, which no week of a source leaves as a rule."""
    width = high - low
    return low - width, high + width


def _runs(day: Array, length: int) -> Iterator[tuple[Array, Array]]:
    """Rows before a run of days, and those of the run, as masks of shape (rows,)."""
    for start in range(length, day.max() + 2 - length):
        before = day < start
        run = (day >= start) & (day < start + length)
        if before.any() and run.any():
            yield before, run


def _bins(column: pl.Series, cuts: Sequence[float], categories: Sequence[str]) -> Array:
    """Position of each row's bin; missing is the last."""
    if categories:
        codes = dict(zip(categories, range(len(categories)), strict=True))
        others = len(categories)
        known = column.replace_strict(codes, default=others, return_dtype=pl.Int64).to_numpy()
    else:
        known = np.searchsorted(cuts, column.cast(pl.Float64).to_numpy())
    missing = len(cuts or categories) + 1
    return np.where(column.is_null().to_numpy(), missing, known)
