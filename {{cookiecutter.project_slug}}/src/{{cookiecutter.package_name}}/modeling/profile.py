"""How a model's training rows were distributed, day by day: what drift is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl

from ..core.contract import PREDICTION_TIME, Array

_BINS = 20
_CATEGORIES = 200
_DEALT_DAYS = 56


@dataclass(frozen=True)
class Histogram:
    """Rows of a column by day and bin; the last bin holds what is missing."""

    cuts: Sequence[float]  # numbers: bounds between bins
    categories: Sequence[str]  # texts: a bin each, and the one before the last for all others
    days: Array  # shape (days, bins)

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

    def windows(self, length: int) -> Array:
        """Rows by bin in every run of so many days, shape (days, bins).

        The last day is followed by the first.
        """
        nothing = np.zeros_like(self.days[:1])
        around = self.days[: length - 1]
        total = np.cumsum(np.vstack([nothing, self.days, around]), axis=0)
        return np.asarray(total[length:] - total[:-length])


Profile: TypeAlias = Mapping[str, Histogram]


def profile(rows: pl.DataFrame, columns: Sequence[str]) -> Profile:
    """Histograms of columns.

    Rows without times are dealt out over 56 days, so that windows of some days are random samples.
    Numbers fall into up to 20 bins of equally many rows, texts into their 200 most frequent values.

    Args:
        rows: Prediction time and the columns.
        columns: Numbers or strings.
    """
    day = rows[PREDICTION_TIME].dt.epoch("d").to_numpy()
    day = day - day.min()
    if not day.any():  # rows without times are dealt out as they come: windows differ by chance
        day = np.random.default_rng(0).permutation(rows.height) % _DEALT_DAYS
    return {name: _histogram(rows[name], day) for name in columns}


def save(given: Profile, path: Path) -> None:
    """Write a profile as parquet, a row per column."""
    rows = [
        {
            "column": name,
            "cuts": histogram.cuts,
            "categories": histogram.categories,
            "days": histogram.days.tolist(),
        }
        for name, histogram in given.items()
    ]
    numbers = pl.List(pl.Float64)
    schema = {
        "column": pl.String(),
        "cuts": numbers,
        "categories": pl.List(pl.String),
        "days": pl.List(numbers),
    }
    pl.DataFrame(rows, schema=schema).write_parquet(path)


def load(path: Path) -> Profile:
    """Read what `save` wrote."""
    found = {}
    for name, cuts, categories, days in pl.read_parquet(path).iter_rows():
        found[name] = Histogram(cuts, categories, np.asarray(days))
    return found


def _histogram(column: pl.Series, day: Array) -> Histogram:
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
    return Histogram(cuts, categories, by_day.reshape(-1, count).astype(np.float64))


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
